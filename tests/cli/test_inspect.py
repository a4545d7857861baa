"""`lmtailor inspect`, and the table of sites."""

import json
from pathlib import Path

import pytest
import torch

from lmtailor.base.load import load_base
from lmtailor.cli.site_table import site_rows
from lmtailor.methods.lora import LoRA
from lmtailor.store.adapter import new_adapter
from lmtailor.store.export import export
from lmtailor.store.folder import save_adapter
from tests.cli.inputs import Command, fit_words
from tests.tiny import FAMILIES, tiny_base


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_patterns_that_select_every_site_once(family: str) -> None:
    base = tiny_base(family)
    selected = [site.name for row in site_rows(base) for site in base.sites.select(row.sites)]
    assert sorted(selected) == sorted(base.sites)


def test_rows_tell_shapes_heads_windows_and_fused_parts() -> None:
    gemma = {row.sites: row for row in site_rows(tiny_base("gemma3_text"))}
    assert gemma["block.[0:4].attn.k"].shape == "32 × 48"
    assert "6 heads of 16, 2 of keys, window 6" in gemma["block.[0:3:2].attn"].module
    assert "window" not in gemma["block.[1:4:2].attn"].module
    neox = {row.sites: row for row in site_rows(tiny_base("gpt_neox"))}
    assert neox["block.[0:4].attn.q"].module == "gpt_neox.layers.*.attention.query_key_value (part of qkv)"


def test_a_base(lmtailor: Command, decoder: Path) -> None:
    outcome = lmtailor("inspect", decoder)
    assert outcome.code == 0, outcome.err
    facts = dict(line.split("\t") for line in outcome.out.splitlines() if line.count("\t") == 1)
    base = load_base(decoder)
    assert facts["fingerprint"] == base.fingerprint
    assert facts["parameters"] == f"{base.num_parameters:,} (float32, cpu)"
    assert facts["blocks"] == "4, causal, positions by argument"
    assert facts["longest input"] == "128 tokens"
    assert "block.[0:4].attn.k\tprojection\t16 × 48\tmodel.layers.*.self_attn.k_proj" in outcome.out


def test_an_adapter(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    lmtailor(*fit_words(encoder, data, tmp_path / "out", "--set", "rank=3"))
    outcome = lmtailor("inspect", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    facts = dict(line.split("\t") for line in outcome.out.splitlines() if line.count("\t") == 1)
    manifest = json.loads((tmp_path / "out" / "adapter.json").read_text("utf-8"))
    assert facts["base"] == f"{encoder} (bert)"
    assert facts["fingerprint"] == manifest["base"]["fingerprint"]
    assert facts["method"].startswith("lora rank=3 ")
    assert facts["labels"] == "neg, pos"
    assert facts["trained"] == f"{manifest['parameters']:,} numbers"
    assert f"dev\taccuracy\t{manifest['scores']['dev']['accuracy']['value']:.4f}" in outcome.out
    assert "head.weight\t2 × 48\tfloat32" in outcome.out
    assert "lora_A.weight\t3 × 48\tfloat32" in outcome.out


def test_a_folder_of_peft(lmtailor: Command, encoder: Path, tmp_path: Path) -> None:
    export(new_adapter(load_base(encoder), method=LoRA(rank=5)), tmp_path / "peft")
    outcome = lmtailor("inspect", tmp_path / "peft")
    assert outcome.code == 0, outcome.err
    assert "peft_type\tLORA" in outcome.out
    assert "adapter_model.safetensors: 16 tensors" in outcome.out
    (tmp_path / "peft" / "adapter_model.safetensors").unlink()
    refused = lmtailor("inspect", tmp_path / "peft")
    assert refused.code == 2
    assert "adapter_model.safetensors is missing" in refused.errors[0]


def test_a_scores_free_adapter(lmtailor: Command, encoder: Path, tmp_path: Path) -> None:
    adapter = new_adapter(load_base(encoder), method=LoRA(rank=2))
    moved = {name: tensor.detach() + torch.ones(()) for name, tensor in adapter.state.items()}
    save_adapter(adapter.with_state(moved), tmp_path / "bare")
    outcome = lmtailor("inspect", tmp_path / "bare")
    assert outcome.code == 0, outcome.err
    assert "readout\tnone" in outcome.out
    assert "split" not in outcome.out
