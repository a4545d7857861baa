"""VERA: a folder of VeRA's vectors, written and read, with the shared projections or with the seed that they are drawn from."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Method
from lmtailor.methods.vera import VeRA, VeRAEdit
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.config import TENSORS, integer, number
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Shape, Target
from lmtailor.store.peft.modules import exact_targets, named_sites, whole_paths
from lmtailor.store.peft.targets import pattern_of

D, B = ".vera_lambda_d", ".vera_lambda_b"
SHARED_A, SHARED_B = "base_model.vera_A", "base_model.vera_B"
WHOLE = "PEFT adapts the fused {whole} whole, with other rows of the shared projection than {part} has here. Fit VeRA at {whole}."


class VeraKind(PeftKind):
    """Vectors that scale shared projections."""

    name: ClassVar[str] = "VERA"
    writes: ClassVar[tuple[type[Method], ...]] = (VeRA,)
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            "r",
            "target_modules",
            "projection_prng_key",
            "save_projection",
            "vera_dropout",
            "d_initial",
            "layers_to_transform",
            "layers_pattern",
            "init_weights",  # how the vectors started
            "fan_in_fan_out",  # PEFT corrects it to what the module is, and stores the same shapes for both
        }
    )
    at_rest: ClassVar[Mapping[str, tuple[Any, ...]]] = {"bias": ("none",)}

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """Rank, seed and the names of modules. The projections are stored, so that no other random numbers can be meant."""
        method = adapter.method
        assert isinstance(method, VeRA)
        paths = whole_paths(adapter, target, VeRAEdit, WHOLE)
        modules = [target.outline.sites[edit.site].module for edit in paths.values()]
        return {
            "r": method.rank,
            "target_modules": exact_targets(paths, target),
            "projection_prng_key": method.projection_seed,
            "save_projection": True,
            "vera_dropout": method.dropout,
            "d_initial": method.d_initial,
            "fan_in_fan_out": all(module in target.outline.conv1d for module in modules),
            "bias": "none",
            "init_weights": True,
        }

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """The vectors of every module, and the projections once."""
        paths = whole_paths(adapter, target, VeRAEdit, WHOLE)
        first = next(iter(paths.values()))
        out = {SHARED_A: first.a_KJ, SHARED_B: first.b_PK}
        for path, edit in paths.items():
            out |= {f"{PREFIX}{path}{D}": edit.d_K.detach(), f"{PREFIX}{path}{B}": edit.b_O.detach()}
        return out

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The same numbers."""
        sites = {path: edit.site for path, edit in whole_paths(adapter, target, VeRAEdit, WHOLE).items()}
        return _filled(adapter.edits, sites, tensors, tensors)

    def found(self, folder: Folder) -> Found:
        """VeRA at the modules that the file has vectors for."""
        config = folder.config
        rank = integer(config, "r")
        sites = named_sites(folder, D, "projection")
        method = VeRA(
            rank=rank,
            d_initial=number(config, "d_initial", 0.1),
            dropout=number(config, "vera_dropout", 0.0),
            projection_seed=_seed(config),
            at=pattern_of(folder.base.sites, list(sites.values())),
        )
        shapes: dict[str, Shape] = {}
        for path, site in sites.items():
            shapes |= {f"{PREFIX}{path}{D}": (rank,), f"{PREFIX}{path}{B}": (site.width,)}
        own = _projections(sites, rank)
        stored = config.get("save_projection", True)
        if type(stored) is not bool:
            raise AdapterFileError("save_projection must be true or false.")
        if stored:
            shapes |= own
        elif held := [name for name in own if name in folder.header]:
            raise AdapterFileError(f"save_projection is false, but {held[0]!r} is in {TENSORS}.")
        else:
            _check_size(own, folder)

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            projections = tensors if stored else _drawn(method, folder)
            return _filled(empty, {path: site.name for path, site in sites.items()}, tensors, projections)

        return Found(method=method, shapes=shapes, edits=edits)


def _filled(empty: Edits, sites: Mapping[str, str], tensors: Mapping[str, Tensor], projections: Mapping[str, Tensor]) -> Edits:
    """The edits with the values of a file, and the names of their sites by path."""
    state: dict[str, Tensor] = {}
    for path, site in sites.items():
        state |= {f"{site}.d_K": tensors[f"{PREFIX}{path}{D}"], f"{site}.b_O": tensors[f"{PREFIX}{path}{B}"]}
    fixed = {"vera.a_KJ": projections[SHARED_A], "vera.b_PK": projections[SHARED_B]}
    return empty.with_state(state).with_fixed(fixed)


def _projections(sites: Mapping[str, Site], rank: int) -> dict[str, Shape]:
    """The shapes of A and B, as large as the largest module wants them."""
    inputs, outputs = max(site.in_width or 0 for site in sites.values()), max(site.width for site in sites.values())
    return {SHARED_A: (rank, inputs), SHARED_B: (outputs, rank)}


def _drawn(method: VeRA, folder: Folder) -> dict[str, Tensor]:
    """A and B from their seed."""
    fixed = method.edits(folder.base.sites, torch.Generator()).fixed()
    return {SHARED_A: fixed["vera.a_KJ"], SHARED_B: fixed["vera.b_PK"]}


def _check_size(shapes: Mapping[str, Shape], folder: Folder) -> None:
    """A small file must not ask for projections beyond any use."""
    wanted, most = sum(one * other for one, other in shapes.values()), folder.base.num_parameters
    if wanted > most:
        raise AdapterFileError(f"Its projections, which are not in the file, have {wanted} numbers; the whole base has {most}.")


def _seed(config: Mapping[str, Any]) -> int:
    value = config.get("projection_prng_key", 0)
    if type(value) is not int:
        raise AdapterFileError("projection_prng_key must be an integer.")
    return value
