"""Prefixes and soft prompts here and in PEFT 0.21 give the same logits, whoever wrote the folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods.method import Method
from lmtailor.methods.p_tuning import PTuning
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter, save_adapter
from tests.parity.exchange import read_here
from tests.parity.loading import QUIET, in_peft, made_by_peft, peft, peft_logits, real
from tests.store.adapters import assert_close, assert_same_state, logits, moved_adapter
from tests.tiny import kind_of, tiny_base, tiny_inputs

pytestmark = QUIET

TASKS = {"encoder": "FEATURE_EXTRACTION", "decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}
DECODER = "decoder.block.*.attn"


def prefix(key: str, length: int = 4) -> Prefix:
    """The prefix that PEFT can hold for this family."""
    return Prefix(length=length, at=DECODER if kind_of(key) == "encoder-decoder" else "block.*.attn")


OURS: list[tuple[str, Method]] = [
    *((key, prefix(key)) for key in ("llama", "gpt2", "gpt_neox", "opt", "qwen3", "mistral", "gemma2", "bert", "electra")),
    *((key, prefix(key)) for key in ("bart", "t5", "umt5", "marian")),
    ("mistral", prefix("mistral", 9)),  # longer than the window
    *((key, SoftPrompt(length=4)) for key in ("llama", "gpt2", "gemma2", "bert", "roberta", "albert", "t5", "bart")),
]


@pytest.mark.parametrize(("key", "method"), OURS, ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_ours_in_peft(tmp_path: Path, key: str, method: Method) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method, by=0.5)
    save_adapter(adapter, tmp_path)
    inputs = tiny_inputs(base, tokens=11)
    own = logits(base, adapter, inputs)
    assert_close(real(peft_logits(in_peft(base, tmp_path), inputs, own), inputs), real(own, inputs))
    with torch.no_grad():  # the adapter does something
        assert (base.model(**inputs).logits - own).abs().max() > 1e-3
    assert_same_state(load_adapter(tmp_path, base), adapter)


@pytest.mark.parametrize(
    ("key", "method"),
    [(key, prefix(key)) for key in ("llama", "gpt2", "mistral", "t5", "bart")]
    + [(key, SoftPrompt(length=4)) for key in ("llama", "t5")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_ours_generates_the_same_in_peft(tmp_path: Path, key: str, method: Method) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method, by=0.5)
    save_adapter(adapter, tmp_path)
    inputs = {name: value[:1] for name, value in tiny_inputs(base).items() if name != "decoder_input_ids"}
    how: dict[str, Any] = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, num_beams=2)
    with torch.no_grad():
        theirs = in_peft(base, tmp_path).generate(**inputs, **how)
        with attach(base, adapter):
            ours = base.model.generate(**inputs, **how)  # type: ignore[operator]
    assert torch.equal(ours[:, -6:], theirs[:, -6:])


THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gpt2", {}),
    ("gemma2", {}),
    ("bert", {}),
    ("bart", dict(num_attention_heads=3)),  # PEFT takes the encoder's heads; tiny BART's decoder has 3
    ("t5", {}),
    ("t5", dict(num_layers=8)),  # a slot of its own for each layer, as we write it
]


@pytest.mark.parametrize(("key", "settings"), THEIRS, ids=str)
def test_their_prefix_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    base = tiny_base(key)
    config = peft.PrefixTuningConfig(task_type=TASKS[base.kind], num_virtual_tokens=4, **settings)
    adapted = made_by_peft(base, config, tmp_path, by=0.5)
    assert read_here(base, adapted, tmp_path).method == prefix(key)


def test_what_a_network_of_peft_computed_is_read(tmp_path: Path) -> None:
    base = tiny_base("llama")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16)
    adapted = made_by_peft(base, config, tmp_path, by=0.5)
    inputs = tiny_inputs(base)
    own = logits(base, load_adapter(tmp_path, base), inputs)
    assert_close(real(own, inputs), real(peft_logits(adapted, inputs, own), inputs))


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("llama", {}),
        ("llama", dict(prompt_tuning_init="SAMPLE_VOCAB")),
        ("gpt2", {}),
        ("bert", {}),
        ("t5", {}),  # PEFT stores a second prompt, which it never uses
        ("t5", dict(num_transformer_submodules=1)),
        ("bart", {}),
    ],
    ids=str,
)
def test_their_prompt_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    base = tiny_base(key)
    config = peft.PromptTuningConfig(task_type=TASKS[base.kind], num_virtual_tokens=4, **settings)
    adapted = made_by_peft(base, config, tmp_path, by=0.5)
    adapter = load_adapter(tmp_path, base)
    assert adapter.method == SoftPrompt(length=4)
    inputs = tiny_inputs(base)
    own = logits(base, adapter, inputs)
    assert_close(real(own, inputs), real(peft_logits(adapted, inputs, own), inputs))


@pytest.mark.parametrize(
    ("key", "settings"),
    [("llama", {}), ("gpt2", dict(encoder_reparameterization_type="LSTM")), ("bert", {}), ("t5", {}), ("bart", {})],
    ids=str,
)
def test_their_p_tuning_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    """PEFT stores what the network computed; we keep it as a soft prompt, and write it as one that PEFT reads."""
    base = tiny_base(key)
    config = peft.PromptEncoderConfig(task_type=TASKS[base.kind], num_virtual_tokens=4, encoder_hidden_size=16, **settings)
    adapted = made_by_peft(base, config, tmp_path, by=0.3)
    adapter = load_adapter(tmp_path, base)
    assert adapter.method == SoftPrompt(length=4)
    inputs = tiny_inputs(base)
    own = logits(base, adapter, inputs)
    assert_close(real(own, inputs), real(peft_logits(adapted, inputs, own), inputs))
    save_adapter(adapter, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["peft_type"] == "PROMPT_TUNING"
    assert_close(real(peft_logits(in_peft(base, tmp_path / "again"), inputs, own), inputs), real(own, inputs))


def test_the_configurations(tmp_path: Path) -> None:
    common = {
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
        "modules_to_save",
        "auto_mapping",
        "task_type",
    }
    base = tiny_base("llama")
    save_adapter(moved_adapter(base, prefix("llama")), tmp_path / "prefix")
    config = json.loads((tmp_path / "prefix" / "adapter_config.json").read_text())
    assert {key: value for key, value in config.items() if key not in common} == {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": 4,
        "token_dim": 16,  # key/value heads · head_dim
        "num_attention_heads": 2,
        "num_layers": 4,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
        "encoder_hidden_size": 16,
    }
    assert set(config) <= set(peft.PrefixTuningConfig().to_dict())
    save_adapter(moved_adapter(base, SoftPrompt(length=4)), tmp_path / "prompt")
    config = json.loads((tmp_path / "prompt" / "adapter_config.json").read_text())
    assert config["prompt_tuning_init"] == "RANDOM"
    assert (config["num_virtual_tokens"], config["token_dim"], config["task_type"]) == (4, 48, "CAUSAL_LM")
    assert set(config) <= set(peft.PromptTuningConfig().to_dict())


@pytest.mark.parametrize(
    ("key", "method", "message"),
    [
        ("llama", Prefix(length=2, at="block.[:2].attn"), "in every layer"),
        ("llama", Prefix(length=2, shift=False), "shift=false"),
        ("llama", Prefix(length=2, reparam="mlp", hidden=4), "computed by a network"),
        ("llama", PTuning(length=2), "computed by a network, of which PEFT stores nothing"),
        ("distilbert", Prefix(length=2), "does not take"),
        ("t5", Prefix(length=2), "one prefix, before one stack; this adapter has 2"),
        ("t5", Prefix(length=2, at="encoder.block.*.attn"), "the decoder's self-attention"),
        ("bart", Prefix(length=2, at="decoder.block.*.cross"), "the decoder's self-attention"),
        ("marian", SoftPrompt(length=2), "scales its word embeddings"),
        ("t5", SoftPrompt(length=2, at="both"), "never uses it"),
        ("bart", SoftPrompt(length=2, at="decoder"), "never uses it"),
        ("bert", SoftPrompt(length=2, place="after_gap"), "before the input alone"),
        ("gpt2", SoftPrompt(length=2, place="infix"), "before the input alone"),
        ("gpt2", Prefix(length=2, place="infix"), "behind the text"),
    ],
)
def test_what_peft_does_not_have(tmp_path: Path, key: str, method: Method, message: str) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method)
    with pytest.raises(UnsupportedError, match=message):
        export(adapter, tmp_path / "x", format="peft")
    assert not (tmp_path / "x").exists()
    save_adapter(adapter, tmp_path / "y")
    assert_same_state(load_adapter(tmp_path / "y", base), adapter)


def test_a_headless_encoder_decoder_takes_no_prompt_in_peft(tmp_path: Path) -> None:
    base = tiny_base("bart", head=False)
    for method in (Prefix(length=2, at=DECODER), SoftPrompt(length=2)):
        with pytest.raises(UnsupportedError, match="only if it generates"):
            export(moved_adapter(base, method), tmp_path / "x", format="peft")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", dict(task_type=None), "task_type is null: PEFT itself ignores"),
    ("llama", dict(task_type="SEQ_2_SEQ_LM"), "task_type is SEQ_2_SEQ_LM"),
    ("llama", dict(token_dim=48), "token_dim is 48, but this base needs 16"),
    ("llama", dict(num_attention_heads=6), "num_attention_heads is 6, but this base needs 2"),
    ("llama", dict(num_layers=3), "num_layers is 3; this base has 4"),
    ("llama", dict(num_layers=8), "num_layers is 8; this base has 4"),
    ("llama", dict(num_virtual_tokens=5), "has the shape"),
    ("llama", dict(num_virtual_tokens=10**18), "has the shape"),
    ("llama", dict(num_virtual_tokens=None), "num_virtual_tokens must be a positive integer"),
    ("llama", dict(num_transformer_submodules=2), "num_transformer_submodules is 2"),
    ("llama", dict(r=8), "'r' is no key of PEFT's PREFIX_TUNING"),
    ("t5", dict(num_layers=3), "num_layers is 3; this base has 4"),
    ("t5", dict(num_transformer_submodules=1), "num_transformer_submodules is 1"),
]


@pytest.mark.parametrize(("key", "change", "message"), REFUSED, ids=str)
def test_what_cannot_be_represented_is_named(tmp_path: Path, key: str, change: dict[str, Any], message: str) -> None:
    base = tiny_base(key)
    made_by_peft(base, peft.PrefixTuningConfig(task_type=TASKS[base.kind], num_virtual_tokens=4), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterFileError, match=message):
        load_adapter(tmp_path, base)


def test_peft_prefixes_for_bases_that_take_none(tmp_path: Path) -> None:
    made_by_peft(tiny_base("bert"), peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4), tmp_path)
    with pytest.raises(UnsupportedError, match="distilbert in transformers does not take"):
        load_adapter(tmp_path, tiny_base("distilbert"))
