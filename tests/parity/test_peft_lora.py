"""LoRA here and LoRA in PEFT 0.21 give the same logits, whoever wrote the folder."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods import method_name
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.ia3 import IA3
from lmtailor.methods.lora import LoRA
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.select import Select
from lmtailor.methods.union import Union
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.tensors import write_tensors
from tests.parity.exchange import read_here
from tests.parity.loading import QUIET, in_peft, made_by_peft, peft, peft_logits, real
from tests.store.adapters import assert_close, assert_same_state, logits, moved_adapter
from tests.tiny import tiny_base, tiny_inputs

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:.*lora_bias=True"),  # that PEFT cannot merge it where there was no bias
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True"),  # the head keeps the old weight, as here
    pytest.mark.filterwarnings("ignore:.*have invalid shape.*lora_B.bias"),  # PEFT takes its own bias for a broken matrix
]

PLAIN = LoRA(rank=3, alpha=4.0)
MIXED = LoRA(rank=3, alpha=4.0, at="block.*.attn.{q,v}, block.[1:].ffn.down, block.0.attn.o")
STABLE = LoRA(rank=3, alpha=2.5, rslora=True)

OURS: list[tuple[str, LoRA | Union]] = [
    *((key, PLAIN) for key in ("gpt2", "llama", "bert", "t5", "phi3", "gpt_neox", "modernbert", "bart", "opt")),
    *((key, MIXED) for key in ("gpt2", "llama", "bert", "t5", "phi3", "modernbert")),
    *((key, STABLE) for key in ("gpt2", "llama")),
    ("llama", LoRA(rank=2, alpha=2.0, at="lm_head")),
    ("t5", LoRA(rank=2, alpha=2.0, at="decoder.block.*.{attn,cross}.*")),
    ("gpt2", LoRA(rank=2, alpha=2.0, at="block.*.attn.{q,qkv}")),
    ("llama", LoRA(rank=3, alpha=4.0, dora=True)),
    ("bert", LoRA(rank=3, alpha=4.0, dora=True, rslora=True, at="block.*.attn.{q,o}")),
    ("gpt2", LoRA(rank=3, alpha=4.0, dora=True, at="block.*.attn.{v,q,k}, block.*.ffn.up")),
    ("gpt2", LoRA(rank=3, alpha=4.0, bias=True)),
    ("bert", LoRA(rank=3, alpha=4.0, bias=True, rslora=True)),
    ("t5", LoRA(rank=3, alpha=4.0, bias=True)),  # projections without a bias
    ("llama", LoRA(rank=3, rank_pattern={"block.0.attn.*": 5}, alpha_pattern={"block.*.attn.v": 7.0, "block.2.attn.q": 2.5})),
    ("bert", LoRA(rank=3, rslora=True, rank_pattern={"block.[1:].attn.q": 2}, alpha_pattern={"block.3.attn.v": 3.0})),
    ("phi3", LoRA(rank=3, rslora=True, rank_pattern={"block.1.attn.{q,v}": 2})),
    ("llama", LoRA(rank=3, alpha=4.0, init="pissa")),
    ("gpt2", LoRA(rank=3, alpha=4.0, init="pissa", rslora=True)),
    ("bert", LoRA(rank=3, alpha=4.0, init="olora", dora=True, rank_pattern={"block.0.attn.q": 2})),
    ("llama", LoRA(rank=3, alpha=4.0, at="embed, block.*.attn.q", rank_pattern={"embed": 5})),
    ("gpt2", LoRA(rank=3, alpha=4.0, at="embed", rslora=True)),
    ("gemma3_text", LoRA(rank=3, alpha=4.0, at="embed, block.*.attn.q")),
    ("bart", LoRA(rank=3, alpha=4.0, at="encoder.embed")),
    ("llama", Union(parts=(LoRA(rank=2), Select(at="block.1.ffn.up, final_norm")))),
    ("bert", Union(parts=(Select(at="block.0.attn.o, block.*.norm2"), LoRA(rank=2, dora=True)))),
    ("gpt2", Union(parts=(LoRA(rank=2), Select(at="embed")))),
    ("opt", Union(parts=(LoRA(rank=2), Select(at="embed")))),
    ("gemma3_text", Union(parts=(LoRA(rank=2), Select(at="embed")))),
]
WITHOUT_FORM: list[tuple[str, Union, str]] = [
    ("bert", Union(parts=(LoRA(rank=2), BitFit())), r"PEFT stores biases whole.*export\(..., base=base\)"),
    ("bert", Union(parts=(LoRA(rank=2), Prefix(length=2))), "one method, .* this union has lora, prefix"),
    ("bert", Union(parts=(LoRA(rank=2), LoRA(rank=2, at="block.*.ffn.up"))), "one method, .* this union has lora, lora"),
    ("llama", Union(parts=(LoRA(rank=2), Select(at="block.*.attn.q"))), "PEFT does not adapt .*q_proj"),
    ("bert", Union(parts=(LoRA(rank=2), Select(at="embed"))), "is the parameter of several modules of bert"),
    ("t5", Union(parts=(LoRA(rank=2), Select(at="encoder.embed"))), "is the parameter of several modules of t5"),
    ("gpt2", Union(parts=(IA3(), Select(at="embed"))), "is the parameter of several modules of gpt2"),
]


@pytest.mark.parametrize(("key", "method", "message"), WITHOUT_FORM, ids=lambda value: value if isinstance(value, str) else "")
def test_unions_without_a_form(tmp_path: Path, key: str, method: Union, message: str) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method)
    with pytest.raises(UnsupportedError, match=message):
        export(adapter, tmp_path / "x")
    save_adapter(adapter, tmp_path / "y")  # in our own form
    assert_same_state(load_adapter(tmp_path / "y", base), adapter)


@pytest.mark.parametrize(
    ("key", "method"), OURS, ids=lambda value: value if isinstance(value, str) else getattr(value, "at", "union")
)
def test_ours_in_peft(tmp_path: Path, key: str, method: LoRA | Union) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method)
    save_adapter(adapter, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    again = load_adapter(tmp_path, base)
    assert_same_state(again, adapter)
    assert list(again.fixed) == list(adapter.fixed)
    assert all(torch.equal(again.fixed[name], value) for name, value in adapter.fixed.items())
    inputs = tiny_inputs(base)
    own = logits(base, adapter, inputs)
    assert_close(real(peft_logits(in_peft(base, tmp_path), inputs, own), inputs), real(own, inputs))
    with torch.no_grad():  # the adapter does something
        assert (base.model(**inputs).logits - own).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["llama", "gpt2", "t5"])
def test_ours_generates_the_same_in_peft(tmp_path: Path, key: str) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, PLAIN)
    save_adapter(adapter, tmp_path)
    inputs = {name: value[:1] for name, value in tiny_inputs(base).items() if name != "decoder_input_ids"}
    how: dict[str, Any] = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, num_beams=2)
    with torch.no_grad():
        theirs = in_peft(base, tmp_path).generate(**inputs, **how)
        with attach(base, adapter):
            ours = base.model.generate(**inputs, **how)  # type: ignore[operator]
    assert torch.equal(ours, theirs)


def test_a_headless_base(tmp_path: Path) -> None:
    base = tiny_base("bert", head=False)
    adapter = moved_adapter(base, PLAIN)
    save_adapter(adapter, tmp_path)
    inputs = tiny_inputs(base)
    with torch.no_grad():
        theirs = in_peft(base, tmp_path)(**inputs).last_hidden_state
        with attach(base, adapter):
            ours = base.model(**inputs).last_hidden_state
    assert_close(real(theirs, inputs), real(ours, inputs))


def test_the_configuration(tmp_path: Path) -> None:
    base = tiny_base("llama")
    save_adapter(moved_adapter(base, LoRA(rank=3, alpha=4.0, dropout=0.25, rslora=True)), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    wanted = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-llama",
        "revision": None,
        "inference_mode": True,
        "peft_version": "0.21.2",
        "modules_to_save": None,
        "r": 3,
        "lora_alpha": 4,
        "use_rslora": True,
        "lora_dropout": 0.25,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    assert {key: config[key] for key in wanted} == wanted
    assert config["target_modules"] == [f"model.layers.{i}.self_attn.{part}_proj" for i in range(4) for part in "qv"]
    assert set(config) <= set(peft.LoraConfig().to_dict())  # PEFT warns of a key that it does not know, and drops it


def test_fused_parts_become_one_block(tmp_path: Path) -> None:
    base = tiny_base("gpt2")
    save_adapter(moved_adapter(base, LoRA(rank=3, alpha=4.0, rslora=True)), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["use_rslora"], config["fan_in_fan_out"]) == (6, False, True)
    assert config["lora_alpha"] == pytest.approx(6 * 4.0 / 3**0.5)
    assert config["target_modules"] == [f"transformer.h.{i}.attn.c_attn" for i in range(4)]


THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", dict(target_modules=["q_proj", "v_proj"])),
    ("llama", dict(target_modules="all-linear")),
    ("llama", dict(target_modules=r".*\.[12]\..*(gate|up)_proj")),
    ("llama", dict(target_modules=["down_proj"], layers_to_transform=[1, 3])),
    ("llama", dict(target_modules=["o_proj"], layers_to_transform=2, layers_pattern="layers")),
    ("llama", dict(target_modules=["o_proj"], exclude_modules=["layers.1.self_attn.o_proj"], use_rslora=True)),
    ("llama", dict(target_modules=["lm_head", "k_proj"], init_lora_weights="gaussian")),
    ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True)),
    ("gpt2", dict(target_modules=["c_proj", "c_fc"], fan_in_fan_out=True)),
    ("bert", dict(target_modules=["query", "value", "output.dense"])),
    ("t5", dict(target_modules=["q", "v", "wo"])),
    ("phi3", dict(target_modules=["qkv_proj", "gate_up_proj"])),
    ("gpt_neox", dict(target_modules=["query_key_value"])),
    ("modernbert", dict(target_modules=["Wqkv"])),
    ("llama", dict(target_modules=["q_proj", "v_proj"], use_dora=True)),
    ("gpt2", dict(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, use_dora=True, use_rslora=True)),
    ("bert", dict(target_modules=["query", "output.dense"], use_dora=True, rank_pattern={"query": 5})),
    ("bert", dict(target_modules=["query"], lora_bias=True)),
    (
        "llama",
        dict(
            target_modules=["q_proj", "up_proj"],
            rank_pattern={"q_proj": 2, r"layers\.[01]\.mlp\.up_proj": 5},
            alpha_pattern={r"^model.layers.2.*(up|down)_proj": 7},
        ),
    ),
    (
        "t5",
        dict(target_modules=["q"], use_rslora=True, rank_pattern={r".*decoder.*\.q": 2}, alpha_pattern={r"EncDecAttention.q": 7}),
    ),
    ("llama", dict(target_modules=["q_proj", "v_proj"], init_lora_weights="pissa", rank_pattern={"v_proj": 2})),
    ("gpt2", dict(target_modules=["c_proj"], fan_in_fan_out=True, init_lora_weights="pissa", use_dora=True)),
    ("bert", dict(target_modules=["query"], init_lora_weights="olora", use_rslora=True)),
    ("bert", dict(target_modules=["query"], init_lora_weights="OLoRA")),
    ("llama", dict(target_modules=["q_proj"], init_lora_weights="mica")),
    ("llama", dict(target_modules=["embed_tokens", "q_proj"], alpha_pattern={"embed_tokens": 6})),
    ("gemma3_text", dict(target_modules=["embed_tokens", "q_proj"])),
    ("bert", dict(target_modules=["word_embeddings"], use_rslora=True)),
    ("t5", dict(target_modules=["embed_tokens"])),
]


@pytest.mark.parametrize(
    ("key", "settings"), THEIRS, ids=lambda value: value if isinstance(value, str) else str(value["target_modules"])
)
def test_theirs_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    base = tiny_base(key)
    adapted = made_by_peft(base, peft.LoraConfig(r=3, lora_alpha=4, lora_dropout=0.1, **settings), tmp_path)
    adapter = read_here(base, adapted, tmp_path)
    assert isinstance(adapter.method, LoRA)
    assert (adapter.method.rank, adapter.method.alpha, adapter.method.dropout) == (3, 4.0, 0.1)


@pytest.mark.parametrize("key", ["bert", "gpt2", "opt"])
def test_biases_are_written_with_the_base_at_hand(tmp_path: Path, key: str) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, Union(parts=(LoRA(rank=3, dora=True, at="block.*.attn.o"), BitFit())))
    export(adapter, tmp_path / "x", base=base)
    assert json.loads((tmp_path / "x" / "adapter_config.json").read_text())["bias"] == "all"
    inputs = tiny_inputs(base)
    own = logits(base, adapter, inputs)
    assert_close(real(peft_logits(in_peft(base, tmp_path / "x"), inputs, own), inputs), real(own, inputs))
    assert_close(logits(base, load_adapter(tmp_path / "x", base), inputs), own)
    with pytest.raises(AdapterFileError, match="made for"):
        export(adapter, tmp_path / "y", base=tiny_base("llama"))


def test_biases_that_peft_could_not_train(tmp_path: Path) -> None:
    base = tiny_base("llama")
    with pytest.raises(UnsupportedError, match=r"has no bias in the base"):
        export(moved_adapter(base, Union(parts=(LoRA(rank=2), BitFit(add_missing=True)))), tmp_path / "x", base=base)
    base = tiny_base("bert")
    method = Union(parts=(LoRA(rank=2), BitFit(), Select(at="block.0.norm1")))
    with pytest.raises(UnsupportedError, match=r"Two parts of the union train .*LayerNorm.bias"):
        export(moved_adapter(base, method), tmp_path / "x", base=base)


EXTRAS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True, bias="lora_only"), ["lora", "bitfit"]),
    ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True, bias="all"), ["lora", "bitfit"]),
    ("bert", dict(target_modules=["query"], bias="lora_only", use_dora=True), ["lora", "bitfit"]),
    ("opt", dict(target_modules=["q_proj"], bias="all", use_rslora=True), ["lora", "bitfit"]),
    ("llama", dict(target_modules=["q_proj"], bias="all"), ["lora"]),
    ("llama", dict(target_modules=["q_proj"], modules_to_save=["norm", "layers.1.mlp.up_proj"]), ["lora", "select"]),
    ("llama", dict(target_modules=["q_proj"], trainable_token_indices=[7, 5, 9]), ["lora", "select"]),
    ("gpt2", dict(target_modules=["c_fc"], fan_in_fan_out=True, trainable_token_indices=[7, 5, 9]), ["lora", "select"]),
    ("gemma3_text", dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [8, 6]}), ["lora", "select"]),
    ("gpt2", dict(target_modules=["c_fc"], fan_in_fan_out=True, modules_to_save=["ln_1", "h.2.attn"]), ["lora", "select"]),
]


@pytest.mark.parametrize(("key", "settings", "parts"), EXTRAS, ids=lambda value: value if isinstance(value, str) else "")
def test_parameters_besides_lora(tmp_path: Path, key: str, settings: dict[str, Any], parts: list[str]) -> None:
    base = tiny_base(key)
    adapted = made_by_peft(base, peft.LoraConfig(r=3, lora_alpha=4, **settings), tmp_path)
    adapter = read_here(base, adapted, tmp_path)
    own = adapter.method.parts if isinstance(adapter.method, Union) else (adapter.method,)
    assert [method_name(part) for part in own] == parts


@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
@pytest.mark.parametrize("settings", [dict(modules_to_save=["lm_head"]), dict(modules_to_save=["wte"], ensure_weight_tying=True)])
def test_what_peft_trains_apart_and_is_one_here_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """PEFT does not know that GPT-2's `wte` is a table of words."""
    base = tiny_base("gpt2")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **settings), tmp_path)
    with pytest.raises(AdapterFileError, match=r"modules_to_save has '.*', which shares its weight with .*(wte|lm_head).weight"):
        load_adapter(tmp_path, base)


TIED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("llama", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), ["lora", "select"]),
    ("llama", dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), ["lora", "select"]),
    ("llama", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens", "norm"]), ["lora", "select"]),
    ("llama", dict(target_modules=["q_proj", "embed_tokens"]), ["lora"]),
    ("llama", dict(target_modules=["lm_head", "embed_tokens"]), ["lora"]),
    ("llama", dict(target_modules=["q_proj"], trainable_token_indices=[5, 6]), ["lora", "select"]),
]


@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")  # rows of tokens are tied without it
@pytest.mark.parametrize(("key", "settings", "parts"), TIED, ids=lambda value: value if isinstance(value, str) else "")
def test_modules_that_share_a_weight_and_are_trained_as_one(
    tmp_path: Path, key: str, settings: dict[str, Any], parts: list[str]
) -> None:
    base = tiny_base(key, tie_word_embeddings=True)
    adapted = made_by_peft(base, peft.LoraConfig(r=2, ensure_weight_tying=True, **settings), tmp_path)
    adapter = read_here(base, adapted, tmp_path)
    own = adapter.method.parts if isinstance(adapter.method, Union) else (adapter.method,)
    assert [method_name(part) for part in own] == parts


def test_copies_of_a_shared_weight_must_be_equal(tmp_path: Path) -> None:
    base = tiny_base("llama", tie_word_embeddings=True)
    config = peft.LoraConfig(r=2, ensure_weight_tying=True, target_modules=["q_proj"], modules_to_save=["lm_head"])
    made_by_peft(base, config, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    stored["base_model.model.lm_head.weight"][3] += 1
    write_tensors(tmp_path / "adapter_model.safetensors", stored)
    with pytest.raises(AdapterFileError, match=r"lm_head.weight' .* is not 'model.embed_tokens.weight', whose weight it shares"):
        load_adapter(tmp_path, base)
    del stored["base_model.model.model.embed_tokens.weight"]
    write_tensors(tmp_path / "adapter_model.safetensors", stored)
    with pytest.raises(AdapterFileError, match=r"lm_head.weight' .* has no equal in LORA here"):
        load_adapter(tmp_path, base)


@pytest.mark.parametrize("start", ["corda", "loftq", "lora_ga", "eva"])
def test_settings_of_a_start_that_is_over_change_nothing(tmp_path: Path, start: str) -> None:
    """As folders say that were converted when they were saved."""
    base = tiny_base("llama")
    adapted = made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"]), tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**written, f"{start}_config": {"anything": 1}}))
    adapter, inputs = load_adapter(tmp_path, base), tiny_inputs(base)
    own = logits(base, adapter, inputs)
    assert_close(real(own, inputs), real(peft_logits(adapted, inputs, own), inputs))


def test_biases_that_nothing_here_trains_are_refused_unless_they_are_the_base_s(tmp_path: Path) -> None:
    base = tiny_base("bert")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["query"], bias="all"), tmp_path)
    with pytest.raises(AdapterFileError, match=r"cls\.predictions.*bias' .* is not as in the base"):
        load_adapter(tmp_path, base)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    head = {name for name in stored if ".cls." in name}
    parameters = dict(base.model.named_parameters(remove_duplicate=False))
    same = {name: parameters[name.removeprefix("base_model.model.")].detach() for name in head}
    write_tensors(tmp_path / "adapter_model.safetensors", {**stored, **same})
    assert isinstance(load_adapter(tmp_path, base).method, Union)


@pytest.mark.parametrize("tokens", [[5, 5, 9], [7, 5, 400], [7, 5, -1], [7, 5, True], "7", {"lm_head": [7, 5, 9]}, [7, 5]])
def test_tokens_must_be_those_of_the_file(tmp_path: Path, tokens: Any) -> None:
    base = tiny_base("llama")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[7, 5, 9]), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "trainable_token_indices": tokens}))
    with pytest.raises(AdapterFileError, match=r"trainable_token_indices|has the shape \(3, 48\)"):
        load_adapter(tmp_path, base)


def test_a_table_that_peft_stores_again_must_be_the_base_s(tmp_path: Path) -> None:
    base = tiny_base("llama")
    adapted = made_by_peft(base, peft.LoraConfig(r=2, target_modules=["embed_tokens"]), tmp_path)
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=True)
    adapter, inputs = load_adapter(tmp_path, base), tiny_inputs(base)
    own = logits(base, adapter, inputs)
    assert_close(real(own, inputs), real(peft_logits(adapted, inputs, own), inputs))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    stored["base_model.model.model.embed_tokens.base_layer.weight"][3] += 1
    write_tensors(tmp_path / "adapter_model.safetensors", stored)
    with pytest.raises(AdapterFileError, match=r"embed_tokens\.base_layer\.weight' .* is not as in the base"):
        load_adapter(tmp_path, base)


@pytest.mark.parametrize("key", ["llama", "gpt2", "bert", "t5"])
def test_an_export_is_read_back_as_what_it_does(tmp_path: Path, key: str) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, MIXED)
    export(adapter, tmp_path / "x", format="peft")
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    inputs = tiny_inputs(base)
    assert_close(logits(base, load_adapter(tmp_path / "x", base), inputs), logits(base, adapter, inputs))


def test_half_precision_is_read(tmp_path: Path) -> None:
    base = tiny_base("llama")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"]), tmp_path)
    header = load_adapter(tmp_path, base).edits.state()
    names = {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{x}.weight": f"block.{i}.attn.q.{y}"
        for i in range(4)
        for x, y in (("A", "a_KI"), ("B", "b_OK"))
    }
    write_tensors(tmp_path / "adapter_model.safetensors", {name: header[own].bfloat16() for name, own in names.items()})
    loaded = load_adapter(tmp_path, base)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state.values())
    assert torch.equal(loaded.state["block.2.attn.q.a_KI"], header["block.2.attn.q.a_KI"].bfloat16().float())


def test_a_folder_of_the_headless_class_fits_the_model_with_head(tmp_path: Path) -> None:
    adapted = made_by_peft(tiny_base("bert", head=False), peft.LoraConfig(r=2, target_modules=["query"]), tmp_path)
    base = tiny_base("bert")
    adapter = load_adapter(tmp_path, base)
    inputs = tiny_inputs(base)
    trunk = tiny_base("bert", head=False)
    with torch.no_grad():
        theirs = adapted(**inputs).last_hidden_state
        with attach(trunk, adapter):
            ours = trunk.model(**inputs).last_hidden_state
    assert_close(real(ours, inputs), real(theirs, inputs))


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(use_dora=True), "lora_magnitude_vector"),
    (dict(bias="some"), "bias must be none, lora_only or all"),
    (dict(lora_bias=True), r"lora_B\.bias"),
    (dict(rank_pattern={"q_proj": 4}), "has the shape"),
    (dict(rank_pattern={"q_proj": 0}), "a rank is a positive integer"),
    (dict(rank_pattern={"q_proj": 2.0}), "a rank is a positive integer"),
    (dict(rank_pattern={"q_proj": "2"}), "rank_pattern must be a table"),
    (dict(alpha_pattern=[4]), "alpha_pattern must be a table"),
    (dict(alpha_pattern={"(q_proj": 4}), "no regular expression"),
    (dict(alpha_pattern={"(.{1000}){1000}": 4}), "counts repeats"),
    (dict(alpha_pattern={"q" * 501: 4}), "too long"),
    (dict(target_parameters=["x"]), "target_parameters"),
    (dict(layer_replication=[[0, 2]]), "layer_replication"),
    (dict(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
    (dict(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}), "init_lora_weights is 'loftq'"),
    (dict(init_lora_weights="corda", corda_config={}), "init_lora_weights is 'corda'"),
    (dict(init_lora_weights="lora_ga", lora_ga_config={}), "init_lora_weights is 'lora_ga'"),
    (dict(init_lora_weights=1), "init_lora_weights"),
    (dict(a_new_key=1), "a_new_key"),
    (dict(use_dorra=False), "use_dorra"),
    (dict(peft_type="LOHA"), "peft_type LOHA"),
    (dict(peft_type=["LORA"]), "peft_type"),
    (dict(task_type="TOKEN_CLS"), "task_type is TOKEN_CLS"),
    (dict(r=4), "has the shape"),
    (dict(r=10**9), "has the shape"),
    (dict(r="2"), "r must be a positive integer"),
    (dict(lora_alpha="x"), "lora_alpha must be a number"),
    (dict(use_rslora="yes"), "use_rslora must be true or false"),
    (dict(target_modules=None), "target_modules names no modules"),
    (dict(target_modules=["k_proj"]), "which target_modules does not name"),
    (dict(target_modules={"q_proj": 1}), "target_modules must be a list"),
    (dict(exclude_modules=["q_proj"]), "exclude_modules leaves out"),
    (dict(layers_to_transform=[0]), "layers_to_transform leaves out"),
    (dict(layers_to_transform=[0, 1, 2, 3], layers_pattern="(a+)+"), "patterns are not run"),
    (dict(lora_dropout=2.0), "dropout is 2.0"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_represented_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    base = tiny_base("llama")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"]), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterFileError, match=message) as caught:
        load_adapter(tmp_path, base)
    assert "\n" not in str(caught.value)


def test_a_hostile_pattern_is_not_run(tmp_path: Path) -> None:
    base = tiny_base("llama")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"]), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"] = r"(([a-z0-9_.])+)+!"  # for ever on any path
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert len(load_adapter(tmp_path, base).edits) == 4


@pytest.mark.parametrize("pattern", [r"(([a-z0-9_.])+)+!", "(.|.)" * 60 + "!", "(a*)*" * 90, "(" * 400 + ")" * 90])
def test_hostile_patterns_of_values_end(tmp_path: Path, pattern: str) -> None:
    """Read, since they fit nothing, or refused."""
    base = tiny_base("llama")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"]), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "alpha_pattern": {pattern: 1}}))
    with contextlib.suppress(AdapterFileError):
        assert len(load_adapter(tmp_path, base).edits) == 4


def test_dora_on_a_part_of_a_fused_projection_has_no_form(tmp_path: Path) -> None:
    base = tiny_base("gpt2")
    with pytest.raises(UnsupportedError, match=r"DoRA on all of block\.0\.attn\.qkv or on nothing of it.*at block\.0\.attn\.q"):
        export(moved_adapter(base, LoRA(rank=2, dora=True)), tmp_path / "x")
    with pytest.raises(UnsupportedError, match=r"one scale for block\.0\.attn\.qkv"):
        export(moved_adapter(base, LoRA(rank=2, alpha_pattern={"block.*.attn.q": 3.0})), tmp_path / "x")
    with pytest.raises(UnsupportedError, match=r"act on the same outputs of block\.0\.attn\.qkv"):
        export(moved_adapter(base, LoRA(rank=2, bias=True, at="block.*.attn.{q,qkv}")), tmp_path / "x")


def test_dora_and_other_tensors_are_refused_even_if_the_configuration_is_silent(tmp_path: Path) -> None:
    base = tiny_base("llama")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["use_dora"] = False
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterFileError, match=r"lora_magnitude_vector"):
        load_adapter(tmp_path, base)


def test_another_bases_folder(tmp_path: Path) -> None:
    made_by_peft(tiny_base("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]), tmp_path)
    with pytest.raises(AdapterFileError, match=r"is no projection of this base"):
        load_adapter(tmp_path, tiny_base("gpt2"))
    with pytest.raises(AdapterFileError, match=r"has the shape"):
        load_adapter(tmp_path, tiny_base("llama", hidden_size=24))


def test_shared_weights_are_refused(tmp_path: Path) -> None:
    base = tiny_base("albert")
    with pytest.raises(UnsupportedError, match=r"calls 2 times in a forward"):
        export(moved_adapter(base, PLAIN), tmp_path / "x", format="peft")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["query"]), tmp_path / "y")
    with pytest.raises(AdapterFileError, match=r"called 2 times in a forward"):
        load_adapter(tmp_path / "y", base)


def test_names_that_peft_would_match_twice_are_refused(tmp_path: Path) -> None:
    base = tiny_base("bert", head=False)
    base.model.add_module("copy", torch.nn.Module())
    base.model.get_submodule("copy").add_module("encoder", base.model.get_submodule("encoder"))
    adapter = moved_adapter(base, PLAIN)
    with pytest.raises(UnsupportedError, match=r"PEFT would also adapt 'copy.encoder.layer.0"):
        export(adapter, tmp_path / "x", format="peft")
    save_adapter(adapter, tmp_path / "y")
    assert (tmp_path / "y" / "adapter.safetensors").exists()
