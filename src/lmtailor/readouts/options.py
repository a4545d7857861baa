"""Options: each example brings its own choices in columns, and the LM head scores each in the gap of a pattern.

    s_c = log p(option c | prompt) / n_c,   log p(o | prompt) = Σ_i log p(o_i | prompt, o_1 … o_{i−1})

with n_c = 1, or the option's tokens or bytes (normalise). In masked models all tokens of an option are masked at once, in
encoder-decoders the decoder writes it: as a verbalizer's words of several tokens. The answer is the option with the largest score
(Brown et al. 2020, arXiv:2005.14165, section 2.4). With a method it is fine-tuned: cross-entropy of a softmax over the options.

normalise=pmi (Holtzman et al. 2021, arXiv:2104.08315, section 3): log p(option c | prompt) − log p(option c | premise). As a
verbalizer's, the premise is the prompt with the empty text in every column: the pattern's own words. Since each example has its
own options, both are run each time, and a fit trains the difference.

It is a task of classification whose labels are the options' names or numbers, such as COPA's 0 and 1 for choice1 and choice2.

Shapes: B examples, C options, K texts (prompt; premise), N = B · K · C sequences, P positions read in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from torch import Generator, Tensor
from transformers import PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, UnsupportedError, near
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.cutting import Gapped, tokenise_within
from lmtailor.readouts.filling import gap_of
from lmtailor.readouts.gaps import CausalGap, Gap
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.likelihood import log_probabilities
from lmtailor.readouts.pattern import Pattern, parse_pattern
from lmtailor.readouts.prompting import Prompting
from lmtailor.readouts.prompts import Prompter
from lmtailor.readouts.readout import Reading, check_lengths, input_form, input_limit, virtual_tokens
from lmtailor.readouts.seq2seq import Fill
from lmtailor.readouts.word_scores import PREMISE, Normalise
from lmtailor.readouts.words import pieces_in_gap
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task


@dataclass(frozen=True)
class Options:
    """A pattern with one gap, and for each label the column whose text may fill it."""

    pattern: str
    """Such as "{premise} so {mask}"; as a verbalizer's. Causal models, and decoders that write an answer: it ends with {mask}."""
    options: Mapping[str, str]
    """Label -> the column with its text, such as {"0": "choice1", "1": "choice2"}."""
    _: KW_ONLY
    normalise: Normalise = "none"
    """length, bytes: an option's score is divided by its number of tokens, or of bytes in UTF-8; pmi: its score behind the
    pattern with empty columns is subtracted, so that options that are common anyway have no start."""
    fill: Fill = "auto"
    """Encoder-decoders: whether the decoder fills a sentinel in the gap (span) or answers to the text (answer); auto: as the
    family was trained."""
    max_length: int | None = None
    """Longest prompt with its option (tokens); of a longer one a column loses its end. None: what the model takes."""

    def __post_init__(self) -> None:
        if parse_pattern(self.pattern).slots:
            raise InputError(f"{{trigger}} is for a verbalizer's pattern; leave it out of {self.pattern!r}.")
        if len(self.options) < 2:
            raise InputError(f"Options need a column for each of at least two labels; found {dict(self.options)}.")
        object.__setattr__(self, "options", {str(label): column for label, column in self.options.items()})
        check_lengths(max_length=self.max_length)

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> "OptionsReading":
        """See `Readout.bind`. Nothing here is random, so `rng` has no effect.

        Raises:
            InputError: labels or columns that the data lacks, or a label without a column.
            UnsupportedError: a task of another kind, a model without LM head, or a setting that has no meaning for the model.
        """
        labels.check_kind("classification", what="Options are the labels of a task of classification")
        if not base.has_lm_head:
            raise UnsupportedError(
                f"{base.source or base.family.name} has no LM head, so it gives texts no probability. Use a checkpoint with one."
            )
        pattern = parse_pattern(self.pattern)
        pattern.check_columns(labels.columns)
        self._check(labels)
        form = input_form(base)
        gap, style = gap_of(base, form, self.fill)
        prompting = Prompting(tokenizer=base.tokenizer, pattern=pattern, style=style, first_word={}, separator="")
        return OptionsReading(
            readout=self,
            label_set=labels,
            form=form,
            reads_lm_head=True,
            begins=isinstance(gap, CausalGap),
            tokenizer=base.tokenizer,
            prompter=prompting.of(()),
            pattern=pattern,
            columns=tuple(self.options[label] for label in labels.labels),
            normalise=self.normalise,
            gap=gap,
            alone=style == "answer",
            limit=input_limit(base, self.max_length, reserve),
        )

    def _check(self, labels: LabelSet) -> None:
        for label, column in self.options.items():
            if label not in labels.labels:
                raise InputError(f"There is an option for {label!r}, which is no label of the task. {near(label, labels.labels)}")
            if column not in labels.columns:
                raise InputError(
                    f"The option of {label!r} is in {column!r}, no column of the data. {near(column, labels.columns)}"
                )
        missing = [label for label in labels.labels if label not in self.options]
        if missing:
            raise InputError(f"The label {missing[0]!r} has no option. Name the column with its text.")


@dataclass(frozen=True, kw_only=True, eq=False)
class OptionsReading(Reading):
    """`Options` bound to a base; see `Reading`."""

    tokenizer: PreTrainedTokenizerBase
    prompter: Prompter
    pattern: Pattern
    columns: tuple[str, ...]
    """Those of the options, in the order of the labels."""
    normalise: Normalise
    gap: Gap
    alone: bool
    """Whether an option is a text of its own, with nothing before it."""
    limit: int
    """Longest sequence (tokens)."""

    def encode(self, example: Example) -> Encoded:
        """An example as one sequence an option, and behind them as many of the premise where it is asked for.

        Raises:
            InputError: a column is missing, an option is empty or unknown to the tokenizer, or the text does not fit.
        """
        texts = [text.strip() for text in column_texts(example, self.columns).values()]
        pieces = [self._pieces(example, column, text) for column, text in zip(self.columns, texts, strict=True)]
        shown = [self._text(example, max(map(len, pieces)))]
        if self.normalise == "pmi":
            empty = dict.fromkeys(self.pattern.fields, PREMISE)
            shown.append(self._text(replace(example, id=f"{example.id} (premise)", fields=empty), max(map(len, pieces))))
        asked = [(text, own) for text in shown for own in pieces]
        filled = [self.gap.fill(text, self._filling(own)) for text, own in asked]
        decoders = tuple(one.decoder for one in filled if one.decoder is not None)
        return Encoded(
            sequences=tuple(one.sequence for one in filled),
            decoder=decoders or None,
            read=tuple(tuple(range(one.first, one.first + len(own))) for one, (_, own) in zip(filled, asked, strict=True)),
            targets=tuple(own for _, own in asked),
            divisors=self._divisors(texts, pieces),
            label=example.label,
            cut=shown[0].cut,
            id=example.id,
        )

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """See `Reading.scores`. There is no dropout of its own, and what is divided by a length is no probability any more."""
        virtual_tokens(states.last_NTH, batch, False)
        log_p_N = log_probabilities(base, states.last_NTH, batch.read_NP, batch.targets_NP).sum(1)
        if batch.divisor_N is not None:
            log_p_N = log_p_N / batch.divisor_N
        log_p_BKC = log_p_N.view(batch.size, -1, len(self.columns))
        return log_p_BKC[:, 0] - log_p_BKC[:, 1] if self.normalise == "pmi" else log_p_BKC[:, 0]

    def _pieces(self, example: Example, column: str, text: str) -> tuple[int, ...]:
        what = f"{column} of {example.called}"
        return pieces_in_gap(self.tokenizer, self.pattern, text, alone=self.alone, what=what)

    def _divisors(self, texts: Sequence[str], pieces: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
        """What each option's score is divided by; () where by nothing."""
        if self.normalise == "length":
            return tuple(float(len(own)) for own in pieces)
        return tuple(float(len(text.encode())) for text in texts) if self.normalise == "bytes" else ()

    def _filling(self, pieces: tuple[int, ...]) -> tuple[int, ...]:
        """What is put into the gap: masks, or the tokens that the last one is predicted from."""
        return pieces[:-1] if self.gap.mask_id is None else (self.gap.mask_id,) * len(pieces)

    def _text(self, example: Example, longest: int) -> Gapped:
        """The text with the gap, cut so that the longest option fits.

        Raises:
            InputError: it does not fit, or nothing stands before the gap.
        """
        limit = self.limit - longest + 1 if self.gap.in_text else self.limit
        written = len(self.gap.fill(Gapped(ids=(), gap=0), ()).decoder or ()) + longest - 1
        if limit < 1 or (not self.gap.in_text and written > self.limit):
            raise InputError(
                f"An option of {example.called} has {longest} tokens, and the model takes {self.limit} with its prompt. "
                "Leave the example out, or shorten it."
            )
        values = column_texts(example, self.pattern.fields)
        text = tokenise_within(self.prompter.tokens, values, self.tokenizer, limit, marked=self.pattern.cut, name=example.called)
        if not text.gap:
            raise InputError(f"Nothing stands before the gap in {example.called}, and a model answers only to something.")
        return text
