"""Prompt-based fine-tuning: a verbalizer with any kind of method, on masked, causal and encoder-decoder models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import plain_adapter
from lmtailor.infer.predict import predict
from lmtailor.methods import method_class
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.demonstrations import Demonstrations, Similar
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.merge import merge
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base

TASK = sentiment(24, 8)
PATTERNS = {
    "bert": "{sentence} it was {mask} .",
    "gpt2": "{sentence} it was {mask}",
    "t5": "{sentence} it was {mask} .",
    "bart": "{sentence} is it good ? {mask}",
}
WORDS = {"neg": ("bad",), "pos": ("great", "very good")}
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "bitfit": {"add_missing": True},
    "lora": {},
    "houlsby": {},
    "prefix": {"length": 3},
}


def verbalizer(key: str, **settings: Any) -> Verbalizer:
    return Verbalizer(PATTERNS[key], WORDS, **settings)


def worn(base: Base, name: str, readout: Any, seed: int, **settings: Any) -> Adapter:
    """An adapter far from its start."""
    adapter = new_adapter(base, method=method_class(name)(**settings), readout=readout, task=TASK, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    return adapter.with_state({k: v.detach() + 0.1 * torch.randn(v.shape, generator=rng) for k, v in adapter.state.items()})


def loss(base: Base, adapter: Adapter) -> float:
    """The training loss of an adapter."""
    reading = adapter.reading
    assert reading is not None
    with torch.no_grad(), attach(base, adapter) as attached:
        batch = reading.collate([reading.encode(example) for example in TASK.split("train").examples])
        scores = attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch)
    assert batch.labels_B is not None
    return float(Supervised().losses(scores, batch.labels_B, "classification").mean())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("key", PATTERNS)
def test_the_loss_falls(key: str, name: str, tmp_path: Path) -> None:
    """And what was fitted answers the same when it is loaded."""
    base = tiny_base(key)
    method = method_class(name)(**METHODS[name])
    readout = verbalizer(key, demonstrations=Demonstrations(k=1, per_class=True) if name == "lora" else None)
    training = Training(max_steps=12, batch_size=12, lr=3e-3, warmup=0, keep="last")
    before = loss(base, new_adapter(base, method=method, readout=readout, task=TASK))
    fitted = fit(base, TASK, method=method, readout=readout, training=training, out=tmp_path / "fit")
    assert loss(base, fitted) < before - 0.01
    loaded = load_adapter(tmp_path / "fit", base)
    assert loaded.readout == fitted.readout
    texts = ["a good movie", "the cat was so boring and sad"]
    assert predict(base, loaded, texts) == predict(base, fitted, texts)


@pytest.mark.parametrize("key", PATTERNS)
def test_the_loss_is_the_cross_entropy_of_the_label_words_logits_alone(key: str) -> None:
    """Gao et al. 2021, equation 1: a softmax over the words of the labels, not over the vocabulary."""
    base = tiny_base(key)
    words = {"bert": ("bad", "good"), "gpt2": ("bad", "good"), "t5": ("bad", "good"), "bart": ("a", "i")}[key]
    readout = Verbalizer(PATTERNS[key], {"neg": words[:1], "pos": words[1:]})
    adapter = new_adapter(base, method=method_class("lora")(), readout=readout, task=TASK)
    reading = adapter.reading
    assert reading is not None
    examples = TASK.split("train").examples[:4]
    wanted = []
    for example in examples:
        batch = reading.collate([reading.encode(example)])
        logits = base.model(**batch.inputs).logits[0, int(batch.read_NP[0, 0])]
        pieces = [word.pieces[0] for word in reading.words]  # type: ignore[attr-defined]
        wanted.append(-logits[pieces].log_softmax(0)[int(example.label or 0)])
    with torch.no_grad(), attach(base, adapter) as attached:
        batch = reading.collate([reading.encode(example) for example in examples])
        scores = attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch, training=True)
    assert batch.labels_B is not None
    found = Supervised().losses(scores, batch.labels_B, "classification")
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-5)


def test_each_example_learns_behind_demonstrations_like_it(tmp_path: Path) -> None:
    """And the adapter keeps what it chooses from."""
    folder, base = tmp_path / "encoder", tiny_base("gpt2")
    encoder = tiny_base("bert", head=False)
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    shown = Demonstrations(k=1, per_class=True, similar=Similar(encoder=str(folder), pool=4))
    readout = verbalizer("gpt2", demonstrations=shown)
    training = Training(max_steps=6, batch_size=12, lr=3e-3, warmup=0, keep="last")
    before = loss(base, new_adapter(base, method=method_class("lora")(), readout=readout, task=TASK))
    fitted = fit(base, TASK, method=method_class("lora")(), readout=readout, training=training, out=tmp_path / "fit")
    assert loss(base, fitted) < before
    loaded = load_adapter(tmp_path / "fit", base)
    assert predict(base, loaded, ["so sad"]) == predict(base, fitted, ["so sad"])


@pytest.mark.parametrize("key", ["t5", "bart"])
def test_encoder_decoders_answer_alone_in_mixed_rows_and_merged(key: str, tmp_path: Path) -> None:
    base = tiny_base(key)
    adapters = [
        worn(base, "lora", verbalizer(key), 0),
        worn(base, "prefix", Head(pooling="mean"), 1, length=3),
        worn(base, "soft_prompt", Head(), 2, length=4),
        worn(base, "houlsby", verbalizer(key), 3),
    ]
    texts = ["a great movie", "the cat was sad and boring", "no"]
    rows = [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3]
    mixed = predict(base, adapters, texts * 4, rows=rows, batch_size=12)
    for text, row, answer in zip(texts * 4, rows, mixed, strict=True):
        (solo,) = predict(base, adapters[row], [text])
        assert answer.scores == pytest.approx(solo.scores, rel=1e-4, abs=1e-6)
    save_adapter(adapters[0], tmp_path / "kept")
    wanted = predict(base, adapters[0], texts)
    assert predict(base, load_adapter(tmp_path / "kept", base), texts) == wanted
    folded = Base.from_model(merge(base, adapters[0]), base.tokenizer)
    for one, other in zip(predict(folded, plain_adapter(folded, TASK, verbalizer(key)), texts), wanted, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4, abs=1e-6)
