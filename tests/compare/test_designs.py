"""Cells that differ in one thing: what a plan makes of sizes and sweeps, and which curves cells are found to be on."""

from collections.abc import Mapping

import pytest

from lmtailor.compare.designs import all_positions
from lmtailor.compare.plan import Cell, Plan
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.compare.positions import BASE, EXAMPLES, Position, smaller_cells, tidy
from lmtailor.core.errors import InputError
from lmtailor.methods.lora import LoRA
from lmtailor.methods.prefix import Prefix
from lmtailor.readouts.verbalizer import Verbalizer

ASKED = {"name": "verbalizer", "pattern": "{text} {mask}", "words": {"no": ["bad"], "yes": ["good"]}}


def names(values: Mapping[str, object]) -> list[str]:
    return [cell.name for cell in plan_from_mapping(values).cells]


def test_sizes_make_a_cell_each_in_their_order() -> None:
    plan = plan_from_mapping(
        {
            "sizes": [50, 200],
            "reference": "LoRA",
            "cells": [
                {"name": "LoRA", "method": "lora"},
                {"name": "{method} on {examples} texts", "method": "bitfit", "sizes": [1, 9]},
                {"name": "probe, {examples}", "sizes": []},
            ],
        }
    )
    assert [(cell.name, cell.examples) for cell in plan.cells] == [
        ("LoRA · 50 examples", 50),
        ("LoRA · 200 examples", 200),
        ("bitfit on 1 texts", 1),
        ("bitfit on 9 texts", 9),
        ("probe, all", None),
    ]
    assert plan.cells[0].positions == (Position(axis=EXAMPLES, line="LoRA", text="50", number=50.0),)
    assert plan.cells[2].positions[0].line == "bitfit on texts"
    assert plan.reference_cell == "LoRA · 200 examples"
    assert smaller_cells(all_positions(plan.cells)) == {"LoRA · 50 examples", "bitfit on 1 texts"}
    assert plan.cells[0].settings(0)["examples"] == 50
    assert "examples" not in plan.cells[-1].settings(0), "records of plans without sizes stay good"


def test_what_sizes_cannot_change_runs_once() -> None:
    shown = ASKED | {"demonstrations": {"k": 2}}
    plan = {"sizes": [5, 9], "cells": [{"readout": [ASKED]}, {"readout": shown, "name": "shown"}, {"readout": "majority"}]}
    assert names(plan) == ["frozen · verbalizer", "shown · 5 examples", "shown · 9 examples", "majority"]


def test_a_sweep_makes_a_cell_for_each_combination_of_values() -> None:
    plan = plan_from_mapping(
        {
            "cells": [
                {"method": "prefix", "sweep": {"method.length": [1, 20], "method.place": ["front", "infix"]}},
                {"method": "lora", "name": "r={method.rank}", "sweep": {"method": {"rank": [2]}, "training": {"lr": [1e-3, 1]}}},
                {"readout": ASKED | {"demonstrations": {"k": 1}}, "sweep": {"readout.demonstrations.k": [1, 2]}, "name": "few"},
            ]
        }
    )
    assert [cell.name for cell in plan.cells] == [
        "prefix · length 1 · place front",
        "prefix · length 1 · place infix",
        "prefix · length 20 · place front",
        "prefix · length 20 · place infix",
        "r=2 · lr 0.001",
        "r=2 · lr 1",
        "few · k 1",
        "few · k 2",
    ]
    assert plan.cells[1].method == Prefix(length=1, place="infix")
    assert plan.cells[1].positions == (
        Position(axis="method.length", line="prefix · place infix", text="1", number=1.0),
        Position(axis="method.place", line="prefix · length 1", text="infix"),
    )
    assert plan.cells[5].method == LoRA(rank=2)
    assert plan.cells[5].training is not None
    assert plan.cells[5].training.lr == 1.0
    assert plan.cells[5].positions[1].line == "r=2"
    few = plan.cells[7].readout
    assert isinstance(few, Verbalizer)
    assert few.demonstrations is not None
    assert (few.demonstrations.k, few.words) == (2, {"no": ("bad",), "yes": ("good",)})


def test_an_axis_with_a_name_sets_several_settings_at_once() -> None:
    start = {"random": {}, "words": {"method.init": "text", "method": {"text": "a good film"}}}
    plan = plan_from_mapping({"sizes": [9, 99], "cells": [{"method": "prefix", "name": "prefix", "sweep": {"start": start}}]})
    assert [cell.name for cell in plan.cells] == [
        "prefix · random · 9 examples",
        "prefix · random · 99 examples",
        "prefix · words · 9 examples",
        "prefix · words · 99 examples",
    ]
    assert plan.cells[0].method == Prefix()
    assert plan.cells[2].method == Prefix(init="text", text="a good film")
    assert plan.cells[2].positions == (
        Position(axis="start", line="prefix · 9 examples", text="words"),
        Position(axis=EXAMPLES, line="prefix · words", text="9", number=9.0),
    )
    assert len(smaller_cells(all_positions(plan.cells))) == 2


def test_settings_that_end_alike_are_named_in_full() -> None:
    sweep = {"method.dropout": [0.0], "readout.dropout": [0.5]}
    assert names({"cells": [{"method": "lora", "readout": "head", "sweep": sweep}]}) == [
        "lora · head · method.dropout 0 · readout.dropout 0.5",
    ]


BAD: list[tuple[Mapping[str, object], str]] = [
    ({"sizes": [5, 5], "cells": [{}]}, "sizes in plan.toml must be distinct numbers of training examples, at least 1"),
    ({"sizes": "50", "cells": [{}]}, "sizes in plan.toml must be a list"),
    ({"cells": [{"sizes": [0]}]}, r"cells\[0\].sizes in plan.toml must be distinct numbers"),
    ({"cells": [{"size": [4]}]}, r"cells\[0\].size in plan.toml is not a key of a cell. Did you mean sizes"),
    ({"cells": [{"readout": ASKED, "sizes": [4]}]}, r"cells\[0\].sizes in plan.toml: nothing is trained and nothing drawn"),
    ({"cells": [{"readout": "majority", "sizes": [4]}]}, "at most a name"),
    ({"cells": [{"name": "a"}], "sizes": [5, 9], "reference": "b"}, "reference 'b' is no cell"),
    ({"cells": [{"name": "a"}], "sizes": [5, 9], "reference": "a · 5 examples"}, "is not in the ranking"),
    ({"cells": [{"sweep": [1]}]}, r"cells\[0\].sweep in plan.toml must be a table"),
    ({"cells": [{"sweep": {"method.rank": 4}}]}, r"cells\[0\].sweep.method.rank in plan.toml must be a list"),
    ({"cells": [{"sweep": {"method.rank": []}}]}, "must be a list of at least one value"),
    ({"cells": [{"sweep": {"method": ["lora"]}}]}, "needs the name of a setting"),
    (
        {"cells": [{"method": "prefix", "sweep": {"method.lenght": [1]}}]},
        r"cells\[0\].sweep.method.lenght in plan.toml is not a setting of Prefix. Did you mean length",
    ),
    ({"cells": [{"method": "prefix", "sweep": {"method.length": ["x"]}}]}, "sweep.method.length in plan.toml must be an integer"),
    ({"cells": [{"method": "prefix", "sweep": {"method.length": [0]}}]}, "sweep.method in plan.toml: length is 0"),
    ({"cells": [{"sweep": {"metod.length": [1]}}]}, "metod.length in plan.toml is no setting.* Did you mean method"),
    ({"cells": [{"sweep": {"start": [1]}}]}, "start in plan.toml is no setting"),
    ({"cells": [{"sweep": {"start": {}}}]}, "start in plan.toml has no values"),
    ({"cells": [{"sweep": {"start": {"a": 3}}}]}, "sweep.start.a in plan.toml must be a table of settings"),
    (
        {"cells": [{"sweep": {"start": {"a": {"metod.x": 3}}}}]},
        "start.a.metod.x in plan.toml must begin with.* Did you mean method",
    ),
    ({"cells": [{"sweep": {"base": {"a": {}}}}]}, "is an axis of its own"),
    ({"cells": [{"method": "lora", "sweep": {"method.rank": [4, 4]}}]}, "sweep.method.rank in plan.toml has the value 4 twice"),
    ({"cells": [{"sweep": {"method.rank": [4], "a": {"b": {"method.rank": 8}}}}]}, "sets method.rank on two axes"),
    ({"cells": [{"sweep": {"method.rank": [4], "method": {"rank": [8]}}}]}, "sets method.rank on two axes"),
    ({"cells": [{"method": "lora", "sweep": {"method.rank": [{"a": 1}]}}]}, r"sweep.method.rank\[0\] in plan.toml is a table"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_said_with_its_place(values: Mapping[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_from_mapping(values, source="plan.toml")


def test_a_strategys_own_choice_has_no_settings_to_sweep() -> None:
    with pytest.raises(InputError, match=r"cells\[0\].sweep.training: the cell names no training"):
        plan_from_mapping({"cells": [{"strategy": "pet", "sweep": {"training.lr": [1.0]}}]})


def test_cells_that_differ_only_in_their_base_are_on_one_curve() -> None:
    cells = plan_from_mapping(
        {
            "bases": {"small": "x", "large": "y"},
            "cells": [
                {"base": ["small", "large"], "method": ["lora", "bitfit"], "name": "{method} on {base}"},
                {"base": "small", "method": {"name": "lora", "rank": 2}, "name": "alone on small"},
                {"base": "small", "method": "full", "name": "the one"},
                {"base": "large", "method": "full", "name": "another"},
            ],
        }
    ).cells
    found = all_positions(cells)
    assert found["lora on small"] == (Position(axis=BASE, line="lora", text="small"),)
    assert found["lora on large"] == (Position(axis=BASE, line="lora", text="large"),)
    assert found["bitfit on large"][0].line == "bitfit"
    assert "alone on small" not in found
    assert found["the one"][0].line == found["another"][0].line == "full"


def test_sizes_and_bases_together() -> None:
    plan = {"bases": {"a": "x", "b": "y"}, "sizes": [5, 9], "cells": [{"base": ["a", "b"], "method": "lora"}]}
    found = all_positions(plan_from_mapping(plan).cells)
    assert [one.line for one in found["lora · b · 9 examples"]] == ["lora · b", "lora · 9 examples"]


@pytest.mark.parametrize(
    ("name", "tidied"),
    [("lora on ", "lora"), (" · lora", "lora"), ("lora ·  · x", "lora · x"), ("r=", "r"), ("a  b", "a b"), ("of on", "of")],
)
def test_names_lose_what_a_missing_part_leaves(name: str, tidied: str) -> None:
    assert tidy(name) == tidied


def test_a_cell_needs_an_example() -> None:
    with pytest.raises(InputError, match="needs at least 1 training example"):
        Plan(cells=(Cell(name="a", examples=0),))
