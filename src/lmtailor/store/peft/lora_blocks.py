"""LoRA's edits as blocks: one pair of matrices a module, as PEFT and the servers that read its files have them.

PEFT adapts a fused projection whole. So edits of its parts become one block: their A stacked, their B side by side, each in
the rows of its part and zero elsewhere. Start factors (PiSSA, OLoRA) become part of the block too: [A; A₀] and [B, −B₀], so that
the base needs no change.

Shapes: K rank of an edit, R rank of a block, I inputs, O outputs of the module, V size of the vocabulary, H features.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Edit
from lmtailor.methods._dora import DoRAEdit
from lmtailor.methods._lora import LowRank
from lmtailor.methods._lora_embedding import EmbeddingLoRAEdit
from lmtailor.methods.lora import LoRAEdit
from lmtailor.store.peft.kind import Target
from lmtailor.store.peft.modules import path_of

A, B = ".lora_A.weight", ".lora_B.weight"
BIAS, MAGNITUDE = ".lora_B.bias", ".lora_magnitude_vector"
TABLE_A, TABLE_B = ".lora_embedding_A", ".lora_embedding_B"
"""Ends of the names of tensors, after the path of the module."""
ENDINGS = (A, B, BIAS, MAGNITUDE, TABLE_A, TABLE_B)


@dataclass(frozen=True, kw_only=True)
class Unit(ABC):
    """What one module has of LoRA."""

    whole: Site
    """The module."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """R."""

    @property
    @abstractmethod
    def scale(self) -> float:
        """s, the factor of B A."""

    @property
    @abstractmethod
    def plain(self) -> bool:
        """Whether it is one edit as it stands."""

    @abstractmethod
    def factors(self, rank: int | None = None) -> dict[str, Tensor]:
        """A and B by the ends of their names, filled up with zeros to another rank if one is given."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the ends of their names; shapes without memory if the edits are."""

    @abstractmethod
    def split(self, tensors: Mapping[str, Tensor]) -> Iterator[LowRank | EmbeddingLoRAEdit]:
        """The edits with the values that these tensors were made of."""


@dataclass(frozen=True, kw_only=True)
class Table(Unit):
    """The edit of a table of word embeddings."""

    edit: EmbeddingLoRAEdit
    factor: float
    """With which the table multiplies what it gives: in PEFT what is added too, and not here."""

    @property
    def rank(self) -> int:
        """K."""
        return len(self.edit.a_KV)

    @property
    def scale(self) -> float:
        """s in PEFT."""
        return self.edit.scale / self.factor

    @property
    def plain(self) -> bool:
        """It is one edit."""
        return True

    def factors(self, rank: int | None = None) -> dict[str, Tensor]:
        """A (R, V) and B (H, R)."""
        missing = 0 if rank is None else rank - self.rank
        return {
            TABLE_A: F.pad(self.edit.a_KV.detach(), (0, 0, 0, missing)),
            TABLE_B: F.pad(self.edit.b_HK.detach(), (0, missing)),
        }

    def tensors(self) -> dict[str, Tensor]:
        """A and B."""
        return self.factors()

    def split(self, tensors: Mapping[str, Tensor]) -> Iterator[EmbeddingLoRAEdit]:
        """The edit."""
        yield self.edit.with_tensors({"a_KV": tensors[TABLE_A], "b_HK": tensors[TABLE_B]})


@dataclass(frozen=True, kw_only=True)
class Block(Unit):
    """The edits of one projection."""

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

    def factors(self, rank: int | None = None) -> dict[str, Tensor]:
        """A (R, I) and B (O, R)."""
        missing = 0 if rank is None else rank - self.rank
        pairs = [edit.factors() for edit in self.edits]
        if self.plain and self.parts[0].part is None and not missing:
            return {A: pairs[0][0].detach(), B: pairs[0][1].detach()}
        a_RI = torch.cat([a_KI for a_KI, _ in pairs])
        b_OR = torch.cat([self._rows(b_OK, site) for (_, b_OK), site in zip(pairs, self.parts, strict=True)], 1)
        return {A: F.pad(a_RI.detach(), (0, 0, 0, missing)), B: F.pad(b_OR.detach(), (0, missing))}

    def tensors(self) -> dict[str, Tensor]:
        """A and B, and a bias or magnitudes where the edits have them."""
        more = {BIAS: self._bias(), MAGNITUDE: self._magnitude()}
        return self.factors() | {ending: value for ending, value in more.items() if value is not None}

    def _bias(self) -> Tensor | None:
        """d (O,), or None."""
        return self._vector([edit.bias_O for edit in self.edits if isinstance(edit, LoRAEdit) and edit.bias_O is not None])

    def _magnitude(self) -> Tensor | None:
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

    def split(self, tensors: Mapping[str, Tensor]) -> Iterator[LowRank]:
        """The edits of all parts."""
        a_RI, b_OR, bias_O, m_O = tensors[A], tensors[B], tensors.get(BIAS), tensors.get(MAGNITUDE)
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


def units_of(edits: Iterable[Edit], target: Target) -> dict[str, Unit]:
    """What each module has, by its path in the class that a folder is for, in the order of the edits.

    Raises:
        UnsupportedError: a module is called more than once in a forward, PEFT's class does not have it, or its parts differ in
            what must be one for the module.
    """
    sites = target.outline.sites
    units: dict[str, Unit] = {}
    by_path: dict[str, list[LowRank]] = {}
    for edit in edits:
        site = sites[edit.site]
        path = path_of(site, target)
        if isinstance(edit, EmbeddingLoRAEdit):
            units[path] = Table(whole=site, edit=edit, factor=target.outline.embed_scales[site.module])
        else:
            assert isinstance(edit, LowRank)
            by_path.setdefault(path, []).append(edit)
    for path, own in by_path.items():
        parts = tuple(sites[edit.site] for edit in own)
        units[path] = _block(target.outline.whole(parts[0]), tuple(own), parts)
    return units


def _block(whole: Site, edits: tuple[LowRank, ...], parts: tuple[Site, ...]) -> Block:
    if len({edit.scale for edit in edits}) > 1:
        names = " and ".join(edit.site for edit in edits)
        raise UnsupportedError(f"PEFT has one scale for {whole.name}; {names} have different ones. Give them one alpha and rank.")
    extra = any(isinstance(edit, DoRAEdit) or (isinstance(edit, LoRAEdit) and edit.bias_O is not None) for edit in edits)
    if extra and _twice(whole, parts):
        raise UnsupportedError(f"Two edits act on the same outputs of {whole.name}, and PEFT has one magnitude or bias for each.")
    return Block(whole=whole, edits=edits, parts=parts)


def _twice(whole: Site, parts: tuple[Site, ...]) -> bool:
    """Whether two of the parts have an output of the module in common."""
    rows = torch.cat([torch.arange(whole.width)[_rows_of(site)] for site in parts])
    return len(set(rows.tolist())) < len(rows)


def _rank(edit: LowRank) -> int:
    return len(edit.a_KI) + (0 if edit.a0_KI is None else len(edit.a0_KI))


def _rows_of(site: Site) -> slice | Tensor:
    return slice(None) if site.part is None else site.part.rows()
