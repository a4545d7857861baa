"""Held-out tasks: asked before the first step and at every evaluation, by rank or perplexity, and learned from never."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, TrainingError
from lmtailor.fit.callbacks.callback import Asked, Callback, Ended, Evaluated, HearsAsked, Started, Stepped
from lmtailor.fit.callbacks.console import ConsoleCallback
from lmtailor.fit.callbacks.jsonl import JsonlCallback
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import plain_adapter
from lmtailor.infer.watched import evaluate_watched
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.readouts.text import Text
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from lmtailor.tasks.watched import Watched
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base

ROWS = [{"input": f"the {what} is", "target": word} for what, word in (("cat", "good"), ("dog", "bad"), ("movie", "good"))]
SHORT = Training(max_steps=4, eval_every=2, batch_size=2, lr=1e-2)


def task() -> Task:
    return Task.from_records(train=ROWS, dev=ROWS[:1], kind="generation", text="input", label="target")


def example(number: int, text: str, right: str) -> Example:
    return Example(id=f"held/{number}", fields={"input": text}, references=(right,))


RANKED = Watched(
    name="ranked",
    examples=(example(0, "the book is", "very good"), example(1, "a text is", "bad"), example(2, "a book", "no")),
    choices=(("very good", "bad"), ("so good", "bad"), ("no", "no cat")),
)
WRITTEN = Watched(name="written", examples=(example(3, "a book is", "so boring"), example(4, "is it", "yes")))


@dataclass
class Listener(HearsAsked):
    heard: list[Asked] = field(default_factory=list)

    def started(self, event: Started) -> None: ...

    def stepped(self, event: Stepped) -> None: ...

    def evaluated(self, event: Evaluated) -> None: ...

    def ended(self, event: Ended) -> None: ...

    def asked(self, event: Asked) -> None:
        self.heard.append(event)


def log_p(base: Base, text: str, answer: str, *, end: bool) -> float:
    """Of an answer behind a text, token by token with the model itself."""
    ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    own = base.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] + ([base.tokenizer.eos_token_id] if end else [])
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([ids + own])).logits[0].log_softmax(-1)
    return sum(float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(own))


def test_the_likeliest_choice_is_the_answer() -> None:
    base = tiny_base("llama")
    right = []
    for one, choices in zip(RANKED.examples, RANKED.choices, strict=True):
        nested = choices == ("no", "no cat")
        scores = [log_p(base, one.fields["input"], choice, end=nested) for choice in choices]
        right.append(choices[scores.index(max(scores))] == one.references[0])
    adapter = plain_adapter(base, task(), Text("{input}"))
    found = evaluate_watched(base, adapter, [RANKED, WRITTEN], batch_size=3)
    assert found["ranked"]["accuracy"].value == pytest.approx(sum(right) / 3)
    assert found["ranked"]["accuracy"].n == 3
    total = sum(log_p(base, one.fields["input"], one.references[0], end=True) for one in WRITTEN.examples)
    tokens = sum(len(base.tokenizer(f" {one.references[0]}")["input_ids"]) + 1 for one in WRITTEN.examples)
    assert found["written"]["perplexity"].value == pytest.approx(torch.tensor(-total / tokens).exp().item(), rel=1e-4)


def test_a_fit_is_asked_before_it_begins_and_whenever_dev_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, listener = tiny_base("llama"), Listener()
    callbacks: list[Callback] = [listener, ConsoleCallback(), JsonlCallback(tmp_path / "log.jsonl")]
    adapter = fit(
        base, task(), method=LoRA(rank=2), readout=Text("{input}"), training=SHORT, watched=[RANKED, WRITTEN], callbacks=callbacks
    )
    assert [event.step for event in listener.heard] == [0, 2, 4]
    before = evaluate_watched(base, plain_adapter(base, task(), Text("{input}")), [RANKED, WRITTEN])
    after = evaluate_watched(base, adapter, [RANKED, WRITTEN])
    kept = next(event for event in listener.heard if event.step == adapter.provenance["best_step"])
    for said, measured in ((listener.heard[0].scores, before), (kept.scores, after)):
        for name in ("ranked", "written"):
            for metric, score in measured[name].items():
                assert said[name][metric].value == pytest.approx(score.value, rel=1e-4)
    assert before["written"]["perplexity"].value != after["written"]["perplexity"].value
    assert [entry["step"] for entry in adapter.provenance["watched"]] == [0, 2, 4]
    assert adapter.provenance["watched"][0]["scores"]["ranked"]["accuracy"]["n"] == 3
    assert "step 0 · held out ranked" in capsys.readouterr().err
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "held out"] == [0, 2, 4]


def test_nothing_is_learned_from_held_out_tasks_nor_lost_when_a_fit_goes_on(tmp_path: Path) -> None:
    base = tiny_base("llama")

    @dataclass
    class Stopper(Listener):
        def stepped(self, event: Stepped) -> None:
            if event.step == 3:
                raise KeyboardInterrupt

    def run(out: str, *, watched: Sequence[Watched], stop: bool = False) -> Adapter:
        return fit(
            base,
            task(),
            method=LoRA(rank=2),
            readout=Text("{input}"),
            training=Training(max_steps=4, eval_every=2, checkpoint_every=1, batch_size=2, lr=1e-2),
            out=tmp_path / out,
            callbacks=[Stopper()] if stop else [],
            watched=watched,
        )

    plain = run("a", watched=[])
    with pytest.raises(KeyboardInterrupt):
        run("b", watched=[RANKED], stop=True)
    resumed = run("b", watched=[RANKED])
    assert [entry["step"] for entry in resumed.provenance["watched"]] == [0, 2, 4]
    for name, tensor in plain.state.items():
        assert torch.equal(tensor, resumed.state[name])
    assert "watched" not in plain.provenance


def test_several_adapters_are_asked_apart() -> None:
    base, listener = tiny_base("llama"), Listener()
    both = fit(
        base,
        task(),
        method=[LoRA(rank=2), BitFit(add_missing=True)],
        readout=Text("{input}"),
        training=SHORT,
        watched=[WRITTEN],
        callbacks=[listener],
    )
    assert [(event.name[:1], event.step) for event in listener.heard] == [(n, s) for s in (0, 2, 4) for n in "01"]
    for number, adapter in enumerate(both):
        kept = next(
            event for event in listener.heard if event.name[0] == str(number) and event.step == adapter.provenance["best_step"]
        )
        found = evaluate_watched(base, adapter, [WRITTEN])["written"]["perplexity"].value
        assert kept.scores["written"]["perplexity"].value == pytest.approx(found, rel=1e-4)


def test_refusals() -> None:
    base = tiny_base("llama")
    with pytest.raises(InputError, match="asked of a readout that writes"):
        fit(base, sentiment(), method=LoRA(rank=2), readout=Head(), training=SHORT, watched=[RANKED])
    with pytest.raises(InputError, match="Two held-out tasks are named 'ranked'"):
        fit(base, task(), method=LoRA(rank=2), readout=Text("{input}"), training=SHORT, watched=[RANKED, RANKED])
    with pytest.raises(InputError, match="no right answer among its choices"):
        Watched(name="x", examples=RANKED.examples, choices=(("a", "b"),) * 3)
    with pytest.raises(InputError, match=r"held/2 of x has two equal choices among \['no', 'no'\]"):
        Watched(name="x", examples=RANKED.examples[2:], choices=(("no", "no"),))
    with pytest.raises(InputError, match="has no examples"):
        Watched(name="x", examples=())


def test_a_finished_fit_that_was_asked_other_questions_is_not_taken_for_this_one(tmp_path: Path) -> None:
    base = tiny_base("llama")

    def run(watched: Watched) -> Adapter:
        return fit(
            base, task(), method=LoRA(rank=2), readout=Text("{input}"), training=SHORT, out=tmp_path / "a", watched=[watched]
        )

    first = run(WRITTEN)
    assert run(WRITTEN).provenance["watched"] == first.provenance["watched"]
    for other in (replace(WRITTEN, examples=RANKED.examples), replace(RANKED, name=WRITTEN.name)):
        with pytest.raises(TrainingError, match="another fit"):
            run(other)
