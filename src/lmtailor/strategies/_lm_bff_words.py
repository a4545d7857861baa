"""Automatic label words: what the base itself would write into the gap.  Gao et al. 2021, arXiv:2012.15723, section 5.1.

    V_c = the words v with the highest Σ over x of class c of log p([MASK] = v | pattern(x))

Then the assignments of a word of V_c to each class c that are right most often on the training set, without training: see
`_lm_bff_assign`. A word is one token of the base in the pattern's gap, of letters only.

The trunk runs once over the examples; the states at the gap are kept, and the vocabulary's log-probabilities are made from them
a few examples at a time.

Shapes: n examples, H features, V vocabulary, C classes, K words of a class.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.edits.attach import attach
from lmtailor.infer.score import by_length
from lmtailor.methods.frozen import Frozen
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.store.adapter import Adapter, build_adapter
from lmtailor.strategies._lm_bff_assign import best_assignments
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task

_BATCH = 32
"""Examples in a forward, and in a chunk of log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One word for each label."""

    words: tuple[str, ...]
    """In the order of the labels."""
    accuracy: float
    """On the training set, without training."""
    likelihood: float
    """Σ log p of each training example's own word."""


@dataclass(frozen=True, kw_only=True)
class FoundWords:
    """What the search for label words found."""

    assignments: tuple[Assignment, ...]
    """The best first."""
    exact: bool
    """Whether they are provably the best of all assignments of the lists."""
    lists: tuple[tuple[str, ...], ...]
    """Of each label the words that the base would write, the likeliest first."""


def search_words(base: Base, task: Task, readout: Verbalizer, *, top: int, count: int, width: int) -> FoundWords:
    """The assignments of words that tell the training examples apart best, without training.

    Args:
        base: the model.
        task: with a train split that has examples of every label.
        readout: gives the pattern; its words and demonstrations are left out.
        top: words of a label that are considered (K).
        count: assignments.
        width: partial assignments that are kept.

    Raises:
        InputError: the base has fewer words of one token for this pattern than there are labels.
    """
    examples = task.split("train").examples
    labels_n = np.array([int(example.label or 0) for example in examples])
    gap = Gap(base, task, readout)
    states_nH = gap.states(examples)
    means_CV = gap.mean_log_probs(states_nH, labels_n, len(task.labels))
    ids = [gap.likeliest(means_V, top) for means_V in means_CV]
    if any(not len(own) for own in ids):
        raise gap.too_few(len(task.labels))
    union, places = np.unique(np.concatenate(ids), return_inverse=True)
    scores_nU = gap.log_probs_of(states_nH, union)
    ends = np.cumsum([len(own) for own in ids])[:-1]
    found = best_assignments([scores_nU[:, own] for own in np.split(places, ends)], ids, labels_n, count=count, width=width)
    return FoundWords(
        assignments=tuple(
            Assignment(
                words=tuple(gap.word(int(ids[c][i])) for c, i in enumerate(choice)),
                accuracy=int(right) / len(examples),
                likelihood=float(likelihood),
            )
            for choice, right, likelihood in zip(found.choice, found.right, found.likelihood, strict=True)
        ),
        exact=found.exact,
        lists=tuple(tuple(gap.word(int(i)) for i in own) for own in ids),
    )


def plain(readout: Verbalizer) -> Verbalizer:
    """A verbalizer without demonstrations, and without what acts on the scores of its words."""
    return replace(readout, demonstrations=None, calibration=None, normalise="none", prior=None)


class Gap:
    """The gap of a pattern as the plain base sees it."""

    def __init__(self, base: Base, task: Task, readout: Verbalizer) -> None:
        """Look for words of one token.

        Raises:
            InputError: there are no two.
        """
        self.base, self._readout = base, plain(readout)
        # What stands in the gap does not depend on the words, so that any two of one token will do to bind the pattern with.
        self._labels = LabelSet(kind="classification", labels=("0", "1"), texts=task.text, extra=task.extra)
        self._pieces: dict[str, int | None] = {}
        self._adapter = self._bound()

    def word(self, token: int) -> str:
        """A token as a word."""
        return str(self.base.tokenizer.decode([token])).strip()

    def states(self, examples: Sequence[Example]) -> Tensor:
        """(n, H): the states that predict what stands in the gap."""
        reading = self._adapter.reading
        assert reading is not None
        items = [reading.encode(example) for example in examples]
        out = torch.empty(len(items), self.base.output_size, dtype=self.base.dtype, device=self.base.device)
        with torch.no_grad(), attach(self.base, self._adapter, fast=True) as attached:
            for indices in by_length(items, _BATCH):
                batch = reading.collate([items[i] for i in indices]).to(self.base.device)
                states = attached.own_states(0, attached.states(batch.inputs, batch.answer_N))
                out[torch.tensor(indices, device=out.device)] = read_states(states.last_NTH, batch)[:, 0]
        return out

    def log_probs(self, states_nH: Tensor) -> Tensor:
        """(n, V) log-probabilities of the vocabulary, float32."""
        with torch.no_grad():
            return self.base.lm_logits(states_nH).float().log_softmax(1)

    def mean_log_probs(self, states_nH: Tensor, labels_n: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
        """(C, V): of every class the mean over its examples."""
        sums_CV = torch.zeros(classes, self.base.vocab_size, dtype=torch.float64)
        labels = torch.from_numpy(labels_n)
        for begin in range(0, len(labels), _BATCH):
            part = slice(begin, begin + _BATCH)
            sums_CV.index_add_(0, labels[part], self.log_probs(states_nH[part]).cpu().double())
        means: NDArray[np.float64] = (sums_CV / torch.bincount(labels, minlength=classes)[:, None]).numpy()
        return means

    def log_probs_of(self, states_nH: Tensor, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, W) log-probabilities of some tokens."""
        words = torch.from_numpy(tokens)
        parts = [self.log_probs(part).cpu()[:, words].double() for part in torch.split(states_nH, _BATCH)]
        values: NDArray[np.float64] = torch.cat(parts).numpy()
        return values

    def likeliest(self, scores_V: NDArray[np.float64], count: int) -> NDArray[np.int64]:
        """The words with the highest scores, as tokens, the highest first."""
        found: list[int] = []
        for token in np.argsort(-scores_V, kind="stable").tolist():
            if len(found) == count:
                break
            if self._is_word(token):
                found.append(token)
        return np.array(found, np.int64)

    def too_few(self, needed: int) -> InputError:
        """The error of a base without enough words."""
        return InputError(
            f"The tokenizer of {self.base.source or self.base.family.name} has fewer than {needed} words that are one token "
            f"in the gap of {self._readout.pattern!r}, so no label words can be found. Give the words yourself."
        )

    def _is_word(self, token: int) -> bool:
        text = self._text(token)
        if text is None:
            return False
        if text not in self._pieces:
            # A reading needs two labels with different words; a word is taken together with itself twice over.
            reading = self._reading(text, f"{text} {text}")
            pieces = () if reading is None else reading.words[0].pieces
            self._pieces[text] = pieces[0] if len(pieces) == 1 else None
        return self._pieces[text] == token

    def _text(self, token: int) -> str | None:
        """What a token is as a word; None if it is none."""
        if token >= len(self.base.tokenizer) or token in self.base.tokenizer.all_special_ids:
            return None
        text = self.word(token)
        return text if text.isalpha() else None

    def _bound(self) -> Adapter:
        """The plain base with the pattern and two words of one token."""
        words = itertools.islice((self.word(token) for token in range(self.base.vocab_size) if self._is_word(token)), 2)
        found = tuple(words)
        reading = self._reading(*found) if len(found) == 2 else None
        if reading is None:
            raise self.too_few(2)
        return build_adapter(self.base, Frozen(), reading.readout, self._labels, None)

    def _reading(self, word: str, other: str) -> VerbalizerReading | None:
        """The pattern with two words; None where the tokenizer cannot take one."""
        try:
            return replace(self._readout, words={"0": (word,), "1": (other,)}).bind(self.base, self._labels, None)
        except InputError:
            return None
