"""OFT: a folder of rotations, written and read.

A file holds the upper triangles of Q, one row a block. PEFT's exact Cayley transform is (I - Q)(I + Q)⁻¹, so there Q has the
other sign than here; its series has our sign.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Method
from lmtailor.methods.oft import OFT, OFTEdit, shrinking
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.config import flag, integer, number
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Shape, Target
from lmtailor.store.peft.modules import exact_targets, named_sites, whole_paths
from lmtailor.store.peft.targets import pattern_of

TRIANGLES = ".oft_R.weight"
WHOLE = "PEFT turns the input of the fused {whole}, which all its parts share; {part} has one of its own. Fit OFT at {whole}."


class OftKind(PeftKind):
    """Rotations of inputs."""

    name: ClassVar[str] = "OFT"
    writes: ClassVar[tuple[type[Method], ...]] = (OFT,)
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            # PEFT takes another size where one does not divide the inputs, so sizes are read off the tensors.
            "r",
            "oft_block_size",
            "block_share",
            "coft",
            "eps",
            "use_cayley_neumann",
            "num_cayley_neumann_terms",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "init_weights",  # how the triangles started
            "module_dropout",  # PEFT's forward never applies it
            "fan_in_fan_out",  # PEFT adapts no module that stores its weight so
        }
    )
    at_rest: ClassVar[Mapping[str, tuple[Any, ...]]] = {"bias": ("none",)}

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """Sizes, the transform and the names of modules."""
        method = adapter.method
        assert isinstance(method, OFT)
        return {
            "r": method.blocks or 0,
            "oft_block_size": method.block_size or 0,
            "block_share": method.shared,
            "coft": method.epsilon is not None,
            "eps": 6e-5 if method.epsilon is None else method.epsilon,
            "use_cayley_neumann": method.cayley == "neumann",
            "num_cayley_neumann_terms": method.order + 1,
            "target_modules": exact_targets(_paths(adapter, target), target),
            "module_dropout": 0.0,
            "fan_in_fan_out": False,
            "bias": "none",
            "init_weights": True,
        }

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """The triangles of every module."""
        paths = _paths(adapter, target)
        return {f"{PREFIX}{path}{TRIANGLES}": _signed(edit.skew_BE.detach(), adapter.method) for path, edit in paths.items()}

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The same numbers."""
        state = {
            f"{edit.site}.skew_BE": _signed(tensors[f"{PREFIX}{path}{TRIANGLES}"], adapter.method)
            for path, edit in _paths(adapter, target).items()
        }
        return adapter.edits.with_state(state)

    def found(self, folder: Folder) -> Found:
        """OFT at the modules that the file has triangles for."""
        config = folder.config
        sites = named_sites(folder, TRIANGLES, "projection")
        shared = flag(config, "block_share")
        sizes = {path: _size(path, site, folder, shared) for path, site in sites.items()}
        epsilon = number(config, "eps", 6e-5) if flag(config, "coft") else None
        series = _series(config)
        method = OFT(
            **_blocks(sites, sizes),
            shared=shared,
            cayley="exact" if series is None else "neumann",
            order=4 if series is None else series,
            epsilon=epsilon,
            at=pattern_of(folder.base.sites, list(sites.values())),
        )
        shapes: dict[str, Shape] = {}
        for path, site in sites.items():
            blocks = 1 if shared else (site.in_width or 0) // sizes[path]
            shapes[f"{PREFIX}{path}{TRIANGLES}"] = (blocks, sizes[path] * (sizes[path] - 1) // 2)

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            state = {}
            for path, site in sites.items():
                skew_BE = _signed(tensors[f"{PREFIX}{path}{TRIANGLES}"], method)
                # PEFT stores what an optimizer's step left, and bounds it when it computes.
                state[f"{site.name}.skew_BE"] = skew_BE if epsilon is None else skew_BE * shrinking(skew_BE, epsilon)
            return empty.with_state(state)

        return Found(method=method, shapes=shapes, edits=edits)


def _paths(adapter: Adapter, target: Target) -> dict[str, OFTEdit]:
    """The edits by the paths of their modules.

    Raises:
        UnsupportedError: PEFT has no form for an edit of such a module.
    """
    out = whole_paths(adapter, target, OFTEdit, WHOLE)
    for edit in out.values():
        if target.outline.sites[edit.site].module in target.outline.conv1d:
            raise UnsupportedError(f"PEFT's OFT does not adapt modules of the class Conv1D, as {edit.site} is.")
    return out


def _signed(skew_BE: Tensor, method: Method) -> Tensor:
    """From our sign of Q to PEFT's, and back."""
    assert isinstance(method, OFT)
    return -skew_BE if method.cayley == "exact" else skew_BE


def _size(path: str, site: Site, folder: Folder, shared: bool) -> int:
    """The features of a block, from the number of its triangle's numbers."""
    shape = folder.header[f"{PREFIX}{path}{TRIANGLES}"].shape
    inputs = site.in_width or 0
    size = (1 + math.isqrt(1 + 8 * shape[1])) // 2 if len(shape) == 2 else 0
    wanted = None if size < 2 or inputs % size else (1 if shared else inputs // size, size * (size - 1) // 2)
    if shape != wanted:
        raise AdapterFileError(
            f"The triangles of {path[:120]!r} have the shape {shape}, which fits no blocks of {inputs} inputs."
        )
    return size


def _blocks(sites: Mapping[str, Site], sizes: Mapping[str, int]) -> dict[str, int | None]:
    """What all sites have in common: the size of a block, or their number."""
    if len(set(sizes.values())) == 1:
        return {"block_size": next(iter(sizes.values()))}
    numbers = {(site.in_width or 0) // sizes[path] for path, site in sites.items()}
    if len(numbers) > 1:
        raise AdapterFileError("Its modules have blocks of different sizes and numbers; here all have one size or one number.")
    return {"block_size": None, "blocks": numbers.pop()}


def _series(config: Mapping[str, Any]) -> int | None:
    """The highest power of Q in PEFT's series, or None for the exact transform. Three and four terms are the same there."""
    if config.get("use_cayley_neumann") is not None and not flag(config, "use_cayley_neumann"):
        return None
    found = re.match(r"(\d+)\.(\d+)", str(config.get("peft_version")))
    if found is None or (int(found[1]), int(found[2])) < (0, 18):
        raise AdapterFileError("It was made by PEFT before 0.18 with use_cayley_neumann, which meant another series then.")
    terms = 5 if "num_cayley_neumann_terms" not in config else integer(config, "num_cayley_neumann_terms")
    if terms < 3:
        raise AdapterFileError(f"num_cayley_neumann_terms is {terms}; series of 3 terms and more are read.")
    return max(3, terms - 1)
