"""Operators of templates on plain data, each paid for before it is carried out."""

import math
from collections.abc import Callable, Mapping

from jinja2 import nodes

from lmtailor.core.errors import near
from lmtailor.tasks.templates.values import Meter, Missing, NotAllowedError, Value, bounded, number, shown, size, whole


def item_of(value: Value, key: Value) -> Value | Missing:
    """`value[key]`: an item of a list or text by its place, of a table by its key.

    Raises:
        NotAllowedError: the value has no items, or the key is of another kind.
    """
    if isinstance(value, dict):
        if not isinstance(key, str):
            raise NotAllowedError(f"asks a table for {shown(key)}; its keys are text")
        return value[key] if key in value else Missing(what=f"asks a table for {key!r}. {near(key, value)}")
    if not isinstance(value, list | str):
        raise NotAllowedError(f"asks {shown(value)} for an item; only lists, tables and text have items")
    if isinstance(key, str):
        raise NotAllowedError(f"asks {shown(value)} for {key!r}; there are no attributes, and only tables have items by name")
    place = whole(key)
    if not -len(value) <= place < len(value):
        return Missing(what=f"asks {shown(value)} for item {place}, of {len(value)}")
    return value[place]


def part_of(meter: Meter, value: Value, start: Value, stop: Value, step: Value) -> Value:
    """`value[start:stop:step]` of a list or text.

    Raises:
        NotAllowedError: the value is something else, or an end is no whole number.
    """
    if not isinstance(value, list | str):
        raise NotAllowedError(f"takes a part of {shown(value)}; only lists and text have parts")
    meter.pay(len(value))
    return value[slice(*(None if end is None else whole(end) for end in (start, stop, step)))]


def compared(meter: Meter, operator: str, left: Value, right: Value) -> bool:
    """`left operator right`; the operator has Jinja's name.

    Raises:
        NotAllowedError: an order of things that have none.
    """
    texts = isinstance(left, str) and isinstance(right, str)
    meter.pay(min(size(left), size(right)) if texts and operator in ("eq", "ne") else size(left) + size(right))
    if operator in ("eq", "ne"):
        return (left == right) == (operator == "eq")
    if operator in ("in", "notin"):
        return _contains(right, left) == (operator == "in")
    if isinstance(left, str) and isinstance(right, str):
        return _ORDERS[operator]((left > right) - (left < right))
    one, two = number(left), number(right)
    return not (math.isnan(one) or math.isnan(two)) and _ORDERS[operator]((one > two) - (one < two))


_ORDERS: Mapping[str, Callable[[int], bool]] = {
    "lt": lambda sign: sign < 0,
    "lteq": lambda sign: sign <= 0,
    "gt": lambda sign: sign > 0,
    "gteq": lambda sign: sign >= 0,
}


def _contains(whole_value: Value, part: Value) -> bool:
    if isinstance(whole_value, str):
        if not isinstance(part, str):
            raise NotAllowedError(f"looks for {shown(part)} in text")
        return part in whole_value
    if not isinstance(whole_value, list | dict):
        raise NotAllowedError(f"looks for something in {shown(whole_value)}")
    return part in whole_value if isinstance(whole_value, list) or isinstance(part, str) else False


def _add(meter: Meter, left: Value, right: Value) -> Value:
    if isinstance(left, str) and isinstance(right, str):
        meter.pay(len(left) + len(right))
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        meter.pay(size(left) + size(right))
        return left + right
    return bounded(number(left) + number(right))


def _numeric(compute: Callable[[int | float, int | float], int | float]) -> Callable[[Meter, Value, Value], Value]:
    """An operator on numbers alone: on text `*` repeats and `%` formats, and both can make much of little."""

    def operator(meter: Meter, left: Value, right: Value) -> Value:
        return bounded(compute(number(left), number(right)))

    return operator


BINARY: Mapping[type[nodes.BinExpr], Callable[[Meter, Value, Value], Value]] = {
    nodes.Add: _add,
    nodes.Sub: _numeric(lambda left, right: left - right),
    nodes.Mul: _numeric(lambda left, right: left * right),
    nodes.Div: _numeric(lambda left, right: left / right),
    nodes.FloorDiv: _numeric(lambda left, right: left // right),
    nodes.Mod: _numeric(lambda left, right: left % right),
}
