"""Language modelling beside the task."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Texts, Unlabelled, mask_tokens
from lmtailor.methods import method_class
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.tasks.task import Task
from tests.fit.tasks import records, sentiment
from tests.fit.test_fit import Recorder, same
from tests.tiny import tiny_base

WORDS = Verbalizer("{sentence} it was {mask}", {"pos": ("great",), "neg": ("bad",)})
LONG_WORDS = Verbalizer("{sentence} it was {mask}", {"pos": ("gripping", "wondrous"), "neg": ("terrible", "lousy")})
SHORT = Training(epochs=1, batch_size=8, lr=3e-3, checkpoint_every=1)


def with_texts(count: int = 50) -> Task:
    """`sentiment` with texts of which nobody knows the labels."""
    task = sentiment()
    rows = [{"sentence": row["text"]} for row in records(count, 7)]
    other = Task.from_records(text=["sentence"], unlabelled=rows, labels=["neg", "pos"])
    return replace(task, splits={**task.splits, "unlabelled": other.split("unlabelled")})


def made(base: Base, readout: Readout, method: Any = None, **settings: Any) -> tuple[Texts, Adapter]:
    """Texts beside an adapter that is not at its start."""
    task = with_texts()
    adapter = new_adapter(base, method=LoRA() if method is None else method, readout=readout, task=task)
    adapter = adapter.with_state({name: value.detach() + 0.1 for name, value in adapter.state.items()})
    assert adapter.reading is not None
    return Texts(Unlabelled(**settings), base, task, adapter.reading, adapter.edits, 3), adapter


@pytest.mark.parametrize("readout", [WORDS, LONG_WORDS, Head()])
def test_the_loss_of_a_masked_model_is_that_of_its_own_logits(readout: Readout) -> None:
    base = tiny_base("bert")
    texts, adapter = made(base, readout, batch_size=5)
    batch = texts.batch(0)
    with torch.no_grad(), attach(base, adapter) as attached:
        loss = texts.loss(base, attached.states(batch.inputs, batch.answer_N), batch)
        logits = base.model(**batch.inputs).logits
    expected = []
    for row, index in enumerate(texts.indices(0)):
        plain = texts.reading.encode(texts.examples[index]).sequences[0]
        ids = batch.inputs["input_ids"][row].tolist()
        read = [spot for spot in batch.read_NP[row].tolist() if spot >= 0]
        assert len(read) == max(1, round(0.15 * sum(token not in base.tokenizer.all_special_ids for token in plain)))
        assert all(ids[i] == plain[i] for i in range(len(plain)) if i not in read)
        assert base.tokenizer.mask_token_id not in [plain[i] for i in read], "the gap is never asked for"
        expected += [F.cross_entropy(logits[row, i], torch.tensor(plain[i])) for i in read]
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "readout"), [("llama", WORDS), ("gpt2", LONG_WORDS), ("gpt2", Head())])
def test_the_loss_of_a_causal_model_is_that_of_every_token_of_the_text(family: str, readout: Readout) -> None:
    base = tiny_base(family)
    texts, adapter = made(base, readout, batch_size=3)
    batch = texts.batch(0)
    with torch.no_grad(), attach(base, adapter) as attached:
        loss = texts.loss(base, attached.states(batch.inputs, batch.answer_N), batch)
        logits = base.model(**batch.inputs).logits
    expected = []
    for row, index in enumerate(texts.indices(0)):
        text = texts.examples[index].fields["sentence"] + (" it was" if isinstance(readout, Verbalizer) else "")
        ids = base.tokenizer(text)["input_ids"]
        assert batch.inputs["input_ids"][row, : len(ids)].tolist() == ids
        expected.append(F.cross_entropy(logits[row, : len(ids) - 1], torch.tensor(ids[1:]), reduction="none"))
    torch.testing.assert_close(loss, torch.cat(expected).mean(), rtol=1e-5, atol=1e-5)


def test_masking_is_that_of_bert() -> None:
    ids, special = tuple(range(10, 4010)), frozenset(range(10, 20))
    changed, read = mask_tokens(ids, special, 1, 5000, 0.15, generator(0, "mask"))
    assert len(read) == round(0.15 * 3990)
    assert list(read) == sorted(set(read))
    assert not special & {ids[i] for i in read}
    assert all(changed[i] == ids[i] for i in range(4000) if i not in read)
    masked, kept = sum(changed[i] == 1 for i in read), sum(changed[i] == ids[i] for i in read)
    assert masked / len(read) == pytest.approx(0.8, abs=0.05)
    assert kept / len(read) == pytest.approx(0.1, abs=0.04)
    assert mask_tokens((5, 6), frozenset({5, 6}), 1, 9, 0.15, generator(0, "mask")) == ((5, 6), ())
    assert len(mask_tokens((5, 6, 7), frozenset({5}), 1, 9, 0.15, generator(0, "mask"))[1]) == 1


def test_texts_come_once_each_before_any_comes_again_and_masks_are_of_their_turn() -> None:
    base = tiny_base("bert")
    texts, _ = made(base, WORDS, batch_size=12)
    epochs = [[i for turn in range(5 * epoch, 5 * epoch + 5) for i in texts.indices(turn)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    first, again = texts.batch(3), made(base, WORDS, batch_size=12)[0].batch(3)
    assert torch.equal(first.inputs["input_ids"], again.inputs["input_ids"])


def test_the_step_is_the_weighted_sum_of_both_losses() -> None:
    base, task = tiny_base("bert"), with_texts()
    training = Training(max_steps=1, batch_size=30, accumulate=2, lr=1e-3)
    losses = []
    for unlabelled in (None, Unlabelled(weight=0.25, batch_size=9), Unlabelled(weight=0.5, batch_size=9)):
        recorder = Recorder()
        fit(base, task, method=LoRA(), readout=WORDS, unlabelled=unlabelled, training=training, callbacks=[recorder])
        losses += recorder.losses
    at_start = new_adapter(base, method=LoRA(), readout=WORDS, task=task)
    assert at_start.reading is not None
    texts = Texts(Unlabelled(batch_size=9), base, task, at_start.reading, at_start.edits, 0)
    with torch.no_grad(), attach(base, at_start) as attached:
        batches = [texts.batch(turn) for turn in (0, 1)]
        language = sum(float(texts.loss(base, attached.states(one.inputs, one.answer_N), one)) for one in batches) / 2
    assert losses[1] == pytest.approx(0.75 * losses[0] + 0.25 * language, rel=1e-5)
    assert losses[2] == pytest.approx(0.5 * losses[0] + 0.5 * language, rel=1e-5)


def test_it_models_the_language_of_the_texts() -> None:
    base, task = tiny_base("gpt2"), with_texts()
    recorder = Recorder()
    unlabelled, training = Unlabelled(weight=0.9), Training(epochs=6, batch_size=8, lr=1e-2)
    adapter = fit(
        base, task, method=LoRA(), readout=WORDS, unlabelled=unlabelled, training=training, callbacks=[recorder], seed=1
    )
    assert recorder.losses[-1] < 0.8 * recorder.losses[0]
    assert "it models language on 50 unlabelled texts besides" in recorder.notes
    assert adapter.provenance["settings"]["unlabelled"] == {"weight": 0.9, "batch_size": 12, "masked": 0.15}


@pytest.mark.parametrize("method", [LoRA(dropout=0.1), Full()])
def test_an_interrupted_fit_goes_on_to_the_same_bits(tmp_path: Path, method: LoRA | Full) -> None:
    base, task = tiny_base("bert", hidden_dropout_prob=0.1), with_texts()

    def run(name: str, *callbacks: Recorder) -> Adapter:
        beside, out = Unlabelled(weight=0.1, batch_size=20), tmp_path / name
        return fit(base, task, method=method, readout=WORDS, unlabelled=beside, training=SHORT, out=out, callbacks=callbacks)

    whole = run("whole")
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            run("cut", Recorder(stop))
    assert same(whole, run("cut"))
    without = fit(base, task, method=method, readout=WORDS, training=SHORT)
    assert not same(whole, without)


def test_several_adapters_model_language_together() -> None:
    base, task = tiny_base("llama"), with_texts()
    methods, unlabelled = [LoRA(), BitFit(add_missing=True)], [Unlabelled(weight=0.3), None]
    both = fit(base, task, method=methods, readout=WORDS, unlabelled=unlabelled, training=SHORT)
    for method, own, joint in zip(methods, unlabelled, both, strict=True):
        alone = fit(base, task, method=method, readout=WORDS, unlabelled=own, training=SHORT)
        for name, tensor in alone.state.items():
            torch.testing.assert_close(joint.state[name], tensor, rtol=1e-3, atol=1e-4)


def test_what_cannot_model_language_is_refused() -> None:
    bert, task = tiny_base("bert"), with_texts()
    beside: dict[str, Any] = {"unlabelled": Unlabelled(), "training": SHORT}
    with pytest.raises(InputError, match=r"no unlabelled split to model language on\. Put texts into one: files\.unlabelled"):
        fit(bert, sentiment(), method=LoRA(), readout=WORDS, **beside)
    with pytest.raises(UnsupportedError, match="t5 is an encoder-decoder"):
        fit(tiny_base("t5"), task, method=LoRA(), **beside)
    with pytest.raises(UnsupportedError, match="no LM head to model language with"):
        fit(tiny_base("bert", head=False), task, method=LoRA(), **beside)
    with pytest.raises(InputError, match="Nothing in the model is trained"):
        fit(bert, task, method=method_class("frozen")(), **beside)
    with pytest.raises(InputError, match="virtual tokens stand around the gap"):
        fit(bert, task, method=method_class("opti_prompt")(), readout=WORDS, **beside)
    beside["training"] = replace(SHORT, checkpointing=True)
    with pytest.raises(InputError, match=r"Set training\.checkpointing to false"):
        fit(bert, task, method=LoRA(), readout=WORDS, **beside)
    for wrong in ({"weight": 0.0}, {"weight": 1.0}, {"batch_size": 0}, {"masked": 0.0}):
        with pytest.raises(InputError, match=f"unlabelled.{next(iter(wrong))} is"):
            Unlabelled(**wrong)
