"""What a probing study found: for each base and kind of probe every layer and the mix, on the task and on control tasks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lmtailor.core.errors import InputError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.metrics import Score

MIX = "mix"
"""The place that reads all layers."""


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """One probe with its controls: at a layer, or on the mix."""

    layer: str
    """0: the embeddings, as they enter the first block. 1, 2, …: after that many blocks; the last after the final norm too. mix:
    the learned mix of all."""
    score: Score
    control: Score | None
    """The mean over control tasks; None if there were none."""
    selectivity: Score | None
    """The score less the control's."""
    dev: float
    """The score on dev: the best layer is chosen by it."""
    train: float
    """The score on what the probe was trained on."""
    train_control: float | None
    """Likewise of the control tasks: how much of their labels was learned by heart."""
    epoch: int
    """The epoch that was kept, from 1; 0: the start."""
    right: tuple[int, ...]
    """Of each label how many of its items were answered rightly; () in regression."""

    def rate(self, counts: Sequence[int], label: int) -> float | None:
        """The share of a label's items that were answered rightly; None where there are none."""
        return self.right[label] / counts[label] if counts[label] else None


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """All probes of one kind on one base."""

    hidden: int
    """Width of the hidden layer; 0: linear."""
    places: tuple[LayerResult, ...]
    """The layers from the embeddings up, then the mix."""
    shares: tuple[float, ...]
    """Of each layer in the mix."""
    gain: float
    """γ of the mix."""
    seconds: float = 0.0
    """What training and answering took."""

    @property
    def name(self) -> str:
        """linear, or with its width."""
        return f"hidden layer of {self.hidden}" if self.hidden else "linear"

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """Without the mix."""
        return self.places[:-1]

    @property
    def mix(self) -> LayerResult:
        """The probe on the mix."""
        return self.places[-1]

    @property
    def best(self) -> LayerResult:
        """The layer with the best score on dev; of several the lowest."""
        return max(self.layers, key=lambda one: one.dev)

    @property
    def centre(self) -> float:
        """The mix's centre of gravity, Σ l · share (Tenney et al. 2019, section 3.1)."""
        return sum(number * share for number, share in enumerate(self.shares))


@dataclass(frozen=True, kw_only=True)
class BaseResult:
    """All probes on one base."""

    name: str
    kind: str
    """encoder, decoder or encoder-decoder."""
    fingerprint: str
    dtype: str
    parameters: int
    read: str
    """What is read of a word or a text, and why."""
    n: int
    """Items that answered at the end."""
    counts: tuple[int, ...]
    """Of each label how many of them have it; () in regression."""
    unread: int
    """Items at the end that the model does not see, which are in no number."""
    cut: int
    """Examples of all splits that lost their end."""
    probes: tuple[ProbeResult, ...]


@dataclass(frozen=True, kw_only=True)
class ProbingRecord:
    """A whole study, as its file has it."""

    task: str
    kind: TaskKind
    split: str
    metric: str
    """accuracy, or pearson in regression."""
    labels: tuple[str, ...]
    items: Mapping[str, int]
    """Words or texts of train, dev and the split."""
    examples: Mapping[str, int]
    """Sentences or texts of the same."""
    baselines: Mapping[str, Score]
    """What needs no model, on the split."""
    bases: tuple[BaseResult, ...]
    settings: Mapping[str, str]
    """How it was made, as text."""
    notes: tuple[str, ...] = ()

    @property
    def controlled(self) -> bool:
        """Whether there were control tasks."""
        return all(one.control is not None for base in self.bases for probe in base.probes for one in probe.places)

    def frame(self) -> pd.DataFrame:
        """One row a base, kind of probe and place."""
        rows = []
        for base in self.bases:
            for probe in base.probes:
                for number, one in enumerate(probe.places):
                    told: dict[str, Any] = {"base": base.name, "probe": probe.name, "layer": one.layer}
                    for name, score in ((self.metric, one.score), ("control", one.control), ("selectivity", one.selectivity)):
                        if score is not None:
                            told |= {name: score.value, f"{name} low": score.low, f"{name} high": score.high}
                    share = probe.shares[number] if number < len(probe.shares) else None
                    rows.append(told | {"dev": one.dev, "train": one.train, "share": share, "n": one.score.n})
        return pd.DataFrame(rows)

    def to_mapping(self) -> dict[str, Any]:
        """As JSON has it."""
        return to_mapping(self)


def read_probing(path: str | Path) -> ProbingRecord:
    """A study from its file.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a probing study: {error}.") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is no probing study.")
    record = from_mapping(ProbingRecord, values, source=str(path))
    for base in record.bases:
        for probe in base.probes:
            if len(probe.places) != len(probe.shares) + 1 or len(base.counts) not in (0, len(record.labels)):
                raise InputError(f"{path} is damaged: the layers of {base.name} and their shares do not agree.")
    if not record.bases or not all(base.probes for base in record.bases):
        raise InputError(f"{path} is damaged: it has a base without probes, or none.")
    return record


def beside(records: Sequence[ProbingRecord]) -> ProbingRecord:
    """Studies of the same task on several bases as one.

    Raises:
        InputError: none, other tasks, splits or settings, or bases of the same name.
    """
    if not records:
        raise InputError("There are no studies to put beside each other.")
    first = records[0]
    for record in records[1:]:
        alone = {"bases": (), "notes": ()}
        if replace(record, **alone) != replace(first, **alone):  # type: ignore[arg-type]
            raise InputError(
                f"The studies of {first.bases[0].name} and {record.bases[0].name} are of other data or settings. "
                "Probe both alike."
            )
    bases = tuple(base for record in records for base in record.bases)
    names = [base.name for base in bases]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Two bases are called {twice!r}. Give each a name of its own.")
    return replace(first, bases=bases, notes=tuple(dict.fromkeys(note for record in records for note in record.notes)))
