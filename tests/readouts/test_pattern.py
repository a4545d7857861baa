"""Patterns: what they parse to, and that nothing in them is ever evaluated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import InputError
from lmtailor.readouts.pattern import Field, Text, parse_pattern


def test_nodes_before_and_after_the_gap() -> None:
    pattern = parse_pattern("{premise}? {mask}, {hypothesis:cut}")
    assert pattern.before == (Field(name="premise"), Text(text="? "))
    assert pattern.after == (Text(text=", "), Field(name="hypothesis", cut=True))
    assert pattern.fields == ("premise", "hypothesis")
    assert pattern.cut == "hypothesis"
    assert pattern.render({"premise": "A {b}", "hypothesis": "{mask}"}) == ("A {b}? ", ", {mask}")


def test_doubled_braces_are_braces() -> None:
    assert parse_pattern('{{"{a}": {mask}}}').render({"a": "x"}) == ('{"x": ', "}")


def test_names_may_have_spaces_hyphens_and_letters_of_any_script() -> None:
    assert parse_pattern("{review text} {naïve-name} {x1} {mask}").fields == ("review text", "naïve-name", "x1")


@pytest.mark.parametrize(
    ("source", "edge"),
    [
        ("{a} It was {mask}.", (" It was ", True)),
        ("Answer: {mask}", ("Answer: ", False)),
        ("{mask} {a}", ("", False)),
        ("{a}{mask}", ("", True)),
    ],
)
def test_edge_is_what_stands_right_before_the_gap(source: str, edge: tuple[str, bool]) -> None:
    assert parse_pattern(source).edge == edge


@pytest.mark.parametrize(
    "inside",
    [
        "a.__class__",
        "0",
        "",
        " a",
        "a ",
        "a[b]",
        "a[0]",
        "a!r",
        "a:>10",
        "a:cut:cut",
        "a: cut",
        "a()",
        "__import__('os')",
        "a.b",
        "a,b",
        "a\n",
        "*",
        "{a",
        "mask:cut",
    ],
)
def test_only_plain_names_stand_in_braces(inside: str) -> None:
    with pytest.raises(InputError, match=r"no column|unknown mark|cannot be cut|closes nothing"):
        parse_pattern(f"x {{{inside}}} {{mask}}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{a} It was great.", "exactly one.*has none"),
        ("{a} {mask} {mask}", "exactly one.*has 2"),
        ("{a", "character 1 .* is open"),
        ("a} {mask}", "character 2 .* closes nothing"),
        ("{a:cut} {b:cut} {mask}", "Only one column"),
    ],
)
def test_bad_patterns_say_what_is_wrong(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_pattern(source)


def test_the_same_column_may_be_marked_twice() -> None:
    assert parse_pattern("{a:cut} and {a:cut} {mask}").cut == "a"


def test_unknown_column_offers_near_names() -> None:
    with pytest.raises(InputError, match=r"\{sentense\}.*Did you mean sentence\?"):
        parse_pattern("{sentense} {mask}").check_columns(("sentence", "idx"))


@given(st.text(alphabet="ab {}:.[]!m_\n", max_size=20))
def test_any_text_parses_or_is_refused(source: str) -> None:
    try:
        pattern = parse_pattern(source + "{mask}")
    except InputError:
        return
    values = dict.fromkeys(pattern.fields, "<value>")
    before, _ = pattern.render(values)
    assert before.count("<value>") == sum(isinstance(node, Field) for node in pattern.before)


@given(st.text(max_size=30), st.text(max_size=30))
def test_escaped_text_and_values_come_out_as_they_are(own: str, value: str) -> None:
    escaped = own.replace("{", "{{").replace("}", "}}")
    assert parse_pattern(escaped + "{a}{mask}" + escaped).render({"a": value}) == (own + value, own)
