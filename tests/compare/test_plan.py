"""Plans: what they may say, what they mean, and what is said of those that cannot be."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from lmtailor.compare.plan import Budget, Cell, Majority, Plan
from lmtailor.compare.plan_file import plan_from_mapping, read_plan
from lmtailor.core.errors import InputError
from lmtailor.fit.training import Training
from lmtailor.methods import catalogue
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.strategies.strategy import Strategy
from tests.strategies.two_fits import TwoFits

PLAN = """
task = "cards/tweets.toml"
seeds = [3, 4]
metrics = ["macro_f1", "accuracy"]
reference = "probe"
batch_size = 8

[budget]
total_seconds = 600
train_examples = 50

[bases]
small = "models/small"
large = { source = "org/large", dtype = "bfloat16" }

[methods]
lora16 = { name = "lora", rank = 16 }
bitfit = { add_missing = true }

[readouts.asked]
name = "verbalizer"
pattern = "{text} It was {mask}."
words = { negative = ["bad"], positive = ["good", "great"] }

[trainings.long]
epochs = 10

[[cells]]
name = "probe"
base = "small"
training = "long"

[[cells]]
base = ["small", "large"]
method = ["lora16", "bitfit", "full"]
training = { lr = 1e-3 }
exclude = [{ base = "large", method = "full" }]
name = "{method} on {base}"
seeds = [0]

[[cells]]
base = "large"
readout = "asked"

[[cells]]
name = "no idea"
readout = "majority"
"""

WORDS = {"negative": ["bad"], "positive": ["good"]}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "plan.toml").write_text(PLAN)
    return read_plan(tmp_path / "plan.toml")


def cell(plan: Plan, name: str) -> Cell:
    return next(one for one in plan.cells if one.name == name)


def test_a_product_has_every_combination_but_the_excluded(plan: Plan) -> None:
    assert [one.name for one in plan.cells] == [
        "probe",
        "lora16 on small",
        "bitfit on small",
        "full on small",
        "lora16 on large",
        "bitfit on large",
        "frozen · asked · large",
        "no idea",
    ]


def test_choices_are_entries_tables_or_plain_names(plan: Plan) -> None:
    probe = cell(plan, "probe")
    assert (probe.readout, probe.method, probe.training, probe.seeds) == (None, Frozen(), Training(epochs=10), (3, 4))
    assert cell(plan, "lora16 on large").method == LoRA(rank=16)
    assert cell(plan, "bitfit on small").method == BitFit(add_missing=True)
    assert cell(plan, "bitfit on small").training == Training(lr=1e-3)
    asked = cell(plan, "frozen · asked · large").readout
    assert isinstance(asked, Verbalizer)
    assert asked.words == {"negative": ("bad",), "positive": ("good", "great")}
    assert cell(plan, "no idea").readout == Majority()


def test_paths_count_from_the_plan_and_hub_ids_are_left_alone(plan: Plan, tmp_path: Path) -> None:
    assert plan.task == tmp_path / "cards" / "tweets.toml"
    assert plan.bases["small"].source == str(tmp_path / "models" / "small")
    assert (plan.bases["large"].source, plan.bases["large"].dtype) == ("org/large", "bfloat16")


def test_top_level_settings_are_kept(plan: Plan) -> None:
    assert plan.metrics == ("macro_f1", "accuracy")
    assert plan.budget == Budget(total_seconds=600, train_examples=50)
    assert (plan.reference, plan.batch_size, plan.baseline) == ("probe", 8, True)


def test_settings_can_be_set_from_outside(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('[[cells]]\nname = "a"\n')
    read = read_plan(tmp_path / "plan.toml", overrides=["budget.cell_seconds=9", "seeds=5,6", "baseline=false"])
    assert (read.budget.cell_seconds, read.cells[0].seeds, read.baseline) == (9.0, (5, 6), False)


def test_runs_go_base_by_base_and_every_cell_once_before_any_twice(plan: Plan) -> None:
    runs = [(one.base, one.name, seed) for one, seed in plan.runs()]
    assert [base for base, _, _ in runs] == ["small"] * 5 + ["large"] * 3 + [None]
    assert [(name, seed) for _, name, seed in runs[:5]] == [
        ("probe", 3),
        ("lora16 on small", 0),
        ("bitfit on small", 0),
        ("full on small", 0),
        ("probe", 4),
    ]


def test_what_cannot_differ_between_seeds_runs_once() -> None:
    asked: dict[str, object] = {"name": "verbalizer", "pattern": "{text} {mask}", "words": WORDS}
    few = asked | {"demonstrations": {"k": 2, "seed": 10}}
    cells = plan_from_mapping(
        {
            "seeds": [0, 1],
            "cells": [
                {"readout": asked},
                {"readout": few, "name": "few"},
                {"readout": asked, "method": "lora"},
                {"name": "probe"},
                {"readout": {"name": "options", "pattern": "{text} {mask}", "options": {"0": "one", "1": "two"}}},
                {"readout": "chat"},
            ],
        }
    ).cells
    assert [len(one.distinct_seeds) for one in cells] == [1, 2, 2, 2, 1, 1]
    drawn = [
        one.demonstrations.seed for seed in (0, 1) if isinstance(one := cells[1].seeded(seed), Verbalizer) and one.demonstrations
    ]
    assert drawn == [10, 11]


def test_every_method_can_be_named() -> None:
    methods = [{"name": name, "text": "Review:"} if name == "hard_prompt" else name for name in catalogue()]
    named = plan_from_mapping({"cells": [{"method": methods}]})
    assert [one.method_name for one in named.cells] == list(catalogue())


def test_the_baseline_is_added_once_and_only_if_wanted(plan: Plan) -> None:
    assert plan.with_baseline("majority class") is plan
    bare = plan_from_mapping({"cells": [{"name": "a"}]})
    assert [one.name for one in bare.with_baseline("majority class").cells] == ["a", "majority class"]
    without = plan_from_mapping({"cells": [{"name": "a"}], "baseline": False})
    assert without.with_baseline("majority class") is without
    with pytest.raises(InputError, match="Rename it"):
        bare.with_baseline("a")


def test_strategies_are_a_choice_of_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strategy, "variants", classmethod(lambda cls: {"two_fits": TwoFits}))
    plan = plan_from_mapping(
        {
            "strategies": {"wide": {"name": "two_fits", "rank": 8}},
            "cells": [
                {
                    "strategy": ["two_fits", "wide"],
                    "method": ["lora", "bitfit"],
                    "exclude": [{"strategy": "wide", "method": "lora"}],
                },
                {"strategy": "wide", "name": "{strategy} alone"},
                {},
            ],
        }
    )
    found = {cell.name: (cell.strategy, cell.method, cell.readout) for cell in plan.cells}
    assert found == {
        "two_fits · lora": (TwoFits(), LoRA(), None),
        "two_fits · bitfit": (TwoFits(), BitFit(), None),
        "wide · bitfit": (TwoFits(rank=8), BitFit(), None),
        "wide alone": (TwoFits(rank=8), None, None),
        "frozen": (None, Frozen(), None),
    }
    with pytest.raises(InputError, match=r"cells\[0\].strategy: there is no strategy 'two_fit'. Did you mean .*two_fits"):
        plan_from_mapping({"cells": [{"strategy": "two_fit"}]})


BAD: list[tuple[Mapping[str, object], str]] = [
    ({"cels": []}, "cels in plan.toml is not a key of a plan. Did you mean cells"),
    ({"cells": []}, "no cells"),
    ({"cells": "x"}, "must be tables"),
    ({"cells": [3]}, r"cells\[0\] in plan.toml must be a table"),
    ({"cells": [{"method": "lorra"}]}, r"cells\[0\].method in plan.toml: there is no method 'lorra'. Did you mean lora"),
    ({"methods": {"lora16": {"name": "lora"}}, "cells": [{"method": "lora15"}]}, "Did you mean lora16"),
    ({"cells": [{"method": {"rank": 3}}]}, "needs a name"),
    ({"cells": [{"method": {"name": "lora", "rnk": 3}}]}, r"cells\[0\].method.rnk .* Did you mean rank"),
    ({"cells": [{"method": {"name": "lora", "rank": 0}}]}, r"cells\[0\].method in plan.toml: rank is 0"),
    ({"methods": {"a": {"name": "lora", "rank": "x"}}, "cells": [{}]}, "methods.a.rank in plan.toml must be an integer"),
    ({"cells": [{"readout": "verbaliser"}]}, "there is no readout 'verbaliser'. Did you mean verbalizer"),
    ({"cells": [{"readout": {"name": "head", "poling": "cls"}}]}, "Did you mean pooling"),
    ({"cells": [{"training": "long"}]}, r"no training 'long' in \[trainings\]"),
    ({"cells": [{"training": {"epoch": 2}}]}, "Did you mean epochs"),
    ({"cells": [{"trainig": {}}]}, "is not a key of a cell. Did you mean training"),
    ({"cells": [{"method": []}]}, "empty list"),
    ({"cells": [{"method": ["lora"], "exclude": [{"method": "bitfit"}]}]}, "not one of the cell's"),
    ({"cells": [{"method": ["lora"], "exclude": [{"method": "lora"}]}]}, "excludes every combination"),
    ({"cells": [{"exclude": 3}]}, "must be a list of tables"),
    ({"cells": [{"name": "a"}, {"name": "a"}]}, "Two cells are named 'a'"),
    ({"cells": [{"name": "a\nb"}]}, "one line of text"),
    ({"cells": [{"seeds": []}]}, "needs distinct seeds"),
    ({"cells": [{"seeds": [1, 1]}]}, "needs distinct seeds"),
    ({"seeds": "x", "cells": [{}]}, "seeds in plan.toml must be a list"),
    ({"reference": "b", "cells": [{"name": "a"}]}, "reference 'b' is no cell"),
    ({"batch_size": 0, "cells": [{}]}, "batch_size is 0"),
    ({"budget": {"cell_second": 3}, "cells": [{}]}, "Did you mean cell_seconds"),
    ({"budget": {"cell_seconds": -1}, "cells": [{}]}, "must be greater than 0"),
    ({"bases": {"a": "./nowhere"}, "cells": [{}]}, "bases.a in plan.toml: there is no file or folder .*nowhere"),
    ({"bases": {"a": {"source": "x", "dtyp": "float32"}}, "cells": [{}]}, "Did you mean dtype"),
    ({"bases": {"a": "x", "b": "y"}, "cells": [{"name": "c"}]}, "The cell c names no base, and there are 2: a, b"),
    ({"bases": {"small": "x"}, "cells": [{"base": "smal"}]}, "there is no base 'smal'. Did you mean small"),
    ({"cells": [{"readout": "majority", "method": "lora"}]}, "at most a name"),
    ({"cells": [{"readout": "majority", "name": "a"}, {"readout": "majority", "name": "b"}]}, "One baseline is enough"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_said_with_its_place(values: Mapping[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_from_mapping(values, source="plan.toml")


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read the plan"):
        read_plan(tmp_path / "absent.toml")
    (tmp_path / "plan.toml").write_text("[[cells]\n")
    with pytest.raises(InputError, match="not valid TOML"):
        read_plan(tmp_path / "plan.toml")


CARD = """
[files]
train = "train.csv"
[columns]
text = "text"
[[patterns]]
name = "was"
text = "{text} It was {mask}."
words = { neg = ["bad"], pos = ["good"] }
"""


def test_a_readout_takes_a_pattern_of_the_card_by_name(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD)
    (tmp_path / "train.csv").write_text("text,label\na,pos\nb,neg\n")
    plan = plan_from_mapping(
        {"task": "card.toml", "cells": [{"readout": {"name": "verbalizer", "pattern_name": "was", "aggregate": "max"}}]},
        folder=tmp_path,
    )
    words = {"neg": ("bad",), "pos": ("good",)}
    assert plan.cells[0].readout == Verbalizer("{text} It was {mask}.", words, aggregate="max")


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (
            {"task": "card.toml", "readout": {"name": "verbalizer", "pattern_name": "wsa"}},
            "no pattern named 'wsa'. Did you mean was",
        ),
        ({"readout": {"name": "verbalizer", "pattern_name": "was"}}, "the plan names no task"),
        ({"readout": {"name": "verbalizer", "pattern_name": "was", "pattern": "{mask}"}}, "pattern is given too"),
        ({"readout": {"name": "head", "pattern_name": "was"}}, "a head has none"),
        ({"readout": {"name": "verbalizer", "pattern_name": 3}}, "the name of one of the card's patterns; found 3"),
    ],
)
def test_a_name_of_a_pattern_that_cannot_be(tmp_path: Path, plan: dict[str, object], told: str) -> None:
    (tmp_path / "card.toml").write_text(CARD)
    (tmp_path / "train.csv").write_text("text,label\na,pos\nb,neg\n")
    values = {key: value for key, value in plan.items() if key == "task"}
    with pytest.raises(InputError, match=told):
        plan_from_mapping({**values, "cells": [{"readout": plan["readout"]}]}, folder=tmp_path)
