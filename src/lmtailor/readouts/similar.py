"""Demonstrations that are chosen for each input, because they are like it.

Shapes: n texts, H features of an embedding.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.load import load_base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import derive
from lmtailor.readouts.batch import Encoded, collate
from lmtailor.readouts.demonstrations import Candidate, Demonstrations, Shown, groups, ordered
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.plain import PlainInputs
from lmtailor.readouts.pooling import pool
from lmtailor.readouts.readout import input_form

_BATCH = 32
"""Texts that are embedded at once."""
_REMEMBERED = 4096
"""Inputs whose embedding is kept, since several sets ask for it."""


class Neighbours:
    """Examples to choose from, and how like a text each is. The encoder is loaded when first asked."""

    def __init__(self, encoder: str, shown: Sequence[Shown], labels: LabelSet, columns: Sequence[str], device: str) -> None:
        self.labels, self.columns = labels, tuple(columns)
        self._encoder, self._device = encoder, device
        self.candidates = tuple(
            Candidate(shown=one, name=self.text(one.fields), label=labels.labels.index(one.label), place=place)
            for place, one in enumerate(shown)
        )
        self._embedding = functools.lru_cache(_REMEMBERED)(lambda text: self._embed([text])[0])

    def text(self, fields: Mapping[str, str]) -> str:
        """What is embedded of an input."""
        return " ".join(fields[name] for name in self.columns)

    def ranked(self, text: str) -> list[Candidate]:
        """The candidates, the most similar first; equally similar ones as they are given. The text itself is left out."""
        near_n = (self._known_nH @ self._embedding(text)).tolist()
        order = sorted(range(len(near_n)), key=lambda i: (-near_n[i], i))
        return [self.candidates[i] for i in order if self.candidates[i].name != text]

    @functools.cached_property
    def _base(self) -> Base:
        base = load_base(self._encoder, device=self._device)
        if base.kind != "encoder":
            raise UnsupportedError(
                f"{self._encoder} is a {base.kind}, whose tokens do not all see the whole text. Embed texts with an encoder."
            )
        return base

    @functools.cached_property
    def _known_nH(self) -> Tensor:
        return self._embed([one.name for one in self.candidates])

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of length 1 (n, H), on the CPU."""
        base, form = self._base, input_form(self._base)
        inputs = PlainInputs(base.tokenizer, ("text",), base.max_length, form.segments)
        tokens = [inputs.encode((text,), text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: -len(tokens[i].ids))
        rows: dict[int, Tensor] = {}
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            items = [
                Encoded(sequences=(tokens[i].ids,), segments=None if (own := tokens[i].segments) is None else (own,), read=((),))
                for i in chosen
            ]
            batch = collate(items, form).to(base.device)
            with torch.no_grad():
                pooled = pool("mean", base.hidden(batch.inputs).last_NTH, batch)
            rows.update(zip(chosen, torch.nn.functional.normalize(pooled, dim=1).cpu(), strict=True))
        return torch.stack([rows[i] for i in range(len(texts))])


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Chooses demonstrations for an input."""

    settings: Demonstrations
    neighbours: Neighbours

    def __post_init__(self) -> None:
        for label, group in enumerate(groups(self.settings, self.neighbours.candidates, self.neighbours.labels)):
            self._check(label, len(group))

    def shown(self, fields: Mapping[str, str]) -> tuple[Shown, ...]:
        """What is shown before an input with these columns. The draw is a hash of seed, input and candidate.

        Raises:
            InputError: too few are left without the input itself.
        """
        text = self.neighbours.text(fields)
        ranked = self.neighbours.ranked(text)
        chosen: list[Candidate] = []
        for label, group in enumerate(groups(self.settings, ranked, self.neighbours.labels)):
            self._check(label, len(group))
            near = self._drawn(group[: self._half(len(group))], text) if self._halves else group
            chosen += near[: self.settings.k]
        return tuple(one.shown for one in ordered(self.settings, self._drawn(chosen, text)))

    @property
    def _halves(self) -> bool:
        return self.settings.similar is not None and self.settings.similar.pick == "half"

    def _half(self, count: int) -> int:
        return math.ceil(count / 2)

    def _drawn(self, known: Sequence[Candidate], text: str) -> list[Candidate]:
        return sorted(known, key=lambda one: derive(self.settings.seed, "similar", text, one.name, one.place))

    def _check(self, label: int, count: int) -> None:
        there = self._half(count) if self._halves else count
        if there < self.settings.k:
            which = f" with the label {self.neighbours.labels.labels[label]!r}" if self.settings.per_class else ""
            half = f", of which the more similar half are {there}" if self._halves else ""
            raise InputError(
                f"{self.settings.k} demonstrations are asked for, but there are {count} labelled examples{which} to choose "
                f"from{half}."
            )
