"""The family's own classification head is PEFT's SEQ_CLS; scores here and logits there are the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import Adapter
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.tasks.example import Example
from tests.parity.loading import QUIET, in_peft, made_by_peft, peft, peft_logits
from tests.store.adapters import assert_close, assert_same_state, moved_adapter, scores
from tests.tiny import tiny_base

pytestmark = QUIET

NATIVE = Head(pooling="native")
VIRTUAL = Head(pooling="native", virtual=True)
OWN_LORA = LoRA(rank=2, alpha=2.0)

OURS: list[tuple[str, Method, Head]] = [
    *((key, OWN_LORA, NATIVE) for key in ("bert", "roberta", "electra", "distilbert", "modernbert")),
    *((key, OWN_LORA, NATIVE) for key in ("llama", "gpt2", "t5", "bart")),
    *((key, Prefix(length=4), NATIVE) for key in ("bert", "roberta", "llama", "gpt2")),
    *((key, SoftPrompt(length=4), VIRTUAL) for key in ("bert", "roberta", "distilbert", "albert", "modernbert")),
]


@pytest.mark.parametrize(
    ("key", "method", "head"), OURS, ids=lambda value: value if isinstance(value, str) else type(value).__name__
)
def test_ours_in_peft(tmp_path: Path, key: str, method: Method, head: Head) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method, head)
    save_adapter(adapter, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    wanted, inputs = scores(base, adapter)
    assert_close(peft_logits(in_peft(base, tmp_path, labels=2), inputs, wanted), wanted)
    loaded = load_adapter(tmp_path, base)
    assert_same_state(loaded, adapter)
    assert torch.equal(scores(base, loaded)[0], wanted)


@pytest.mark.parametrize("key", ["llama", "gpt2"])
def test_a_prompt_before_a_decoder_is_read_at_the_last_position(tmp_path: Path, key: str) -> None:
    """PEFT passes embeddings, so the model cannot see padding and reads the last position: texts of one length agree."""
    base = tiny_base(key)
    adapter = moved_adapter(base, SoftPrompt(length=4), NATIVE)
    save_adapter(adapter, tmp_path)
    wanted, inputs = scores(base, adapter, count=1)
    model = in_peft(base, tmp_path, labels=2)
    assert_close(peft_logits(model, inputs, wanted), wanted)
    assert "texts of a batch must be of one length" in (tmp_path / "README.md").read_text()


def test_peft_pools_a_virtual_token_of_encoders(tmp_path: Path) -> None:
    base = tiny_base("bert")
    adapter = moved_adapter(base, SoftPrompt(length=4), NATIVE)
    with pytest.raises(UnsupportedError, match=r"pools the virtual tokens too.*virtual=True"):
        export(adapter, tmp_path / "x", format="peft")
    save_adapter(adapter, tmp_path / "y")
    config = json.loads((tmp_path / "y" / "adapter_config.json").read_text())
    assert config["task_type"] == "FEATURE_EXTRACTION"  # PEFT loads the prompt, we the head
    assert (tmp_path / "y" / "readout.safetensors").exists()
    assert_same_state(load_adapter(tmp_path / "y", base), adapter)


def test_other_heads_are_not_exported_silently(tmp_path: Path) -> None:
    base = tiny_base("bert")
    adapter = moved_adapter(base, OWN_LORA, Head(pooling="mean"))
    with pytest.raises(UnsupportedError, match=r"PEFT has no place for the Head.*without_head=True"):
        export(adapter, tmp_path / "x", format="peft")
    export(adapter, tmp_path / "x", format="peft", without_head=True)
    assert not [name for name in in_peft(base, tmp_path / "x").state_dict() if "modules_to_save" in name]
    assert load_adapter(tmp_path / "x", base).reading is None


DISTILBERT: dict[str, Any] = dict(num_attention_heads=6, num_layers=4, token_dim=48)  # names that PEFT does not find there
THEIRS: list[tuple[str, Any, Head]] = [
    ("bert", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["bert.pooler.dense"]), NATIVE),
    ("roberta", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]), NATIVE),
    ("llama", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]), NATIVE),
    ("gpt2", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"], fan_in_fan_out=True), NATIVE),
    ("t5", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q"], modules_to_save=["classification_head"]), NATIVE),
    ("llama", peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3), NATIVE),
    ("distilbert", peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3, **DISTILBERT), VIRTUAL),
]


@pytest.mark.parametrize(("key", "config", "head"), THEIRS, ids=[f"{key}-{config.peft_type.value}" for key, config, _ in THEIRS])
@pytest.mark.parametrize("labels", [3, 1])
def test_theirs_here(tmp_path: Path, key: str, config: Any, head: Head, labels: int) -> None:
    base = tiny_base(key)
    adapted = made_by_peft(base, config, tmp_path, labels=labels)
    adapter = load_adapter(tmp_path, base)
    assert adapter.readout == head
    assert adapter.labels == (("LABEL_0", "LABEL_1", "LABEL_2") if labels > 1 else ())
    wanted, inputs = _scores_of_text(base, adapter)
    with torch.no_grad():
        theirs = adapted(**inputs).logits
    assert_close(wanted, theirs)


def _scores_of_text(base: Base, adapter: Adapter) -> tuple[Tensor, dict[str, Tensor]]:
    assert adapter.reading is not None
    examples = [
        Example(id=str(i), fields={"text": text}, label=None) for i, text in enumerate(("a good movie", "so sad, not fun"))
    ]
    batch = adapter.reading.collate([adapter.reading.encode(example) for example in examples])
    with torch.no_grad(), attach(base, adapter) as attached:
        out = attached.scores(0, attached.states(batch.inputs), batch)
    return out, {name: value for name, value in batch.inputs.items() if name != "decoder_input_ids"}


def test_the_bases_own_pooler_completes_a_head(tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    with_pooler, without = tiny_base("bert", head=False), tiny_base("bert")
    assert with_pooler.pooler is not None
    adapted = made_by_peft(with_pooler, config, tmp_path, labels=3)
    adapter = load_adapter(tmp_path, with_pooler)
    wanted, inputs = _scores_of_text(with_pooler, adapter)
    with torch.no_grad():
        assert_close(wanted, adapted(**inputs).logits)
    with pytest.raises(
        AdapterFileError, match=r"lacks 'bert.pooler.dense.weight' of the classification head: PEFT would take a random one"
    ):
        load_adapter(tmp_path, without)


def test_heads_that_cannot_be_read(tmp_path: Path) -> None:
    base = tiny_base("t5")
    made_by_peft(base, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q"]), tmp_path / "none", labels=3)
    with pytest.raises(AdapterFileError, match=r"has no head .*PEFT would take a random one"):
        load_adapter(tmp_path / "none", base)
    base = tiny_base("llama")
    more = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    made_by_peft(base, more, tmp_path / "more", labels=3)
    with pytest.raises(AdapterFileError, match=r"embed_tokens.*is no part of the classification head of llama"):
        load_adapter(tmp_path / "more", base)
