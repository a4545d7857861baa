"""LORA: a folder of LoRA, written and read.

Modules that differ in rank or scale stand in `rank_pattern` and `alpha_pattern` by their full names; what most have stands in `r`
and `lora_alpha`. With `use_rslora` the scale is alpha / √r; it is written so where every block has the rank of one edit.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods._lora import LowRank
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Target
from lmtailor.store.peft.lora_blocks import Block, blocks_of
from lmtailor.store.peft.lora_read import AT_REST, BIAS, KEYS, MAGNITUDE, A, B, found_lora
from lmtailor.store.peft.modules import exact_targets
from lmtailor.store.peft.patterns import pattern_for


class LoraKind(PeftKind):
    """Low-rank additions, one pair of matrices a module."""

    name: ClassVar[str] = "LORA"
    writes: ClassVar[tuple[type[Method], ...]] = (LoRA,)
    keys: ClassVar[frozenset[str]] = KEYS
    at_rest: ClassVar[Mapping[str, tuple[Any, ...]]] = AT_REST

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """Ranks, scales and the names of modules."""
        assert isinstance(adapter.method, LoRA)
        blocks = blocks_of(adapter.edits, target)
        rslora = adapter.method.rslora and all(block.plain for block in blocks.values())
        ranks = {path: block.rank for path, block in blocks.items()}
        alphas = {path: _alpha(block, rslora) for path, block in blocks.items()}
        rank, alpha = _usual(ranks), _usual(alphas)
        return {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {pattern_for(path): own for path, own in ranks.items() if own != rank},
            "alpha_pattern": {pattern_for(path): own for path, own in alphas.items() if own != alpha},
            "use_rslora": rslora,
            "use_dora": adapter.method.dora,
            "lora_bias": adapter.method.bias,
            "lora_dropout": adapter.method.dropout,
            "target_modules": exact_targets(blocks, target),
            "fan_in_fan_out": all(block.whole.module in target.outline.conv1d for block in blocks.values()),
            "bias": "none",
            "init_lora_weights": True,
        }

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """The matrices of every module, and its magnitude or bias."""
        out: dict[str, Tensor] = {}
        for path, block in blocks_of(adapter.edits, target).items():
            a_RI, b_OR = block.factors()
            own = {A: a_RI, B: b_OR, BIAS: block.bias(), MAGNITUDE: block.magnitude()}
            out |= {f"{PREFIX}{path}{name}": value for name, value in own.items() if value is not None}
        return out

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The edits of every site from the tensors of its module."""
        new: dict[str, LowRank] = {}
        for path, block in blocks_of(adapter.edits, target).items():
            start = f"{PREFIX}{path}"
            own = block.split(
                tensors[f"{start}{A}"], tensors[f"{start}{B}"], tensors.get(f"{start}{BIAS}"), tensors.get(f"{start}{MAGNITUDE}")
            )
            new |= {edit.site: edit for edit in own}
        return Edits(tuple(new[edit.site] for edit in adapter.edits))

    def found(self, folder: Folder) -> Found:
        """LoRA at the sites of the modules that the file has matrices for."""
        return found_lora(folder)


def served(adapter: Adapter, target: Target, program: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors for programs that have one rank and one scale for all modules: alpha = r, with the scale in B.

    Raises:
        UnsupportedError: the adapter has what they do not compute.
    """
    method = adapter.method
    if not isinstance(method, LoRA):
        raise UnsupportedError(f"{program} serves adapters of LoRA alone. Convert this one to LoRA first.")
    for option, on in (("dora", method.dora), ("bias", method.bias)):
        if on:
            raise UnsupportedError(
                f"{program} does not compute LoRA with {option}=true. Merge the adapter into its base, or convert it to LoRA."
            )
    blocks = blocks_of(adapter.edits, target)
    rank = max(block.rank for block in blocks.values())
    tensors: dict[str, Tensor] = {}
    for path, block in blocks.items():
        a_RI, b_OR = block.factors(rank)
        tensors |= {f"{PREFIX}{path}{A}": a_RI, f"{PREFIX}{path}{B}": b_OR * block.scale}
    one = {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "lora_dropout": 0.0}
    return one, tensors


def _alpha(block: Block, rslora: bool) -> int | float:
    """The alpha that gives the block's scale at its rank, without what rounding adds to it."""
    alpha = float(f"{block.scale * (block.rank**0.5 if rslora else block.rank):.12g}")
    return int(alpha) if alpha.is_integer() else alpha


def _usual(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]
