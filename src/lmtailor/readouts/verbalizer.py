"""Verbalizer: the task as the model's own: a pattern asks, words answer, the LM head scores the words.

    masked LM            s_w = Σ_i log p(w_i | text with as many masks as w has tokens), all at once
    causal LM            s_w = Σ_i log p(w_i | text, w_1 … w_{i-1})
    encoder-decoder      s_w = Σ_i log p(w_i | text in the encoder; decoder's start, w_1 … w_{i-1}), see `seq2seq`

Where every word is one token, s_w is the LM head's logit of it (equal up to a constant), and only those rows of the
head are multiplied. Zero-shot and few-shot it has nothing to train; with a method it is prompt-based fine-tuning: the
cross-entropy of a softmax over the labels' scores alone.
Schick & Schütze 2021, arXiv:2001.07676, section 3.1; Gao et al. 2021, arXiv:2012.15723, section 4 and equation 1.

normalise=pmi (Holtzman et al. 2021, arXiv:2104.08315, section 3): s_w − s_w behind the domain premise. The premise is the
input of this very readout with the empty text in every column: the pattern's own words, behind the same demonstrations. It
is run under the adapter's own edits.

Words of several tokens are scored in masked models with all masks open at once, or with the most probable filled first
(masks=one_by_one, see `lmtailor.infer.unmask`).
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from torch import Generator

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.cutting import Gapped
from lmtailor.readouts.demonstrations import Demonstrations, Shown, check_shown, choose
from lmtailor.readouts.filling import gap_of
from lmtailor.readouts.gaps import CausalGap, Gap
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.pattern import Pattern, parse_pattern
from lmtailor.readouts.prompting import Prompting, Style
from lmtailor.readouts.readout import check_lengths, input_form, input_limit
from lmtailor.readouts.runs import plan_runs
from lmtailor.readouts.seq2seq import Fill
from lmtailor.readouts.similar import Chooser, Neighbours
from lmtailor.readouts.slots import check_trigger, trigger_ids
from lmtailor.readouts.verbalizer_reading import VerbalizerReading
from lmtailor.readouts.word_scores import Aggregate, Normalise, Scoring
from lmtailor.readouts.words import LabelWord, check_labels, label_words
from lmtailor.tasks.task import Task

__all__ = ["Verbalizer", "VerbalizerReading"]


@dataclass(frozen=True)
class Verbalizer:
    """A pattern with one gap, and for each label the words that may fill it."""

    pattern: str
    """Such as "{sentence} It was {mask}."; see `lmtailor.readouts.pattern`. Causal models, and decoders that write an answer:
    it ends with {mask}."""
    words: Mapping[str, tuple[str, ...]]
    """Label -> words, each of any number of tokens. The first is the one that demonstrations show."""
    _: KW_ONLY
    trigger: tuple[str, ...] | None = None
    """A token for each slot {trigger} of the pattern, as the tokenizer writes it ("Ġgreat", "##ing"); None: mask tokens."""
    demonstrations: Demonstrations | None = None
    """Solved examples before each input, without a trigger; None: zero-shot."""
    after: str = ""
    """The end of a prompt that something else puts before each input, such as `HardPrompt`: inputs are read as what follows it,
    without the special tokens that a text begins with. "" where inputs stand for themselves."""
    aggregate: Aggregate = "mean"
    """Several words of a label: the mean of their scores, the largest, or the score of the sum of their probabilities."""
    normalise: Normalise = "none"
    """Before words are aggregated: length, bytes: a word's score is divided by its number of tokens, or of bytes in UTF-8; pmi:
    its score behind the pattern with empty columns is subtracted, so that common words have no start over rare ones."""
    calibration: Calibration | None = None
    """Divides out what the model answers to inputs without content."""
    masks: Literal["together", "one_by_one"] = "together"
    """Masked models, words of several tokens: together: all masks are open in one pass. one_by_one: the most probable is filled
    first, a pass a token; a fit, its scores on dev while it runs included, still has them open together."""
    fill: Fill = "auto"
    """Encoder-decoders: whether the decoder fills a sentinel in the gap (span) or answers to the text (answer); auto: as the
    family was trained. A T5 that was tuned on instructions wants answer."""
    max_length: int | None = None
    """Longest input with demonstrations and word (tokens); a column loses its end if it is longer. None: what the model takes."""
    prior: tuple[tuple[float, ...], ...] | None = None
    """normalise=pmi: the words' scores behind the premise as measured, a row for each set of demonstrations; None: not yet."""

    def __post_init__(self) -> None:
        pattern = parse_pattern(self.pattern)
        if self.trigger is not None:
            check_trigger(pattern, self.trigger)
        if not self.words:
            raise InputError('A verbalizer needs words for every label, such as {"0": ["terrible"], "1": ["great"]}.')
        for label, words in dict[str, object](self.words).items():  # text would be taken for a list of its letters
            if isinstance(words, str) or not words:
                raise InputError(f"The words of the label {label!r} must be a list of at least one; found {words!r}.")
        object.__setattr__(self, "words", {str(label): tuple(words) for label, words in self.words.items()})
        check_lengths(max_length=self.max_length)
        self._check_measured("prior", self.prior, sum(map(len, self.words.values())), "word")
        if self.calibration is not None:
            self._check_measured("calibration.shares", self.calibration.shares, len(self.words), "label")
        if self.prior is not None and self.normalise != "pmi":
            raise InputError(f"A prior belongs to normalise=pmi; found normalise={self.normalise}. Leave prior out.")
        if self.after and self.demonstrations is not None:
            raise InputError("Inputs that follow another prompt have no demonstrations of their own. Leave one of the two out.")
        chooses = self.demonstrations is not None and self.demonstrations.similar is not None
        if chooses and (self.calibration is not None or self.normalise == "pmi"):
            what = "calibration" if self.calibration is not None else "normalise=pmi"
            raise InputError(
                f"{what} is measured behind the prompt that all inputs have, and with similar demonstrations each has its own. "
                "Show fixed demonstrations, or leave it out."
            )

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> VerbalizerReading:
        """See `Readout.bind`. Nothing here is random, so `rng` has no effect.

        Raises:
            InputError: words or columns that do not fit the labels or the data; demonstrations that are too many or too long.
            UnsupportedError: regression, a model without LM head, or a setting that has no meaning for the model.
        """
        check_base(base, labels)
        pattern = parse_pattern(self.pattern)
        pattern.check_columns(labels.columns)
        check_labels(self.words, labels.labels)
        settings = self.demonstrations
        if settings is None:
            return self._bound(base, labels, pattern, None, reserve)
        shown = self._shown(settings, pattern, labels, task)
        neighbours = None
        if settings.similar is not None:
            neighbours = Neighbours(settings.similar.encoder, shown, labels, pattern.fields, str(base.device))
        whole = replace(self, demonstrations=replace(settings, shown=shown))
        variants = tuple(whole._of_set(n)._bound(base, labels, pattern, neighbours, reserve) for n in range(settings.sets))
        return variants[0] if len(variants) == 1 else replace(variants[0], readout=whole, averaged=variants)

    def _bound(
        self, base: Base, labels: LabelSet, pattern: Pattern, neighbours: Neighbours | None, reserve: int
    ) -> VerbalizerReading:
        """The reading of one set of demonstrations, or of those that are chosen for each input."""
        form = input_form(base)
        gap, style = gap_of(base, form, self.fill)
        words = label_words(base.tokenizer, pattern, self.words, labels.labels, alone=style == "answer")
        if self.masks != "together" and base.kind != "encoder":
            raise UnsupportedError(
                f"masks={self.masks} says in which order a masked model fills a word, and {base.family.name} writes from left to "
                "right. Leave it out."
            )
        limit = _limit(base, self.max_length, reserve, gap, words)
        prompting = self._prompting(base, pattern, style)
        settings, chooser = self.demonstrations, None
        shown = () if settings is None else settings.shown or ()
        if neighbours is not None and settings is not None:
            chooser = Chooser(settings=settings, neighbours=neighbours)
        fixed = () if chooser is not None else shown
        prompting.check_fits(fixed, limit, settings)
        prompter = prompting.of(fixed)
        own = () if chooser is not None else prompter.prompt()
        return VerbalizerReading(
            readout=self,
            label_set=labels,
            form=form,
            reads_lm_head=True,
            begins=isinstance(gap, CausalGap),
            prompter=prompter,
            prompting=prompting,
            pattern=pattern,
            scoring=self._scoring(words, len(labels.labels)),
            demonstrations=shown,
            limit=limit - len(own),
            gap=gap,
            prompt_ids=own,
            runs=plan_runs(words, gap.mask_id),
            one_by_one=self.masks == "one_by_one" and any(len(word.pieces) > 1 for word in words),
            chooser=chooser,
        )

    def _shown(self, settings: Demonstrations, pattern: Pattern, labels: LabelSet, task: Task | None) -> tuple[Shown, ...]:
        if settings.shown is not None:
            check_shown(settings.shown, labels, pattern.fields)
            return settings.shown
        if task is None:
            raise InputError(
                "Demonstrations are drawn from a task's training split. Give the task, or the demonstrations (shown=…)."
            )
        return choose(settings, task.split("train"), labels, pattern.fields)

    def _of_set(self, number: int) -> "Verbalizer":
        """The settings that would give one of several sets of demonstrations alone."""
        settings = self.demonstrations
        assert settings is not None
        return replace(
            self,
            demonstrations=settings.of_set(number),
            prior=None if self.prior is None else (self.prior[number],),
            calibration=None if self.calibration is None else self.calibration.of_set(number),
        )

    def _scoring(self, words: tuple[LabelWord, ...], labels: int) -> Scoring:
        shares = None if self.calibration is None else self.calibration.shares
        return Scoring(
            words=words,
            labels=labels,
            aggregate=self.aggregate,
            normalise=self.normalise,
            prior=None if self.prior is None else self.prior[0],
            calibrates=self.calibration is not None,
            shares=None if shares is None else shares[0],
        )

    def _prompting(self, base: Base, pattern: Pattern, style: Style) -> Prompting:
        return Prompting(
            tokenizer=base.tokenizer,
            pattern=pattern,
            style=style,
            first_word={label: words[0] for label, words in self.words.items()},
            separator="" if self.demonstrations is None else self.demonstrations.separator,
            trigger=trigger_ids(base.tokenizer, pattern, self.trigger),
            after=self.after,
        )

    def _check_measured(self, name: str, rows: tuple[tuple[float, ...], ...] | None, numbers: int, what: str) -> None:
        """See that measured numbers, which a file may hold, fit the words."""
        if rows is None:
            return
        sets = 1 if self.demonstrations is None else self.demonstrations.sets
        if len(rows) != sets or any(len(row) != numbers for row in rows):
            raise InputError(
                f"{name} must have a row for each set of demonstrations ({sets}), with one number a {what} ({numbers}); found "
                f"rows of {[len(row) for row in rows]} numbers. Leave it out to have it measured."
            )


def check_base(base: Base, labels: LabelSet) -> None:
    """See that label words can be read from this model for this task.

    Raises:
        UnsupportedError: they cannot.
    """
    labels.check_kind("classification", what="A verbalizer chooses among words for labels of whole texts")
    if not base.has_lm_head:
        raise UnsupportedError(
            f"{base.source or base.family.name} has no LM head, so it cannot score words. Use Head, or a checkpoint with one."
        )


def _limit(base: Base, max_length: int | None, reserve: int, gap: Gap, words: tuple[LabelWord, ...]) -> int:
    """Longest text before a word is put in (tokens)."""
    limit, longest = input_limit(base, max_length, reserve), max(len(word.pieces) for word in words)
    if gap.in_text:
        return limit - longest + 1
    written = len(gap.fill(Gapped(ids=(), gap=0), ()).decoder or ()) + longest - 1
    if written > base.max_length - reserve:
        raise InputError(
            f"The decoder would be fed with {written} tokens for the longest word, and takes {base.max_length - reserve}. Choose "
            "shorter words."
        )
    return limit
