"""Tags, spans and options from the fit to the answer: learned, stored, measured, and in one batch with other adapters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.decoding import Decoding
from lmtailor.infer.evaluate import evaluate, predict_split
from lmtailor.infer.predict import predict
from lmtailor.methods.adamix import AdaMix
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.methods.soft_prompt_mixture import SoftPromptMixture
from lmtailor.readouts.head import Head
from lmtailor.readouts.options import Options
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.span import Span
from lmtailor.readouts.tagging import Tags
from lmtailor.readouts.text import Text
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.tasks.task import Task
from tests.fit.tasks import sentiment
from tests.fit.test_fit import Recorder
from tests.readouts.token_tasks import answered, chosen, tagged
from tests.store.adapters import assert_same_state
from tests.tiny import tiny_base

WINDOWED = Span(max_length=48, stride=12)
ASKED = Options("{premise} so {mask}", {"0": "choice1", "1": "choice2"}, normalise="length")
LESS_COMMON = replace(ASKED, normalise="pmi")
QUICK = Training(epochs=4, batch_size=8, lr=5e-3)
TAGGED: list[tuple[str, Method]] = [("bert", LoRA(rank=4)), ("llama", LoRA(rank=4)), ("t5", LoRA(rank=4)), ("bert", Frozen())]
CASES: list[tuple[str, Method, Readout, Task, float]] = [
    *((family, method, Tags(), tagged(), 0.75) for family, method in TAGGED),
    ("bert", Full(), Tags(piece="mean", layer=2, dropout=0.1), tagged(), 0.9),
    ("bert", Full(), WINDOWED, answered(), 0.9),
    ("gpt2", LoRA(rank=4), Span(), answered(longest=0), 0.4),
    ("bart", LoRA(rank=4), Span(), answered(longest=0), 0.4),
    ("bert", LoRA(rank=4), ASKED, chosen(), 0.9),
    ("gpt2", LoRA(rank=4), LESS_COMMON, chosen(), 0.9),
]


def fitted(base: Base, method: Method, readout: Readout, task: Task, **settings: Any) -> Adapter:
    return fit(base, task, method=method, readout=readout, training=Training(**{**vars(QUICK), **settings}), seed=0)


@pytest.mark.parametrize(("family", "method", "readout", "task", "least"), CASES)
def test_a_fit_learns_and_what_is_stored_answers_the_same(
    family: str, method: Method, readout: Readout, task: Task, least: float, tmp_path: Path
) -> None:
    base = tiny_base(family)
    heard = Recorder()
    training = Training(epochs=8, batch_size=8, lr=5e-3)
    adapter = fit(base, task, method=method, readout=readout, training=training, seed=0, callbacks=[heard])
    name = task.metrics[0]
    assert adapter.scores["dev"][name].value >= least
    kept = max(one.scores[name].value for one in heard.evaluations)
    assert adapter.scores["dev"][name].value == pytest.approx(kept)  # read while fitting as at the end
    save_adapter(adapter, tmp_path / "own")
    loaded = load_adapter(tmp_path / "own", base)
    assert_same_state(adapter, loaded)
    assert loaded.readout == adapter.readout
    assert any("features of" in note for note in heard.notes) == isinstance(method, Frozen)
    ours, theirs = (predict_split(base, task, one, split="test", batch_size=5) for one in (adapter, loaded))
    assert list(ours.predicted) == list(theirs.predicted)
    assert evaluate(base, task, loaded)[name].value == pytest.approx(evaluate(base, task, adapter, batch_size=3)[name].value)


def test_answers_of_several_kinds_share_batches() -> None:
    base = tiny_base("bert")
    tags, spans = fitted(base, LoRA(rank=2), Tags(), tagged()), fitted(base, LoRA(rank=3), WINDOWED, answered())
    labels = fitted(base, SoftPrompt(length=3), Head(), sentiment())
    options, unlike = (fitted(base, LoRA(rank=2), asked, chosen()) for asked in (ASKED, LESS_COMMON))
    adapters = [tags, spans, labels, options, unlike]
    tasks = [tagged(), answered(), sentiment(), chosen(), chosen()]
    inputs, rows = [], []
    for number in range(5):
        for slot, task in enumerate(tasks):
            inputs.append(dict(task.split("test").examples[number].fields))
            rows.append(slot)
    together = predict(base, adapters, inputs, rows=rows, batch_size=6)
    for slot, adapter in enumerate(adapters):
        own = [i for i, row in enumerate(rows) if row == slot]
        alone = predict(base, adapter, [inputs[i] for i in own], batch_size=2)
        for i, answer in zip(own, alone, strict=True):
            other = together[i]
            assert (other.label, other.text, other.tags, other.start) == (answer.label, answer.text, answer.tags, answer.start)
            torch.testing.assert_close(list(other.scores.values()), list(answer.scores.values()), rtol=1e-4, atol=1e-5)
    first = together[0]
    assert len(first.tags) == len(inputs[0]["text"].split())
    assert first.text is None
    second = together[1]
    assert second.text is not None
    assert second.start is not None
    assert inputs[1]["context"][second.start :].startswith(second.text)
    assert predict(base, spans, [(inputs[1]["question"], inputs[1]["context"])])[0].text == second.text
    with pytest.raises(InputError, match="this readout writes none"):
        predict(base, tags, ["a cat"], decoding=Decoding())
    assert predict(base, tags, []) == []


def test_adapters_that_are_fitted_together_are_those_that_are_fitted_alone() -> None:
    base = tiny_base("bert")
    together = fit(base, [tagged(), answered()], method=LoRA(rank=2), readout=[Tags(), WINDOWED], training=QUICK, seed=0)
    assert isinstance(together, list)
    own: list[tuple[Readout, Task]] = [(Tags(), tagged()), (WINDOWED, answered())]
    for adapter, (readout, task) in zip(together, own, strict=True):
        alone = fitted(base, LoRA(rank=2), readout, task)
        for name, value in alone.state.items():
            torch.testing.assert_close(adapter.state[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [AdaMix(), SoftPromptMixture(prompts=2, length=2)])
def test_mixtures_and_several_passes(method: Method) -> None:
    base = tiny_base("bert")
    for readout, task in ((Tags(), tagged()), (WINDOWED, answered())):
        adapter = fitted(base, method, readout, task, epochs=1)
        assert all(bool(value.isfinite().all()) for value in adapter.state.values())
        assert evaluate(base, task, adapter)[task.metrics[0]].n == 12


def test_rows_of_an_attached_batch_have_their_answers_parts() -> None:
    base, task = tiny_base("bert"), tagged()
    one, other = (fitted(base, LoRA(rank=2), Tags(), task, epochs=epochs) for epochs in (1, 2))
    reading = one.reading
    assert reading is not None
    items = [reading.encode(example) for example in task.split("test").examples[:4]]
    batch = reading.collate(items)
    with torch.no_grad(), attach(base, [one, other], [0, 1, 1, 0]) as attached:
        mixed = attached.read(batch)
    for row, adapter in enumerate((one, other, other, one)):
        with torch.no_grad(), attach(base, adapter) as attached:
            alone = attached.read(batch)[row]
        assert alone.shape == (items[row].units, 3)
        torch.testing.assert_close(mixed[row], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("piece", ["first", "mean"])
def test_a_text_without_a_word_that_is_seen_is_answered_too(piece: Any) -> None:
    base = tiny_base("bert")
    adapter = fitted(base, LoRA(rank=2), Tags(piece=piece), tagged(), epochs=1)
    unseen, cat = "\u200b", predict(base, adapter, ["a cat"])
    assert predict(base, adapter, [unseen])[0].tags == ("NOUN",)
    both = predict(base, adapter, [unseen, "a cat", ""])
    assert [one.tags for one in both] == [("NOUN",), cat[0].tags, ()]


def test_what_cannot_be_learned_is_left_out_and_counted() -> None:
    base = tiny_base("bert")
    rows: list[dict[str, object]] = [{"text": "a cat", "tags": "DET NOUN"}, {"text": "\u200b", "tags": "NOUN"}]
    task = Task.from_records(kind="labelling", text="text", label="tags", train=rows)
    heard = Recorder()
    fit(base, task, method=Frozen(), readout=Tags(), training=Training(epochs=1), callbacks=[heard])
    assert any("1 examples of train have no answer that the model sees" in note for note in heard.notes)
    unseen = Task.from_records(kind="labelling", text="text", label="tags", train=[{"text": "\u200b \u200b", "tags": "A B"}])
    with pytest.raises(InputError, match="No example of task's train has an answer that the model sees"):
        fit(base, unseen, method=Frozen(), readout=Tags(), training=Training(epochs=1))


def test_examples_that_lost_tokens_are_counted_once_whatever_they_are_run_as() -> None:
    context = "it is good cat and no more. " + "that was to you. " * 8
    row = {"question": "is it the worst one of all?", "context": context, "answers": [{"text": "good cat", "answer_start": 6}]}
    spans = Task.from_records(kind="span", text=["question", "context"], label="answers", train=[row], dev=[row])
    heard = Recorder()
    short = Span(max_length=20, max_question=4, stride=4)
    fit(tiny_base("bert"), spans, method=Frozen(), readout=short, training=Training(max_steps=1), callbacks=[heard])
    assert any(note.startswith("1 of 1 examples of dev are longer") for note in heard.notes)
    rows = [{"input": "a good movie that was so very great", "target": said} for said in ("no", "fun", "yes")]
    rows.append({"input": "no", "target": "fun"})
    written = Task.from_records(train=rows, kind="generation", text="input", label="target")
    fit(
        tiny_base("gpt2"),
        written,
        method=LoRA(rank=2),
        readout=Text("{input}", max_length=8),
        training=Training(max_steps=1),
        callbacks=[heard],
    )
    assert any(note.startswith("1 of 2 examples of train are longer") for note in heard.notes)


def test_a_metric_that_cannot_run_here_is_told_before_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmtailor.tasks.metrics.text.meteor.which", lambda name: None)
    seen = Recorder()
    task = replace(tagged(), metrics=("tag_accuracy", "meteor"))
    with pytest.raises(UnsupportedError, match=r"meteor runs METEOR 1\.5"):
        fit(tiny_base("bert"), task, method=LoRA(), readout=Tags(), training=QUICK, callbacks=[seen])
    assert seen.first == -1
