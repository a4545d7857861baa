"""LORA: a folder of LoRA, written and read.

Modules that differ in rank or scale stand in `rank_pattern` and `alpha_pattern` by their full names; what most have stands in `r`
and `lora_alpha`. With `use_rslora` the scale is alpha / √r; it is written so where every block has the rank of one edit.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Edit
from lmtailor.edits.edits import Edits
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.kind import PREFIX, Folder, Found, PeftKind, Target
from lmtailor.store.peft.lora_blocks import ENDINGS, TABLE_B, B, Unit, units_of
from lmtailor.store.peft.lora_read import AT_REST, KEYS, found_lora
from lmtailor.store.peft.modules import exact_targets
from lmtailor.store.peft.patterns import pattern_for


class LoraKind(PeftKind):
    """Low-rank additions, one pair of matrices a module."""

    name: ClassVar[str] = "LORA"
    writes: ClassVar[tuple[type[Method], ...]] = (LoRA,)
    keys: ClassVar[frozenset[str]] = KEYS
    at_rest: ClassVar[Mapping[str, tuple[Any, ...]]] = AT_REST
    trains_biases: ClassVar[bool] = True
    ties_weights: ClassVar[bool] = True

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """Ranks, scales and the names of modules."""
        method = adapter.method
        assert isinstance(method, LoRA)
        blocks = units_of(adapter.edits, target)
        rslora = method.rslora and all(block.plain for block in blocks.values())
        ranks = {path: block.rank for path, block in blocks.items()}
        alphas = {path: _alpha(block, rslora) for path, block in blocks.items()}
        rank, alpha = _usual(ranks), _usual(alphas)
        return {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {pattern_for(path): own for path, own in ranks.items() if own != rank},
            "alpha_pattern": {pattern_for(path): own for path, own in alphas.items() if own != alpha},
            "use_rslora": rslora,
            "use_dora": method.dora,
            "lora_bias": method.bias,
            "lora_dropout": method.dropout,
            "target_modules": exact_targets(blocks, target),
            "fan_in_fan_out": all(block.whole.module in target.outline.conv1d for block in blocks.values()),
            "bias": "none",
            "init_lora_weights": True,
        }

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """The matrices of every module, and its magnitude or bias."""
        units = units_of(adapter.edits, target)
        return {f"{PREFIX}{path}{ending}": value for path, unit in units.items() for ending, value in unit.tensors().items()}

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The edits of every site from the tensors of its module."""
        new: dict[str, Edit] = {}
        for path, unit in units_of(adapter.edits, target).items():
            start = f"{PREFIX}{path}"
            own = {ending: tensors[f"{start}{ending}"] for ending in ENDINGS if f"{start}{ending}" in tensors}
            new |= {edit.site: edit for edit in unit.split(own)}
        return replace(adapter.edits, items=tuple(new[edit.site] for edit in adapter.edits))

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
    units = units_of(adapter.edits, target)
    rank = max(unit.rank for unit in units.values())
    tensors: dict[str, Tensor] = {}
    for path, unit in units.items():
        for ending, value in unit.factors(rank).items():
            tensors[f"{PREFIX}{path}{ending}"] = value * unit.scale if ending in (B, TABLE_B) else value
    one = {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "lora_dropout": 0.0}
    return one, tensors


def _alpha(block: Unit, rslora: bool) -> int | float:
    """The alpha that gives the block's scale at its rank, without what rounding adds to it."""
    alpha = float(f"{block.scale * (block.rank**0.5 if rslora else block.rank):.12g}")
    return int(alpha) if alpha.is_integer() else alpha


def _usual(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]
