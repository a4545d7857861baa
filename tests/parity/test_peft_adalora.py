"""AdaLoRA here and AdaLoRA in PEFT 0.21 give the same logits, whoever wrote the folder, before and after ranks were chosen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.methods.adalora import AdaLoRA
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter
from tests.parity.exchange import assert_same, ours_in_peft, refused, theirs_here, with_a_head
from tests.parity.loading import QUIET, made_by_peft, peft, peft_logits, real
from tests.store.adapters import assert_close, logits, moved_adapter
from tests.tiny import tiny_base, tiny_inputs

# PEFT takes a pattern of AdaLoRA for one of LoRA and a module without triplets for a broken file, its own ones too.
pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor\\(s\\) have invalid shape"),
]

PLAIN = AdaLoRA(init_rank=3, target_rank=2, at="block.*.attn.{q,v}")
CHOSEN = AdaLoRA(
    init_rank=4,
    target_rank=2,
    alpha=6.0,
    at="block.*.attn.{q,v}",
    ranks={"block.0.attn.q": 1, "block.0.attn.v": 4, "block.2.attn.v": 3},
)
OURS: list[tuple[str, AdaLoRA]] = [
    *((key, PLAIN) for key in ("llama", "bert", "t5", "bart", "gpt2", "phi3", "gpt_neox", "modernbert")),
    *((key, CHOSEN) for key in ("llama", "bert", "gpt2", "gpt_neox")),
    ("gpt2", AdaLoRA(init_rank=3, target_rank=2, alpha=2.5, at="block.*.attn.qkv, block.*.ffn.{up,down}")),
]


@pytest.mark.parametrize(("key", "method"), OURS, ids=lambda value: value if isinstance(value, str) else f"{bool(value.ranks)}")
def test_ours_in_peft(tmp_path: Path, key: str, method: AdaLoRA) -> None:
    config = ours_in_peft(tiny_base(key), method, tmp_path, peft.AdaLoraConfig, by=0.3)
    if method.ranks is None:
        assert config["rank_pattern"] is None
    elif key == "llama":
        assert config["rank_pattern"]["model.layers.0.self_attn.q_proj.lora_E"] == [True, False, False, False]
        assert len(config["target_modules"]) == 3


@pytest.mark.parametrize("method", [PLAIN, CHOSEN], ids=["whole", "chosen"])
@pytest.mark.parametrize("key", ["bert", "llama"])
def test_ours_with_a_head(tmp_path: Path, key: str, method: AdaLoRA) -> None:
    with_a_head(tiny_base(key), method, tmp_path)


SMALL: dict[str, Any] = dict(init_r=4, target_r=2, lora_alpha=6, total_step=20, target_modules=["q_proj", "v_proj"])
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", SMALL),
    ("llama", dict(SMALL, target_modules="all-linear", lora_dropout=0.1)),
    ("llama", dict(SMALL, layers_to_transform=[1, 3])),
    ("gpt2", dict(SMALL, target_modules=["c_attn"], fan_in_fan_out=True)),
    ("bert", dict(SMALL, target_modules=["query", "output.dense"])),
    ("t5", dict(SMALL, target_modules=["q", "v"])),
]


@pytest.mark.parametrize(("key", "settings"), THEIRS, ids=lambda value: value if isinstance(value, str) else str(value)[-40:])
def test_theirs_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    adapter = theirs_here(tiny_base(key), peft.AdaLoraConfig(**settings), tmp_path, by=0.3)
    assert isinstance(adapter.method, AdaLoRA)
    assert (adapter.method.init_rank, adapter.method.target_rank, adapter.method.alpha) == (4, 2, 6.0)
    assert adapter.method.ranks is None


def test_ranks_that_peft_chose(tmp_path: Path) -> None:
    """Its own allocator cuts triplets, one module loses all of them; the folder is read with what is left."""
    base = tiny_base("llama")
    model = made_by_peft(base, peft.AdaLoraConfig(**SMALL), tmp_path / "whole", by=0.3)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            scale = 1e-6 if "layers.1.self_attn.v_proj" in name else 1.0
            parameter.requires_grad_(True)
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    allocator = model.base_model.rankallocator
    allocator.update_ipt(model.base_model.model)
    model.peft_config["default"].rank_pattern = allocator.mask_to_budget(model.base_model.model, 16)
    inputs = tiny_inputs(base)
    with torch.no_grad():
        wanted = model(**inputs).logits
    model.save_pretrained(str(tmp_path / "cut"), save_embedding_layers=False)
    pattern = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())["rank_pattern"]
    ranks = {name: sum(kept) for name, kept in pattern.items()}
    assert ranks["model.layers.1.self_attn.v_proj.lora_E"] == 0
    assert sum(ranks.values()) == 16
    adapter = load_adapter(tmp_path / "cut", base)
    assert isinstance(adapter.method, AdaLoRA)
    assert adapter.method.ranks is not None
    assert sorted(adapter.method.ranks.values()) == sorted(rank for rank in ranks.values() if rank)
    assert_close(real(logits(base, adapter, inputs), inputs), real(peft_logits(model, inputs, wanted), inputs))
    export(adapter, tmp_path / "again", format="peft")
    assert_same(load_adapter(tmp_path / "again", base), adapter)


def test_the_shape_of_nothing_must_fit_too(tmp_path: Path) -> None:
    """A module without triplets has tensors without numbers, whose other size costs no bytes to claim."""
    base = tiny_base("llama")
    config = peft.AdaLoraConfig(**{**SMALL, "target_modules": r".*\.0\.self_attn\.[qv]_proj"})
    made_by_peft(base, config, tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    start = "model.layers.0.self_attn"
    written["rank_pattern"] = {f"{start}.q_proj.lora_E": [True] * 4, f"{start}.v_proj.lora_E": [False] * 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    value = f"base_model.model.{start}.v_proj"
    tensors |= {f"{value}.lora_A": torch.zeros(0, 1 << 40), f"{value}.lora_B": torch.zeros(16, 0)}
    tensors[f"{value}.lora_E"] = torch.zeros(0, 1)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterFileError, match=r"has the shape \(0, 1099511627776\); this method and base need \(0, 48\)"):
        load_adapter(tmp_path, base)
    save_file({**tensors, f"{value}.lora_A": torch.zeros(0, 48)}, tmp_path / "adapter_model.safetensors")
    assert len(load_adapter(tmp_path, base).edits) == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(bias="all"), "bias"),
    (dict(use_dora=True), "use_dora"),
    (dict(a_new_key=1), "'a_new_key' is no key of PEFT's ADALORA"),
    (dict(init_r=5), "says that its rank is 5"),
    (dict(lora_alpha=0), "lora_alpha is 0"),
    (dict(rank_pattern={"x": [True]}), "rank_pattern must say of"),
    (dict(rank_pattern=[1]), "rank_pattern must say of"),
    (dict(target_r=None), "target_r must be a positive integer"),
    (dict(target_modules=["k_proj"]), "which target_modules does not name"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_represented_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    refused(tiny_base("llama"), peft.AdaLoraConfig(**SMALL), tmp_path, change, message)


def test_an_adapter_of_nothing_is_stored_by_us_alone(tmp_path: Path) -> None:
    adapter = moved_adapter(tiny_base("llama"), AdaLoRA(ranks={}))
    assert adapter.num_parameters == 0
    with pytest.raises(UnsupportedError, match="has no triplet left"):
        export(adapter, tmp_path / "x", format="peft")
