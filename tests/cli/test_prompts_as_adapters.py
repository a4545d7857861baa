"""Prompts as adapters, their transfer, and prompt tuning's relatives, from the command line."""

import json
import shlex
from pathlib import Path

import pytest

from lmtailor.base.load import load_base
from lmtailor.methods.hard_prompt import HardPrompt
from lmtailor.methods.lora import LoRA
from lmtailor.methods.slot_prompt import SlotPrompt
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.methods.warp import WARP
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import load_adapter, save_adapter
from tests.cli.inputs import Command
from tests.store.adapters import moved_adapter

QUICK = ("--batch-size", "8", "--set", "training.max_steps=2", "--set", "training.lr=0.01")


def ran(lmtailor: Command, verb: str, base: Path, data: Path, out: Path, *words: object) -> Adapter:
    """Run a verb, then the command that it says to type next."""
    outcome = lmtailor(verb, base, "--task", data / "card.toml", "--out", out, *words)
    assert outcome.code == 0, outcome.err
    answer = lmtailor(*shlex.split(outcome.out.splitlines()[-1].strip())[1:])
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["label"] in ("neg", "pos")
    return load_adapter(out, load_base(str(base)))


@pytest.mark.parametrize("setting", ["text=is it good?", "strategy.k=2"])
def test_words_and_demonstrations(lmtailor: Command, decoder: Path, data: Path, tmp_path: Path, setting: str) -> None:
    adapter = ran(lmtailor, "adapt", decoder, data, tmp_path / "a", "--strategy", "prompted", "--set", setting)
    assert isinstance(adapter.method, HardPrompt)
    assert "dev" in adapter.scores
    assert ("text" in adapter.provenance["search"]) == setting.startswith("text")


def test_a_head_behind_words(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    words = ("--method", "hard_prompt", "--set", "text=the movie was", *QUICK)
    adapter = ran(lmtailor, "fit", encoder, data, tmp_path / "a", *words)
    assert isinstance(adapter.method, HardPrompt)
    assert adapter.method.ids


def test_warp_and_slots(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    warp = ran(lmtailor, "fit", encoder, data, tmp_path / "w", "--method", "warp", "--readout", "verbalizer", *QUICK)
    assert isinstance(warp.method, WARP)
    assert set(warp.method.words) == {"good", "bad"}
    pattern = ("--pattern", "{sentence} {trigger} it {trigger} {mask}", "--set", "readout.trigger=cat,dog")
    words = ("--method", "slot_prompt", "--readout", "verbalizer", *pattern, *QUICK)
    slots = ran(lmtailor, "fit", encoder, data, tmp_path / "s", *words)
    assert isinstance(slots.method, SlotPrompt)
    assert len(slots.method.ids) == 2


def test_transfer(lmtailor: Command, encoder: Path, decoder: Path, data: Path, tmp_path: Path) -> None:
    words = ("--method", "soft_prompt", "--set", "length=3", "--readout", "verbalizer", *QUICK)
    ran(lmtailor, "fit", decoder, data, tmp_path / "one", *words)
    ran(lmtailor, "fit", decoder, data, tmp_path / "two", "--seed", 1, *words)
    sources = f"strategy.sources={tmp_path / 'one'},{tmp_path / 'two'}"
    spot = ("--strategy", "spot", "--set", sources, "--set", "probe_steps=1", "--readout", "verbalizer", *QUICK)
    adapter = ran(lmtailor, "adapt", decoder, data, tmp_path / "spot", *spot)
    assert adapter.method == SoftPrompt(length=3)
    assert len(adapter.provenance["search"]["closeness"]) == 2
    source = f"source={tmp_path / 'one'}"
    projection = ("--strategy", "prompt_projection", "--set", source, "--set", "hidden=4", "--readout", "verbalizer", *QUICK)
    projected = ran(lmtailor, "adapt", encoder, data, tmp_path / "projected", *projection)
    assert projected.method == SoftPrompt(length=3)
    other = lmtailor("adapt", encoder, "--task", data / "card.toml", "--out", tmp_path / "no", *spot)
    assert other.code == 2
    assert "made for" in other.err


def test_closeness(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    base = load_base(str(decoder))
    for seed in range(2):
        save_adapter(moved_adapter(base, SoftPrompt(length=3), by=1.0, seed=seed), tmp_path / str(seed))
    itself = json.loads(lmtailor("closeness", decoder, tmp_path / "0", tmp_path / "0", "--json").out)
    other = json.loads(lmtailor("closeness", decoder, tmp_path / "0", tmp_path / "1", "--json").out)
    assert itself["neurons"] == pytest.approx(1)
    assert itself["average_tokens"] == pytest.approx(1)
    assert other["average_tokens"] < 0.9
    table = lmtailor("closeness", decoder, tmp_path / "0", tmp_path / "1").out.splitlines()
    assert table[0] == "closeness by\tcosine"
    assert table[1] == f"mean tokens\t{other['average_tokens']:.4f}"
    assert len(table) == 4 + len(other["by_layer"])
    save_adapter(moved_adapter(base, LoRA(rank=2)), tmp_path / "lora")
    refused = lmtailor("closeness", decoder, tmp_path / "0", tmp_path / "lora")
    assert refused.code == 2
    assert "prompt" in refused.errors[0]
