"""Settings: dataclass <- table <- overrides, and back."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import InputError
from lmtailor.core.settings import Given, apply_overrides, from_mapping, resolve_name, settings_hash, to_mapping


@dataclass(frozen=True, kw_only=True)
class Method:
    rank: int = 8
    alpha: float = 16.0
    at: str = "block.*.attn.{q,v}"
    init: Literal["normal", "none", "orthogonal"] = "normal"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank must be at least 1; found {self.rank}.")


@dataclass(frozen=True, kw_only=True)
class Stop:
    patience: int | None = 3
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    lr: float = 5e-4
    epochs: int = 3
    shuffle: bool = True
    warmup: float | int = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    layers: tuple[int, ...] = ()
    names: tuple[str, ...] | None = None
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stop: Stop | None = None
    alpha: float = 0.0


@dataclass(frozen=True)
class Unchecked:
    rank: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    name: str
    method: Method = Method()
    cells: tuple[Stop, ...] = ()


T = TypeVar("T", Method, Stop, Training)

KNOWN = {"method": Method, "training": Training}


def read(cls: type[T], **values: str) -> T:
    return from_mapping(cls, {key: Given(value) for key, value in values.items()})


def test_toml_builds_nested_dataclasses() -> None:
    table = tomllib.loads('name = "x"\n[method]\nrank = 4\nalpha = 32\n[[cells]]\npatience = 1\n[[cells]]\nmetric = "f1"\n')
    plan = from_mapping(Plan, table)
    assert plan == Plan(name="x", method=Method(rank=4, alpha=32.0), cells=(Stop(patience=1), Stop(metric="f1")))
    assert type(plan.method.alpha) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "method": {"rnak": 3}}, r"method\.rnak in plan\.toml is not a setting of Method\. Did you mean rank"),
        ({"name": "x", "method": {"rank": "16"}}, r'method\.rank in plan\.toml must be an integer; found the text "16"'),
        ({"name": "x", "method": {"rank": True}}, r"method\.rank in plan\.toml must be an integer; found true"),
        ({"name": "x", "method": {"rank": 1.0}}, r"must be an integer; found 1\.0 \(a number\)"),
        ({"name": "x", "method": {"alpha": True}}, r"must be a number; found true"),
        ({"name": "x", "method": {"alpha": float("nan")}}, r"must be a finite number"),
        ({"name": "x", "method": {"init": "ortogonal"}}, r"one of normal, none, orthogonal.*Did you mean orthogonal"),
        ({"name": "x", "method": {"rank": 0}}, r"method in plan\.toml: rank must be at least 1"),
        ({"name": "x", "method": 3}, r"method in plan\.toml must be a table; found 3 \(an integer\)"),
        ({"name": 3}, r"name in plan\.toml must be text"),
        ({"name": "x", "cells": [{"patience": "a"}]}, r"cells\[0\]\.patience in plan\.toml must be an integer"),
        ({"name": "x", "cells": {}}, r"cells in plan\.toml must be a list"),
        ({}, r"The settings in plan\.toml needs name: Plan has no default"),
    ],
)
def test_bad_tables_name_the_place(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(Plan, values, source="plan.toml")


def test_path_stands_before_the_field() -> None:
    with pytest.raises(InputError, match=r"^method\.rank must be"):
        from_mapping(Method, {"rank": None}, path="method")


def test_given_text_is_read_by_type() -> None:
    made = read(Training, lr="1e-3", epochs="16", shuffle="false", warmup="100", betas="0.8, 1", layers="[1,-2]", names="none")
    assert made == Training(lr=1e-3, epochs=16, shuffle=False, warmup=100, betas=(0.8, 1.0), layers=(1, -2), names=None)
    assert type(made.warmup) is int
    assert type(made.betas[1]) is float
    assert type(read(Method, at="12").at) is str


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a,b", ("a", "b")),
        ("a", ("a",)),
        ("[a, b]", ("a", "b")),
        ('["a,c", b]', ("a,c", "b")),
        ("block.*.attn.{q,v},block.[-2:]", ("block.*.attn.{q,v}", "block.[-2:]")),
        ("a,", ("a",)),
        ("[]", ()),
        ("", ()),
        ("none", None),
    ],
)
def test_given_lists(text: str, items: tuple[str, ...] | None) -> None:
    assert read(Training, names=text).names == items


def test_given_literals_none_and_objects() -> None:
    assert read(Method, init="none").init == "none"  # the option, not the absence
    assert read(Stop, metric="none", patience="null") == Stop(metric=None, patience=None)
    assert read(Stop, metric="7").metric == "7"
    assert read(Training, stop='{"patience": 1}').stop == Stop(patience=1)
    assert read(Training, words='{"0": ["bad"]}').words == {"0": ("bad",)}
    assert read(Training, words='{0 = ["bad"], good = ["very good"]}').words == {"0": ("bad",), "good": ("very good",)}
    assert read(Training, stop="{patience=1}").stop == Stop(patience=1)
    with pytest.raises(InputError, match=r"words must be a table; found the text \"\{0 =\}\""):
        read(Training, words="{0 =}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("epochs", "many", 'an integer; found the text "many"'),
        ("epochs", "1e3", "an integer; found 1000.0"),
        ("epochs", "true", "an integer; found true"),
        ("shuffle", "1", "true or false; found 1"),
        ("lr", "inf", "a finite number"),
        ("betas", "1", "a list of 2 values"),
        ("layers", "1,x", r"layers\[1\] must be an integer"),
        ("warmup", "x", "a number or an integer; found the text"),
        ("stop", "{bad", "none or a table"),
    ],
)
def test_given_text_of_another_type(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(Training, **{name: text})


def test_overrides_copy_and_resolve() -> None:
    values: dict[str, Any] = {"method": {"rank": 4}, "training": {}}
    done: dict[str, Any] = apply_overrides(
        values, ["rank=16", "training.lr=1e-3", "patience=2", "training.words.0=bad,awful", "rank=32"], known=KNOWN
    )
    assert values == {"method": {"rank": 4}, "training": {}}
    assert from_mapping(Method, done["method"]).rank == 32
    training = from_mapping(Training, done["training"])
    assert training == Training(lr=1e-3, stop=Stop(patience=2), words={"0": ("bad", "awful")})


def test_a_json_string_keeps_the_space_around_it() -> None:
    given = ["a= x ", 'b=" {ref}"', 'c="\\n y"', 'd="x" and "y"', 'e="', 'f=["x", "y"]']
    assert apply_overrides({}, given) == {
        "a": "x",
        "b": " {ref}",
        "c": "\n y",
        "d": '"x" and "y"',
        "e": '"',
        "f": '["x", "y"]',
    }


def test_override_opens_an_absent_table() -> None:
    assert apply_overrides({"stop": None}, ["stop.patience=2"]) == {"stop": {"patience": "2"}}


def test_a_value_may_hold_an_equals_sign() -> None:
    assert apply_overrides({}, ["method.at=a=b"]) == {"method": {"at": "a=b"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rank", "Write key.path=value"),
        ("=3", "Write key.path=value"),
        ("method..rank=3", "Write key.path=value"),
        ("alpha=3", r"ambiguous: method\.alpha, training\.alpha"),
        ("rnak=3", "no setting rnak. Did you mean rank"),
        ("method.rnak=3", r"no setting method\.rnak. Did you mean method\.rank"),
        ("metod.rank=3", r"Did you mean method\.rank"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_overrides({}, [override], known=KNOWN)


def test_override_through_a_value() -> None:
    with pytest.raises(InputError, match=r"a\.b\.c cannot be set: a\.b is 3"):
        apply_overrides({"a": {"b": 3}}, ["a.b.c=1"])


def test_top_level_section() -> None:
    assert resolve_name("name", {"": Plan}) == "name"
    assert resolve_name("rank", {"": Plan}) == "method.rank"


def test_to_mapping_is_json_and_canonical() -> None:
    made = to_mapping(Training(warmup=np.float64(0.5), alpha=3, stop=Stop()))
    assert json.loads(json.dumps(made)) == made
    assert made["alpha"] == 3.0
    assert type(made["alpha"]) is float
    assert type(made["warmup"]) is float
    assert made["stop"] == {"patience": 3, "metric": None}
    assert made["betas"] == [0.9, 0.999]
    with pytest.raises(InputError, match='rank must be an integer; found the text "8"'):
        to_mapping(Unchecked(rank="8"))  # type: ignore[arg-type]


def test_hash() -> None:
    assert settings_hash(Method(alpha=16)) == settings_hash(Method(alpha=16.0)) == settings_hash(to_mapping(Method()))
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash(Method(rank=9)) != settings_hash(Method())
    assert settings_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_types_that_settings_cannot_hold() -> None:
    @dataclass(frozen=True)
    class Bad:
        x: set[int]

    @dataclass(frozen=True)
    class Choice:
        x: Method | Stop

    with pytest.raises(TypeError, match="cannot hold"):
        from_mapping(Bad, {"x": [1]})
    with pytest.raises(TypeError, match="cannot choose"):
        from_mapping(Choice, {"x": {}})


floats = st.floats(allow_nan=False, allow_infinity=False)
stops = st.builds(Stop, patience=st.none() | st.integers(), metric=st.none() | st.text())
trainings = st.builds(
    Training,
    lr=floats,
    epochs=st.integers(),
    shuffle=st.booleans(),
    warmup=floats | st.integers(),
    betas=st.tuples(floats, floats),
    layers=st.lists(st.integers()).map(tuple),
    names=st.none() | st.lists(st.text()).map(tuple),
    words=st.dictionaries(st.text(), st.lists(st.text()).map(tuple)),
    stop=st.none() | stops,
)


@given(trainings)
def test_round_trip_through_json(made: Training) -> None:
    again = from_mapping(Training, json.loads(json.dumps(to_mapping(made))))
    assert again == made
    assert type(again.warmup) is type(made.warmup)
    assert settings_hash(again) == settings_hash(made)


@given(trainings)
def test_scalars_round_trip_through_given_text(made: Training) -> None:
    words = {"lr": repr(made.lr), "epochs": str(made.epochs), "shuffle": str(made.shuffle), "warmup": repr(made.warmup)}
    words |= {"betas": repr(list(made.betas)), "layers": ",".join(map(str, made.layers))}
    again = read(Training, **words)
    assert all(getattr(again, name) == getattr(made, name) for name in words)


def test_names_that_a_message_lists_are_not_listed_twice() -> None:
    with pytest.raises(InputError) as caught:
        from_mapping(Method, {"init": "sideways"}, path="method")
    assert str(caught.value).count("orthogonal") == 1
    with pytest.raises(InputError, match="Did you mean orthogonal"):
        from_mapping(Method, {"init": "orthogonl"}, path="method")
