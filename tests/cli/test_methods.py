"""`lmtailor methods`, the rows behind it, and the generated page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Generator

from lmtailor import methods
from lmtailor.base.load import load_base
from lmtailor.base.sites import Sites
from lmtailor.cli import method_table, say
from lmtailor.cli.method_table import method_rows
from lmtailor.edits.edits import Edits
from lmtailor.methods import catalogue
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from tests.cli.inputs import Command
from tests.tiny import tiny_base


def test_every_method_has_a_row_with_what_it_can() -> None:
    rows = {row.name: row for row in method_rows()}
    assert list(rows) == list(catalogue())
    assert all(row.what and row.formula and row.paper for row in rows.values())
    lora = rows["lora"]
    assert lora.python == "LoRA"
    assert lora.settings == ("rank=8", "alpha=16.0", "dropout=0.0", "at=block.*.attn.{q,v}", "rslora=false")
    assert lora.sites == "block.*.attn.{q,v}"
    assert (lora.merges, lora.shares_batch, lora.peft) == (True, True, True)
    assert (rows["full"].merges, rows["full"].shares_batch, rows["full"].peft) == (True, False, False)
    assert (rows["prefix"].merges, rows["prefix"].shares_batch, rows["prefix"].peft) == (False, True, True)
    assert (rows["houlsby"].merges, rows["houlsby"].peft) == (False, False)
    assert rows["lora"].on_base is None


def test_settings_are_written_as_set_takes_them(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    for row in method_rows():
        words = [word for setting in row.settings for word in ("--set", f"method.{setting}")]
        short = ["--set", "method.length=5"] if "length" in row.settings else []
        outcome = lmtailor(
            "fit", encoder, "--task", data / "card.toml", "--method", row.name, *words, *short,
            "--set", "max_steps=1", "--out", tmp_path / row.name,
        )  # fmt: skip
        assert outcome.code == 0, (row.name, outcome.err)


def test_counts_are_those_of_the_method_on_the_base(lmtailor: Command, decoder: Path) -> None:
    outcome = lmtailor("methods", decoder, "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["name"]: row for row in map(json.loads, outcome.out.splitlines())}
    base = load_base(decoder)
    expected = LoRA().edits(base.sites, None).num_parameters
    assert rows["lora"]["on_base"] == {"parameters": expected, "sites": 8, "share": expected / base.num_parameters}


def test_a_method_that_a_base_does_not_take_says_why() -> None:
    narrow = tiny_base("llama", head_dim=4, num_key_value_heads=1)
    rows = {row.name: row for row in method_rows(narrow)}
    assert rows["lora"].on_base is None
    assert "rank 8 is above that of block.0.attn.v, a 4 × 48 matrix" in rows["lora"].refused
    assert rows["houlsby"].refused == ""


@dataclass(frozen=True, kw_only=True)
class Needy(Method):
    """Must be told a number.

    And does nothing with it.
    """

    paper: ClassVar[str] = "nobody"
    formula: ClassVar[str] = "0"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"n": 1},)

    n: int
    words: tuple[str, ...] = ("a", "b")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        return Edits()


def test_a_new_method_has_a_row_though_nothing_else_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (methods, method_table):
        monkeypatch.setattr(module, "catalogue", lambda: {"needy": Needy})
    (row,) = method_rows()
    assert (row.name, row.python, row.what) == ("needy", "Needy", "Must be told a number.")
    assert row.settings == ("n (required)", "words=a,b")
    assert row.sites == "none"


def test_lines_without_a_terminal_and_a_table_in_one(lmtailor: Command, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lmtailor("methods", encoder).out.splitlines()
    assert len(lines) == 1 + len(catalogue())
    assert {line.count("\t") for line in lines} == {10}
    monkeypatch.setattr(say, "in_terminal", lambda: True)
    shown = lmtailor("methods", encoder).out
    assert max(map(len, shown.splitlines())) <= 80
    assert "Σ rank · (I + O) = " in shown
    assert "✓ merge" in shown
