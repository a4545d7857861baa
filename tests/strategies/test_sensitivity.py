"""Sensitivity: every point is what evaluation of its own gives, points are kept and not measured again, and what they say."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.infer.evaluate import plain_adapter, predict_examples
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.demonstrations import choose
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from lmtailor.strategies import sensitivity as module
from lmtailor.strategies.sensitivity import RECORD, Sensitivity, permutation, sensitivity
from lmtailor.strategies.sensitivity_record import SensitivityRecord, holm, read_sensitivity
from lmtailor.tasks.metrics import evaluate_predictions, paired_difference
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from tests.fit.tasks import sentiment
from tests.strategies.studies import made_up
from tests.tiny import tiny_base

WORDS = {"neg": ("bad",), "pos": ("good", "so great")}
CAUSAL = (
    Prompt(name="review", pattern="review: {sentence}\nit was {mask}"),
    Prompt(name="plain", pattern="{sentence} is {mask}", words={"neg": ("sad",), "pos": ("fun",)}),
)
MASKED = (Prompt(name="was", pattern="{sentence} it was {mask} ."), Prompt(name="very", pattern="so {mask} : {sentence}"))


def task_of(prompts: tuple[Prompt, ...]) -> Task:
    return replace(sentiment(24, 12), prompts=prompts, verbalizer=WORDS)


@pytest.mark.parametrize(("key", "prompts"), [("llama", CAUSAL), ("bert", MASKED), ("t5", MASKED)])
def test_each_point_is_an_evaluation_of_its_own(key: str, prompts: tuple[Prompt, ...]) -> None:
    base, task = tiny_base(key), task_of(prompts)
    settings = Sensitivity(k=2, sets=2, orders=2, seeds=(0, 5))
    record = sensitivity(base, task, settings=settings, split="dev")
    assert len(record.points) == 2 * 2 * 2 * 2
    assert len({(p.template, p.seed, p.set, p.order) for p in record.points}) == 16
    for point in record.points[::5]:
        prompt = task.prompt(point.template)
        shown = settings.demonstrations(point.seed, point.set)
        assert shown is not None
        if point.order:
            drawn = choose(shown, task.split("train"), LabelSet.of(task), ["sentence"])
            places = permutation(2, point.seed, point.set, point.order)
            assert places == (1, 0)
            shown = replace(shown, shown=tuple(drawn[place] for place in places))
        for answers, calibration in ((point.before, None), (point.after, Calibration())):
            readout = Verbalizer(prompt.pattern, prompt.words, demonstrations=shown, calibration=calibration)
            alone = predict_examples(base, plain_adapter(base, task, readout), task.split("dev").examples)
            assert answers == tuple(alone.predicted)
    assert any(point.before != point.after for point in record.points)


def test_sets_and_orders_differ_and_templates_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Sensitivity(k=4, sets=3, orders=2, seeds=(1, 2))
    base, task = tiny_base("llama"), task_of(CAUSAL)
    seen: list[tuple[str, ...]] = []

    def note(base: Base, adapter: Adapter, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(adapter.readout, Verbalizer)
        assert adapter.readout.demonstrations is not None
        assert adapter.readout.demonstrations.shown is not None
        seen.append(tuple(one.fields["sentence"] for one in adapter.readout.demonstrations.shown))
        return predict_examples(base, adapter, *args, **kwargs)

    monkeypatch.setattr(module, "predict_examples", note)
    record = sensitivity(base, task, settings=replace(settings, calibration=None, limit=2), split="dev")
    shown = {(p.template, p.seed, p.set, p.order): texts for p, texts in zip(record.points, seen, strict=True)}
    assert len({texts for key, texts in shown.items() if key[0] == "plain"}) == 12
    for (name, seed, number, order), texts in shown.items():
        assert texts == shown["plain" if name == "review" else "review", seed, number, order]
        assert sorted(texts) == sorted(shown[name, seed, number, 0])


def test_points_are_kept_and_only_what_is_missing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task = tiny_base("llama"), task_of(CAUSAL)
    measured: list[Any] = []
    original = predict_examples

    def counting(*args: Any, **kwargs: Any) -> Any:
        if len(measured) == 3 and stop:
            raise KeyboardInterrupt
        measured.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "predict_examples", counting)
    stop, settings = True, Sensitivity(k=2, sets=2, limit=6)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(base, task, settings=settings, split="dev", out=tmp_path)
    assert not (tmp_path / RECORD).exists()
    stop = False
    whole = sensitivity(base, task, settings=settings, split="dev", out=tmp_path)
    assert len(measured) == 4
    fresh = sensitivity(base, task, settings=settings, split="dev")
    assert [replace(p, seconds=0) for p in whole.points] == [replace(p, seconds=0) for p in fresh.points]
    assert read_sensitivity(tmp_path / RECORD) == whole
    measured.clear()
    sensitivity(base, task, settings=settings, split="dev", out=tmp_path)
    assert measured == []
    sensitivity(base, task, settings=replace(settings, sets=3), split="dev", out=tmp_path)
    assert len(measured) == 2
    measured.clear()
    for change in ({"calibration": None}, {"limit": 5}, {"separator": " "}, {"aggregate": "max"}):
        sensitivity(base, task, prompts=["plain"], settings=replace(settings, sets=1, **change), split="dev", out=tmp_path)
    assert len(measured) == 4
    measured.clear()
    for file in (tmp_path / "points").iterdir():
        file.write_text("{")
    sensitivity(base, task, settings=settings, split="dev", out=tmp_path)
    assert len(measured) == 4


def test_documents_are_a_fixed_sample_with_all_labels() -> None:
    base, task = tiny_base("llama"), task_of(CAUSAL[:1])
    told: list[tuple[int, int]] = []
    settings = Sensitivity(k=1, sets=2, limit=6)
    record = sensitivity(base, task, settings=settings, split="dev", tell=lambda done, total: told.append((done, total)))
    assert sorted(record.reference) == [0, 0, 0, 1, 1, 1]
    assert told[-1] == (12, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert sensitivity(base, task, settings=settings, split="dev").reference == record.reference


def test_zero_shot_has_one_point_a_template() -> None:
    record = sensitivity(tiny_base("bert"), task_of(MASKED), settings=Sensitivity(k=0, sets=1, calibration=None), split="dev")
    assert len(record.points) == 2
    assert record.sides == ("before",)
    assert record.by_calibration() == ()
    assert record.summary("before", "was").deviation == 0


def test_summaries_against_plain_formulas() -> None:
    record = made_up(templates=3, sets=5, n=40)
    reference = np.array(record.reference)
    for side in record.sides:
        for name in (*record.templates, None):
            rows = np.array([point.answers(side) for point in record.points if name in (None, point.template)])
            values = (rows == reference).mean(1)
            found = record.summary(side, name)
            assert found.values == pytest.approx(values)
            assert found.mean.value == pytest.approx(values.mean())
            assert found.deviation == pytest.approx(values.std(ddof=1))
            assert (found.worst, found.best, found.median) == pytest.approx((values.min(), values.max(), np.median(values)))
            assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(values, (0.25, 0.75))))
            assert found.mean.low < found.mean.value < found.mean.high
    for side in record.sides:
        tests = record.between_templates(side)
        assert [(test.first, test.second) for test in tests] == list(itertools.combinations(record.templates, 2))
        a, b = (
            np.array([p.answers(side) for p in record.points if p.template == name]) for name in (tests[0].first, tests[0].second)
        )
        assert tests[0].p == paired_difference("accuracy", a, b, reference).p
        assert [test.adjusted for test in tests] == holm([test.p for test in tests])
    changes = record.by_calibration()
    assert [change.first for change in changes] == list(record.templates)
    assert changes[0].difference == pytest.approx(
        record.summary("after", changes[0].first).mean.value - record.summary("before", changes[0].first).mean.value
    )


def test_the_mean_of_one_point_has_the_interval_of_its_documents() -> None:
    record = made_up(templates=1, sets=1, n=200)
    (plain,) = evaluate_predictions(["accuracy"], record.points[0].before, record.reference, kind="classification").values()
    mean = record.summary("before").mean
    assert (mean.low, mean.high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_all_orders_of_a_few_are_different() -> None:
    assert sorted(permutation(3, 7, 0, order) for order in range(6)) == sorted(itertools.permutations(range(3)))
    assert permutation(9, 7, 0, 0) == tuple(range(9))
    assert permutation(9, 7, 0, 1) != permutation(9, 8, 0, 1)


def test_many_comparisons_can_still_be_significant() -> None:
    """The smallest p of a bootstrap is 2 / (B + 1); with few resamples Holm's factor would make 45 of them all insignificant."""
    record = made_up(templates=5, sets=2, n=60)
    names = [f"{name} {copy}" for copy in range(2) for name in record.templates]
    points = [replace(p, template=f"{p.template} {copy}") for copy in range(2) for p in record.points]
    many = replace(record, templates=dict.fromkeys(names, next(iter(record.templates.values()))), points=tuple(points))
    tests = many.between_templates("before")
    assert len(tests) == 45
    assert min(test.adjusted for test in tests) < 0.05


def test_holms_rule() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_record_is_a_file_and_back(tmp_path: Path) -> None:
    record = made_up()
    file = tmp_path / "s.json"
    file.write_text(json.dumps(record.to_mapping()))
    assert read_sensitivity(file) == record
    frame = record.frame()
    assert len(frame) == 2 * len(record.points)
    assert set(frame.columns) == {"template", "seed", "set", "order", "calibration", "accuracy", "seconds"}


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "cannot be read"), ("[]", "is no sensitivity study"), ("{}", "task"), (None, "cannot be read")],
)
def test_damaged_records(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=told):
        read_sensitivity(tmp_path / "s.json")


@pytest.mark.parametrize("change", [{"points": []}, {"reference": [0]}])
def test_a_record_that_does_not_fit_itself(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "s.json").write_text(json.dumps({**made_up().to_mapping(), **change}))
    with pytest.raises(InputError, match="is damaged"):
        read_sensitivity(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"k": -1}, "k must be at least 0"),
        ({"sets": 0}, "sets, orders and limit"),
        ({"limit": 0}, "sets, orders and limit"),
        ({"seeds": ()}, "distinct"),
        ({"seeds": (1, 1)}, "distinct"),
        ({"k": 0}, "nothing is drawn"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Sensitivity(**settings)


def test_what_does_not_fit_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> SensitivityRecord:
        raise AssertionError

    monkeypatch.setattr(module, "predict_examples", never)
    base, task = tiny_base("llama"), task_of((*CAUSAL, Prompt(name="other", pattern="{text} {mask}")))
    few = Sensitivity(k=2, sets=1)
    with pytest.raises(InputError, match=r"The template 'other', seed 0, set 0: .*names \{text\}"):
        sensitivity(base, task, settings=few, split="dev")
    with pytest.raises(InputError, match=r"The template 'review', .*demonstrations are longer"):
        sensitivity(base, task, settings=replace(few, k=20), split="dev")
    with pytest.raises(InputError, match="3 orders are asked for, but 2 demonstrations have 2"):
        sensitivity(base, task, settings=replace(few, orders=3), split="dev")
    with pytest.raises(InputError, match="no pattern named 'revie'"):
        sensitivity(base, task, prompts=["revie"], settings=few, split="dev")
    with pytest.raises(InputError, match="asked once"):
        sensitivity(base, task, prompts=["plain", "plain"], settings=few, split="dev")
    with pytest.raises(InputError, match="no split 'tset'"):
        sensitivity(base, task, settings=few, split="tset")
    with pytest.raises(InputError, match="has no patterns"):
        sensitivity(base, replace(task, prompts=()), settings=few, split="dev")
    numbers = Task.from_records(text="s", kind="regression", train=[{"s": "a", "label": 0}, {"s": "b", "label": 1}])
    with pytest.raises(UnsupportedError, match="regression"):
        sensitivity(base, numbers, settings=few, split="train")
