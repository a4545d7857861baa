"""LM-BFF: the label words of a prompt are found by the model itself, on a few examples of each label.

    words        of each label the `top_words` words that the base would write into the gap; of all their assignments the
                 `candidates` that are right most often on the training set as the base is                       (section 5.1)

Every candidate is then fine-tuned, and the one that is best on dev is the adapter. The paper fine-tunes all parameters for 1,000
steps, with dev scored every 100 and the best weights kept; learning rate and batch size are from {1e-5, 2e-5, 5e-5} × {2, 4, 8},
in searches 1e-5 and 8 (by the authors' code), which is the default here. With `Frozen`, candidates are compared without training.
The few examples of each label are those of the task: `Task.few_shot(16, seed)`.

Gao, Fisch & Chen 2021, arXiv:2012.15723.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer, check_base
from lmtailor.store.adapter import Adapter
from lmtailor.strategies._lm_bff_tune import Candidate, Tuner, Winner
from lmtailor.strategies._lm_bff_words import search_words
from lmtailor.strategies.strategy import Strategy, Work
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class LMBFF(Strategy):
    """Search for label words, fine-tune the best, and choose on dev."""

    paper: ClassVar[str] = "Gao, Fisch & Chen 2021, sections 4 to 6"

    top_words: int = 100
    """Words of a label that are considered."""
    candidates: int = 100
    """Prompts that are fine-tuned."""
    width: int = 10_000
    """Partial assignments of words that are kept on the way; up to three labels nothing is lost by it at the default."""

    def __post_init__(self) -> None:
        for name in ("top_words", "candidates", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; found {getattr(self, name)}.")

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            InputError: no pattern, no dev split, or a label without training examples.
            UnsupportedError: regression, a base without LM head, or a readout that is no verbalizer.
        """
        check_base(work.base, LabelSet.of(work.task))
        _check_splits(work.task)
        start = _start(work.readout, work.task)
        winner, exact = self._words(work, start)
        found = {"pattern": winner.candidate.readout.pattern, "words": _listed(winner.candidate.readout.words)}
        search = {**found, "word_candidates": list(winner.record), "exact": exact}
        return replace(winner.adapter, provenance={**winner.adapter.provenance, "search": search})

    def _words(self, work: Work, start: Verbalizer) -> tuple[Winner, bool]:
        labels = work.task.labels
        work.tell("searching label words", 0, 1)

        def search() -> Mapping[str, object]:
            found = search_words(work.base, work.task, start, top=self.top_words, count=self.candidates, width=self.width)
            rows = [[list(one.words), one.accuracy, one.likelihood] for one in found.assignments]
            return {"assignments": rows, "exact": found.exact}

        found = work.desk.result("words", search)
        candidates = [
            Candidate(
                readout=replace(start, words={label: (word,) for label, word in zip(labels, words, strict=True)}),
                likelihood=likelihood,
                shown={"words": dict(zip(labels, words, strict=True)), "train_accuracy": accuracy, "likelihood": likelihood},
            )
            for words, accuracy, likelihood in found["assignments"]
        ]
        return Tuner(work).best(candidates, work.desk.part("words"), "label words"), bool(found["exact"])


def _check_splits(task: Task) -> None:
    """See that there is something to search on and to choose by.

    Raises:
        InputError: there is not.
    """
    for name in ("train", "dev"):
        if name not in task.splits:
            raise InputError(
                f"LM-BFF searches on train and chooses on dev; the task {task.name} has no {name} split. Draw both from labelled "
                "data with few_shot(k, seed)."
            )
    counts = Counter(task.split("train").labels)
    missing = [label for index, label in enumerate(task.labels) if not counts[index]]
    if missing:
        raise InputError(
            f"The training set has no example of {', '.join(map(repr, missing))}, so no words can be found for it. Give some "
            "examples of each label."
        )


def _start(readout: Readout | None, task: Task) -> Verbalizer:
    """What the search starts from: the pattern, and the words as far as there are any.

    Raises:
        InputError: there is no pattern.
        UnsupportedError: a readout without a pattern.
    """
    if isinstance(readout, Verbalizer):
        return readout
    if readout is not None:
        raise UnsupportedError(
            f"LM-BFF searches prompts, and {type(readout).__name__} has none. Leave the readout out, or give a Verbalizer."
        )
    if not task.patterns:
        raise InputError(
            f'The search for label words needs a pattern, such as "{{{task.text[0]}}} It was {{mask}}."; the task {task.name} '
            "proposes none. Give a Verbalizer, or put patterns into the task's card."
        )
    # The names of the labels stand for their words until those are found.
    words = task.verbalizer or {label: (label,) for label in task.labels}
    return Verbalizer(task.patterns[0], words)


def _listed(words: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {label: list(own) for label, own in words.items()}
