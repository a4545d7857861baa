"""Sensitivity: how far the answers of a prompted model depend on what should not matter: the template, which
demonstrations are shown, and in what order. Zhao et al. 2021, arXiv:2102.09690, section 3 and figures 2 to 4.

Every combination of template, set of demonstrations and order is a point. With calibration each point is measured before
and after it from the same run of the documents: calibration subtracts log p_cf from the labels' scores (see
`readouts/calibration`), so that only the content-free inputs are run besides. Each point is kept as soon as it is
measured, under a hash of all that it depends on; a study that is run again, or made larger, measures what is missing.
"""

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.files import alone, write_text
from lmtailor.core.provenance import versions
from lmtailor.core.rng import derive
from lmtailor.core.settings import from_mapping, settings_hash, to_mapping
from lmtailor.core.version import __version__
from lmtailor.infer.calibrate import calibrated
from lmtailor.infer.evaluate import plain_adapter, predict_examples
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.readouts.word_scores import Aggregate, Normalise
from lmtailor.store.adapter import Adapter
from lmtailor.strategies.sensitivity_record import Asked, Point, SensitivityRecord
from lmtailor.tasks.example import Example
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.sample import stratified
from lmtailor.tasks.task import Task

RECORD = "sensitivity.json"
_POINTS = "points"

Tell = Callable[[int, int], None]
"""Called with documents done and of how many, over all points."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What is varied besides the template, and how it is measured."""

    k: int = 4
    """Demonstrations, with `per_class` of each label; 0 shows none."""
    per_class: bool = False
    sets: int = 5
    """Sets of demonstrations that each seed draws; 1 if none are shown."""
    orders: int = 1
    """Orders of each set: as drawn, then others at random, no two the same."""
    seeds: tuple[int, ...] = (0,)
    """Each draws its own sets and orders."""
    calibration: Calibration | None = field(default_factory=Calibration)
    """Contextual calibration, measured anew for each point; None: nothing is calibrated."""
    separator: str = "\n\n"
    """Stands after each demonstration."""
    aggregate: Aggregate = "mean"
    normalise: Normalise = "none"
    limit: int | None = None
    """The most documents to ask about, a sample stratified by label, the same for all points; None: all."""

    def __post_init__(self) -> None:
        if self.k < 0 or self.sets < 1 or self.orders < 1 or (self.limit is not None and self.limit < 1):
            raise InputError(
                f"k must be at least 0, and sets, orders and limit at least 1; found k={self.k}, sets={self.sets}, "
                f"orders={self.orders}, limit={self.limit}."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"The seeds must be distinct and none negative; found {list(self.seeds)}.")
        if self.k == 0 and self.sets * self.orders * len(self.seeds) > 1:
            raise InputError("With k=0 nothing is drawn, so that all sets, orders and seeds are the same: give one of each.")

    def variants(self) -> Iterator[tuple[int, int, int]]:
        """Seed, set and order of each point of a template."""
        for seed in self.seeds:
            for number in range(self.sets):
                yield from ((seed, number, order) for order in range(self.orders))

    def demonstrations(self, seed: int, number: int) -> Demonstrations | None:
        """Those of a set, in the order in which they are drawn."""
        if self.k == 0:
            return None
        drawn = derive(seed, "sensitivity", "set", number)
        return Demonstrations(k=self.k, per_class=self.per_class, seed=drawn, separator=self.separator)


def sensitivity(
    base: Base,
    task: Task,
    *,
    prompts: Sequence[str | Prompt] | None = None,
    settings: Sensitivity | None = None,
    split: str = "test",
    out: str | Path | None = None,
    batch_size: int = 32,
    tell: Tell | None = None,
) -> SensitivityRecord:
    """Ask about the same documents behind every template, set of demonstrations and order.

    Args:
        base: the model; nothing is trained.
        task: of classification. Demonstrations are drawn from its train split.
        prompts: names of the task's prompts, or prompts; None: all that the task has.
        settings: what is varied; None is `Sensitivity()`.
        split: whose documents.
        out: a folder. Points are kept in it as they are done, and at the end `sensitivity.json`.
        batch_size: documents a batch.
        tell: is told how far it is.

    Raises:
        InputError: a prompt that does not fit base or task, demonstrations that do not fit the context, an unknown split, or
            documents without labels.
        UnsupportedError: regression.
    """
    settings = Sensitivity() if settings is None else settings
    if task.kind != "classification":
        raise UnsupportedError(f"Prompts answer with words for labels; {task.name} is a {task.kind} and has none.")
    asked = _asked(task, prompts)
    documents = _documents(task, split, settings.limit)
    study = _Study(
        base=base, documents=documents, settings=settings, batch_size=batch_size, out=None if out is None else Path(out)
    )
    plan = [(prompt, *variant) for prompt in asked for variant in settings.variants()]
    with nullcontext() if study.out is None else alone(study.out):
        adapters = [study.adapter(task, *one) for one in plan]  # what does not fit is told before anything runs
        points = []
        for number, (one, adapter) in enumerate(zip(plan, adapters, strict=True)):
            done = number * len(documents)
            points.append(study.point(one, adapter, _progress(tell, done, len(plan) * len(documents))))
        record = _record(study, task, split, asked, points)
        if study.out is not None:
            write_text(study.out / RECORD, json.dumps(record.to_mapping(), ensure_ascii=False, allow_nan=False))
    return record


_Variant = tuple[Prompt, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Study:
    """What all points share."""

    base: Base
    documents: tuple[Example, ...]
    settings: Sensitivity
    batch_size: int
    out: Path | None

    def adapter(self, task: Task, prompt: Prompt, seed: int, number: int, order: int) -> Adapter:
        """A point's prompt on the plain base, not calibrated.

        Raises:
            InputError: it does not fit; the message names the template.
        """
        try:
            readout = Verbalizer(
                prompt.pattern,
                prompt.words,
                demonstrations=self.settings.demonstrations(seed, number),
                aggregate=self.settings.aggregate,
                normalise=self.settings.normalise,
            )
            if order:
                readout = _reordered(plain_adapter(self.base, task, readout), seed, number, order)
            return plain_adapter(self.base, task, readout)
        except InputError as error:
            raise type(error)(f"The template {prompt.name!r}, seed {seed}, set {number}: {error}") from error

    def point(self, variant: _Variant, adapter: Adapter, tell: Tell) -> Point:
        """A point as it was kept, or else measured and kept."""
        prompt, seed, number, order = variant
        digest = self._digest(adapter)
        file = None if self.out is None else self.out / _POINTS / f"{digest}.json"
        known = None if file is None else _kept(file, len(self.documents))
        if known is not None:  # the same prompt may have had another name or number
            tell(len(self.documents), len(self.documents))
            return replace(known, template=prompt.name, seed=seed, set=number, order=order)
        point = self._measured(variant, adapter, tell)
        if file is not None:
            write_text(file, json.dumps(to_mapping(point), ensure_ascii=False, allow_nan=False))
        return point

    def _measured(self, variant: _Variant, adapter: Adapter, tell: Tell) -> Point:
        began = time.monotonic()
        found = predict_examples(self.base, adapter, self.documents, batch_size=self.batch_size, progress=tell)
        scores_NC, shares, after = found.scores_NC.astype(np.float64), None, None
        if self.settings.calibration is not None:
            reading = calibrated(self.base, adapter, self.settings.calibration).reading
            assert isinstance(reading, VerbalizerReading)
            assert isinstance(reading.readout, Verbalizer)
            measured = reading.readout.calibration
            assert measured is not None
            assert measured.shares is not None
            (shares,) = measured.shares
            after = tuple(int(label) for label in (scores_NC - np.log(shares)).argmax(1))
        prompt, seed, number, order = variant
        return Point(
            template=prompt.name,
            seed=seed,
            set=number,
            order=order,
            before=tuple(int(label) for label in scores_NC.argmax(1)),
            after=after,
            shares=shares,
            cut=len(found.cut),
            seconds=time.monotonic() - began,
        )

    def _digest(self, adapter: Adapter) -> str:
        """A hash of all that a point's answers depend on."""
        assert isinstance(adapter.reading, VerbalizerReading)
        columns = adapter.reading.pattern.fields
        documents = [[[example.fields[column] for column in columns], example.label] for example in self.documents]
        calibration = self.settings.calibration
        return settings_hash(
            {
                "base": {"fingerprint": self.base.fingerprint, "dtype": str(self.base.dtype)},
                "readout": to_mapping(adapter.reading.readout),
                "calibration": None if calibration is None else list(calibration.inputs),
                "documents": hashlib.sha256(json.dumps(documents).encode()).hexdigest(),
                "lmtailor": __version__,
            }
        )


def _reordered(drawn: Adapter, seed: int, number: int, order: int) -> Verbalizer:
    """A set's readout with its demonstrations in another order than drawn.

    Raises:
        InputError: they do not have so many orders.
    """
    readout = drawn.readout
    assert isinstance(readout, Verbalizer)
    assert readout.demonstrations is not None
    assert readout.demonstrations.shown is not None
    shown = readout.demonstrations.shown
    if order >= math.factorial(len(shown)):
        raise InputError(
            f"{order + 1} orders are asked for, but {len(shown)} demonstrations have {math.factorial(len(shown))}. Ask for fewer."
        )
    places = permutation(len(shown), seed, number, order)
    return replace(readout, demonstrations=replace(readout.demonstrations, shown=tuple(shown[place] for place in places)))


def permutation(n: int, seed: int, number: int, order: int) -> tuple[int, ...]:
    """The random order number `order` of a set: each differs from those before it, the first of which is as drawn."""
    found = [tuple(range(n))]
    for attempt in itertools.count():
        if len(found) > order:
            return found[order]
        keys = [derive(seed, "sensitivity", "order", number, attempt, place) for place in range(n)]
        tried = tuple(sorted(range(n), key=keys.__getitem__))
        if tried not in found:
            found.append(tried)
    raise AssertionError


def _asked(task: Task, prompts: Sequence[str | Prompt] | None) -> list[Prompt]:
    """The prompts with words.

    Raises:
        InputError: there are none, or two have the same name.
    """
    chosen = [prompt.name for prompt in task.prompts] if prompts is None else prompts
    asked = [task.prompt(one) if isinstance(one, str) else one for one in chosen]
    asked = [prompt if prompt.words else replace(prompt, words=task.verbalizer) for prompt in asked]
    names = [prompt.name for prompt in asked]
    if not asked:
        raise InputError(f"The task {task.name} has no patterns. Give its card [[patterns]] or templates.")
    if len(set(names)) < len(names):
        raise InputError(f"Each template is asked once; found {names}.")
    return asked


def _documents(task: Task, split: str, limit: int | None) -> tuple[Example, ...]:
    part = task.split(split)
    labels = list(part.labels)
    if limit is None or limit >= len(part):
        return part.examples
    chosen = stratified(labels, [example.id for example in part], limit, seed=0, name="sensitivity")
    return tuple(part.examples[index] for index in chosen)


def _kept(file: Path, documents: int) -> Point | None:
    """A point as it was kept; None if there is none that can be read."""
    try:
        point = from_mapping(Point, json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, InputError):
        return None
    return point if len(point.before) == documents else None


def _progress(tell: Tell | None, before: int, total: int) -> Tell:
    """Documents of one point as documents of all."""

    def progress(done: int, _: int) -> None:
        if tell is not None:
            tell(before + done, total)

    return progress


def _record(study: _Study, task: Task, split: str, asked: Sequence[Prompt], points: Sequence[Point]) -> SensitivityRecord:
    cuts = {point.template: point.cut for point in points if point.cut}
    return SensitivityRecord(
        task=task.name,
        split=split,
        metric=task.metrics[0],
        labels=task.labels,
        reference=tuple(int(example.label) for example in study.documents if example.label is not None),
        templates={prompt.name: Asked(pattern=prompt.pattern, words=prompt.words) for prompt in asked},
        points=tuple(points),
        settings=_told(study),
        notes=tuple(f"{name}: {count} of {len(study.documents)} documents lost their end." for name, count in cuts.items()),
    )


def _told(study: _Study) -> Mapping[str, str]:
    """How a study was made, as text."""
    settings = to_mapping(study.settings)
    told = {name: json.dumps(value, ensure_ascii=False) for name, value in settings.items()}
    source = Path(study.base.source)
    made = {
        "base": source.name if source.exists() else study.base.source,
        "fingerprint": study.base.fingerprint,
        "dtype": str(study.base.dtype),
    }
    return {**made, **told, **{f"version of {name}": value for name, value in {**versions(), "lmtailor": __version__}.items()}}
