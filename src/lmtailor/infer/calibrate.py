"""What a prompted model answers to inputs without content: the prior of PMI, and p_cf of contextual calibration.

Both are measured once, under the adapter's own edits and behind the demonstrations that every input has, and are then kept
in the readout's settings: an adapter that is saved and loaded answers the same, and nothing is measured again.
See `lmtailor.readouts.calibration` for the method and its paper.

Shapes: n content-free inputs, W label words, C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.edits.edits import Edits
from lmtailor.infer.score import score_rows
from lmtailor.infer.unmask import takes_passes, words_one_by_one
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.readouts.word_scores import PREMISE
from lmtailor.store.adapter import Adapter, virtual_tokens


def measured(base: Base, adapter: Adapter) -> Adapter:
    """The adapter with all that its verbalizer needs measured; itself where nothing is missing.

    Raises:
        InputError: a content-free input that the model cannot take, such as a pattern that is empty without its columns.
    """
    return Gauge(base).measured(adapter)


def calibrated(base: Base, adapter: Adapter, calibration: Calibration | None = None) -> Adapter:
    """A fitted or prompted adapter with contextual calibration, measured anew under its edits.

    Args:
        base: the model.
        adapter: with a verbalizer.
        calibration: which inputs; None is `Calibration()`.

    Raises:
        InputError: it has no verbalizer, or as `measured`.
    """
    reading = adapter.reading
    if not isinstance(reading, VerbalizerReading) or not isinstance(reading.readout, Verbalizer):
        raise InputError(
            "Contextual calibration divides out what label words owe to the prompt. Give an adapter with a Verbalizer."
        )
    wanted = replace(Calibration() if calibration is None else calibration, shares=None)
    return measured(base, _with(base, adapter, replace(reading.readout, calibration=wanted)))


class Gauge:
    """Measures adapters of one base. The same input behind the same prompt under the same edits is run once."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._known: dict[Any, Tensor] = {}
        self._held: list[Edits] = []
        """Those that the keys of `_known` name by address."""

    def measured(self, adapter: Adapter) -> Adapter:
        """See `measured`."""
        reading = adapter.reading
        if not isinstance(reading, VerbalizerReading) or not isinstance(reading.readout, Verbalizer):
            return adapter
        settings = reading.readout
        if settings.normalise == "pmi" and settings.prior is None:
            prior = [self._words(adapter.edits, one, (PREMISE,))[PREMISE] for one in reading.variants()]
            settings = replace(settings, prior=tuple(tuple(row.tolist()) for row in prior))
        if settings.calibration is not None and settings.calibration.shares is None:
            inputs, priors = settings.calibration.inputs, settings.prior or (None,) * len(reading.variants())
            shares = [
                _shares(replace(one, scoring=replace(one.scoring, prior=prior)), self._words(adapter.edits, one, inputs))
                for one, prior in zip(reading.variants(), priors, strict=True)
            ]
            settings = replace(settings, calibration=replace(settings.calibration, shares=tuple(shares)))
        return adapter if settings is reading.readout else _with(self.base, adapter, settings)

    def _words(self, edits: Edits, reading: VerbalizerReading, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Text -> the words' scores (W,) where every column has it."""
        items = {text: reading.content_free(text) for text in texts}
        keys = {text: _key(edits, reading, item) for text, item in items.items()}
        missing = {keys[text]: item for text, item in items.items() if keys[text] not in self._known}
        if missing:
            self._held.append(edits)
            scores = self._run(edits, reading, list(missing.values()))
            self._known.update(zip(missing, scores, strict=True))
        return {text: self._known[key] for text, key in keys.items()}

    def _run(self, edits: Edits, reading: VerbalizerReading, items: Sequence[Encoded]) -> Tensor:
        """The words' scores (n, W), float64."""
        if takes_passes(reading):
            return words_one_by_one(self.base, edits, reading, items, batch_size=len(items)).double()
        rows = score_rows(self.base, edits, reading.over_words(), items, batch_size=len(items))
        return torch.cat(rows).double()


def _key(edits: Edits, reading: VerbalizerReading, item: Encoded) -> object:
    """What the words' scores of an input depend on."""
    pieces = tuple(word.pieces for word in reading.words)
    return tuple(id(edit) for edit in edits), reading.prompt(), pieces, item.sequences, item.decoder, item.read, item.targets


def _shares(reading: VerbalizerReading, words: Mapping[str, Tensor]) -> tuple[float, ...]:
    """p_cf: the mean of the labels' probabilities over the inputs."""
    scores_NC = reading.scoring.uncalibrated(torch.stack(list(words.values())))
    shares_C = scores_NC.softmax(1).mean(0).clamp(min=torch.finfo(torch.float64).tiny, max=1.0)
    return tuple(shares_C.tolist())


def _with(base: Base, adapter: Adapter, settings: Verbalizer) -> Adapter:
    """The adapter with other settings of its verbalizer, bound as they are when it is loaded."""
    assert adapter.reading is not None
    labels = adapter.reading.label_set
    return replace(adapter, reading=settings.bind(base, labels, None, reserve=virtual_tokens(adapter.edits)))
