"""LN_TUNING: a folder of norms, written and read. A file holds the norms' new parameters whole, not their changes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.edits.edits import Edits
from lmtailor.methods.layer_norm_tuning import LayerNormTuning, NormValues
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Shape, Target
from lmtailor.store.peft.modules import exact_targets, named_sites, whole_paths
from lmtailor.store.peft.targets import pattern_of

GAIN, SHIFT = ".ln_tuning_layers.weight", ".ln_tuning_layers.bias"


class LnTuningKind(PeftKind):
    """Norms that were trained."""

    name: ClassVar[str] = "LN_TUNING"
    writes: ClassVar[tuple[type[Method], ...]] = (LayerNormTuning,)
    keys: ClassVar[frozenset[str]] = frozenset({"target_modules", "exclude_modules"})

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """The names of the norms."""
        return {"target_modules": exact_targets(whole_paths(adapter, target, NormValues), target)}

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """Gain and shift of every norm."""
        out: dict[str, Tensor] = {}
        for path, edit in whole_paths(adapter, target, NormValues).items():
            out[f"{PREFIX}{path}{GAIN}"] = edit.gain_H.detach()
            if edit.shift_H is not None:
                out[f"{PREFIX}{path}{SHIFT}"] = edit.shift_H.detach()
        return out

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The same numbers."""
        paths = whole_paths(adapter, target, NormValues)
        return adapter.edits.with_state(_state({path: edit.site for path, edit in paths.items()}, tensors))

    def found(self, folder: Folder) -> Found:
        """The norms that the file has gains of."""
        every = folder.base.sites
        sites = named_sites(folder, GAIN, "norm")
        shapes: dict[str, Shape] = {}
        for path, site in sites.items():
            shapes[f"{PREFIX}{path}{GAIN}"] = (site.width,)
            if _has_shift(folder, site):
                shapes[f"{PREFIX}{path}{SHIFT}"] = (site.width,)
        method = LayerNormTuning(at=pattern_of(every, list(sites.values())))

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            return empty.with_state(_state({path: site.name for path, site in sites.items()}, tensors))

        return Found(method=method, shapes=shapes, edits=edits)


def _has_shift(folder: Folder, site: Site) -> bool:
    return folder.base.norm(site).shift_H is not None


def _state(sites: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the tensors of a file, and the names of sites by path."""
    state: dict[str, Tensor] = {}
    for path, site in sites.items():
        state[f"{site}.gain_H"] = tensors[f"{PREFIX}{path}{GAIN}"]
        if f"{PREFIX}{path}{SHIFT}" in tensors:
            state[f"{site}.shift_H"] = tensors[f"{PREFIX}{path}{SHIFT}"]
    return state
