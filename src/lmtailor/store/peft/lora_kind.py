"""LORA: a folder of LoRA, written and read."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError, near
from lmtailor.edits.edits import Edits
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.config import TENSORS, flag, integer, number
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Shape, Target
from lmtailor.store.peft.lora import A, B, blocks_of, lora_config, lora_edits, lora_tensors
from lmtailor.store.peft.targets import check_targets, pattern_of

HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that set LoRA's own matrices alone; others change the base's weights when PEFT loads it."""


class LoraKind(PeftKind):
    """Low-rank additions, one pair of matrices a module."""

    name: ClassVar[str] = "LORA"
    writes: ClassVar[tuple[type[Method], ...]] = (LoRA,)
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            "r",
            "lora_alpha",
            "use_rslora",
            "lora_dropout",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "init_lora_weights",
            "fan_in_fan_out",  # PEFT corrects it to what the module is, and stores the same shapes for both
            "megatron_core",  # only read with megatron_config
            "qalora_group_size",  # only read with use_qalora
        }
    )
    at_rest: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "alora_invocation_tokens": (None,),
        "alpha_pattern": ({}, None),
        "arrow_config": (None,),
        "bias": ("none",),
        "corda_config": (None,),
        "ensure_weight_tying": (False,),
        "eva_config": (None,),
        "kasa_config": (None,),
        "layer_replication": (None, []),
        "loftq_config": ({}, None),
        "lora_bias": (False,),
        "lora_ga_config": (None,),
        "megatron_config": (None,),
        "monteclora_config": (None,),
        "rank_pattern": ({}, None),
        "target_parameters": (None, []),
        "trainable_token_indices": (None,),
        "use_bdlora": (None,),
        "use_dora": (False,),
        "use_qalora": (False,),
        "velora_config": (None,),
    }

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """Rank, scale and the names of modules."""
        assert isinstance(adapter.method, LoRA)
        blocks = blocks_of(adapter.edits, target.outline, target.task)
        return lora_config(adapter.method, blocks, target)

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """A and B of every module."""
        return lora_tensors(blocks_of(adapter.edits, target.outline, target.task))

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The edits of every site from the matrices of its module."""
        return lora_edits(adapter.edits, blocks_of(adapter.edits, target.outline, target.task), tensors)

    def found(self, folder: Folder) -> Found:
        """LoRA at the sites of the modules that the file has matrices for."""
        config = folder.config
        start = config.get("init_lora_weights", True)
        if not any(start is one or (isinstance(start, str) and start == one) for one in HARMLESS_STARTS):
            raise AdapterFileError(
                f"init_lora_weights is {str(start)[:40]!r}, with which PEFT changes the base's own weights on loading."
            )
        rank = integer(config, "r")
        sites = _adapted(folder)
        order = list(folder.base.sites)
        chosen = sorted(sites.values(), key=lambda site: order.index(site.name))
        method = LoRA(
            rank=rank,
            alpha=number(config, "lora_alpha", 8),
            dropout=number(config, "lora_dropout", 0.0),
            rslora=flag(config, "use_rslora"),
            at=pattern_of(folder.base.sites, chosen),
        )
        shapes: dict[str, Shape] = {}
        for path, site in sites.items():
            assert site.in_width is not None
            shapes |= {f"{PREFIX}{path}{A}": (rank, site.in_width), f"{PREFIX}{path}{B}": (site.width, rank)}

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            state: dict[str, Tensor] = {}
            for path, site in sites.items():
                state[f"{site.name}.a_KI"] = tensors[f"{PREFIX}{path}{A}"]
                state[f"{site.name}.b_OK"] = tensors[f"{PREFIX}{path}{B}"]
            return empty.with_state(state)

        return Found(method=method, shapes=shapes, edits=edits)


def _adapted(folder: Folder) -> dict[str, Site]:
    """The sites of the modules that the file has LoRA's matrices for, by the paths that it calls them."""
    outline = folder.outline
    paths = [name[len(PREFIX) : -len(A)] for name in folder.header if name.startswith(PREFIX) and name.endswith(A)]
    if not paths:
        raise AdapterFileError(f"{TENSORS} has no matrices of LoRA.")
    check_targets(folder.config, paths)
    projections = {site.module: site for site in outline.projections()}
    sites: dict[str, Site] = {}
    for path in paths:
        site = projections.get(outline.find(path))
        if site is None:
            raise AdapterFileError(f"{path[:120]!r} is no projection of this base. {near(path[:120], projections)}")
        if site.calls > 1:
            raise AdapterFileError(
                f"{path!r} is called {site.calls} times in a forward of {outline.family}. Its LoRA cannot be read: here, each "
                "call has one of its own."
            )
        if site in sites.values():
            raise AdapterFileError(f"{path!r} names a module that another tensor names too.")
        sites[path] = site
    return sites
