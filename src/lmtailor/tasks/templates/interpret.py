"""A small interpreter of Jinja's syntax trees. Nothing is compiled or executed, and what it does not know it refuses.

Jinja's own parser makes the tree. `check` looks at every node before anything is rendered: its kind must be one of
the few here, and so must the names of filters, methods and tests. There are no attributes: `a.b` is the item "b" of
the table `a`, and a method is looked up in a table of ours by its name. Loops go over lists of the data, and a meter
counts every step and every character that is made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from jinja2 import nodes

from lmtailor.core.errors import near
from lmtailor.core.rng import derive
from lmtailor.tasks.templates.functions import FILTERS, METHODS, TESTS
from lmtailor.tasks.templates.operators import BINARY, compared, item_of, part_of
from lmtailor.tasks.templates.values import Limits, Meter, Missing, NotAllowedError, Value, bounded, items, number, printed, size

_RANGE = 1_000
"""The longest `range`."""
_NESTING = 60
"""The deepest tree."""

_DEFAULTS, _DRAWS = ("default", "d"), ("choice", "random")
_EQUAL, _PRESENT = ("equalto", "eq", "=="), ("defined", "undefined")
_CALLS = ("range", "choice", "zip")
_OTHERS = (nodes.Template, nodes.Operand, nodes.Pair, nodes.Keyword, nodes.Slice, nodes.TemplateData)
"""Nodes that are parts of others."""

Bound = Value | Missing
T = TypeVar("T")


class RefusedError(Exception):
    """A template that is not allowed, or that fails on its data."""

    def __init__(self, line: int | None, why: str) -> None:
        super().__init__(why)
        self.line, self.why = line or 1, why


def check(tree: nodes.Template) -> None:
    """See that a template has only what this interpreter knows.

    Raises:
        RefusedError: it has something else; with the line.
    """
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _NESTING:
            raise RefusedError(node.lineno, f"is nested more than {_NESTING} deep")
        why = _objection(node)
        if why is not None:
            raise RefusedError(node.lineno, why)
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]


def _objection(node: nodes.Node) -> str | None:  # noqa: PLR0911 - one return a kind of node
    """What is not allowed about one node, its children aside."""
    kind = type(node)
    if kind not in _EXPRESSIONS and kind not in _STATEMENTS and kind not in _OTHERS:
        return f"has {_article(kind.__name__)}, which is not allowed here"
    if isinstance(node, nodes.Filter):
        return _unknown("filter", node.name, (*FILTERS, *_DEFAULTS, *_DRAWS)) or _spread(node)
    if isinstance(node, nodes.Test):
        return _unknown("test", node.name, (*TESTS, *_PRESENT, *_EQUAL, "in")) or _spread(node)
    if isinstance(node, nodes.Call):
        callee = node.node
        if isinstance(callee, nodes.Getattr):
            return _unknown("method", callee.attr, METHODS) or _spread(node)
        if isinstance(callee, nodes.Name):
            return _unknown("function", callee.name, _CALLS) or _spread(node)
        return "calls what is neither a function nor a method by name"
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        return f"asks for {node.attr!r}; there are no attributes"
    if isinstance(node, nodes.For) and node.recursive:
        return "has a recursive loop, which is not allowed here"
    if isinstance(node, nodes.For | nodes.Assign) and not _plain_target(node.target):
        return "sets something other than a name"
    return None


def _unknown(what: str, name: str, known: Sequence[str] | Mapping[str, object]) -> str | None:
    return None if name in known else f"has the {what} {name!r}, which is not allowed here. {near(name, known)}"


def _spread(node: nodes.Filter | nodes.Test | nodes.Call) -> str | None:
    return "spreads arguments with * or **" if node.dyn_args is not None or node.dyn_kwargs is not None else None


def _plain_target(target: nodes.Node) -> bool:
    names = target.items if isinstance(target, nodes.Tuple) else [target]
    return all(isinstance(name, nodes.Name) and name.name != "loop" for name in names)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


@dataclass(kw_only=True)
class Rendering:
    """One rendering of one template. Make a new one for each."""

    names: Mapping[str, Value]
    """What the template may name."""
    seed: int
    """With the number of the draw it decides what `choice` draws."""
    limits: Limits = field(default_factory=Limits)
    _scopes: list[dict[str, Value]] = field(default_factory=list)
    _out: list[str] = field(default_factory=list)
    _draws: int = 0

    def __post_init__(self) -> None:
        self._meter = Meter(self.limits)

    def run(self, tree: nodes.Template) -> str:
        """The output.

        Raises:
            RefusedError: it asks for what is not there or not allowed, or takes too much.
        """
        self._scopes = [{}]
        self._body(tree.body)
        return "".join(self._out)

    def _body(self, body: Sequence[nodes.Node]) -> None:
        for node in body:
            self._guarded(node, _STATEMENTS[type(node)])

    def _value(self, node: nodes.Node) -> Value:
        """The value of an expression, which must be there."""
        found = self._bound(node)
        if isinstance(found, Missing):
            raise RefusedError(node.lineno, found.what)
        return found

    def _bound(self, node: nodes.Node) -> Bound:
        """The value of an expression, or what is missing."""
        return self._guarded(node, _EXPRESSIONS[type(node)])

    def _guarded(self, node: nodes.Node, act: Callable[..., T]) -> T:
        """Do it, one step; what goes wrong is told with the line."""
        try:
            self._meter.step()
            return act(self, node)
        except NotAllowedError as error:
            raise RefusedError(node.lineno, str(error)) from None
        except (TypeError, ValueError, IndexError, KeyError, ArithmeticError) as error:
            raise RefusedError(node.lineno, f"cannot be computed: {str(error) or type(error).__name__}") from None

    def _arguments(self, node: nodes.Filter | nodes.Test | nodes.Call) -> tuple[list[Value], dict[str, Value]]:
        return [self._value(one) for one in node.args], {str(one.key): self._value(one.value) for one in node.kwargs}

    def output(self, node: nodes.Output) -> None:
        """Text and `{{ … }}`."""
        for part in node.nodes:
            text = part.data if isinstance(part, nodes.TemplateData) else self._guarded(part, Rendering._printed)
            self._meter.pay(len(text))
            self._out.append(text)

    def _printed(self, node: nodes.Expr) -> str:
        return printed(self._value(node))

    def choose(self, node: nodes.If) -> None:
        """`{% if %}`, `{% elif %}`, `{% else %}`."""
        for branch in (node, *node.elif_):
            if self._truth(branch.test):
                return self._body(branch.body)
        return self._body(node.else_)

    def loop(self, node: nodes.For) -> None:
        """`{% for %}` over a list, or the keys of a table."""
        chosen = []
        for item in items(self._value(node.iter)):
            self._meter.step()
            self._scopes.append(self._assigned(node.target, item))
            if node.test is None or self._truth(node.test):
                chosen.append(item)
            self._scopes.pop()
        for index, item in enumerate(chosen):
            place: dict[str, Value] = {"index": index + 1, "index0": index, "length": len(chosen)}
            place |= {"first": index == 0, "last": index == len(chosen) - 1}
            place |= {"revindex": len(chosen) - index, "revindex0": len(chosen) - index - 1}
            self._scopes.append({**self._assigned(node.target, item), "loop": place})
            self._body(node.body)
            self._scopes.pop()
        if not chosen:
            self._body(node.else_)

    def assign(self, node: nodes.Assign) -> None:
        """`{% set %}`: in a loop it lasts for one round."""
        self._scopes[-1] |= self._assigned(node.target, self._value(node.node))

    def _assigned(self, target: nodes.Node, value: Value) -> dict[str, Value]:
        if isinstance(target, nodes.Name):
            return {target.name: value}
        assert isinstance(target, nodes.Tuple)
        own = items(value)
        if len(own) != len(target.items):
            raise NotAllowedError(f"names {len(target.items)} parts of a list of {len(own)}")
        return {one.name: part for one, part in zip(target.items, own, strict=True) if isinstance(one, nodes.Name)}

    def _truth(self, node: nodes.Node) -> bool:
        found = self._bound(node)
        return not isinstance(found, Missing) and bool(found)

    def name(self, node: nodes.Name) -> Bound:
        """A variable, or a column."""
        for scope in reversed(self._scopes):
            if node.name in scope:
                return scope[node.name]
        if node.name in self.names:
            return self.names[node.name]
        return Missing(what=f"names {node.name!r}, which the data has not. {near(node.name, self.names)}")

    def constant(self, node: nodes.Const) -> Value:
        """Text or a number of the template itself."""
        value: object = node.value
        if isinstance(value, int):
            return bounded(value) if not isinstance(value, bool) else value
        assert value is None or isinstance(value, str | float)
        return value

    def sequence(self, node: nodes.List | nodes.Tuple) -> Value:
        """`[a, b]`, `(a, b)`."""
        return [self._paid(self._value(item)) for item in node.items]

    def table(self, node: nodes.Dict) -> Value:
        """`{"a": b}`."""
        return {printed(self._value(pair.key)): self._paid(self._value(pair.value)) for pair in node.items}

    def _paid(self, value: Value) -> Value:
        """A part of a new list: all that is in it counts, so that lists of lists of lists come to an end."""
        self._meter.pay(1 + size(value))
        return value

    def item(self, node: nodes.Getitem) -> Bound:
        """`a[0]`, `a["b"]`, `a[1:]`."""
        value = self._value(node.node)
        if isinstance(node.arg, nodes.Slice):
            ends = [None if end is None else self._value(end) for end in (node.arg.start, node.arg.stop, node.arg.step)]
            return part_of(self._meter, value, *ends)
        return item_of(value, self._value(node.arg))

    def dotted(self, node: nodes.Getattr) -> Bound:
        """`a.b`: the item "b" of the table a."""
        return item_of(self._value(node.node), node.attr)

    def filtered(self, node: nodes.Filter) -> Value:
        """`a | name(…)`."""
        assert node.node is not None  # a filter without a value is a block, which is refused
        args, named = self._arguments(node)
        if node.name in _DEFAULTS:
            return _default(self._bound(node.node), *args, **named)
        value = self._value(node.node)
        if node.name in _DRAWS:
            return self._drawn(value)
        return FILTERS[node.name](self._meter, value, *args, **named)

    def call(self, node: nodes.Call) -> Value:
        """`a.name(…)`, `range(…)`, `choice(…)`, `zip(…)`."""
        args, named = self._arguments(node)
        if isinstance(node.node, nodes.Getattr):
            return METHODS[node.node.attr](self._meter, self._value(node.node.node), *args, **named)
        assert isinstance(node.node, nodes.Name)
        if named:
            raise NotAllowedError(f"gives {node.node.name} arguments by name")
        if node.node.name == "zip":
            return [[self._paid(one) for one in together] for together in zip(*map(items, args), strict=False)]
        return self._drawn(*args) if node.node.name == "choice" else self._counted(*args)

    def _counted(self, *args: Value) -> Value:
        found = range(*[int(number(arg)) for arg in args])
        if len(found) > _RANGE:
            raise NotAllowedError(f"has a range of {len(found):,}; {_RANGE:,} at most")
        self._meter.pay(len(found))
        return list(found)

    def _drawn(self, value: Value) -> Value:
        self._meter.pay(size(value))
        options = list(value) if isinstance(value, str) else items(value)
        self._draws += 1
        return options[derive(self.seed, "choice", self._draws) % len(options)]

    def tested(self, node: nodes.Test) -> Value:
        """`a is name`."""
        found = self._bound(node.node)
        if node.name in _PRESENT:
            return isinstance(found, Missing) == (node.name == "undefined")
        if isinstance(found, Missing):
            raise NotAllowedError(found.what)
        args, named = self._arguments(node)
        if node.name in _EQUAL or node.name == "in":
            return compared(self._meter, "in" if node.name == "in" else "eq", found, *args, **named)
        return TESTS[node.name](found, *args, **named)

    def conditional(self, node: nodes.CondExpr) -> Value:
        """`a if b else c`; without c it is empty."""
        if self._truth(node.test):
            return self._value(node.expr1)
        return "" if node.expr2 is None else self._value(node.expr2)

    def joined(self, node: nodes.Concat) -> Value:
        """`a ~ b`."""
        parts = [printed(self._value(one)) for one in node.nodes]
        self._meter.pay(sum(map(len, parts)))
        return "".join(parts)

    def comparison(self, node: nodes.Compare) -> Value:
        """`a < b < c`, `a in b`."""
        left = self._value(node.expr)
        for operand in node.ops:
            right = self._value(operand.expr)
            if not compared(self._meter, operand.op, left, right):
                return False
            left = right
        return True

    def both(self, node: nodes.And) -> Bound:
        """`a and b`: the first that counts as false, else the second."""
        left = self._bound(node.left)
        return left if isinstance(left, Missing) or not left else self._value(node.right)

    def either(self, node: nodes.Or) -> Value:
        """`a or b`: the first that counts as true, else the second."""
        left = self._bound(node.left)
        return self._value(node.right) if isinstance(left, Missing) or not left else left

    def negated(self, node: nodes.Not) -> Value:
        """`not a`."""
        return not self._truth(node.node)

    def binary(self, node: nodes.BinExpr) -> Value:
        """`a + b` and so on."""
        return BINARY[type(node)](self._meter, self._value(node.left), self._value(node.right))

    def signed(self, node: nodes.Neg | nodes.Pos) -> Value:
        """`-a`, `+a`."""
        value = number(self._value(node.node))
        return -value if isinstance(node, nodes.Neg) else +value


def _default(found: Bound, value: Value = "", boolean: Value = False) -> Value:
    """`a | default(b)`: b if a is not there; with true as second argument also if it counts as false."""
    if isinstance(found, Missing):
        return value
    return found if found or not boolean else value


_EXPRESSIONS: Mapping[type[nodes.Node], Callable[..., Bound]] = {
    nodes.Name: Rendering.name,
    nodes.Const: Rendering.constant,
    nodes.List: Rendering.sequence,
    nodes.Tuple: Rendering.sequence,
    nodes.Dict: Rendering.table,
    nodes.Getitem: Rendering.item,
    nodes.Getattr: Rendering.dotted,
    nodes.Filter: Rendering.filtered,
    nodes.Call: Rendering.call,
    nodes.Test: Rendering.tested,
    nodes.CondExpr: Rendering.conditional,
    nodes.Concat: Rendering.joined,
    nodes.Compare: Rendering.comparison,
    nodes.And: Rendering.both,
    nodes.Or: Rendering.either,
    nodes.Not: Rendering.negated,
    nodes.Neg: Rendering.signed,
    nodes.Pos: Rendering.signed,
    **dict.fromkeys(BINARY, Rendering.binary),
}

_STATEMENTS: Mapping[type[nodes.Node], Callable[..., None]] = {
    nodes.Output: Rendering.output,
    nodes.If: Rendering.choose,
    nodes.For: Rendering.loop,
    nodes.Assign: Rendering.assign,
}
