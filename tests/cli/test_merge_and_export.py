"""`lmtailor merge`, `lmtailor convert` and `lmtailor export`."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from lmtailor.base.load import load_base
from lmtailor.edits.attach import attach
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from tests.cli.inputs import Command
from tests.readouts.examples import sentiment_task
from tests.tiny import tiny_inputs


def _adapter(base: Path, folder: Path, method: Method, *, head: bool = False) -> Path:
    loaded = load_base(base)
    adapter = new_adapter(loaded, method=method, readout=Head() if head else None, task=sentiment_task())
    save_adapter(adapter.with_state({name: tensor.detach() + 0.05 for name, tensor in adapter.state.items()}), folder)
    return folder


def test_a_merged_model_is_the_attached_one(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    folder = _adapter(decoder, tmp_path / "lora", LoRA(rank=2))
    outcome = lmtailor("merge", decoder, folder, "--out", tmp_path / "merged")
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"model\t{tmp_path / 'merged'} (LlamaForCausalLM)\n"
    base = load_base(decoder)
    inputs = tiny_inputs(base)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad(), attach(base, load_adapter(folder, base)):
        torch.testing.assert_close(model(**inputs).logits, base.model(**inputs).logits, rtol=1e-4, atol=1e-4)
    refused = lmtailor("merge", decoder, folder, "--out", tmp_path / "merged")
    assert refused.code == 2
    assert "is not empty" in refused.errors[0]


def test_what_cannot_be_merged(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    states = _adapter(decoder, tmp_path / "houlsby", Houlsby(bottleneck=2))
    outcome = lmtailor("merge", decoder, states, "--out", tmp_path / "merged")
    assert outcome.code == 2
    assert "houlsby cannot be merged" in outcome.errors[0]
    headed = _adapter(decoder, tmp_path / "lora", LoRA(rank=2), head=True)
    assert "without_head" in lmtailor("merge", decoder, headed, "--out", tmp_path / "merged").errors[0]
    assert not (tmp_path / "merged").exists()
    assert lmtailor("merge", decoder, headed, "--out", tmp_path / "merged", "--without-head").code == 0


def test_exports(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    folder = _adapter(decoder, tmp_path / "lora", LoRA(rank=2, alpha=16.0), head=True)
    for form, alpha in (("peft", 16.0), ("vllm", 2)):
        outcome = lmtailor("export", decoder, folder, "--format", form, "--out", tmp_path / form, "--without-head")
        assert outcome.code == 0, outcome.err
        assert outcome.out == f"{form}\t{tmp_path / form}\n"
        config = json.loads((tmp_path / form / "adapter_config.json").read_text("utf-8"))
        assert (config["r"], config["lora_alpha"]) == (2, alpha)


def test_what_cannot_be_exported(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    folder = _adapter(decoder, tmp_path / "lora", LoRA(rank=20, at="block.*.attn.q"), head=True)
    for words, told in (
        (("--format", "pefd"), "Did you mean peft?"),
        (("--format", "peft"), "has no place for the Head"),
        (("--format", "vllm", "--without-head"), "rank 20"),
    ):
        outcome = lmtailor("export", decoder, folder, *words, "--out", tmp_path / "out")
        assert outcome.code == 2
        assert told in outcome.errors[0]
        assert not (tmp_path / "out").exists()
    served = lmtailor(
        "export", decoder, folder, "--format", "vllm", "--max-rank", 32, "--without-head", "--out", tmp_path / "out"
    )
    assert served.code == 0, served.err


def test_converting_says_how_near_it_comes(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    folder = _adapter(decoder, tmp_path / "lora", LoRA(rank=4, at="block.*.attn.{q,v}"))
    for rank, least, most in ((4, 0.0, 1e-3), (1, 1e-6, 100.0)):
        out = tmp_path / f"rank-{rank}"
        outcome = lmtailor("convert", decoder, folder, "--rank", rank, "--out", out)
        assert outcome.code == 0, outcome.err
        header, *rows, last = outcome.out.splitlines()
        assert header.split("\t") == ["site", "rank", "change", "error"]
        assert [row.split("\t")[0] for row in rows] == [f"block.{i}.attn.{part}" for i in range(4) for part in "qv"]
        errors = [float(row.split("\t")[3].removesuffix(" %")) for row in rows]
        assert all(least <= error <= most for error in errors)
        assert str(out) in last
        assert load_adapter(out, load_base(decoder)).method.rank == rank  # type: ignore[attr-defined]
    refused = lmtailor("convert", decoder, folder, "--out", folder)
    assert refused.code == 2
    assert "is not empty" in refused.errors[0]
    states = _adapter(decoder, tmp_path / "houlsby", Houlsby(bottleneck=2))
    assert lmtailor("convert", decoder, states, "--out", tmp_path / "none").code == 2
    assert not (tmp_path / "none").exists()
