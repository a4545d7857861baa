"""A verbalizer bound to a base: from examples to sequences, and from states to one score a label.

Shapes: B examples, W label words, C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, StateError
from lmtailor.readouts.batch import Batch, Encoded, InputForm, collate
from lmtailor.readouts.cutting import tokenise_within
from lmtailor.readouts.demonstrations import Shown
from lmtailor.readouts.gaps import CausalGap, Gap
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.pattern import Pattern
from lmtailor.readouts.prompts import Prompter
from lmtailor.readouts.readout import check_parameters, virtual_tokens
from lmtailor.readouts.runs import Run
from lmtailor.readouts.word_scores import aggregated, many_tokens, normalised_by, one_token
from lmtailor.readouts.words import LabelWord
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import TaskKind

if TYPE_CHECKING:
    from lmtailor.readouts.verbalizer import Verbalizer


@dataclass(frozen=True, kw_only=True, eq=False)
class VerbalizerReading:
    """See `Reading`."""

    readout: "Verbalizer"
    label_set: LabelSet
    form: InputForm
    prompter: Prompter
    pattern: Pattern
    words: tuple[LabelWord, ...]
    limit: int
    """Longest input before a word is put in (tokens)."""
    gap: Gap
    prompt_ids: tuple[int, ...]
    runs: tuple[Run, ...]
    """The sequences of an example."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""
        return self.label_set.labels

    @property
    def kind(self) -> TaskKind:
        """classification."""
        return self.label_set.kind

    @property
    def layers(self) -> tuple[int, ...]:
        """None: the LM head reads the last states."""
        return ()

    @property
    def reads_lm_head(self) -> bool:
        """A verbalizer asks the LM head for words."""
        return True

    @property
    def virtual(self) -> bool:
        """False: virtual tokens are never read."""
        return False

    @property
    def single(self) -> bool:
        """Whether the logit of one token is enough for every word: it has one, and is not divided by its length."""
        return all(len(word.pieces) == 1 for word in self.words) and self.readout.normalise != "bytes"

    @property
    def demonstrations(self) -> tuple[Shown, ...]:
        """The demonstrations that are shown."""
        settings = self.readout.demonstrations
        return settings.shown or () if settings is not None else ()

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """What must be measured before it can score: "calibration", "pmi"."""
        settings = self.readout
        calibrates = settings.calibration is not None and settings.calibration.shares is None
        return ("pmi",) * (settings.normalise == "pmi" and settings.prior is None) + ("calibration",) * calibrates

    def parameters(self) -> Mapping[str, Tensor]:
        """None: the LM head belongs to the base."""
        return {}

    def with_parameters(self, tensors: Mapping[str, Tensor]) -> "VerbalizerReading":
        """See `Reading.with_parameters`."""
        check_parameters({}, tensors)
        return self

    def with_measured(self, prior: Sequence[float] | None, shares: Sequence[float] | None) -> "VerbalizerReading":
        """The same reading with what was measured, where it asks for it.

        Args:
            prior: for each word its score behind the domain premise.
            shares: for each label p_cf.
        """
        settings = self.readout
        if settings.normalise == "pmi" and prior is not None:
            settings = replace(settings, prior=(tuple(prior),))
        if settings.calibration is not None and shares is not None:
            settings = replace(settings, calibration=replace(settings.calibration, shares=(tuple(shares),)))
        return replace(self, readout=settings)

    def prompt(self) -> tuple[int, ...]:
        """The demonstrations in causal models; nothing elsewhere, where they are part of each input."""
        return self.prompt_ids

    def check_fit(self) -> None:
        """See `Reading.check_fit`.

        Raises:
            InputError: it is calibrated or asks for PMI.
        """
        settings = self.readout
        if settings.calibration is not None or settings.normalise == "pmi":
            what = "calibration" if settings.calibration is not None else "normalise=pmi"
            raise InputError(
                f"A fit learns how common each label is by itself, and would move away from what {what} measured before it. Fit "
                "without, and calibrate the fitted adapter (lmtailor.infer.calibrate.calibrated)."
            )

    def encode(self, example: Example) -> Encoded:
        """An example as one sequence, or as several where words of several tokens need runs of their own.

        Raises:
            InputError: a column is missing, or the text does not fit.
        """
        values = column_texts(example, self.pattern.fields)
        tokenizer = self.prompter.tokenizer
        text = tokenise_within(self.prompter.tokens, values, tokenizer, self.limit, marked=self.pattern.cut, name=example.id)
        if not text.gap:
            raise InputError(f"Nothing stands before the gap in example {example.id!r}, and a model answers only to something.")
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

    def content_free(self, text: str) -> Encoded:
        """The input in which every column of the pattern has this text."""
        return self.encode(Example(id=f"content-free {text!r}", fields=dict.fromkeys(self.pattern.fields, text)))

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Encoded examples as one batch. Causal models begin to answer behind the first state that is read."""
        batch = collate(items, self.form)
        return replace(batch, answer_N=batch.read_NP[:, 0] + 1) if isinstance(self.gap, CausalGap) else batch

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """See `Reading.scores`. There is no dropout of its own, so `training` has no effect.

        Raises:
            StateError: something that the scores need has not been measured.
        """
        return self.from_words(self.word_scores(base, states, batch, normalised=normalised))

    def word_scores(self, base: Base, states: States, batch: Batch, *, normalised: bool = False) -> Tensor:
        """The words' logits (B, W) where these are enough, else their log-probabilities."""
        virtual_tokens(states.last_NTH, batch, False)
        if self.single:
            return one_token(base, states, batch, self.words, normalised=normalised)
        return many_tokens(base, states, batch, self.words, self.runs)

    def label_scores(self, scores_BW: Tensor) -> Tensor:
        """The labels' scores (B, C) of their words', before calibration.

        Raises:
            StateError: PMI asks for the words' scores behind the premise, which were not measured.
        """
        if "pmi" in self.unmeasured:
            raise _not_measured("The words' log-probabilities behind the domain premise (normalise=pmi)")
        prior = None if self.readout.prior is None else self.readout.prior[0]
        scores_BW = normalised_by(self.readout.normalise, scores_BW, self.words, prior)
        return aggregated(scores_BW, self.words, len(self.labels), self.readout.aggregate)

    def from_words(self, scores_BW: Tensor) -> Tensor:
        """The labels' scores (B, C) of their words'.

        Raises:
            StateError: as `scores`.
        """
        scores_BC = self.label_scores(scores_BW)
        calibration = self.readout.calibration
        if calibration is None:
            return scores_BC
        if calibration.shares is None:
            raise _not_measured("The labels' probabilities on content-free inputs (calibration)")
        return scores_BC - torch.tensor(calibration.shares[0], dtype=torch.float64).log().to(scores_BC)

    def _spots(self, first: int, run: Run) -> tuple[int, ...]:
        """The positions whose states predict the run's words, word by word; of words of one token the one for all."""
        if self.single:
            return (first,)
        return tuple(first + i for word in run.words for i in range(len(self.words[word].pieces)))


def _not_measured(what: str) -> StateError:
    return StateError(
        f"{what} have not been measured, so there are no scores. Give the adapter to lmtailor.infer.calibrate.measured first; "
        "evaluate and plain_adapter do it."
    )
