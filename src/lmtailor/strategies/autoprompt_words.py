"""AutoPrompt's label words alone: words for a pattern, found by a linear classifier.  Shin et al. 2020, section 2.3.

See `_autoprompt_words` for the equations. Nothing in the model changes; the words' probabilities are added.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.infer.evaluate import measure, plain_adapter, predict_split
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.verbalizer import Verbalizer, check_base
from lmtailor.store.adapter import Adapter
from lmtailor.strategies._autoprompt_words import WordSearch, default_pattern, find_words, provisional, whole_words
from lmtailor.strategies.strategy import Part, Strategy, Work


@dataclass(frozen=True, kw_only=True)
class AutoPromptWords(Strategy):
    """Search for label words of a verbalizer; a readout's own words are replaced."""

    paper: ClassVar[str] = "Shin et al. 2020, section 2.3"

    words: WordSearch = field(default_factory=WordSearch)
    rows: int = 256
    """Examples in a forward."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(f"rows must be at least 1; found {self.rows}.")

    @property
    def finds(self) -> frozenset[Part]:
        """Words."""
        return frozenset({"words"})

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            InputError: no training examples, or a vocabulary with fewer words than labels.
            UnsupportedError: regression, no LM head, a method, training settings, or a readout that is no verbalizer.
        """
        work.refuse_method("AutoPrompt searches for words and changes nothing in the model.")
        if work.training is not None:
            raise UnsupportedError(
                "The classifier's training is set with words.lr and words.epochs. Leave training settings out."
            )
        if work.readout is not None and not isinstance(work.readout, Verbalizer):
            raise UnsupportedError(
                f"Label words are those of a verbalizer; found {type(work.readout).__name__}. Give a Verbalizer."
            )
        check_base(work.base, LabelSet.of(work.task))
        if not work.task.splits.get("train"):
            raise InputError(f"Label words are learned from train, and the task {work.task.name} has no train examples.")
        readout = work.readout if isinstance(work.readout, Verbalizer) else self._default(work)
        found = work.desk.result("label_words", lambda: find_words(work, readout, self.words, self.rows))
        words = {label: tuple(one["word"] for one in found[label]) for label in work.task.labels}
        adapter = plain_adapter(work.base, work.task, replace(readout, words=words), seed=work.seed)
        has_dev = bool(work.task.splits.get("dev"))
        scores = {"dev": measure(work.task, predict_split(work.base, work.task, adapter, split="dev"))} if has_dev else {}
        return replace(adapter, scores=scores, provenance={"search": {"label_words": found}})

    def _default(self, work: Work) -> Verbalizer:
        pattern = default_pattern(work.base, work.task, 0)
        words = provisional(work.task.labels, whole_words(work.base, parse_pattern(pattern)))
        return Verbalizer(pattern, words, aggregate="sum")
