"""LM-BFF: a prompt is found by models themselves, on a few examples of each label.

    words        of each label the `top_words` words that the base would write into the gap; of all their assignments the
                 `candidates` that are right most often on the training set as the base is                       (section 5.1)
    templates    a model that fills spans writes the text around the gap, the same for all training examples; the
                 `candidates` that are likeliest for all of them together                                        (section 5.2)
    both         templates with the words that are given, then words with the best template

Every candidate is then fine-tuned, and the one that is best on dev is the adapter. The paper fine-tunes all parameters for 1,000
steps, with dev scored every 100 and the best weights kept; learning rate and batch size are from {1e-5, 2e-5, 5e-5} × {2, 4, 8},
in searches 1e-5 and 8 (by the authors' code), which is the default here. With `Frozen`, candidates are compared without training.
The few examples of each label are those of the task: `Task.few_shot(16, seed)`. Demonstrations (section 6) are shown to the
candidates; the paper shows one of each label, from the half that is most like the input: `Demonstrations(k=1, per_class=True,
similar=Similar(encoder=…))`. The searches leave demonstrations, calibration and normalisation out, as the paper's do. The
authors' code looks for words behind several templates in "both", here it is behind the best.

Gao, Fisch & Chen 2021, arXiv:2012.15723.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer, check_base
from lmtailor.store.adapter import Adapter
from lmtailor.strategies._lm_bff_templates import fits, forms, get_filler, in_turn, search_templates
from lmtailor.strategies._lm_bff_tune import Candidate, Tuner, Winner
from lmtailor.strategies._lm_bff_words import search_words
from lmtailor.strategies.strategy import Part, Strategy, Work
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class LMBFF(Strategy):
    """Search for label words or a template, fine-tune the best, and choose on dev."""

    paper: ClassVar[str] = "Gao, Fisch & Chen 2021, sections 4 to 6"

    search: Literal["words", "templates", "both"] = "words"
    """What is searched for."""
    top_words: int = 100
    """Words of a label that are considered."""
    width: int = 10_000
    """Partial assignments of words that are kept on the way; up to three labels nothing is lost by it at the default."""
    candidates: int = 100
    """Prompts that are fine-tuned, of each search."""
    beam: int = 100
    """Templates that are kept at each length."""
    longest: int = 20
    """Tokens of a template, the filler's (the authors' code: 20)."""
    filler: str | None = None
    """What writes templates: a folder or hub id of a T5. None: the base itself, if it is a T5 or a causal model."""

    demonstrations: Demonstrations | None = None
    """Shown to the candidates; None: those of the readout, if it has any."""

    def __post_init__(self) -> None:
        for name in ("top_words", "width", "candidates", "beam", "longest"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; found {getattr(self, name)}.")
        if self.filler is not None and self.search == "words":
            raise InputError("A filler writes templates, and only words are searched for. Set search to templates or both.")

    @property
    def finds(self) -> frozenset[Part]:
        """Words for a pattern, or a pattern for words; with "both" the words are those that the templates are found with."""
        return frozenset({"words"} if self.search == "words" else {"pattern"})

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            InputError: no pattern, no words, no dev split, or a label without training examples; a filler is needed.
            UnsupportedError: regression, a base without LM head, a readout that is no verbalizer, a filler that fills nothing.
        """
        check_base(work.base, LabelSet.of(work.task))
        _check_splits(work.task)
        start, tuner = self._start(work), Tuner(work)
        search: dict[str, Any] = {}
        winner: Winner | None = None
        if self.search != "words":
            winner = self._templates(work, start, tuner, search)
            start = winner.candidate.readout
        if self.search != "templates":
            worded = self._words(work, start, tuner, search)
            winner = worded if winner is None or worded.worth >= winner.worth else winner
        assert winner is not None
        found = winner.candidate.readout
        search = {"pattern": found.pattern, "words": {label: list(own) for label, own in found.words.items()}} | search
        return replace(winner.adapter, provenance={**winner.adapter.provenance, "search": search})

    def _start(self, work: Work) -> Verbalizer:
        """What the search starts from, with nothing in it that was measured on other words or another pattern."""
        start = _given(work.readout, work.task, self.search)
        if start.trigger is not None and self.search != "words":
            raise InputError("A trigger belongs to its pattern, and templates are searched for. Leave the trigger out.")
        calibration = None if start.calibration is None else replace(start.calibration, shares=None)
        shown = start.demonstrations if self.demonstrations is None else self.demonstrations
        return replace(start, prior=None, calibration=calibration, demonstrations=shown)

    def _words(self, work: Work, start: Verbalizer, tuner: Tuner, search: dict[str, Any]) -> Winner:
        """The best assignment of words; what was found on the way is put into `search`."""
        labels = work.task.labels

        def make() -> Mapping[str, object]:
            work.tell("searching label words", 0, 1)
            found = search_words(work.base, work.task, start, top=self.top_words, count=self.candidates, width=self.width)
            rows = [[list(one.words), one.accuracy, one.likelihood] for one in found.assignments]
            return {"assignments": rows, "exact": found.exact}

        found = work.desk.result("words", make)
        candidates = [
            Candidate(
                readout=replace(start, words={label: (word,) for label, word in zip(labels, words, strict=True)}),
                likelihood=likelihood,
                shown={"words": dict(zip(labels, words, strict=True)), "train_accuracy": accuracy, "likelihood": likelihood},
            )
            for words, accuracy, likelihood in found["assignments"]
        ]
        winner = tuner.best(candidates, work.desk.part("words"), "label words")
        search |= {"exact": found["exact"], "word_candidates": list(winner.record)}
        return winner

    def _templates(self, work: Work, start: Verbalizer, tuner: Tuner, search: dict[str, Any]) -> Winner:
        """The best template; what was found on the way is put into `search`."""
        base, task = work.base, work.task

        def make() -> Mapping[str, object]:
            filler, each = get_filler(self.filler, base), forms(base, task, start)
            found = []
            for number, form in enumerate(each):
                work.tell("searching templates", number, len(each))
                found.append(search_templates(base, task, start, form, filler, beam=self.beam, longest=self.longest))
            every = list(in_turn(found))
            usable = (one for one in every if fits(base, task, start, one.pattern))
            rows = [[one.pattern, one.likelihood] for one in itertools.islice(usable, self.candidates)]
            if not rows:
                raise self._none_found(work, [one.pattern for one in every])
            return {"templates": rows, "filler": (filler or base).fingerprint}

        found = work.desk.result("templates", make)
        candidates = [
            Candidate(
                readout=replace(start, pattern=pattern),
                likelihood=likelihood,
                shown={"pattern": pattern, "likelihood": likelihood},
            )
            for pattern, likelihood in found["templates"]
        ]
        winner = tuner.best(candidates, work.desk.part("templates"), "templates")
        search |= {"filler": found["filler"], "template_candidates": list(winner.record)}
        return winner

    def _none_found(self, work: Work, patterns: Sequence[str]) -> InputError:
        """The error of a search for templates that found none that the base can take."""
        if not patterns:
            return InputError(
                f"No template was written to its end within {self.longest} tokens by a beam of {self.beam}. Widen the beam or "
                "raise longest; or the filler was not trained to fill spans."
            )
        return InputError(
            f"{work.base.source or work.base.family.name} can take none of the templates that were found, such as "
            f"{patterns[0]!r}: its tokenizer writes the label words together with the text, or they are too long. Widen the beam."
        )


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


def _given(readout: Readout | None, task: Task, search: str) -> Verbalizer:
    """The pattern and the words that are given, as far as they are needed.

    Raises:
        InputError: there is no pattern to find words for, or there are no words to find templates for.
        UnsupportedError: a readout without a pattern.
    """
    if isinstance(readout, Verbalizer):
        return readout
    if readout is not None:
        raise UnsupportedError(
            f"LM-BFF searches prompts, and {type(readout).__name__} has none. Leave the readout out, or give a Verbalizer."
        )
    prompt = task.prompts[0] if task.prompts else None
    words = task.verbalizer if prompt is None else prompt.words or task.verbalizer
    if search == "words" and prompt is None:
        raise InputError(
            f'The search for label words needs a pattern, such as "{{{task.text[0]}}} It was {{mask}}."; the task {task.name} '
            "proposes none. Give a Verbalizer (--pattern), or put patterns into the task's card."
        )
    if search != "words" and not words:
        raise InputError(
            f"The search for templates needs a word for each label, and the task {task.name} proposes none. Give a Verbalizer "
            "(--word LABEL=WORD), or put a [verbalizer] into the task's card."
        )
    # What is searched for is filled in: any pattern will do, and the labels' names for words.
    pattern = f"{{{task.text[0]}}} {{mask}}" if prompt is None else prompt.pattern
    return Verbalizer(pattern, words or {label: (label,) for label in task.labels})
