"""IA3: a folder of factors, written and read.

PEFT has one vector a module: of outputs (O, 1), bias included, or of inputs (1, I) where `feedforward_modules` names the module.
Parts of a fused projection become one vector of it, with ones in the parts that have none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods.ia3 import IA3, InputScale, OutputScale
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.config import names
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Shape, Target
from lmtailor.store.peft.modules import exact_targets, named_sites, path_of
from lmtailor.store.peft.targets import pattern_of

VECTOR = ".ia3_l"


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """A module and its vectors."""

    whole: Site
    outputs: dict[str, tuple[OutputScale, Site]] = field(default_factory=dict)
    inputs: list[InputScale] = field(default_factory=list)


class Ia3Kind(PeftKind):
    """Factors of outputs and inputs, one vector a module."""

    name: ClassVar[str] = "IA3"
    writes: ClassVar[tuple[type[Method], ...]] = (IA3,)
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            "target_modules",
            "exclude_modules",
            "feedforward_modules",
            "init_ia3_weights",  # how the vectors started
            "fan_in_fan_out",  # PEFT corrects it to what the module is, and stores the same shapes for both
        }
    )

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """The names of modules, and which of them are scaled before."""
        scaled = _scaled(adapter, target)
        inputs = [path for path, one in scaled.items() if one.inputs]
        for path, one in scaled.items():
            if one.outputs and (caught := [before for before in inputs if path.endswith(before)]):
                raise UnsupportedError(f"PEFT would scale the input of {path!r}, since it ends with {caught[0]!r}.")
        return {
            "target_modules": exact_targets(scaled, target),
            "feedforward_modules": sorted(inputs),
            "fan_in_fan_out": all(one.whole.module in target.outline.conv1d for one in scaled.values()),
            "init_ia3_weights": True,
        }

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """One vector a module."""
        out: dict[str, Tensor] = {}
        for path, one in _scaled(adapter, target).items():
            value = one.inputs[0].scale_I.detach()[None] if one.inputs else _joined(one)[:, None]
            out[f"{PREFIX}{path}{VECTOR}"] = value
        return out

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The vectors of every site from that of its module."""
        state: dict[str, Tensor] = {}
        for path, one in _scaled(adapter, target).items():
            vector = tensors[f"{PREFIX}{path}{VECTOR}"].flatten()
            state |= {f"{edit.site}.scale_I": vector for edit in one.inputs}
            for edit, site in one.outputs.values():
                state[f"{edit.site}.scale_O"] = vector if site.part is None else vector[site.part.rows()]
        return adapter.edits.with_state(state)

    def found(self, folder: Folder) -> Found:
        """Factors of the modules that the file has vectors for."""
        sites = named_sites(folder, VECTOR, "projection")
        before = set(_before(folder, sites))
        inputs = [site for path, site in sites.items() if path in before]
        outputs = [site for path, site in sites.items() if path not in before]
        every = folder.base.sites
        method = IA3(
            at=pattern_of(every, outputs) if outputs else "",
            at_inputs=pattern_of(every, inputs) if inputs else "",
        )
        shapes: dict[str, Shape] = {}
        for path, site in sites.items():
            shapes[f"{PREFIX}{path}{VECTOR}"] = (1, site.in_width or 0) if path in before else (site.width, 1)

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            state = {}
            for path, site in sites.items():
                field_name = "scale_I" if path in before else "scale_O"
                state[f"{site.name}.{field_name}"] = tensors[f"{PREFIX}{path}{VECTOR}"].flatten()
            return empty.with_state(state)

        return Found(method=method, shapes=shapes, edits=edits)


def _before(folder: Folder, sites: Mapping[str, Site]) -> Iterator[str]:
    """The modules whose input is scaled: those with vectors of the shape (1, I).

    PEFT goes by `feedforward_modules` and takes vectors of the other shape for an error; a list must agree with the shapes.
    A regular expression is not run, and null means PEFT's own table: there the shapes alone decide.
    """
    listed = names(folder.config, "feedforward_modules")
    for path in sites:
        shape = folder.header[f"{PREFIX}{path}{VECTOR}"].shape
        is_before = len(shape) == 2 and shape[0] == 1 and shape != (1, 1)
        if isinstance(listed, list) and any(path.endswith(name) for name in listed) != is_before:
            said = "names" if not is_before else "does not name"
            raise AdapterFileError(f"feedforward_modules {said} {path[:120]!r}, but its vector has the shape {shape}.")
        if is_before:
            yield path


def _scaled(adapter: Adapter, target: Target) -> dict[str, _Scaled]:
    """The vectors by module.

    Raises:
        UnsupportedError: a module has vectors that PEFT cannot hold in one.
    """
    outline = target.outline
    out: dict[str, _Scaled] = {}
    for edit in adapter.edits:
        site = outline.sites[edit.site]
        one = out.setdefault(path_of(site, target), _Scaled(whole=outline.whole(site)))
        if isinstance(edit, InputScale):
            one.inputs.append(edit)
        else:
            assert isinstance(edit, OutputScale)
            one.outputs[site.name] = (edit, site)
    for one in out.values():
        if one.inputs and one.outputs:
            raise UnsupportedError(f"PEFT scales the input or the output of a module; {one.whole.name} has factors of both.")
        if len(one.outputs) > 1 and one.whole.name in one.outputs:
            raise UnsupportedError(f"PEFT has one vector a module; {one.whole.name} is scaled whole and in parts.")
    return out


def _joined(one: _Scaled) -> Tensor:
    """The factors of all outputs (O,)."""
    first = next(iter(one.outputs.values()))[0].scale_O.detach()
    if first.is_meta:
        return torch.empty(one.whole.width, device="meta")
    vector = first.new_ones(one.whole.width)
    for edit, site in one.outputs.values():
        vector[slice(None) if site.part is None else site.part.rows()] = edit.scale_O.detach()
    return vector
