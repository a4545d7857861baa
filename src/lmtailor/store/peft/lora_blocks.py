"""LoRA's edits as blocks: one pair of matrices a module, as PEFT and the servers that read its files have them.

PEFT adapts a fused projection whole. So edits of its parts become one block: their A stacked, their B side by side, each in
the rows of its part and zero elsewhere. Start factors (PiSSA, OLoRA) become part of the block too: [A; A₀] and [B, −B₀], so that
the base needs no change.

Shapes: K rank of an edit, R rank of a block, I inputs, O outputs of the module.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods._dora import DoRAEdit
from lmtailor.methods._lora import LowRank
from lmtailor.methods.lora import LoRAEdit
from lmtailor.store.peft.kind import Target
from lmtailor.store.peft.modules import path_of


@dataclass(frozen=True, kw_only=True)
class Block:
    """The edits of one module."""

    whole: Site
    """The module."""
    edits: tuple[LowRank, ...]
    parts: tuple[Site, ...]
    """Site of each edit."""

    @property
    def rank(self) -> int:
        """R: the sum of the ranks of the edits and of their start factors."""
        return sum(_rank(edit) for edit in self.edits)

    @property
    def scale(self) -> float:
        """s, the factor of B A."""
        return self.edits[0].scale

    @property
    def plain(self) -> bool:
        """Whether the block is one edit as it stands."""
        return len(self.edits) == 1 and self.edits[0].a0_KI is None

    def factors(self, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """A (R, I) and B (O, R), filled up with zeros to another rank if one is given."""
        missing = 0 if rank is None else rank - self.rank
        pairs = [edit.factors() for edit in self.edits]
        a_RI = torch.cat([a_KI for a_KI, _ in pairs])
        b_OR = torch.cat([self._rows(b_OK, site) for (_, b_OK), site in zip(pairs, self.parts, strict=True)], 1)
        return F.pad(a_RI.detach(), (0, 0, 0, missing)), F.pad(b_OR.detach(), (0, missing))

    def bias(self) -> Tensor | None:
        """d (O,), or None."""
        return self._vector([edit.bias_O for edit in self.edits if isinstance(edit, LoRAEdit) and edit.bias_O is not None])

    def magnitude(self) -> Tensor | None:
        """m (O,), or None.

        Raises:
            UnsupportedError: some outputs have none, or two.
        """
        values = [edit.m_O for edit in self.edits if isinstance(edit, DoRAEdit)]
        if values and sum(map(len, values)) != self.whole.width:
            names = ", ".join(site.name for site in self.parts)
            raise UnsupportedError(
                f"PEFT has DoRA on all of {self.whole.name} or on nothing of it; this adapter has it at {names}. Fit it at "
                f"{self.whole.name}, or at all of its parts."
            )
        return self._vector(values)

    def split(self, a_RI: Tensor, b_OR: Tensor, bias_O: Tensor | None, m_O: Tensor | None) -> Iterator[LowRank]:
        """The edits with the values that this block's tensors were made of."""
        start = 0
        for edit, site in zip(self.edits, self.parts, strict=True):
            end, rows = start + len(edit.a_KI), _rows_of(site)
            new = {"a_KI": a_RI[start:end].contiguous(), "b_OK": b_OR[rows, start:end].contiguous()}
            start, end = end, start + _rank(edit)
            if edit.a0_KI is not None:
                new |= {"a0_KI": a_RI[start:end].contiguous(), "b0_OK": -b_OR[rows, start:end].contiguous()}
            if bias_O is not None:
                new["bias_O"] = bias_O[rows].contiguous()
            if m_O is not None:
                new["m_O"] = m_O[rows].contiguous()
            yield edit.with_tensors(new)
            start = end

    def _rows(self, part: Tensor, site: Site) -> Tensor:
        """Rows of a part in the rows of the module."""
        if site.part is None:
            return part
        whole = part.new_zeros(self.whole.width, *part.shape[1:])
        return whole if part.is_meta else whole.index_copy(0, site.part.rows(), part)

    def _vector(self, values: list[Tensor]) -> Tensor | None:
        if not values:
            return None
        rows = [self._rows(value, site) for value, site in zip(values, self.parts, strict=True)]
        return torch.stack(rows).sum(0).detach() if len(rows) > 1 else rows[0].detach()


def blocks_of(edits: Edits, target: Target) -> dict[str, Block]:
    """The edits by the path of their module in the class that a folder is for, in the order of the forward.

    Raises:
        UnsupportedError: a module is called more than once in a forward, PEFT's class does not have it, or its parts differ in
            what must be one for the module.
    """
    sites = target.outline.sites
    by_path: dict[str, list[LowRank]] = {}
    for edit in edits:
        assert isinstance(edit, LowRank)
        by_path.setdefault(path_of(sites[edit.site], target), []).append(edit)
    blocks: dict[str, Block] = {}
    for path, own in by_path.items():
        parts = tuple(sites[edit.site] for edit in own)
        whole = target.outline.whole(parts[0])
        if len({edit.scale for edit in own}) > 1:
            names = " and ".join(edit.site for edit in own)
            raise UnsupportedError(
                f"PEFT has one scale for {whole.name}; {names} have different ones. Give them one alpha and rank."
            )
        rows = torch.cat([torch.arange(whole.width)[_rows_of(site)] for site in parts])
        extra = any(isinstance(edit, DoRAEdit) or (isinstance(edit, LoRAEdit) and edit.bias_O is not None) for edit in own)
        if extra and len(set(rows.tolist())) < len(rows):
            raise UnsupportedError(
                f"Two edits act on the same outputs of {whole.name}, and PEFT has one magnitude or bias for each."
            )
        blocks[path] = Block(whole=whole, edits=tuple(own), parts=parts)
    return blocks


def _rank(edit: LowRank) -> int:
    return len(edit.a_KI) + (0 if edit.a0_KI is None else len(edit.a0_KI))


def _rows_of(site: Site) -> slice | Tensor:
    return slice(None) if site.part is None else site.part.rows()
