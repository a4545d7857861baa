"""A hard prompt against the plain model on the words and the input as one sequence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.predict import predict
from lmtailor.methods.hard_prompt import HardPrompt
from lmtailor.methods.lora import LoRA
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import new_adapter
from lmtailor.store.bank import Bank
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.merge import merge
from tests.edits.worn import apart, base_of
from tests.fit.tasks import sentiment
from tests.fit.test_fit import Recorder, same
from tests.parity.loading import QUIET, in_peft, peft_logits, real
from tests.store.adapters import WORDS, assert_close, logits, moved_adapter, saved
from tests.tiny import tiny_base, tiny_inputs

pytestmark = QUIET

WORDS_HERE = "it was a very good movie"


def count(method: HardPrompt, base: Base) -> int:
    """Nothing is trained."""
    return 0


def one_row(base: Base) -> dict[str, torch.Tensor]:
    return {name: value[:1] for name, value in tiny_inputs(base).items()}


@pytest.mark.parametrize("key", ["bert", "roberta", "albert", "gpt2", "llama", "mistral", "opt", "gemma2", "t5", "bart"])
def test_words_before_the_input(key: str) -> None:
    """The logits of the input are those behind the words in one sequence."""
    base = base_of(key)
    adapter = new_adapter(base, method=HardPrompt(text=WORDS_HERE))
    assert isinstance(adapter.method, HardPrompt)
    ids = adapter.method.ids
    assert str(base.tokenizer.decode(list(ids))).strip() == WORDS_HERE
    inputs = one_row(base)
    found = logits(base, adapter, inputs)
    whole = dict(inputs, input_ids=torch.cat([torch.tensor([ids]), inputs["input_ids"]], 1))
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    with torch.no_grad():
        wanted = base.model(**whole).logits
    assert apart(found, wanted if base.kind == "encoder-decoder" else wanted[:, len(ids) :]) < 1e-5
    with torch.no_grad():
        assert apart(found, base.model(**inputs).logits) > 1e-3


def test_first_tokens_stand_before_the_words_where_asked() -> None:
    base = base_of("bert")
    plain, special = (HardPrompt.of(base, "good", special=special) for special in (False, True))
    assert special.ids == (base.tokenizer.cls_token_id, *plain.ids)
    assert HardPrompt(text="bad", ids=(7,)).resolved(base, None).ids == (7,)


@pytest.mark.parametrize("key", ["bert", "gpt2", "t5"])
def test_it_is_kept_without_tensors(key: str, tmp_path: Path) -> None:
    """The folder has the ids and the text; a bank serves it; keys and values are computed anew."""
    base = base_of(key)
    adapter = new_adapter(base, method=HardPrompt(text=WORDS_HERE), readout=WORDS if key != "t5" else None, task=sentiment())
    save_adapter(adapter, tmp_path / "a")
    assert saved(tmp_path / "a") == {"README.md", "adapter.json", "adapter.safetensors"}
    assert (tmp_path / "a" / "adapter.safetensors").stat().st_size < 100
    stored = json.loads((tmp_path / "a" / "adapter.json").read_text("utf-8"))
    assert stored["parameters"] == 0
    assert stored["method"]["settings"]["text"] == WORDS_HERE
    again = load_adapter(tmp_path / "a", base)
    assert again.method == adapter.method
    assert not again.state
    bank = Bank(base)
    bank.register("a", tmp_path / "a")
    for one in (again, bank["a"]):
        assert torch.equal(logits(base, one, tiny_inputs(base)), logits(base, adapter, tiny_inputs(base)))


def test_rows_of_words_among_trained_rows() -> None:
    base = base_of("llama")
    adapters = [
        new_adapter(base, method=HardPrompt(text=WORDS_HERE)),
        moved_adapter(base, LoRA(rank=2)),
        moved_adapter(base, SoftPrompt(length=3)),
        new_adapter(base, method=HardPrompt(text="bad", place="infix")),
    ]
    slots = [0, 1, None, 2, 3, 0]
    inputs = {name: value[:1].repeat(len(slots), 1) for name, value in tiny_inputs(base).items()}
    with torch.no_grad(), attach(base, adapters, slots):
        mixed = base.model(**inputs).logits
        written = base.model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)  # type: ignore[operator]
    one = {name: value[:1] for name, value in inputs.items()}
    for row, slot in enumerate(slots):
        if slot is None:
            continue
        with torch.no_grad(), attach(base, adapters[slot]):
            assert apart(mixed[row : row + 1], base.model(**one).logits) < 1e-5
            alone = base.model.generate(**one, max_new_tokens=4, min_new_tokens=4, do_sample=False)  # type: ignore[operator]
        assert torch.equal(alone[0], written[row])


def test_a_head_is_trained_behind_the_words(tmp_path: Path) -> None:
    """Probing with a prompt; interrupted, it goes on to the same bits."""
    base, task, training = base_of("bert"), sentiment(24, 8), Training(epochs=2, batch_size=8, lr=1e-2, checkpoint_every=1)
    method = HardPrompt(text=WORDS_HERE)
    whole = fit(base, task, method=method, readout=Head(), training=training)
    with pytest.raises(KeyboardInterrupt):
        fit(base, task, method=method, readout=Head(), training=training, out=tmp_path / "a", callbacks=[Recorder(2)])
    assert same(fit(base, task, method=method, readout=Head(), training=training, out=tmp_path / "a"), whole)
    assert whole.method == HardPrompt.of(base, WORDS_HERE)
    other = fit(base, task, method=HardPrompt(text="bad"), readout=Head(), training=training)
    assert not same(whole, other)
    loaded = load_adapter(tmp_path / "a", base)
    assert predict(base, loaded, ["the movie was good"]) == predict(base, whole, ["the movie was good"])


def test_it_cannot_be_merged() -> None:
    base = base_of("gpt2")
    with pytest.raises(UnsupportedError, match="hard_prompt cannot be merged: it acts on states at embed"):
        merge(base, new_adapter(base, method=HardPrompt(text="good")))


@pytest.mark.parametrize("key", ["llama", "gpt2", "bert", "t5"])
def test_peft_serves_its_words(key: str, tmp_path: Path) -> None:
    base = tiny_base(key)
    adapter = new_adapter(base, method=HardPrompt(text=WORDS_HERE))
    with pytest.raises(UnsupportedError, match="which are the base's"):
        export(adapter, tmp_path / "none")
    export(adapter, tmp_path / "peft", base=base)
    inputs = tiny_inputs(base, tokens=11)
    own = logits(base, adapter, inputs)
    assert_close(real(peft_logits(in_peft(base, tmp_path / "peft"), inputs, own), inputs), real(own, inputs))
    again = load_adapter(tmp_path / "peft", base)
    assert again.method == SoftPrompt(length=len(HardPrompt.of(base, WORDS_HERE).ids))


def test_a_stranger_s_ids_are_checked(tmp_path: Path) -> None:
    base = base_of("gpt2")
    save_adapter(new_adapter(base, method=HardPrompt(text="good")), tmp_path)
    path = tmp_path / "adapter.json"
    text = json.loads(path.read_text("utf-8"))
    for ids, message in (([400], "token id 400, but gpt2 has 400 words"), ([-1], "ids has -1")):
        text["method"]["settings"]["ids"] = ids
        path.write_text(json.dumps(text), "utf-8")
        with pytest.raises(AdapterFileError, match=message):
            load_adapter(tmp_path, base)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "needs words"), ({"ids": (3, -2)}, "ids has -2"), ({"text": "", "ids": ()}, "needs words")],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HardPrompt(**settings)


def test_a_prompt_longer_than_the_model() -> None:
    for key in ("bert", "gpt2"):
        base = base_of(key)
        with pytest.raises(InputError, match="200 virtual tokens before the input"):
            new_adapter(base, method=HardPrompt(ids=(20,) * 200))


def test_text_without_tokens() -> None:
    with pytest.raises(InputError, match="no token ids yet"):
        HardPrompt(text="good").edits(base_of("bert").sites, None)
    with pytest.raises(InputError, match="no tokens"):
        HardPrompt.of(base_of("bert"), " ")
