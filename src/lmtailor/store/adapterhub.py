"""Reading adapter folders that AdapterHub's library wrote as safetensors: `adapter_config.json` and `adapter.safetensors`.

Written for `adapters` 1.3. The library writes pickles unless it is told `use_safetensors=True`; those are refused. It cannot
write prefixes as safetensors at all, so prefix tuning, MAM and UniPELT have no folders to read; unions of what it can write have.
Nothing is dropped: a key that is not known, or a tensor that is left over, raises.

Names of tensors are those of modules in the library's own models: `PATH.HOLDER.adapters.NAME.adapter_down.0.weight`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError, near
from lmtailor.edits.edit import Edit
from lmtailor.methods._bottleneck import Bottleneck
from lmtailor.methods._lora import LowRank
from lmtailor.methods._phm import PHM
from lmtailor.methods.ia3 import OutputScale
from lmtailor.methods.loreft import LoReFT, ReFTEdit
from lmtailor.methods.method import Method
from lmtailor.methods.union import Union
from lmtailor.store.adapter import Adapter, outlined
from lmtailor.store.adapterhub_config import Asked, parts_of, shown
from lmtailor.store.adapterhub_lora import low_rank_sources, scale_sources
from lmtailor.store.adapterhub_source import Shape, Source
from lmtailor.store.outline import Outline
from lmtailor.store.tensors import HEADER, TensorInfo, read_header, read_tensors

HUB_TENSORS = "adapter.safetensors"
_ABOUT = ("config", "hidden_size", "model_class", "model_name", "model_type", "name", "version")
"""Keys of the file's first level."""

_BOTTLENECK = {
    "down_MH": "adapter_down.0.weight",
    "down_bias_M": "adapter_down.0.bias",
    "up_HM": "adapter_up.weight",
    "up_bias_H": "adapter_up.bias",
    "learned_1": "scaling",
}
_PARAMETRISED = "projection.parametrizations.weight"
_PHM = {
    "down_left_NIK": "adapter_down.0.W_left",
    "down_right_NKO": "adapter_down.0.W_right",
    "down_bias_M": "adapter_down.0.b",
    "up_left_NIK": "adapter_up.W_left",
    "up_right_NKO": "adapter_up.W_right",
    "up_bias_H": "adapter_up.b",
}


def is_adapterhub(config: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is AdapterHub's."""
    return "peft_type" not in config and {"config", "model_class"} <= config.keys()


def load_adapterhub(folder: Path, config: Mapping[str, Any], base: Base) -> Adapter:
    """The adapter in a folder of AdapterHub's.

    Args:
        folder: holds adapter.safetensors.
        config: its configuration.
        base: what it was made for; its shapes are checked, but the folder holds no fingerprint.

    Raises:
        AdapterFileError: the folder is damaged, of another base, or asks for what has no equal here.
    """
    name = _check(config, base)
    parts = parts_of(config["config"], base)
    header = read_header(folder / HUB_TENSORS, limit=HEADER + 8 * base.num_parameters)
    outline = Outline.of(base)
    method = parts[0].method if len(parts) == 1 else Union(parts=tuple(part.method for part in parts))
    adapter = outlined(base, method, None, None, outline)
    owners = list(zip(parts, adapter.edits.split() if len(parts) > 1 else (adapter.edits,), strict=True))
    by_part = [[_sources(edit, asked, name, base, outline) for edit in edits] for asked, edits in owners]
    _check_apart(by_part)
    sources = [own for part in by_part for own in part]
    idle = {
        file: shape
        for asked, edits in owners
        for edit in edits
        for file, shape in _idle(edit, asked, name, base, outline).items()
    }
    wanted = {file: shape for own in sources for source in own.values() for file, shape in source.shapes.items()}
    start = _start(header, wanted)
    found = read_tensors(folder / HUB_TENSORS, {start + file: shape for file, shape in (wanted | idle).items()})
    tensors = {file: found[start + file].float() for file in wanted}
    edits = (
        edit.with_tensors({field: source.make(tensors) for field, source in own.items()})
        for edit, own in zip(adapter.edits, sources, strict=True)
    )
    origin = {key: config.get(key) for key in ("version", "model_class", "model_name", "name")}
    return Adapter(
        method=adapter.method,
        edits=replace(adapter.edits, items=tuple(edits)),
        base_fingerprint=adapter.base_fingerprint,
        base_source=adapter.base_source,
        outline=adapter.outline,
        provenance={"read_from": origin},
    )


def _check(config: Mapping[str, Any], base: Base) -> str:
    """See that the file is for this base; gives the adapter's name in the library's model."""
    if unknown := [key for key in config if key not in _ABOUT]:
        raise AdapterFileError(f"{unknown[0][:60]!r} is no key of AdapterHub's that is known here. {near(unknown[0], _ABOUT)}")
    name, kind, width = config.get("name"), config.get("model_type"), config.get("hidden_size")
    if not isinstance(name, str) or not isinstance(config["config"], dict):
        raise AdapterFileError("Its configuration has no name or no settings. Get the adapter again.")
    if kind != base.model.config.model_type or width not in (None, base.hidden_size):
        raise AdapterFileError(
            f"It is for a {shown(kind)} of width {shown(width)}; this base is a {base.model.config.model_type} of width "
            f"{base.hidden_size}. Load the base that it was made for."
        )
    return name


def _check_apart(by_part: Sequence[Sequence[Mapping[str, Source]]]) -> None:
    """See that no two parts of a union adapt one place, where the library has room for one of them."""
    files = [{file for own in part for source in own.values() for file in source.shapes} for part in by_part]
    times = Counter(file for part in files for file in part)
    if twice := sorted(file for file, count in times.items() if count > 1):
        raise AdapterFileError(f"Two configs of its union adapt the same place: both have the tensor {twice[0][:120]!r}.")


def _start(header: Mapping[str, TensorInfo], wanted: Mapping[str, Shape]) -> str:
    """What stands before the trunk's paths in the file: its path in the model that was saved."""
    first = next(iter(wanted))
    starts = [name.removesuffix(first) for name in header if name.endswith(first)]
    starts = [start for start in starts if not start or start.endswith(".")]
    if len(starts) != 1:
        raise AdapterFileError(
            f"{HUB_TENSORS} has {len(starts)} tensors of the name {first[:120]!r}, which must stand there once."
        )
    return starts[0]


def _sources(edit: Edit, asked: Asked, name: str, base: Base, outline: Outline) -> dict[str, Source]:
    """Where the tensors of an edit come from, by field."""
    if isinstance(edit, LowRank):
        return low_rank_sources(edit, asked, name, base, outline)
    if isinstance(edit, OutputScale):
        return scale_sources(edit, asked, name, base, outline)
    if isinstance(edit, ReFTEdit):
        return _reft_sources(edit, _unit(edit, name, base, outline, number=_number(edit, asked.method)), rotated=asked.rotated)
    site = base.sites[edit.site]
    place = f"{_block(site, outline)}.{asked.holder(site.stack, site.name.rsplit('.', 1)[1])}.adapters.{name}"
    fields = _PHM if isinstance(edit, PHM) else _BOTTLENECK
    assert isinstance(edit, PHM | Bottleneck)
    sources = {
        field: Source.same(f"{place}.{fields[field]}", tensor) for field, tensor in edit.trained().items() if field in fields
    }
    if isinstance(edit, PHM):
        sources["rule_NNN"] = Source.same(f"shared_parameters.{name}.phm_rule", edit.rule_NNN)
    return sources


def _block(site: Site, outline: Outline) -> str:
    """The path in the trunk of the block that a site is in."""
    assert site.block is not None
    stack = next(stack for stack in outline.stacks if stack.name == site.stack)
    return outline.in_trunk(stack.blocks[site.block]) or stack.blocks[site.block]


def _unit(edit: ReFTEdit, name: str, base: Base, outline: Outline, *, number: int) -> str:
    return f"{_block(base.sites[edit.site], outline)}.reft_layer.refts.{name}.units.{number}"


def _reft_sources(edit: ReFTEdit, place: str, *, rotated: bool) -> dict[str, Source]:
    """W, b and R; an R that is kept orthonormal is stored as what torch computes it from."""
    sources = {
        "source_KH": Source.same(f"{place}.learned_source.weight", edit.source_KH),
        "source_bias_K": Source.same(f"{place}.learned_source.bias", edit.source_bias_K),
    }
    if not rotated:
        return sources | {"projection_KH": Source.same(f"{place}.projection.weight", edit.projection_KH)}
    rank, width = edit.projection_KH.shape
    original, base = f"{place}.{_PARAMETRISED}.original", f"{place}.{_PARAMETRISED}.0.base"
    rotation = Source(
        shapes={original: (rank, width), base: (width, width)}, make=lambda file: _rotation(file[original], file[base])
    )
    return sources | {"projection_KH": rotation}


def _rotation(original_KH: Tensor, base_HH: Tensor) -> Tensor:
    """The rows that torch's parametrization makes of what it stores."""
    rank, width = original_KH.shape
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        layer: Any = nn.utils.parametrizations.orthogonal(nn.Linear(width, rank, bias=False))
        layer.parametrizations.weight.original.copy_(original_KH)
        layer.parametrizations.weight[0].base.copy_(base_HH)
        rows: Tensor = layer.weight.clone(memory_format=torch.contiguous_format)
    return rows


def _number(edit: ReFTEdit, method: Method) -> int:
    """Which of the library's two interventions it is: untied, the second is that of the last tokens."""
    assert isinstance(method, LoReFT)
    return int(not method.tied and (edit.acts == "last" or not edit.first))


def _idle(edit: Edit, asked: Asked, name: str, base: Base, outline: Outline) -> dict[str, Shape]:
    """Tensors that the file holds and that act on nothing: untied, the library makes two interventions for one end too."""
    if not isinstance(edit, ReFTEdit) or not isinstance(asked.method, LoReFT) or asked.method.tied or edit.acts != "both":
        return {}
    place = _unit(edit, name, base, outline, number=1 - _number(edit, asked.method))
    sources = _reft_sources(edit, place, rotated=asked.rotated).values()
    return {file: shape for source in sources for file, shape in source.shapes.items()}
