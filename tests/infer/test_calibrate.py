"""Calibration and PMI: against hand-made averages of plain runs, kept with the adapter, and never measured twice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, StateError
from lmtailor.core.rng import generator
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.calibrate import Gauge, calibrated, measured
from lmtailor.infer.evaluate import evaluate, plain_adapter, predict_examples
from lmtailor.infer.predict import predict
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, build_adapter, new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base

TASK = sentiment(12, 4)
SINGLE = {"neg": ("bad",), "pos": ("good",)}
MULTI = {"neg": ("terrible", "not very good"), "pos": ("so great so fun",)}
PATTERNS = {
    "bert": "{sentence} it was {mask} .",
    "gpt2": "review: {sentence}\nit was {mask}",
    "t5": "{sentence} it was {mask} .",
    "bart": "{sentence} it was {mask}",
}
INPUTS = ("N/A", "", "[MASK]")


def verbalizer(key: str, words: Mapping[str, tuple[str, ...]] = SINGLE, **settings: Any) -> Verbalizer:
    return Verbalizer(PATTERNS[key], words, **settings)


def logits(base: Base, adapter: Adapter, text: str) -> torch.Tensor:
    """The labels' scores of one text, in a batch of its own."""
    reading = adapter.reading
    assert reading is not None
    example = Example(id="x", fields={"sentence": text})
    with torch.no_grad(), attach(base, adapter) as attached:
        batch = reading.collate([reading.encode(example)])
        return attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch)[0]


def worn(base: Base, readout: Verbalizer, task: Task = TASK) -> Adapter:
    """A LoRA far from its start."""
    adapter = new_adapter(base, method=LoRA(rank=2), readout=readout, task=task)
    rng = torch.Generator().manual_seed(1)
    return adapter.with_state({k: v.detach() + 0.2 * torch.randn(v.shape, generator=rng) for k, v in adapter.state.items()})


@pytest.mark.parametrize("words", [SINGLE, MULTI], ids=["single", "multi"])
@pytest.mark.parametrize("key", PATTERNS)
def test_calibrated_probabilities_are_those_of_w_p(key: str, words: Mapping[str, tuple[str, ...]]) -> None:
    """q ∝ diag(p_cf)⁻¹ p, with p_cf the mean of the labels' probabilities on the content-free inputs."""
    base = tiny_base(key)
    plain = plain_adapter(base, TASK, verbalizer(key, words))
    p_cf = torch.stack([logits(base, plain, text).softmax(0) for text in INPUTS]).mean(0)
    adapter = plain_adapter(base, TASK, verbalizer(key, words, calibration=Calibration()))
    text = "the movie was so very sad"
    q = logits(base, plain, text).softmax(0) / p_cf
    (answer,) = predict(base, adapter, [text])
    assert [answer.scores[label] for label in TASK.labels] == pytest.approx((q / q.sum()).tolist(), rel=1e-5, abs=1e-7)
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.calibration is not None
    assert adapter.readout.calibration.shares is not None
    assert adapter.readout.calibration.shares[0] == pytest.approx(p_cf.tolist(), rel=1e-5)


@pytest.mark.parametrize("key", PATTERNS)
def test_pmi_subtracts_the_words_score_behind_the_pattern_alone(key: str) -> None:
    base = tiny_base(key)
    words = {"neg": ("terrible",), "pos": ("so great so fun",)}
    plain = plain_adapter(base, TASK, verbalizer(key, words))
    adapter = plain_adapter(base, TASK, verbalizer(key, words, normalise="pmi"))
    text = "the movie was so very sad"
    wanted = logits(base, plain, text) - logits(base, plain, "")
    torch.testing.assert_close(logits(base, adapter, text), wanted, rtol=1e-4, atol=1e-5)


def test_the_premise_stands_behind_the_same_demonstrations() -> None:
    base, words = tiny_base("gpt2"), {"neg": ("terrible",), "pos": ("so great so fun",)}
    shown = Demonstrations(k=2)
    plain = plain_adapter(base, TASK, verbalizer("gpt2", words, demonstrations=shown))
    adapter = plain_adapter(base, TASK, verbalizer("gpt2", words, demonstrations=shown, normalise="pmi"))
    wanted = logits(base, plain, "a sad cat") - logits(base, plain, "")
    torch.testing.assert_close(logits(base, adapter, "a sad cat"), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("normalise", "aggregate"), [("length", "mean"), ("bytes", "sum"), ("pmi", "max")])
def test_calibration_stands_on_what_was_normalised(normalise: Any, aggregate: Any) -> None:
    base = tiny_base("gpt2")
    settings: dict[str, Any] = {"normalise": normalise, "aggregate": aggregate}
    plain = plain_adapter(base, TASK, verbalizer("gpt2", MULTI, **settings))
    adapter = plain_adapter(base, TASK, verbalizer("gpt2", MULTI, calibration=Calibration(), **settings))
    p_cf = torch.stack([logits(base, plain, text).softmax(0) for text in INPUTS]).mean(0)
    text = "a very sad book"
    wanted = logits(base, plain, text) - p_cf.log()
    torch.testing.assert_close(logits(base, adapter, text), wanted, rtol=1e-4, atol=1e-5)


def test_it_is_measured_behind_the_demonstrations_and_under_the_edits() -> None:
    base = tiny_base("gpt2")
    shown = verbalizer("gpt2", demonstrations=Demonstrations(k=2), calibration=Calibration(inputs=("N/A",)))
    for adapter in (plain_adapter(base, TASK, shown), measured(base, worn(base, shown))):
        assert isinstance(adapter.readout, Verbalizer)
        assert adapter.readout.calibration is not None
        scores = logits(base, adapter, "N/A")
        torch.testing.assert_close(scores.softmax(0), torch.tensor([0.5, 0.5]), rtol=1e-5, atol=1e-6)
    zero_shot = plain_adapter(base, TASK, verbalizer("gpt2", calibration=Calibration(inputs=("N/A",))))
    assert logits(base, zero_shot, "a text").tolist() != logits(base, adapter, "a text").tolist()


def test_every_column_of_a_pair_is_content_free() -> None:
    labels = LabelSet(kind="classification", labels=("neg", "pos"), texts=("first", "second"))
    readout = Verbalizer("{first} and {second} : {mask}", SINGLE)
    reading = readout.bind(tiny_base("gpt2"), labels, None)
    ids = reading.content_free("N/A").sequences[0]
    assert tiny_base("gpt2").tokenizer.decode(list(ids)) == "N/A and N/A :"


@pytest.mark.parametrize("key", ["bert", "gpt2", "bart"])
def test_what_was_measured_is_kept_with_the_adapter(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(key)
    adapter = measured(base, worn(base, verbalizer(key, MULTI, normalise="pmi", calibration=Calibration())))
    save_adapter(adapter, tmp_path / "kept")
    monkeypatch.setattr(Gauge, "_run", None)  # nothing is measured from here on
    loaded = load_adapter(tmp_path / "kept", base)
    assert loaded.readout == adapter.readout
    assert measured(base, loaded) is loaded
    texts = ["a good movie", "so sad and boring"]
    assert predict(base, loaded, texts) == predict(base, adapter, texts)


def test_the_same_prompt_and_edits_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("gpt2")
    runs: list[int] = []
    plain = Gauge._run

    def counted(self: Gauge, edits: Any, reading: Any, items: Any) -> torch.Tensor:
        runs.append(len(items))
        return plain(self, edits, reading, items)

    monkeypatch.setattr(Gauge, "_run", counted)
    gauge, labels = Gauge(base), LabelSet.of(TASK)

    def untouched(**settings: Any) -> Adapter:
        return build_adapter(base, Frozen(), verbalizer("gpt2", **settings), labels, generator(0), TASK)

    first = gauge.measured(untouched(calibration=Calibration()))
    again = gauge.measured(untouched(calibration=Calibration(inputs=("", "N/A"))))
    assert runs == [3]
    both = gauge.measured(untouched(calibration=Calibration(inputs=("N/A", "nothing")), normalise="pmi"))
    assert runs == [3, 1]  # the premise is the empty text, which was run for the first
    gauge.measured(untouched(calibration=Calibration(), demonstrations=Demonstrations(k=1)))
    edited = worn(base, verbalizer("gpt2", calibration=Calibration()))
    for _ in range(2):
        gauge.measured(edited)
    assert runs == [3, 1, 3, 3]
    assert isinstance(first.readout, Verbalizer)
    assert again.readout != first.readout
    assert isinstance(both.readout, Verbalizer)
    assert both.readout.prior is not None
    head = new_adapter(base, method=LoRA(), readout=Head(), task=TASK)
    assert gauge.measured(head) is head


def test_scores_that_were_not_measured_raise() -> None:
    base = tiny_base("bert")
    example = Example(id="x", fields={"sentence": "a"})
    for settings, what in (({"calibration": Calibration()}, "content-free inputs"), ({"normalise": "pmi"}, "domain premise")):
        adapter = new_adapter(base, method=Frozen(), readout=verbalizer("bert", **settings), task=TASK)
        with pytest.raises(StateError, match=rf"{what}.* have not been measured.*lmtailor.infer.calibrate.measured"):
            predict_examples(base, adapter, [example])
    assert evaluate(base, TASK, readout=verbalizer("bert", calibration=Calibration()))["accuracy"].n == 20


def test_a_fit_is_calibrated_after_it() -> None:
    base = tiny_base("bert")
    training = Training(max_steps=1, batch_size=4, lr=1e-3)
    for settings, what in (({"calibration": Calibration()}, "calibration"), ({"normalise": "pmi"}, "normalise=pmi")):
        with pytest.raises(InputError, match=rf"learns how common each label is by itself.*what {what} measured.*calibrated"):
            fit(base, TASK, method=LoRA(), readout=verbalizer("bert", **settings), training=training)
    fitted = fit(base, TASK, method=LoRA(), readout=verbalizer("bert"), training=training)
    adapter = calibrated(base, fitted, Calibration(inputs=("N/A",)))
    torch.testing.assert_close(logits(base, adapter, "N/A").softmax(0), torch.tensor([0.5, 0.5]), rtol=1e-5, atol=1e-6)
    assert calibrated(base, adapter).readout != adapter.readout  # measured anew
    assert all(torch.equal(value, fitted.state[name]) for name, value in adapter.state.items())
    with pytest.raises(InputError, match="Give an adapter with a Verbalizer"):
        calibrated(base, fit(base, TASK, method=LoRA(), readout=Head(), training=training))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibration": {"inputs": []}}, "at least one content-free text"),
        ({"calibration": {"inputs": ["", ""]}}, "name each once"),
        ({"calibration": {"shares": [[0.0, 1.0]]}}, "above 0 and at most 1"),
        (
            {"calibration": {"shares": [[0.2, 0.3, 0.5]]}},
            r"calibration.shares must have a row for each set .*, with one number a label \(2\)",
        ),
        (
            {"prior": [[0.1]], "normalise": "pmi"},
            r"prior must have a row for each set .*, with one number a word \(2\); found rows of \[1\]",
        ),
        ({"prior": [[0.1, 0.2]]}, "A prior belongs to normalise=pmi"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(Verbalizer, {"pattern": "{a} {mask}", "words": SINGLE, **settings})


def test_a_premise_without_words_is_refused() -> None:
    with pytest.raises(InputError, match="Nothing stands before the gap in example \"content-free ''\""):
        plain_adapter(tiny_base("gpt2"), TASK, Verbalizer("{sentence} {mask}", SINGLE, normalise="pmi"))


def test_settings_round_trip() -> None:
    settings = verbalizer("bert", normalise="pmi", calibration=Calibration(inputs=("", "x"), shares=((0.1 + 0.2, 0.7),)))
    assert from_mapping(Verbalizer, to_mapping(settings)) == settings
