"""ADALORA: a folder of singular value decompositions, written and read.

PEFT has one decomposition a module, all of rank `init_r` or of the ranks in `rank_pattern`: for each module, which of `init_r`
triplets were kept. It scales by lora_alpha / (init_r + 1e-5), which is ours to a millionth. Parts of a fused projection become
one decomposition, their Q stacked, their P side by side, each in the rows of its part.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods.adalora import AdaLoRA, AdaLoRAEdit
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.config import integer, number
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Shape, Target
from lmtailor.store.peft.lora_read import AT_REST
from lmtailor.store.peft.modules import exact_targets, named_sites, path_of
from lmtailor.store.peft.targets import pattern_of

P, E, Q = ".lora_B", ".lora_E", ".lora_A"


@dataclass(frozen=True, kw_only=True)
class _Block:
    """The edits of one module, with their sites."""

    whole: Site
    edits: list[tuple[AdaLoRAEdit, Site]]

    @property
    def rank(self) -> int:
        """The sum of the edits' ranks."""
        return sum(len(edit.lambda_K) for edit, _ in self.edits)

    def spans(self) -> Iterator[tuple[AdaLoRAEdit, Site, slice]]:
        """Each edit with its place among the module's triplets."""
        start = 0
        for edit, site in self.edits:
            end = start + len(edit.lambda_K)
            yield edit, site, slice(start, end)
            start = end


class AdaLoraKind(PeftKind):
    """Decompositions of chosen ranks, one a module."""

    name: ClassVar[str] = "ADALORA"
    writes: ClassVar[tuple[type[Method], ...]] = (AdaLoRA,)
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            "init_r",
            "target_r",
            "rank_pattern",
            "lora_alpha",
            "lora_dropout",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "init_lora_weights",  # how the matrices started
            "fan_in_fan_out",  # PEFT corrects it to what the module is, and stores the same shapes for both
            # How the ranks were chosen has no influence on what is stored.
            *("tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
            # Keys of LoRA that PEFT's AdaLoRA does not read.
            *("r", "use_rslora", "megatron_core", "qalora_group_size"),
        }
    )
    at_rest: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **AT_REST,
        "alpha_pattern": ({}, None),
        "bias": ("none",),
        "corda_config": (None,),
        "ensure_weight_tying": (False,),
        "eva_config": (None,),
        "loftq_config": ({}, None),
        "lora_bias": (False,),
        "lora_ga_config": (None,),
        "trainable_token_indices": (None,),
        "use_dora": (False,),
    }

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """Ranks, scale and the names of modules."""
        method = adapter.method
        assert isinstance(method, AdaLoRA)
        blocks = _blocks(adapter, target)
        most = max(method.init_rank, *(block.rank for block in blocks.values()))
        alpha = method.alpha if most == method.init_rank and method.alpha is not None else method.scale * most
        pattern = {f"{path}{E}": [True] * block.rank + [False] * (most - block.rank) for path, block in blocks.items()}
        return {
            "init_r": most,
            "target_r": method.target_rank,
            "rank_pattern": None if all(all(kept) for kept in pattern.values()) else pattern,
            "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
            "lora_dropout": method.dropout,
            "target_modules": exact_targets(blocks, target),
            "fan_in_fan_out": all(block.whole.module in target.outline.conv1d for block in blocks.values()),
            "bias": "none",
            "init_lora_weights": True,
            "total_step": 1,  # PEFT wants a number to load a folder, and does nothing with it
        }

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """P, Λ and Q of every module."""
        out: dict[str, Tensor] = {}
        for path, block in _blocks(adapter, target).items():
            p_OK, lambda_K, q_KI = _joined(block)
            start = f"{PREFIX}{path}"
            out |= {f"{start}{P}": p_OK, f"{start}{E}": lambda_K[:, None], f"{start}{Q}": q_KI}
        return out

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The edits of every site from the decomposition of its module."""
        state: dict[str, Tensor] = {}
        for path, block in _blocks(adapter, target).items():
            start = f"{PREFIX}{path}"
            for edit, site, span in block.spans():
                rows = slice(None) if site.part is None else site.part.rows()
                state[f"{edit.site}.p_OK"] = tensors[f"{start}{P}"][rows, span].contiguous()
                state[f"{edit.site}.lambda_K"] = tensors[f"{start}{E}"][span, 0].contiguous()
                state[f"{edit.site}.q_KI"] = tensors[f"{start}{Q}"][span].contiguous()
        return adapter.edits.with_state(state)

    def found(self, folder: Folder) -> Found:
        """AdaLoRA at the modules that the file has decompositions for, of the ranks that they have there."""
        config = folder.config
        sites = named_sites(folder, Q, "projection")
        first, alpha = integer(config, "init_r"), number(config, "lora_alpha", 8)
        if alpha <= 0:
            raise AdapterFileError(f"lora_alpha is {alpha}; only positive ones are read.")
        ranks = {path: _rank(path, folder, first) for path in sites}
        shapes: dict[str, Shape] = {}
        for path, site in sites.items():
            start, rank = f"{PREFIX}{path}", ranks[path]
            shapes |= {f"{start}{P}": (site.width, rank), f"{start}{E}": (rank, 1), f"{start}{Q}": (rank, site.in_width or 0)}
        cut = any(rank != first for rank in ranks.values())
        method = AdaLoRA(
            init_rank=first,
            target_rank=min(integer(config, "target_r"), first),
            alpha=alpha,
            dropout=number(config, "lora_dropout", 0.0),
            at=pattern_of(folder.base.sites, list(sites.values())),
            ranks={sites[path].name: rank for path, rank in ranks.items() if rank} if cut else None,
        )

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            state: dict[str, Tensor] = {}
            for path, site in sites.items():
                if ranks[path]:
                    start = f"{PREFIX}{path}"
                    state[f"{site.name}.p_OK"] = tensors[f"{start}{P}"]
                    state[f"{site.name}.lambda_K"] = tensors[f"{start}{E}"].flatten()
                    state[f"{site.name}.q_KI"] = tensors[f"{start}{Q}"]
            return empty.with_state(state)

        return Found(method=method, shapes=shapes, edits=edits)


def _rank(path: str, folder: Folder, first: int) -> int:
    """How many triplets a module has, as the configuration says and the file agrees."""
    pattern = folder.config.get("rank_pattern") or {}
    kept = pattern.get(f"{path}{E}") if isinstance(pattern, Mapping) else None
    if not pattern:
        wanted = first
    elif isinstance(kept, list) and len(kept) == first and all(type(one) is bool for one in kept):
        wanted = sum(kept)
    else:
        raise AdapterFileError(
            f"rank_pattern must say of {path[:120]!r} which of its {first} triplets were kept, as true and false."
        )
    shape = folder.header[f"{PREFIX}{path}{Q}"].shape
    if len(shape) != 2 or shape[0] != wanted:
        raise AdapterFileError(f"{path[:120]}{Q} has the shape {shape}, but the configuration says that its rank is {wanted}.")
    return wanted


def _blocks(adapter: Adapter, target: Target) -> dict[str, _Block]:
    """The edits by the paths of their modules.

    Raises:
        UnsupportedError: the fit has left no triplet, so PEFT would find no module to adapt.
    """
    out: dict[str, _Block] = {}
    for edit in adapter.edits:
        assert isinstance(edit, AdaLoRAEdit)
        site = target.outline.sites[edit.site]
        out.setdefault(path_of(site, target), _Block(whole=target.outline.whole(site), edits=[])).edits.append((edit, site))
    if not out:
        raise UnsupportedError("This AdaLoRA has no triplet left, and PEFT has no form for an adapter of nothing.")
    return out


def _joined(block: _Block) -> tuple[Tensor, Tensor, Tensor]:
    """P (O, K), Λ (K,) and Q (K, I) of a module; shapes without memory if the edits are."""
    first, site = block.edits[0]
    if len(block.edits) == 1 and site.part is None:
        return first.p_OK.detach(), first.lambda_K.detach(), first.q_KI.detach()
    p_OK = torch.zeros(block.whole.width, block.rank, device=first.p_OK.device)
    if not first.p_OK.is_meta:
        for edit, own, span in block.spans():
            p_OK[slice(None) if own.part is None else own.part.rows(), span] = edit.p_OK.detach()
    lambda_K = torch.cat([edit.lambda_K.detach() for edit, _ in block.edits])
    return p_OK, lambda_K, torch.cat([edit.q_KI.detach() for edit, _ in block.edits])
