"""Exports hold what the other program reads, and nothing else."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.lora import LoRA
from lmtailor.methods.prefix import Prefix
from lmtailor.readouts.head import Head
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter, save_adapter
from tests.store.adapters import WORDS, assert_close, logits, moved_adapter, saved
from tests.tiny import tiny_base, tiny_inputs

FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}


@pytest.mark.parametrize("method", [LoRA(rank=3, alpha=5.0), LoRA(rank=3, alpha=5.0, rslora=True)])
@pytest.mark.parametrize("key", ["llama", "phi3"])
def test_vllm_has_one_scale_which_is_one(tmp_path: Path, key: str, method: LoRA) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method)
    export(adapter, tmp_path, format="vllm")
    assert saved(tmp_path) == FILES
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == (3 if key == "llama" else 6)
    assert (config["use_rslora"], config["bias"], config["modules_to_save"]) == (False, "none", None)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in load_file(tmp_path / "adapter_model.safetensors"))
    inputs = tiny_inputs(base)
    assert_close(logits(base, load_adapter(tmp_path, base), inputs), logits(base, adapter, inputs))


def test_the_scale_is_in_b(tmp_path: Path) -> None:
    base = tiny_base("llama")
    adapter = moved_adapter(base, LoRA(rank=2, alpha=5.0))
    export(adapter, tmp_path, format="vllm")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.v_proj"
    assert torch.equal(stored[f"{name}.lora_B.weight"], adapter.state["block.1.attn.v.b_OK"] * 2.5)
    assert torch.equal(stored[f"{name}.lora_A.weight"], adapter.state["block.1.attn.v.a_KI"])


def test_vllms_limit_on_the_rank(tmp_path: Path) -> None:
    base = tiny_base("llama")
    with pytest.raises(UnsupportedError, match=r"rank 17 .* the server takes 16. Start vLLM with --max-lora-rank 17"):
        export(moved_adapter(base, LoRA(rank=17, at="block.*.attn.q")), tmp_path / "x", format="vllm")
    assert not (tmp_path / "x").exists()
    export(moved_adapter(base, LoRA(rank=17, at="block.*.attn.q")), tmp_path / "x", format="vllm", max_rank=32)
    with pytest.raises(UnsupportedError, match=r"rank 18 .*parts of a fused projection add up"):
        export(moved_adapter(tiny_base("gpt2"), LoRA(rank=9)), tmp_path / "y", format="vllm")


def test_what_vllm_does_not_serve(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"LoRA alone, not prefix"):
        export(moved_adapter(tiny_base("llama"), Prefix(length=2)), tmp_path / "x", format="vllm")
    for base in (tiny_base("bert"), tiny_base("t5"), tiny_base("llama", head=False)):
        with pytest.raises(UnsupportedError, match=r"models that generate"):
            export(moved_adapter(base, LoRA(rank=2)), tmp_path / "x", format="vllm")
    base = tiny_base("llama")
    for head in (Head(), Head(pooling="native")):
        with pytest.raises(UnsupportedError, match=r"vLLM has no place for the Head"):
            export(moved_adapter(base, LoRA(rank=2), head), tmp_path / "x", format="vllm")
        export(moved_adapter(base, LoRA(rank=2), head), tmp_path / "x", format="vllm", without_head=True)
    export(moved_adapter(base, LoRA(rank=2), WORDS), tmp_path / "words", format="vllm")  # nothing of a verbalizer is trained


@pytest.mark.parametrize("format", ["vllm", "lorax"])
@pytest.mark.parametrize(
    "method",
    [
        LoRA(rank=3, init="pissa", at="block.*.attn.{q,v}, block.*.ffn.down"),
        LoRA(rank=3, rank_pattern={"block.0.attn.q": 5}, alpha_pattern={"block.*.attn.v": 3.0}),
    ],
)
def test_servers_get_one_rank_and_one_scale(tmp_path: Path, method: LoRA, format: str) -> None:  # noqa: A002
    base = tiny_base("llama")
    adapter = moved_adapter(base, method)
    export(adapter, tmp_path, format=format)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    wanted: dict[str, object] = {
        "r": 6 if method.init == "pissa" else 5,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "lora_bias": False,
    }
    assert {key: config[key] for key in wanted} == wanted
    assert config["lora_alpha"] == config["r"]
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert all(tensor.shape[0 if name.endswith("lora_A.weight") else 1] == config["r"] for name, tensor in stored.items())
    inputs = tiny_inputs(base)
    assert_close(logits(base, load_adapter(tmp_path, base), inputs), logits(base, adapter, inputs))


def test_embeddings_in_servers(tmp_path: Path) -> None:
    base = tiny_base("llama")
    adapter = moved_adapter(base, LoRA(rank=3, at="embed, block.*.attn.q", alpha_pattern={"embed": 5.0}))
    export(adapter, tmp_path / "x", format="vllm")
    stored = load_file(tmp_path / "x" / "adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    assert torch.equal(stored[f"{name}B"], adapter.state["embed.b_HK"] * (5 / 3))
    assert torch.equal(stored[f"{name}A"], adapter.state["embed.a_KV"])
    inputs = tiny_inputs(base)
    assert_close(logits(base, load_adapter(tmp_path / "x", base), inputs), logits(base, adapter, inputs))
    with pytest.raises(UnsupportedError, match=r"at projections alone.*embed_tokens"):
        export(adapter, tmp_path / "y", format="lorax")


@pytest.mark.parametrize("format", ["vllm", "lorax"])
def test_servers_compute_neither_dora_nor_a_bias(tmp_path: Path, format: str) -> None:  # noqa: A002
    base = tiny_base("llama")
    for method, name in ((LoRA(rank=2, dora=True), "dora=true"), (LoRA(rank=2, bias=True), "bias=true")):
        with pytest.raises(UnsupportedError, match=rf"does not compute LoRA with {name}"):
            export(moved_adapter(base, method), tmp_path / "x", format=format)


def test_lorax_wants_every_layer_of_a_type(tmp_path: Path) -> None:
    base = tiny_base("llama")
    with pytest.raises(UnsupportedError, match=r"none at 'model\.layers\.0\.self_attn\.q_proj'.*all 4 modules"):
        export(moved_adapter(base, LoRA(rank=2, at="block.[1:].attn.q")), tmp_path / "x", format="lorax")
    export(moved_adapter(base, LoRA(rank=2, at="block.*.attn.q")), tmp_path / "x", format="lorax")
    export(moved_adapter(base, LoRA(rank=17, at="block.*.attn.q")), tmp_path / "y", format="lorax")  # it has no limit on the rank


def test_methods_and_formats_without_a_form(tmp_path: Path) -> None:
    adapter = moved_adapter(tiny_base("bert"), Houlsby(bottleneck=2))
    with pytest.raises(UnsupportedError, match=r"houlsby has no form in PEFT here; .*lora, .*prefix, .* have"):
        export(adapter, tmp_path / "x")
    with pytest.raises(UnsupportedError, match=r"AdapterHub is not built yet"):
        export(adapter, tmp_path / "x", format="adapterhub")
    with pytest.raises(InputError, match=r"no export format 'pefd'. Did you mean peft"):
        export(adapter, tmp_path / "x", format="pefd")


def test_an_adapter_of_ours_is_not_overwritten_and_an_export_is(tmp_path: Path) -> None:
    base = tiny_base("llama")
    save_adapter(moved_adapter(base, LoRA(rank=2)), tmp_path / "ours")
    with pytest.raises(InputError, match=r"an adapter of ours"):
        export(moved_adapter(base, LoRA(rank=2)), tmp_path / "ours")
    export(moved_adapter(base, LoRA(rank=2)), tmp_path / "theirs")
    export(moved_adapter(base, LoRA(rank=4)), tmp_path / "theirs")
    loaded = load_adapter(tmp_path / "theirs", base)
    assert isinstance(loaded.method, LoRA)
    assert loaded.method.rank == 4
    assert saved(tmp_path) == {"ours", "theirs"}
