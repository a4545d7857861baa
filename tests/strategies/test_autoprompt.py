"""AutoPrompt: the loss and its gradient against plain runs of the model, the search on models with a planted optimum."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import plain_adapter, predict_split
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.readouts.verbalizer_reading import VerbalizerReading
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import load_adapter
from lmtailor.strategies._autoprompt_loss import Prompted, TriggerLoss, prompted
from lmtailor.strategies._autoprompt_tokens import allowed_tokens, candidates, embedding_table
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.autoprompt import AutoPrompt
from lmtailor.tasks.task import Task
from tests.fit.tasks import grades, sentiment
from tests.readouts.examples import sentences
from tests.strategies.planted import planted_base, planted_task
from tests.tiny import kind_of, tiny_base

WORDS = {"neg": ("bad", "sad"), "pos": ("good",)}
FAMILIES = ("bert", "roberta", "gpt2", "llama", "t5")
TRIGGERS = torch.tensor([[40, 41, 42], [40, 50, 42], [60, 41, 42], [40, 41, 77], [9, 9, 9]])
QUICK: dict[str, Any] = dict(candidates=8, accumulation=1, batch_size=16, iterations=6)


def readout(key: str, **settings: Any) -> Verbalizer:
    base = tiny_base(key)
    end = "{mask}, {trigger}." if kind_of(key) == "encoder" else "{trigger} {mask}"
    tokens = tuple(base.tokenizer.convert_ids_to_tokens([40, 41, 42]))
    return Verbalizer(f"{{sentence}} {{trigger}} it {{trigger}} {end}", WORDS, trigger=tokens, **settings)


def prepared(key: str, **settings: Any) -> tuple[Base, Adapter, VerbalizerReading, list[Prompted]]:
    base, chosen = tiny_base(key), readout(key, **settings)
    adapter = plain_adapter(base, sentiment(), chosen)
    reading = adapter.reading
    assert isinstance(reading, VerbalizerReading)
    return base, adapter, reading, [prompted(reading, example) for example in sentences()]


def plain_loss(
    base: Base, reading: VerbalizerReading, one: Prompted, trigger: Tensor, ids: Tensor | None = None, *, among: bool = False
) -> Tensor:
    """-log Σ p(w) by one run of the whole model. `ids`: one-hot rows in the place of token ids. `among`: p over label words."""
    (sequence,), (read,) = one.item.sequences, one.item.read
    tokens = torch.tensor(sequence)
    tokens[list(one.slots)] = trigger
    front = torch.tensor(reading.prompt(), dtype=torch.long)
    inputs: dict[str, Tensor] = {"input_ids": torch.cat([front, tokens])[None]}
    if ids is not None:
        inputs = {"inputs_embeds": (ids @ base.module(base.stacks[0].embedding).weight)[None]}  # type: ignore[operator]
    if one.item.decoder is not None:
        inputs["decoder_input_ids"] = torch.tensor(one.item.decoder)
    elif base.kind == "decoder":
        read = (read[0] + len(front),)
    log_p_V: Tensor = base.model(**inputs).logits[0, read[0]].log_softmax(0)
    words = [word.pieces[0] for word in reading.words if word.label == one.label]
    every = [word.pieces[0] for word in reading.words]
    return -log_p_V[words].logsumexp(0) + (log_p_V[every].logsumexp(0) if among else 0.0)


@pytest.mark.parametrize(("rows", "over"), [(256, "vocabulary"), (3, "vocabulary"), (256, "labels")])
@pytest.mark.parametrize("key", FAMILIES)
def test_losses_of_many_triggers_are_those_of_one_run_each(key: str, rows: int, over: Any) -> None:
    base, adapter, reading, examples = prepared(key)
    with attach(base, adapter) as attached:
        found = TriggerLoss(base, reading, rows, over).losses(attached, examples, TRIGGERS)
    among = over == "labels"
    expected = torch.stack([torch.stack([plain_loss(base, reading, one, t, among=among) for one in examples]) for t in TRIGGERS])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert found.std(0).min() > 1e-4, "triggers matter"


@pytest.mark.parametrize("key", ["bert", "gpt2", "mistral"])
def test_losses_behind_demonstrations(key: str) -> None:
    base, adapter, reading, examples = prepared(key, demonstrations=Demonstrations(k=2, separator="\n"))
    assert bool(reading.prompt()) == (base.kind == "decoder")
    with attach(base, adapter) as attached:
        found = TriggerLoss(base, reading, 256).losses(attached, examples, TRIGGERS)
        gradient, _ = TriggerLoss(base, reading, 256).gradient(attached, examples, TRIGGERS[0])
    expected = torch.stack([torch.stack([plain_loss(base, reading, one, t) for one in examples]) for t in TRIGGERS])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert gradient.abs().amax(1).min() > 0


def test_causal_models_run_what_stands_before_the_slots_once_for_all_triggers() -> None:
    base, adapter, reading, examples = prepared("gpt2")
    triggers = TRIGGERS[:1].repeat(30, 1)
    triggers[:, 2] = torch.arange(50, 80)
    run: list[int] = []
    handle = base.trunk.register_forward_hook(lambda module, args, out: run.append(out.last_hidden_state[..., 0].numel()))
    try:
        with attach(base, adapter) as attached:
            TriggerLoss(base, reading, 256).losses(attached, examples, triggers)
    finally:
        handle.remove()
    longest = max(one.item.length for one in examples)
    assert sum(run) <= len(examples) * (longest - 1 + 30), "one row an example, and a token more for each trigger"


@pytest.mark.parametrize("key", FAMILIES)
def test_the_gradient_is_that_through_one_hot_rows(key: str) -> None:
    base, adapter, reading, examples = prepared(key)
    with attach(base, adapter) as attached:
        gradient_SH, mean = TriggerLoss(base, reading, 2).gradient(attached, examples, TRIGGERS[0])
    total = torch.zeros(3, base.vocab_size)
    losses = []
    for one in examples:
        tokens = torch.tensor(one.item.sequences[0])
        tokens[list(one.slots)] = TRIGGERS[0]
        rows_TV = torch.nn.functional.one_hot(tokens, base.vocab_size).float().requires_grad_()
        loss = plain_loss(base, reading, one, TRIGGERS[0], rows_TV)
        losses.append(float(loss.detach()))
        total += torch.autograd.grad(loss, rows_TV)[0][list(one.slots)]
    torch.testing.assert_close(gradient_SH @ embedding_table(base).T, total, rtol=1e-4, atol=1e-5)
    assert mean == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    best = candidates(embedding_table(base), gradient_SH[1], torch.ones(base.vocab_size, dtype=torch.bool), 41, 5)
    order = [i for i in total[1].argsort().tolist() if i != 41]
    assert best.tolist() == order[:5]


def exhaustive(base: Base, task: Task, pattern: str) -> tuple[tuple[int, ...], float]:
    """The trigger of the lowest mean loss of all, by plain runs of the model."""
    words = {label: [base.tokenizer.convert_tokens_to_ids(word) for word in own] for label, own in task.verbalizer.items()}
    allowed = [i for word, i in base.tokenizer.get_vocab().items() if word.islower() and word not in ("great", "awful", "</s>")]
    triggers = list(itertools.product(allowed, repeat=pattern.count("{trigger}")))
    total = torch.zeros(len(triggers), dtype=torch.float64)
    for example in task.split("train"):
        sentence = base.tokenizer(example.fields["sentence"])["input_ids"]
        gap = [base.tokenizer.mask_token_id] if base.kind == "encoder" else []
        rows = torch.tensor([[*sentence, *trigger, *gap] for trigger in triggers])
        with torch.no_grad():
            log_p_RV = base.model(input_ids=rows).logits[:, -1].log_softmax(1)
        total -= log_p_RV[:, words[task.labels[int(example.label or 0)]]].logsumexp(1).double()
    best = int(total.argmin())
    return triggers[best], float(total[best]) / len(task.split("train"))


@pytest.mark.parametrize("halving", [1, 3])
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_it_finds_the_planted_optimum(kind: Any, slots: int, halving: int) -> None:
    base, task = planted_base(kind), planted_task()
    pattern = "{sentence} " + "{trigger} " * slots + "{mask}"
    best, loss = exhaustive(base, task, pattern)
    strategy = AutoPrompt(candidates=4, accumulation=2, batch_size=8, iterations=8, halving=halving)
    asked = Verbalizer(pattern, task.verbalizer)
    adapter = adapt(base, task, strategy=strategy, readout=asked, seed=1)
    search = adapter.provenance["search"]
    assert search["trigger"] == base.tokenizer.convert_ids_to_tokens(list(best))
    assert set(search["trigger"]) <= {"magic", "key"}
    assert search["loss"] == pytest.approx(loss, rel=1e-5)
    assert search["history"][0]["loss"] > loss + 0.1, "it starts elsewhere"
    assert search["score"] == adapter.scores["dev"]["accuracy"].value == 1.0
    assert search["text"] == " ".join(search["trigger"])


@pytest.mark.parametrize("key", ["bert", "gpt2"])
def test_an_interrupted_search_goes_on_to_the_same_bits(key: str, tmp_path: Path) -> None:
    base, task, strategy = tiny_base(key), sentiment(), AutoPrompt(**QUICK, label_words="search")
    whole = adapt(base, task, strategy=strategy, seed=3, out=tmp_path / "whole")
    told: list[str] = []

    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        told.append(what)
        if what.startswith("trigger") and done in (2, 3):
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            adapt(base, task, strategy=strategy, seed=3, out=tmp_path / "parts", tell=stop)
    assert sum(what.startswith("trigger") for what in told) == 3, "each begins where the other stopped"
    parts = adapt(base, task, strategy=strategy, seed=3, out=tmp_path / "parts")
    assert parts.readout == whole.readout
    assert json.dumps(parts.provenance["search"]) == json.dumps(whole.provenance["search"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]
    loaded = load_adapter(tmp_path / "parts", base)
    one, other = (predict_split(base, task, adapter, split="test").scores_NC for adapter in (whole, loaded))
    assert (one == other).all()
    assert adapt(base, task, strategy=strategy, seed=4).provenance["search"]["history"] != whole.provenance["search"]["history"]


def test_the_history_says_what_was_tried_and_the_best_on_dev_is_kept() -> None:
    base, task = tiny_base("bert"), sentiment()
    adapter = adapt(base, task, strategy=AutoPrompt(**(QUICK | {"iterations": 12})), readout=readout("bert"), method=Frozen())
    search = adapter.provenance["search"]
    assert [event["iteration"] for event in search["history"]] == list(range(12))
    assert search["iterations"] == 12
    changed = [event for event in search["history"] if event["changed"]]
    assert len(changed) > 2
    assert all(event["new"] < event["kept"] for event in changed)
    assert {event["slot"] for event in search["history"]} == {0, 1, 2}
    trigger = list(base.tokenizer.convert_ids_to_tokens([40, 41, 42]))
    seen = [(adapter_score(base, task, readout("bert")), list(trigger))]
    for event in changed:
        trigger[event["slot"]] = event["token"]
        seen.append((event["dev"], list(trigger)))
    assert trigger == search["last"]
    assert search["score"] == max(score for score, _ in seen)
    assert search["trigger"] in [tokens for score, tokens in seen if score == search["score"]]
    assert adapter.method == Frozen()
    assert not adapter.state
    assert adapter.readout.trigger == tuple(search["trigger"])  # type: ignore[union-attr]


def adapter_score(base: Base, task: Task, chosen: Verbalizer) -> float:
    predictions = predict_split(base, task, plain_adapter(base, task, chosen), split="dev")
    return float((predictions.predicted == predictions.reference).mean())


def test_patience_ends_a_search_that_stands_still() -> None:
    base, task = planted_base("encoder"), planted_task()
    strategy = AutoPrompt(candidates=4, accumulation=2, batch_size=8, iterations=100, patience=3)
    asked = Verbalizer("{sentence} {trigger} {mask}", task.verbalizer, trigger=("magic",))
    search = adapt(base, task, strategy=strategy, readout=asked).provenance["search"]
    assert search["iterations"] == 3
    assert search["ended"] == "patience"
    assert search["trigger"] == ["magic"]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_filters(kind: Any) -> None:
    base, task = planted_base(kind), planted_task()
    reading = plain_adapter(base, task, Verbalizer("{sentence} {mask}", task.verbalizer)).reading
    assert isinstance(reading, VerbalizerReading)
    names = base.tokenizer.get_vocab()
    left = {word for word, i in names.items() if allowed_tokens(base, reading, filtered=True)[i]}
    assert set(names) - left == {"great", "awful", "Paris", "Anna", *base.tokenizer.all_special_tokens} | (
        {"[MASK]"} & set(base.tokenizer.all_special_tokens)
    )
    assert int(allowed_tokens(base, reading, filtered=False).sum()) == len(names)


def test_without_a_readout_the_pattern_is_made_of_the_task() -> None:
    for kind, start, end in (("encoder", "[MASK]", "{mask}."), ("decoder", "the", "{mask}")):
        base, task = planted_base(kind), planted_task()  # type: ignore[arg-type]
        adapter = adapt(base, task, strategy=AutoPrompt(candidates=1, accumulation=1, batch_size=1, iterations=1, triggers=2))
        assert isinstance(adapter.readout, Verbalizer)
        assert adapter.readout.pattern == "{sentence} {trigger} {trigger} " + end
        assert adapter.readout.words == {"neg": ("awful",), "pos": ("great",)}
        (event,) = adapter.provenance["search"]["history"]
        kept = set(range(2)) - {event["slot"]}
        assert adapter.provenance["search"]["last"][kept.pop()] == start


def refused(error: type[Exception], match: str, *, base: Base | None = None, task: Task | None = None, **given: Any) -> None:
    strategy = given.pop("strategy", None) or AutoPrompt(**QUICK)
    with pytest.raises(error, match=match):
        adapt(base or planted_base("encoder"), task or planted_task(), strategy=strategy, **given)


def test_what_has_no_meaning_is_refused() -> None:
    refused(UnsupportedError, "this is a task of regression", task=grades(), base=tiny_base("bert"))
    refused(UnsupportedError, "has no LM head", base=tiny_base("bert", head=False), task=sentiment())
    refused(UnsupportedError, "changes nothing in the model.*LoRA was asked for", method=LoRA())
    refused(UnsupportedError, "trains nothing, so training settings", training=Training(epochs=1))
    refused(UnsupportedError, "found Head. Give a Verbalizer", readout=Head())


def test_bad_input_is_refused() -> None:
    task = planted_task()
    words = dict(task.verbalizer)
    refused(InputError, "has no slot for a trigger", readout=Verbalizer("{sentence} {mask}", words))
    only = Task.from_records(text="sentence", train=[{"sentence": "a", "label": "x"}, {"sentence": "b", "label": "y"}])
    refused(InputError, "has no dev examples", task=only)
    refused(InputError, "proposes no label words", task=sentiment(), base=tiny_base("bert"))
    split = Verbalizer("{sentence} {trigger} {mask}", {"neg": ("terrible",), "pos": ("splendid",)})
    refused(
        InputError, r"'splendid' is \['s', '##p'.* words of one token", base=tiny_base("bert"), task=sentiment(), readout=split
    )
    slots = Verbalizer("{sentence} {trigger} {mask}", words)
    refused(InputError, "triggers is 2, but the pattern .* has 1 slots", readout=slots, strategy=AutoPrompt(triggers=2))
    refused(InputError, r"the tokenizer makes \['\[UNK\]'\] of 'zebra'", readout=slots, strategy=AutoPrompt(initial="zebra"))
    started = Verbalizer("{sentence} {trigger} {mask}", words, trigger=("cat",))
    refused(InputError, "leave initial='dog' out", readout=started, strategy=AutoPrompt(initial="dog"))
    for setting in ("candidates", "accumulation", "batch_size", "iterations", "halving", "rows", "triggers", "patience"):
        with pytest.raises(InputError, match=f"{setting} must be at least 1; found 0"):
            AutoPrompt(**{setting: 0})  # type: ignore[arg-type]
