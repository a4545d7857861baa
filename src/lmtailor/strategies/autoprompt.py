"""AutoPrompt: trigger tokens for a frozen model, found by the gradient at their embeddings.
Shin et al. 2020, arXiv:2010.15980, section 2.

    loss = -log Σ_{w ∈ V_y} p(w | prompt)                       p over the whole vocabulary; mean over examples
    candidates of a slot = top-k over w of -E_w · g,            g = Σ over examples of ∂loss/∂(embedding in the slot)

An iteration sums g over `accumulation` batches, draws a slot, and scores the trigger with each candidate in it on as many fresh
examples. The best of them replaces the trigger if its loss there is lower than the trigger's own; the trigger that is best on dev
is the result. Nothing in the model changes.

What differs from the paper: candidates are cut down by successive halving, unless halving=1; the paper's code compares
candidates by accuracy in classification, here it is the loss, as in the paper's text; of triggers with the same score on dev,
the one with the lower loss is kept, and the start is one of them.

Also for causal models, with slots before the answer, and for encoder-decoders, with slots in the encoder's text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.infer.evaluate import measure, plain_adapter, predict_split
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.verbalizer import Verbalizer, check_base
from lmtailor.store.adapter import Adapter
from lmtailor.strategies._autoprompt_loss import Over
from lmtailor.strategies._autoprompt_search import Found, Plan, Search
from lmtailor.strategies._autoprompt_tokens import start_ids
from lmtailor.strategies._autoprompt_words import WordSearch, default_pattern, find_words, provisional, whole_words
from lmtailor.strategies.strategy import Part, Strategy, Work

_TRIGGERS = 3


@dataclass(frozen=True, kw_only=True)
class AutoPrompt(Strategy):
    """Search for a trigger. The defaults are the paper's for SST-2."""

    paper: ClassVar[str] = "Shin et al. 2020, section 2"

    triggers: int | None = None
    """Slots of the pattern that is made if no readout is given; None: 3. A readout's pattern says it itself with {trigger}."""
    initial: str | None = None
    """The word, one token, that stands in every slot at first; None: the mask token, or "the" where there is none. A readout's
    `trigger`, where there is one, is the start."""
    label_words: Literal["given", "search"] = "given"
    """given: those of the readout, or the card's. search: found first, in their place, with `words`."""
    words: WordSearch = field(default_factory=WordSearch)
    """How label words are searched."""
    candidates: int = 100
    """Tokens that are tried in a slot."""
    accumulation: int = 30
    """Batches that a gradient is summed over; candidates are scored on as many others."""
    batch_size: int = 24
    """Examples in a batch."""
    iterations: int = 180
    halving: int = 2
    """After each round, one in `halving` candidates goes on to `halving` times as many examples; the last see all. 1: all of
    them see all, as in the paper."""
    over: Over = "vocabulary"
    """vocabulary: a label's probability is its words' share of all words, as in the paper. labels: their share of label words,
    as answers are read; a trigger then gains nothing by making all label words likely."""
    filter: bool = True
    """Whether special tokens, label words and words that begin with a capital letter are left out."""
    patience: int | None = None
    """Iterations without a change after which the search ends; None: never, as in the paper."""
    rows: int = 256
    """The most sequences in a forward. Bounds the memory; changes no result but for rounding."""

    def __post_init__(self) -> None:
        for name in ("candidates", "accumulation", "batch_size", "iterations", "halving", "rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; found {getattr(self, name)}.")
        for name in ("triggers", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; found {value}.")

    @property
    def finds(self) -> frozenset[Part]:
        """Words, if they are searched for."""
        return frozenset({"words"} if self.label_words == "search" else ())

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            InputError: no dev split to choose on, no label words, a pattern without slots, or label words of several tokens.
            UnsupportedError: regression, no LM head, a method, training settings, or a readout that is no verbalizer.
        """
        self._refuse(work)
        readout, words = self._readout(work)
        search = Search(work, readout, self._plan())
        found = search.run()
        adapter = plain_adapter(work.base, work.task, replace(readout, trigger=search.tokens(found.best)), seed=work.seed)
        scores = {"dev": measure(work.task, predict_split(work.base, work.task, adapter, split="dev"))}
        return replace(adapter, scores=scores, provenance={"search": self._said(work, search, found, words)})

    def _refuse(self, work: Work) -> None:
        work.refuse_method("AutoPrompt searches for words and changes nothing in the model.")
        if work.training is not None:
            raise UnsupportedError("AutoPrompt trains nothing, so training settings have no meaning. Leave them out.")
        if work.readout is not None and not isinstance(work.readout, Verbalizer):
            raise UnsupportedError(
                f"AutoPrompt searches words for the pattern of a verbalizer; found {type(work.readout).__name__}. Give a "
                "Verbalizer with {trigger} in its pattern, or leave the readout out."
            )
        check_base(work.base, LabelSet.of(work.task))
        for split in ("train", "dev"):
            if not work.task.splits.get(split):
                raise InputError(
                    f"AutoPrompt searches on train and chooses on dev; the task {work.task.name} has no {split} examples. "
                    "Add them, or hold some out with dev_fraction."
                )

    def _plan(self) -> Plan:
        return Plan(
            examples=self.accumulation * self.batch_size,
            candidates=self.candidates,
            halving=self.halving,
            iterations=self.iterations,
            patience=self.patience,
            filtered=self.filter,
            over=self.over,
            rows=self.rows,
        )

    def _readout(self, work: Work) -> tuple[Verbalizer, Mapping[str, Any] | None]:
        """The verbalizer that the search starts from, and how its words were found, if they were."""
        readout = work.readout if isinstance(work.readout, Verbalizer) else self._default(work)
        slots = parse_pattern(readout.pattern).slots
        if not slots:
            raise InputError(
                f"The pattern {readout.pattern!r} has no slot for a trigger. Write {{trigger}} once for each token, such as "
                "'{sentence} {trigger} {trigger} {trigger} {mask}'."
            )
        if self.triggers is not None and work.readout is not None and self.triggers != slots:
            raise InputError(f"triggers is {self.triggers}, but the pattern {readout.pattern!r} has {slots} slots. Leave it out.")
        if readout.trigger is None:
            ids = start_ids(work.base, slots, self.initial)
            readout = replace(readout, trigger=tuple(work.base.tokenizer.convert_ids_to_tokens(list(ids))))
        elif self.initial is not None:
            raise InputError(f"The readout's trigger {list(readout.trigger)} is the start; leave initial={self.initial!r} out.")
        if self.label_words == "given":
            return readout, None
        own = readout
        words = work.desk.result("label_words", lambda: find_words(work, own, self.words, self.rows))
        return replace(readout, words={label: tuple(one["word"] for one in words[label]) for label in work.task.labels}), words

    def _default(self, work: Work) -> Verbalizer:
        """A pattern of the task's columns with the slots behind them."""
        pattern = default_pattern(work.base, work.task, self.triggers or _TRIGGERS)
        words = work.task.verbalizer
        if self.label_words == "search":
            words = provisional(work.task.labels, whole_words(work.base, parse_pattern(pattern)))
        elif not words:
            raise InputError(
                f"The task {work.task.name} proposes no label words. Name them in the card or in a readout, or let "
                "label_words=search find some."
            )
        return Verbalizer(pattern, words, aggregate="sum")

    def _said(self, work: Work, search: Search, found: Found, words: Mapping[str, Any] | None) -> dict[str, Any]:
        """What stands in the adapter about its search."""
        return {
            "trigger": list(search.tokens(found.best)),
            "text": search.text(found.best),
            "metric": work.task.choosing,
            "score": found.score,
            "loss": found.loss,
            "last": list(search.tokens(found.trigger)),
            "iterations": found.step,
            "ended": "iterations" if found.step == self.iterations else "patience",
            "label_words": None if words is None else dict(words),
            "history": list(found.history),
        }
