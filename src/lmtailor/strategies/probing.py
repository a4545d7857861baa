"""Probing: how much of a task can be read off a frozen model's states, layer by layer.

One forward gives the states of every layer. Probes on all of them and on a learned mix (Tenney et al. 2019, arXiv:1905.05950) are
trained together, for the task and for control tasks (Hewitt & Liang 2019, arXiv:1909.03368); see `probing_fit`, `probing_items`
and `probing_scores`. What a probe finds says that it is there, not that the model uses it.

Each kind of probe on each base is kept as soon as it has answered, under a hash of all that it depends on; a study that is run
again, or made larger, trains what is missing.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.files import alone, write_text
from lmtailor.core.provenance import versions
from lmtailor.core.settings import from_mapping, settings_hash, to_mapping
from lmtailor.core.version import __version__
from lmtailor.strategies.probing_fit import Goal, Probes, train_probes
from lmtailor.strategies.probing_items import Items, Numbers, baselines, control, splits
from lmtailor.strategies.probing_record import MIX, BaseResult, LayerResult, ProbeResult, ProbingRecord
from lmtailor.strategies.probing_scores import Measured, measured, metric_of, values
from lmtailor.strategies.probing_settings import Probing
from lmtailor.strategies.probing_states import LayerStates, Place, Seen, layer_names, layer_states, place, seen
from lmtailor.tasks.task import Task

RECORD = "probing.json"
_PARTS = "parts"

Tell = Callable[[str, int, int], None]
"""Called with what goes on, and how much of how much of it is done."""


def probe(
    base: Base,
    task: Task,
    *,
    settings: Probing | None = None,
    split: str = "test",
    name: str | None = None,
    out: str | Path | None = None,
    batch_size: int = 32,
    tell: Tell | None = None,
) -> ProbingRecord:
    """Train probes on every layer of a frozen base and on a mix of them, with control tasks.

    Args:
        base: the model; it is only run.
        task: of classification, regression or labelling. Without a dev split a tenth of train ends the training.
        settings: probes, control tasks and training; None is `Probing()`.
        split: whose items answer at the end.
        name: the base's in the record; None: that of its folder or its id.
        out: a folder. Probes are kept in it as they are done, and at the end `probing.json`.
        batch_size: examples in a batch of the forward.
        tell: is told how far it is.

    Raises:
        InputError: splits that are missing or not labelled, settings that do not fit the base, or a full disk.
        UnsupportedError: a task whose answers are written, or a base that cannot be read so.
    """
    settings = Probing() if settings is None else settings
    folder = None if out is None else Path(out)
    with nullcontext() if folder is None else alone(folder):
        study = _Study(base=base, task=task, settings=settings, split=split, name=name, folder=folder)
        record = study.record(batch_size, tell or (lambda what, done, total: None))
        if folder is not None:
            write_record(record, folder)
    return record


def write_record(record: ProbingRecord, folder: Path) -> Path:
    """Write a study's file into its folder.

    Raises:
        InputError: it cannot be written.
    """
    write_text(folder / RECORD, json.dumps(record.to_mapping(), ensure_ascii=False, allow_nan=False))
    return folder / RECORD


@dataclass(frozen=True, kw_only=True, eq=False)
class _Data:
    """The items of all splits, one after the other: train, dev, test. Only those that the base sees."""

    items: Mapping[str, Items]
    encoded: Seen
    kept: Mapping[str, list[int]]
    """Of each split which of its items are seen."""

    def numbers(self, split: str) -> Tensor:
        """Numbers of a split's items among all that are seen."""
        start = 0
        for name, kept in self.kept.items():
            if name == split:
                return torch.arange(start, start + len(kept))
            start += len(kept)
        raise AssertionError(split)

    def labels(self, seeds: tuple[int, ...]) -> Mapping[str, Numbers]:
        """For each split the labels (K, n) of the task, then those of control tasks."""
        train_N = self.items["train"].labels_N
        found = {}
        for name, items in self.items.items():
            rows = [items.labels_N, *(control(items.types, train_N, seed) for seed in seeds)]
            found[name] = np.stack(rows)[:, self.kept[name]]
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Study:
    """One base."""

    base: Base
    task: Task
    settings: Probing
    split: str
    name: str | None
    folder: Path | None

    def record(self, batch_size: int, tell: Tell) -> ProbingRecord:
        """Train what was not trained before, and put all together."""
        items = splits(self.task, self.split, self.settings.seed)
        where = place(self.base, self.task, self.settings)
        data = _data(where, items)
        kept = {hidden: self._kept(hidden) for hidden in self.settings.hidden}
        if None in kept.values():
            states = self._states(where, data, batch_size, tell)
            for hidden, known in kept.items():
                if known is None:
                    kept[hidden] = self._trained(states, data, hidden, tell)
        return self._told(where, data, tuple(one for one in kept.values() if one is not None))

    def _states(self, where: Place, data: _Data, batch_size: int, tell: Tell) -> LayerStates:
        name = self._name()
        states = layer_states(
            self.base,
            where,
            data.encoded,
            self.settings,
            batch_size=batch_size,
            folder=self.folder,
            tell=lambda done, total: tell(f"{name}: states", done, total),
        )
        return states.standardised(data.numbers("train"), self.settings.clip) if self.settings.standardise else states

    def _trained(self, states: LayerStates, data: _Data, hidden: int, tell: Tell) -> ProbeResult:
        began = time.monotonic()
        labels, regression = data.labels(self.settings.controls), self.task.kind == "regression"
        mean, scale = (labels["train"].mean(), labels["train"].std() or 1.0) if regression else (0.0, 1.0)
        targets = (np.concatenate([labels[name] for name in data.items], axis=1) - mean) / scale
        goal = Goal(
            layers=layer_names(self.base),
            targets_KN=torch.from_numpy(targets).to(torch.float32 if regression else torch.long),
            outputs=self.task.num_outputs,
            train=data.numbers("train"),
            dev=data.numbers("dev"),
        )
        what = f"{self._name()}: {'linear probes' if hidden == 0 else f'probes with a hidden layer of {hidden}'}"
        probes = train_probes(states, goal, self.settings, hidden, lambda done, total: tell(what, done, total))
        result = self._result(probes, states, data, labels, hidden)
        result = replace(result, seconds=time.monotonic() - began)
        if self.folder is not None:
            write_text(self._file(hidden), json.dumps(to_mapping(result), allow_nan=False))
        return result

    def _result(
        self, probes: Probes, states: LayerStates, data: _Data, labels: Mapping[str, Numbers], hidden: int
    ) -> ProbeResult:
        metric = metric_of(self.task.kind)
        answers = {
            name: probes.answers(states, data.numbers(name), self.settings.batch_size).double().numpy() for name in data.items
        }
        train_KM, dev_KM = (values(metric, answers[name], labels[name]) for name in ("train", "dev"))
        test = data.items["test"]
        found = measured(metric, answers["test"], labels["test"], test.example_N[data.kept["test"]])
        right_MN = answers["test"][0] == labels["test"][0]
        places = tuple(
            LayerResult(
                layer=name,
                score=one.score,
                control=one.control,
                selectivity=one.selectivity,
                dev=float(dev_KM[0, m]),
                train=float(train_KM[0, m]),
                train_control=float(train_KM[1:, m].mean()) if one.control is not None else None,
                epoch=int(probes.epochs_MK[m, 0]),
                right=self._counts(labels["test"][0][right_MN[m]]),
            )
            for m, (name, one) in enumerate(zip((*layer_names(self.base), MIX), found, strict=True))
        )
        return ProbeResult(hidden=hidden, places=places, shares=tuple(probes.mix_KL[0].tolist()), gain=float(probes.gain_K[0]))

    def _told(self, where: Place, data: _Data, probes: tuple[ProbeResult, ...]) -> ProbingRecord:
        metric, test, kept = metric_of(self.task.kind), data.items["test"], data.kept["test"]
        unread = {name: len(items) - len(data.kept[name]) for name, items in data.items.items()}
        truth_KN, whose_N = test.labels_N[None], test.example_N
        simple: dict[str, Measured] = {
            name: measured(metric, answers_N[None, None], truth_KN, whose_N)[0]
            for name, answers_N in baselines(self.task, data.items["train"], test).items()
        }
        base = BaseResult(
            name=self._name(),
            kind=self.base.kind,
            fingerprint=self.base.fingerprint,
            dtype=str(self.base.dtype),
            parameters=self.base.num_parameters,
            read=where.told,
            n=len(kept),
            counts=self._counts(test.labels_N[kept]),
            unread=unread["test"],
            cut=data.encoded.cut,
            probes=probes,
        )
        return ProbingRecord(
            task=self.task.name,
            kind=self.task.kind,
            split=self.split,
            metric=metric,
            labels=self.task.labels,
            items={name: len(items) for name, items in data.items.items()},
            examples={name: len(items.examples) for name, items in data.items.items()},
            baselines={name: one.score for name, one in simple.items()},
            bases=(base,),
            settings=_settings(self.settings),
            notes=(*_seen_before(self.split), *_notes(base, unread, sum(map(len, data.items.values())))),
        )

    def _counts(self, labels_N: Numbers) -> tuple[int, ...]:
        """How many items have each label; () in regression."""
        count = len(self.task.labels)
        return tuple(np.bincount(labels_N.astype(np.int64), minlength=count).tolist()) if count else ()

    def _name(self) -> str:
        source = Path(self.base.source)
        return self.name or (source.name if source.exists() else self.base.source) or self.base.family.name

    def _kept(self, hidden: int) -> ProbeResult | None:
        """What was kept; None if there is nothing that can be read."""
        try:
            return from_mapping(ProbeResult, json.loads(self._file(hidden).read_text("utf-8"))) if self.folder else None
        except (OSError, ValueError, InputError):
            return None

    def _file(self, hidden: int) -> Path:
        """The file of one kind of probe: its name is a hash of all that it depends on."""
        assert self.folder is not None
        own = {name: value for name, value in to_mapping(self.settings).items() if name not in ("hidden", "memory")}
        digest = settings_hash(
            {
                "base": {"fingerprint": self.base.fingerprint, "dtype": str(self.base.dtype)},
                "task": {"digest": self.task.digest, "split": self.split, "kind": self.task.kind},
                "settings": own,
                "hidden": hidden,
                "lmtailor": __version__,
            }
        )
        return self.folder / _PARTS / f"{digest}.json"


def _data(where: Place, items: Mapping[str, Items]) -> _Data:
    """What the base sees of the items.

    Raises:
        InputError: nothing of a split.
    """
    encoded = seen(where, tuple(chain.from_iterable(one.examples for one in items.values())))
    kept: dict[str, list[int]] = {}
    first = 0
    for name, one in items.items():
        starts = np.searchsorted(one.example_N, np.arange(len(one.examples))).tolist()
        own = encoded.items[first : first + len(one.examples)]
        kept[name] = [start + number for start, numbers in zip(starts, own, strict=True) for number in numbers]
        first += len(one.examples)
        if not kept[name]:
            raise InputError(f"The model sees no item of {name}: every word is cut off, or is no token.")
    return _Data(items=items, encoded=encoded, kept=kept)


def _settings(settings: Probing) -> Mapping[str, str]:
    told = {name: json.dumps(value) for name, value in to_mapping(settings).items()}
    return {**told, **{f"version of {name}": value for name, value in {**versions(), "lmtailor": __version__}.items()}}


def _seen_before(split: str) -> tuple[str, ...]:
    """That probes answer on what made them, where they do."""
    why = {"train": "is what probes were trained on", "dev": "ended the training of probes and names the best layer"}
    if split not in why:
        return ()
    return (f"The split {split} {why[split]}, so scores on it are too good. Let another one answer.",)


def _notes(base: BaseResult, unread: Mapping[str, int], items: int) -> tuple[str, ...]:
    notes = []
    if sum(unread.values()):
        notes.append(
            f"{base.name}: {sum(unread.values())} of {items} items are cut off or are no token; they were left out, "
            f"{unread['test']} of them where probes answer at the end."
        )
    if base.cut:
        notes.append(f"{base.name}: {base.cut} texts lost their end.")
    return tuple(notes)
