"""A verbalizer bound to a base: from examples to sequences, and from states to one score a label.

Shapes: B examples, W label words, C labels.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.cutting import Tokenise, tokenise_within
from lmtailor.readouts.demonstrations import Shown
from lmtailor.readouts.gaps import Gap
from lmtailor.readouts.labels import column_texts
from lmtailor.readouts.pattern import Pattern
from lmtailor.readouts.prompting import Prompting
from lmtailor.readouts.prompts import Prompter
from lmtailor.readouts.readout import Reading, virtual_tokens
from lmtailor.readouts.runs import Run
from lmtailor.readouts.similar import Chooser
from lmtailor.readouts.word_scores import Scoring, many_tokens, one_token
from lmtailor.readouts.words import LabelWord
from lmtailor.tasks.example import Example


@dataclass(frozen=True, kw_only=True, eq=False)
class VerbalizerReading(Reading):
    """See `Reading`."""

    prompter: Prompter
    prompting: Prompting
    pattern: Pattern
    scoring: Scoring
    demonstrations: tuple[Shown, ...] = ()
    """Those that are shown."""
    limit: int
    """Longest input before a word is put in (tokens)."""
    gap: Gap
    prompt_ids: tuple[int, ...]
    runs: tuple[Run, ...]
    """The sequences of an example."""
    one_by_one: bool = False
    """Whether open masks are filled one after the other; `scores` then has them open together, and `infer.unmask` fills them."""
    by_word: bool = False
    """Whether scores are those of the words, not of the labels: for what is measured of them."""
    chooser: Chooser | None = None
    """Chooses the demonstrations of each input."""
    averaged: tuple["VerbalizerReading", ...] = ()
    """One reading for each set of demonstrations, where there are several."""

    @property
    def words(self) -> tuple[LabelWord, ...]:
        """The label words, label by label."""
        return self.scoring.words

    @property
    def single(self) -> bool:
        """Whether the logit of one token is enough for every word."""
        return self.scoring.single

    def prompt(self) -> tuple[int, ...]:
        """The demonstrations in causal models; nothing where they are part of each input.

        Raises:
            InputError: it averages over several sets.
        """
        self._check_one()
        return self.prompt_ids

    def variants(self) -> tuple["VerbalizerReading", ...]:
        """See `Reading.variants`: a reading for each set of demonstrations."""
        return self.averaged or (self,)

    def check_fit(self) -> None:
        """See `Reading.check_fit`.

        Raises:
            InputError: it is calibrated, asks for PMI, or averages over sets of demonstrations.
        """
        if self.averaged:
            raise InputError(
                f"A fit shows one set of demonstrations, and these are {len(self.averaged)}: probabilities that are averaged "
                "over prompts are no scores of one run. Fit with sets=1."
            )
        if self.scoring.calibrates or self.scoring.normalise == "pmi":
            what = "calibration" if self.scoring.calibrates else "normalise=pmi"
            raise InputError(
                f"A fit learns how common each label is by itself, and would move away from what {what} measured before it. Fit "
                "without, and calibrate the fitted adapter (lmtailor.infer.calibrate.calibrated)."
            )

    def encode(self, example: Example) -> Encoded:
        """An example as one sequence, or as several where words of several tokens need runs of their own.

        Raises:
            InputError: a column is missing, the text does not fit, or it averages over several sets.
        """
        self._check_one()
        values = column_texts(example, self.pattern.fields)
        text = tokenise_within(
            self._tokenise(values),
            values,
            self.prompter.tokenizer,
            self.limit,
            marked=self.pattern.cut,
            name=example.called,
        )
        if not text.gap:
            raise InputError(f"Nothing stands before the gap in {example.called}, and a model answers only to something.")
        filled = [self.gap.fill(text, run.filling) for run in self.runs]
        decoders = tuple(one.decoder for one in filled if one.decoder is not None)
        return Encoded(
            sequences=tuple(one.sequence for one in filled),
            decoder=decoders or None,
            read=tuple(self._spots(one.first, run) for one, run in zip(filled, self.runs, strict=True)),
            targets=()
            if self.single
            else tuple(tuple(piece for i in run.words for piece in self.words[i].pieces) for run in self.runs),
            label=example.label,
            cut=text.cut,
            id=example.id,
        )

    def over_words(self) -> "VerbalizerReading":
        """The same reading with the words' scores (B, W); see `word_scores`."""
        return replace(self, by_word=True)

    def content_free(self, text: str) -> Encoded:
        """The input in which every column of the pattern has this text."""
        return self.encode(Example(id=f"content-free {text!r}", fields=dict.fromkeys(self.pattern.fields, text)))

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """See `Reading.scores`. There is no dropout of its own, so `training` has no effect.

        Raises:
            StateError: something that the scores need has not been measured.
        """
        words_BW = self.word_scores(base, states, batch, normalised=normalised)
        return words_BW if self.by_word else self.scoring.label_scores(words_BW)

    def word_scores(self, base: Base, states: States, batch: Batch, *, normalised: bool = False) -> Tensor:
        """The words' logits (B, W) where these are enough, else their log-probabilities."""
        virtual_tokens(states.last_NTH, batch, False)
        if self.single:
            return one_token(base, states, batch, self.words, normalised=normalised)
        return many_tokens(base, states, batch, self.words, self.runs)

    def _tokenise(self, values: Mapping[str, str]) -> Tokenise:
        """How the texts of one input become tokens."""
        if self.chooser is None:
            return self.prompter.tokens
        shown = self.chooser.shown(values)
        self.prompting.check_fits(shown, self.limit, self.chooser.settings)
        return functools.partial(self.prompting.tokens, shown)

    def _check_one(self) -> None:
        if self.averaged:
            raise InputError(
                f"This verbalizer averages over {len(self.averaged)} sets of demonstrations, each a prompt of its own. Run each "
                "of its variants(), as predict and evaluate do."
            )

    def _spots(self, first: int, run: Run) -> tuple[int, ...]:
        """The positions whose states predict the run's words, word by word; of words of one token the one for all."""
        if self.single:
            return (first,)
        return tuple(first + i for word in run.words for i in range(len(self.words[word].pieces)))
