"""Patterns: how an example's columns and a gap for the answer become one text.

    "{premise}? {mask}, {hypothesis:cut}"

`{name}` stands for a column's text, `{mask}` for the gap, `{{` and `}}` for braces. `{name:cut}` marks the column
that loses its end when the text is longer than the model takes; where none is marked, the longest loses first, until
those left are equally long. A pattern is parsed to nodes and nothing in it is ever evaluated: there are no attributes,
indices, conversions or format specifications. `{trigger}` is a slot for one token of a trigger, whatever the tokenizer would
have made of the text around it; one space before it belongs to that token. Columns called "mask" or "trigger" cannot be named.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lmtailor.core.errors import InputError, near

MASK = "mask"
TRIGGER = "trigger"
_NAME = re.compile(r"[^\W\d](?:[\w \-]*\w)?")


@dataclass(frozen=True, kw_only=True)
class Text:
    """Words of the pattern itself."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Field:
    """A place for a column's text."""

    name: str
    cut: bool = False
    """Whether this column is the one that is cut when the text is too long."""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """The gap for the answer."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one token of a trigger."""


Part = Text | Field | Slot
Node = Part | Mask


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A parsed pattern with exactly one gap."""

    source: str
    before: tuple[Part, ...]
    """What stands before the gap."""
    after: tuple[Part, ...]
    """What stands after it."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the columns, each once, in the order of the pattern."""
        return tuple(dict.fromkeys(node.name for node in self.before + self.after if isinstance(node, Field)))

    @property
    def cut(self) -> str | None:
        """The column that is marked to be cut."""
        return next((node.name for node in self.before + self.after if isinstance(node, Field) and node.cut), None)

    @property
    def slots(self) -> int:
        """How many tokens of a trigger it has places for."""
        return sum(isinstance(node, Slot) for node in self.before + self.after)

    @property
    def edge(self) -> tuple[str, bool]:
        """The pattern's own text right before the gap, back to the last column or slot; and whether there is such a one."""
        names = [i for i, node in enumerate(self.before) if not isinstance(node, Text)]
        own = self.before[names[-1] + 1 :] if names else self.before
        return "".join(node.text for node in own if isinstance(node, Text)), bool(names)

    def render(self, values: Mapping[str, str], slot: str = "") -> tuple[str, str]:
        """The text before the gap and the text after it, with `slot` in each slot."""
        return _fill(self.before, values, slot)[0], _fill(self.after, values, slot)[0]

    def slot_places(self, values: Mapping[str, str], slot: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The characters at which the slots begin in the two texts of `render`."""
        return _fill(self.before, values, slot)[1], _fill(self.after, values, slot)[1]

    def check_columns(self, columns: Iterable[str]) -> None:
        """See that the data has every column of the pattern.

        Raises:
            InputError: it has not; the message offers near names.
        """
        known = list(columns)
        for name in self.fields:
            if name not in known:
                raise InputError(
                    f"The pattern {self.source!r} names {{{name}}}, but the data has no such column. {near(name, known)}"
                )


def parse_pattern(source: str) -> Pattern:
    """Parse a pattern.

    Raises:
        InputError: a brace without its partner, something in braces that is no plain name, no gap or more than one,
            or two columns marked to be cut.
    """
    nodes = _nodes(source)
    gaps = [i for i, node in enumerate(nodes) if isinstance(node, Mask)]
    if len(gaps) != 1:
        found = f"{len(gaps)} of them" if gaps else "none"
        raise InputError(f"A pattern needs exactly one {{mask}}, where the answer goes; {source!r} has {found}.")
    parts = [node for node in nodes if not isinstance(node, Mask)]
    marked = {node.name for node in parts if isinstance(node, Field) and node.cut}
    if len(marked) > 1:
        raise InputError(f"Only one column may be marked :cut; {source!r} marks {' and '.join(sorted(marked))}.")
    return Pattern(source=source, before=tuple(parts[: gaps[0]]), after=tuple(parts[gaps[0] :]))


def _nodes(source: str) -> list[Node]:
    nodes: list[Node] = []
    text = ""
    position = 0
    while position < len(source):
        pair, char = source[position : position + 2], source[position]
        if pair in ("{{", "}}"):
            text += char
            position += 2
        elif char == "{":
            end = source.find("}", position)
            if end < 0:
                raise InputError(
                    f"The brace at character {position + 1} of the pattern {source!r} is open. Write {{{{ for a brace itself."
                )
            if text:
                nodes.append(Text(text=text))
            nodes.append(_mark(source[position + 1 : end], source))
            text = ""
            position = end + 1
        elif char == "}":
            raise InputError(
                f"The brace at character {position + 1} of the pattern {source!r} closes nothing. Write }}}} for a brace itself."
            )
        else:
            text += char
            position += 1
    return [*nodes, Text(text=text)] if text else nodes


def _mark(inner: str, source: str) -> Field | Mask | Slot:
    name, colon, mark = inner.partition(":")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{{{inner}}} in the pattern {source!r} is no column. In braces goes a plain name, such as {{sentence}} or {{mask}}: "
            "no attributes, indices or expressions."
        )
    if colon and mark != "cut":
        raise InputError(
            f"{{{inner}}} in the pattern {source!r} has an unknown mark {mark!r}. The only mark is cut: {{{name}:cut}}."
        )
    if name not in (MASK, TRIGGER):
        return Field(name=name, cut=bool(colon))
    if colon:
        what = "gap" if name == MASK else "slot"
        raise InputError(f"The {what} {{{name}}} cannot be cut. Mark a column in the pattern {source!r} instead.")
    return Mask() if name == MASK else Slot()


def _fill(nodes: Iterable[Part], values: Mapping[str, str], slot: str) -> tuple[str, tuple[int, ...]]:
    """The text, and where its slots begin."""
    text, places = "", []
    for node in nodes:
        if isinstance(node, Slot):
            text = text.removesuffix(" ")
            places.append(len(text))
            text += slot
        else:
            text += node.text if isinstance(node, Text) else values[node.name]
    return text, tuple(places)
