"""LoRA as PEFT stores it: one pair of matrices a module, of one rank and one scale.

PEFT adapts a fused projection whole. So edits of its parts become one block: their A stacked, their B side by side, each in
the rows of its part and zero elsewhere. Modules of a smaller rank than the largest get rows and columns of zeros, which
change nothing; `lora_alpha` grows with the rank, so the scale stays.

Shapes: K rank of an edit, R rank in the file, I inputs, O outputs of the module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods.lora import LoRA, LoRAEdit
from lmtailor.store.outline import Outline
from lmtailor.store.peft.kind import PREFIX, Target
from lmtailor.store.peft.task import TaskType, module_path

A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True)
class Block:
    """The edits of one module."""

    path: str
    """In the class that the folder is for."""
    module: str
    """In the base."""
    inputs: int
    outputs: int
    edits: tuple[LoRAEdit, ...]
    parts: tuple[Site, ...]
    """Site of each edit."""

    @property
    def rank(self) -> int:
        """The sum of the edits' ranks."""
        return sum(edit.a_KI.shape[0] for edit in self.edits)


def blocks_of(edits: Edits, outline: Outline, task: TaskType) -> list[Block]:
    """The edits by module, in the order of the forward.

    Raises:
        UnsupportedError: a module is called more than once in a forward, or PEFT's class does not have it.
    """
    by_module: dict[str, list[LoRAEdit]] = {}
    for edit in edits:
        assert isinstance(edit, LoRAEdit)
        site = outline.sites[edit.site]
        if site.calls > 1:
            raise UnsupportedError(
                f"{site.name} is call {site.call} of a module that {outline.family} calls {site.calls} times in a forward, each "
                "with its own LoRA here. Other programs have one LoRA a module."
            )
        by_module.setdefault(site.module, []).append(edit)
    blocks = []
    for module, own in by_module.items():
        parts = tuple(outline.sites[edit.site] for edit in own)
        whole = outline.whole(parts[0])
        assert whole.in_width is not None
        path = module_path(outline, module, task)
        blocks.append(Block(path=path, module=module, inputs=whole.in_width, outputs=whole.width, edits=tuple(own), parts=parts))
    return blocks


def lora_config(method: LoRA, blocks: list[Block], target: Target) -> dict[str, Any]:
    """The keys of `adapter_config.json` that are LoRA's own.

    Args:
        method: the settings.
        blocks: as `blocks_of` gives them.
        target: what the folder is for.

    Raises:
        UnsupportedError: PEFT would adapt a module too many, or one too few.
    """
    rank = max(block.rank for block in blocks)
    alpha = method.alpha if rank == method.rank else method.scale * rank
    targets = sorted(block.path for block in blocks)
    _check_targets(targets, target)
    return {
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "use_rslora": method.rslora and rank == method.rank,
        "lora_dropout": method.dropout,
        "target_modules": targets,
        "fan_in_fan_out": all(block.module in target.outline.conv1d for block in blocks),
        "bias": "none",
        "init_lora_weights": True,
    }


def lora_tensors(blocks: list[Block]) -> dict[str, Tensor]:
    """The matrices under PEFT's names; shapes without memory if the edits are."""
    rank = max(block.rank for block in blocks)
    out: dict[str, Tensor] = {}
    for block in blocks:
        out[f"{PREFIX}{block.path}{A}"], out[f"{PREFIX}{block.path}{B}"] = _joined(block, rank)
    return out


def lora_edits(edits: Edits, blocks: list[Block], tensors: Mapping[str, Tensor]) -> Edits:
    """The edits with the values that `lora_tensors` made matrices of."""
    new: dict[str, LoRAEdit] = {}
    for block in blocks:
        a_RI, b_OR = tensors[f"{PREFIX}{block.path}{A}"], tensors[f"{PREFIX}{block.path}{B}"]
        start = 0
        for edit, site in zip(block.edits, block.parts, strict=True):
            end = start + edit.a_KI.shape[0]
            b_OK = b_OR[:, start:end] if site.part is None else b_OR[site.part.rows(), start:end]
            new[edit.site] = edit.with_tensors({"a_KI": a_RI[start:end].contiguous(), "b_OK": b_OK.contiguous()})
            start = end
    return Edits(tuple(new[edit.site] for edit in edits))


def _joined(block: Block, rank: int) -> tuple[Tensor, Tensor]:
    """A (R, I) and B (O, R) of a module."""
    first = block.edits[0]
    if first.a_KI.is_meta:
        return torch.empty(rank, block.inputs, device="meta"), torch.empty(block.outputs, rank, device="meta")
    a_RI = first.a_KI.new_zeros(rank, block.inputs)
    b_OR = first.b_OK.new_zeros(block.outputs, rank)
    start = 0
    for edit, site in zip(block.edits, block.parts, strict=True):
        end = start + edit.a_KI.shape[0]
        a_RI[start:end] = edit.a_KI.detach()
        rows = slice(None) if site.part is None else site.part.rows()
        b_OR[rows, start:end] = edit.b_OK.detach()
        start = end
    return a_RI, b_OR


def _check_targets(targets: list[str], place: Target) -> None:
    """See that PEFT adapts exactly these modules: a listed name also matches every path that ends with it."""
    outline, paths = place.outline, []
    for module in outline.modules:
        inside = place.task != "SEQ_CLS" or outline.in_trunk(module) is not None
        if inside:
            paths.append(module_path(outline, module, place.task))
    wanted = set(targets)
    for path in paths:
        caught = next((target for target in targets if path.endswith(f".{target}")), None)
        if caught is not None and path not in wanted:
            raise UnsupportedError(f"PEFT would also adapt {path!r}, since it ends with the name {caught!r} of another module.")
    for target in targets:
        if hidden := [module for module in place.saved if f".{module}." in f".{target}."]:
            raise UnsupportedError(f"PEFT does not adapt {target!r}, since {hidden[0]!r} is stored whole as part of the head.")
