"""The filters, methods and tests that templates may use. What is not here does not exist for them.

They have the names and results of Jinja's and promptsource's, on plain data. Those that could make much of little
(`center`, `format`, `indent`, `*` on text and the like) are not here, and what the others make is paid for.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping

from lmtailor.core.errors import near
from lmtailor.tasks.templates.operators import compared, item_of
from lmtailor.tasks.templates.values import (
    Meter,
    Missing,
    NotAllowedError,
    Value,
    bounded,
    items,
    number,
    printed,
    size,
    whole,
    words,
)

Function = Callable[..., Value]
"""Called with the meter, the value, and the arguments that the template gives."""

_TITLE = re.compile(r"([-\s({\[<]+)")
"""Where a new word begins, as in Jinja's `title`."""


def _text(change: Callable[[str], str]) -> Function:
    """A filter that changes text and makes at most three times as much of it, as case folding can."""

    def function(meter: Meter, value: Value) -> Value:
        text = printed(value)
        meter.pay(3 * len(text))
        return change(text)

    return function


def _title(text: str) -> str:
    return "".join(part[0].upper() + part[1:].lower() for part in _TITLE.split(text) if part)


def _strip(change: Callable[[str, str | None], str]) -> Function:
    def function(meter: Meter, value: Value, chars: Value = None) -> Value:
        text = printed(value)
        meter.pay(len(text))
        return change(text, None if chars is None else words(chars))

    return function


def _replace(meter: Meter, value: Value, old: Value, new: Value, count: Value = None) -> Value:
    text, before, after = printed(value), words(old), words(new)
    limit = -1 if count is None else whole(count)
    meter.pay(len(text) + len(before))
    found = text.count(before)
    meter.pay((found if limit < 0 else min(found, limit)) * len(after))
    return text.replace(before, after, limit)


def _joined(meter: Meter, separator: Value, parts: Value) -> Value:
    own, between = [printed(part) for part in (list(parts) if isinstance(parts, str) else items(parts))], words(separator)
    meter.pay(sum(map(len, own)) + len(own) * (1 + len(between)))
    return between.join(own)


def _join(meter: Meter, value: Value, d: Value = "") -> Value:
    return _joined(meter, d, value)


def _split(meter: Meter, value: Value, sep: Value = None, maxsplit: Value = -1) -> Value:
    text = words(value)
    meter.pay(2 * len(text) + 1)
    found: list[Value] = []
    found.extend(text.split(None if sep is None else words(sep), whole(maxsplit)))
    return found


def _length(meter: Meter, value: Value) -> Value:
    return len(value) if isinstance(value, str) else len(items(value))


def _first(meter: Meter, value: Value) -> Value:
    return value[0] if isinstance(value, str) else items(value)[0]


def _last(meter: Meter, value: Value) -> Value:
    return value[-1] if isinstance(value, str) else items(value)[-1]


def _int(meter: Meter, value: Value, default: Value = 0) -> Value:
    if isinstance(value, str):
        meter.pay(len(value))
        text = value.strip()[:20]
        return bounded(int(text)) if re.fullmatch(r"[+-]?[0-9]{1,16}", text) else default
    return bounded(int(value)) if isinstance(value, int | float) else default


def _float(meter: Meter, value: Value, default: Value = 0.0) -> Value:
    if isinstance(value, str):
        meter.pay(len(value))
    try:
        return float(value) if isinstance(value, str | int | float) else default
    except ValueError:
        return default


def _string(meter: Meter, value: Value) -> Value:
    return printed(value)


def _abs(meter: Meter, value: Value) -> Value:
    return abs(number(value))


def _round(meter: Meter, value: Value, precision: Value = 0) -> Value:
    return round(number(value), whole(precision))


def _list(meter: Meter, value: Value) -> Value:
    meter.pay(size(value))
    return list(value) if isinstance(value, str) else list(items(value))


def _reverse(meter: Meter, value: Value) -> Value:
    meter.pay(size(value))
    return value[::-1] if isinstance(value, str) else items(value)[::-1]


def _unique(meter: Meter, value: Value) -> Value:
    own = items(value)
    meter.pay(size(value))
    seen: dict[Value, Value] = {}
    for item in own:
        seen.setdefault(_folded(item), item)
    return list(seen.values())


def _sort(meter: Meter, value: Value, reverse: Value = False) -> Value:
    own = items(value)
    meter.pay(20 * size(value))  # a list of a million items takes twenty rounds
    if not (all(isinstance(item, str) for item in own) or all(isinstance(item, int | float) for item in own)):
        raise NotAllowedError("sorts a list that is neither all text nor all numbers")
    return sorted(own, key=_folded, reverse=reverse is True)  # type: ignore[arg-type]  # checked above


def _least(meter: Meter, value: Value) -> Value:
    return items(_sort(meter, value))[0]


def _most(meter: Meter, value: Value) -> Value:
    return items(_sort(meter, value))[-1]


def _sum(meter: Meter, value: Value) -> Value:
    meter.pay(size(value))
    return bounded(sum(map(number, items(value))))


def _most_frequent(meter: Meter, value: Value) -> Value:
    meter.pay(size(value))
    counts = Counter(items(value))
    most = max(counts.values(), default=0)
    return [item for item, count in counts.items() if count == most]


def _map(meter: Meter, value: Value, name: Value = None, *args: Value, attribute: Value = None) -> Value:
    """Every item through a filter by its name, or the item of this name of every table."""
    own = items(value)
    meter.pay(len(own))
    if attribute is not None:
        found = [item_of(item, words(attribute)) for item in own]
        missing = next((item for item in found if isinstance(item, Missing)), None)
        if missing is not None or name is not None:
            raise NotAllowedError("maps by a filter and an item at once" if missing is None else missing.what)
        return [item for item in found if not isinstance(item, Missing)]
    if words(name) not in FILTERS:
        raise NotAllowedError(f"has the filter {name!r}, which is not allowed here. {near(words(name), FILTERS)}")
    return [FILTERS[words(name)](meter, item, *args) for item in own]


def _kept(wanted: bool) -> Function:
    """A filter that keeps the items for which a test by its name says so."""

    def function(meter: Meter, value: Value, name: Value, *args: Value) -> Value:
        test = words(name)
        if test not in _RELATIONS and test not in TESTS:
            raise NotAllowedError(f"has the test {test!r}, which is not allowed here. {near(test, (*_RELATIONS, *TESTS))}")
        own = items(value)
        meter.pay(len(own))
        if test in TESTS:
            return [item for item in own if TESTS[test](item, *args) is wanted]
        (other,) = args
        return [item for item in own if compared(meter, _RELATIONS[test], item, other) is wanted]

    return function


_RELATIONS = {"equalto": "eq", "eq": "eq", "==": "eq", "ne": "ne", "!=": "ne", "in": "in"}
"""Tests that compare with something, with the names of Jinja's operators."""


def _folded(item: Value) -> Value:
    """What is compared: Jinja does not tell upper from lower case."""
    return item.lower() if isinstance(item, str) else item


FILTERS: Mapping[str, Function] = {
    "abs": _abs,
    "capitalize": _text(str.capitalize),
    "count": _length,
    "first": _first,
    "float": _float,
    "int": _int,
    "join": _join,
    "last": _last,
    "length": _length,
    "list": _list,
    "lower": _text(str.lower),
    "map": _map,
    "max": _most,
    "min": _least,
    "most_frequent": _most_frequent,
    "reject": _kept(False),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "select": _kept(True),
    "sort": _sort,
    "string": _string,
    "sum": _sum,
    "title": _text(_title),
    "trim": _strip(str.strip),
    "unique": _unique,
    "upper": _text(str.upper),
}
"""Besides these there are `default` (`d`), which may meet what is not there, and `choice` (`random`), which draws."""


def _index(meter: Meter, value: Value, wanted: Value) -> Value:
    meter.pay(size(value))
    return value.index(words(wanted)) if isinstance(value, str) else items(value).index(wanted)


def _count(meter: Meter, value: Value, wanted: Value) -> Value:
    meter.pay(size(value))
    return value.count(words(wanted)) if isinstance(value, str) else items(value).count(wanted)


def _get(meter: Meter, value: Value, key: Value, default: Value = None) -> Value:
    return _table(value).get(words(key), default)


def _table(value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise NotAllowedError("asks for the keys, values or items of what is no table")
    return value


def _keys(meter: Meter, value: Value) -> Value:
    return list(_table(value))


def _values(meter: Meter, value: Value) -> Value:
    return list(_table(value).values())


def _pairs(meter: Meter, value: Value) -> Value:
    meter.pay(3 * size(_table(value)))
    return [[key, item] for key, item in _table(value).items()]


def _starts(meter: Meter, value: Value, wanted: Value) -> Value:
    return words(value).startswith(words(wanted))


def _ends(meter: Meter, value: Value, wanted: Value) -> Value:
    return words(value).endswith(words(wanted))


METHODS: Mapping[str, Function] = {
    "capitalize": _text(str.capitalize),
    "count": _count,
    "endswith": _ends,
    "get": _get,
    "index": _index,
    "items": _pairs,
    "join": _joined,
    "keys": _keys,
    "lower": _text(str.lower),
    "lstrip": _strip(str.lstrip),
    "replace": _replace,
    "rstrip": _strip(str.rstrip),
    "split": _split,
    "startswith": _starts,
    "strip": _strip(str.strip),
    "title": _text(str.title),
    "upper": _text(str.upper),
    "values": _values,
}
"""What may stand as `x.name(…)`. It is looked up here by its name, never in `x`."""

TESTS: Mapping[str, Callable[..., bool]] = {
    "even": lambda value: whole(value) % 2 == 0,
    "odd": lambda value: whole(value) % 2 == 1,
    "none": lambda value: value is None,
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float),
    "mapping": lambda value: isinstance(value, dict),
    "sequence": lambda value: isinstance(value, list | str | dict),
    "iterable": lambda value: isinstance(value, list | str | dict),
}
"""Besides these there are `defined`, `undefined`, `equalto` (`eq`, `==`) and `in`."""
