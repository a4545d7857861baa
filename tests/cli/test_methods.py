"""`lmtailor methods`, the rows behind it, and the generated page."""

import functools
import json
import re
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
from lmtailor.cli.method_table import MethodRow, method_rows
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.settings import apply_overrides, from_mapping
from lmtailor.edits.edits import Edits
from lmtailor.methods import catalogue
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from tests.cli.inputs import Command
from tests.tiny import tiny_base


@functools.cache
def rows() -> dict[str, MethodRow]:
    """By name, with no base."""
    return {row.name: row for row in method_rows()}


def test_every_method_has_a_row_with_what_it_can() -> None:
    assert list(rows()) == list(catalogue())
    assert all(row.what and row.formula and row.paper and not row.refused for row in rows().values())
    lora = rows()["lora"]
    assert lora.python == "LoRA"
    assert lora.settings[:5] == ("rank=8", "alpha=16.0", "dropout=0.0", "at=block.*.attn.{q,v}", "rslora=false")
    assert lora.sites == "block.*.attn.{q,v}"
    assert lora.on_base is None


CAN = {
    "lora": (True, True, True),
    "full": (True, False, False),
    "fish_mask": (True, False, False),
    "prefix": (False, True, True),
    "p_tuning": (False, True, True),  # the network is thrown away, and PEFT reads what is kept
    "houlsby": (False, True, False),
    "bitfit": (True, True, False),
    "ia3": (True, True, True),
    "adalora": (True, True, True),  # pruned, it is LoRA
}
"""Methods of which it is known: merges, shares a batch, PEFT reads it."""


@pytest.mark.parametrize("name", CAN)
def test_what_a_method_can_is_found_by_trying_it(name: str) -> None:
    row = rows()[name]
    assert (row.merges, row.shares_batch, row.peft) == CAN[name]


@pytest.mark.parametrize("name", catalogue())
def test_settings_are_written_as_set_takes_them(name: str) -> None:
    """Also methods that are settings of methods."""
    method = catalogue()[name]
    values = apply_overrides({}, [f"method.{setting}" for setting in rows()[name].settings])
    table = values.get("method", {})
    assert isinstance(table, dict)
    try:
        plain = method()
    except InputError as error:  # something must be said first
        with pytest.raises(InputError, match=re.escape(str(error))):
            from_mapping(method, table)
        return
    assert from_mapping(method, table) == plain


def test_a_method_that_is_a_setting_is_written_by_its_name_and_what_differs() -> None:
    assert "inner=pfeiffer" in rows()["adamix"].settings
    (prefix,) = (setting for setting in rows()["mam"].settings if setting.startswith("prefix="))
    assert prefix.startswith('prefix={"name": "prefix", "length": 30, ')
    assert "std" not in prefix


def test_shown_settings_fit(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    for name in ("lora", "houlsby", "prefix"):
        words = [word for setting in rows()[name].settings for word in ("--set", f"method.{setting}")]
        words += ["--set", "max_steps=1", "--out", str(tmp_path / name)]
        outcome = lmtailor("fit", encoder, "--task", data / "card.toml", "--method", name, *words)
        assert outcome.code == 0, (name, outcome.err)


def test_counts_are_those_of_the_method_on_the_base(lmtailor: Command, decoder: Path) -> None:
    outcome = lmtailor("methods", decoder, "--json")
    assert outcome.code == 0, outcome.err
    assert lmtailor("methods", "--base", decoder, "--json").out == outcome.out
    counted = {row["name"]: row for row in map(json.loads, outcome.out.splitlines())}
    base = load_base(decoder)
    expected = LoRA().edits(base.sites, None).num_parameters
    assert counted["lora"]["on_base"] == {"parameters": expected, "sites": 8, "share": expected / base.num_parameters}
    whole = counted["full"]["on_base"]["parameters"]
    assert whole == sum(value.numel() for value in base.sites.without_head().parameters().values())
    assert counted["fish_mask"]["on_base"]["parameters"] == int(0.005 * whole)


def test_a_method_that_a_base_does_not_take_says_why() -> None:
    narrow = {row.name: row for row in method_rows(tiny_base("llama", head_dim=4, num_key_value_heads=1))}
    assert narrow["lora"].on_base is None
    assert "rank 8 is above that of block.0.attn.v, a 4 × 48 matrix" in narrow["lora"].refused
    assert narrow["lora"].peft, "what it can is found on another base"
    assert narrow["houlsby"].refused == ""


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


@dataclass(frozen=True, kw_only=True)
class Picky(Needy):
    """Takes no model that is near."""

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        raise UnsupportedError(f"{sites.model_type} is not good enough.")


def test_a_method_that_cannot_be_tried_has_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (methods, method_table):
        monkeypatch.setattr(module, "catalogue", lambda: {"picky": Picky})
    (row,) = method_rows()
    assert (row.sites, row.merges, row.peft) == ("unknown", False, False)
    assert row.refused == "bert is not good enough."


def test_lines_without_a_terminal_and_a_table_in_one(lmtailor: Command, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lmtailor("methods", encoder).out.splitlines()
    assert len(lines) == 1 + len(catalogue())
    assert {line.count("\t") for line in lines} == {10}
    monkeypatch.setattr(say, "in_terminal", lambda: True)
    shown = lmtailor("methods", encoder).out
    assert max(map(len, shown.splitlines())) <= 80
    assert "Σ rank · (I + O) = " in shown
    assert "✓ merge" in shown
