"""Prompt templates in Jinja, as promptsource writes them: read, looked through, and rendered on plain data.

    Review: {{ sentence }} Is it good or bad? ||| {{ answer_choices[label] }}

What stands before `|||` is the input, what stands after it the target. `answer_choices` is itself such a text, with
its choices between `|||`. Bach et al. 2022, arXiv:2202.01279, section 4.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jinja2 import Environment, TemplateSyntaxError, nodes

from lmtailor.core.errors import InputError
from lmtailor.core.rng import derive
from lmtailor.tasks.templates.interpret import RefusedError, Rendering, check
from lmtailor.tasks.templates.values import NotAllowedError, Value, parts, plain

CHOICES = "answer_choices"
_LONGEST = 20_000
"""Characters of a template."""
_PARSER = Environment(autoescape=False)  # noqa: S701 - it only parses; nothing is rendered by it


class TemplateError(InputError):
    """A template has something that is not allowed, or fails on the data."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What a template makes of a record."""

    parts: tuple[str, ...]
    """Between the separators, without white space at the ends; the first is the input."""
    choices: tuple[str, ...] | None
    """The answers to choose from, if the template has any."""

    @property
    def input(self) -> str:
        """What the model is shown."""
        return self.parts[0]

    @property
    def target(self) -> str | None:
        """What it should answer; None if the template does not say, or left it out for this record."""
        return self.parts[1] if len(self.parts) > 1 else None


@dataclass(frozen=True, kw_only=True)
class JinjaTemplate:
    """One template. It is looked through when it is made, and nothing of it is ever compiled or executed."""

    name: str
    source: str
    """Jinja."""
    choices: str | None = None
    """Jinja for the answers to choose from, with `|||` between them; None: it has none."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Whatever its author noted. It has no effect."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("A template needs a name.")
        _ = self.tree, self.choices_tree  # raises here, not at the first example

    @cached_property
    def tree(self) -> nodes.Template:
        """The template as Jinja's parser sees it, looked through.

        Raises:
            TemplateError: it is no Jinja, or has what is not allowed; the message names template and line.
        """
        return self._parsed(self.source, "")

    @cached_property
    def choices_tree(self) -> nodes.Template | None:
        """Likewise the choices."""
        return None if self.choices is None else self._parsed(self.choices, f", {CHOICES}")

    @cached_property
    def fixed_choices(self) -> tuple[str, ...] | None:
        """The answers to choose from, if there are any and no column decides what they are."""
        if self.choices_tree is None or names_in(self.choices_tree):
            return None
        return self._run(self.choices_tree, {}, 0, f", {CHOICES}")

    def render(self, record: Mapping[str, object], *, seed: int = 0, key: str = "") -> Rendered:
        """Fill the template in.

        Args:
            record: column → plain data: text, numbers, lists and tables of them.
            seed: of what `choice` draws.
            key: changes the draw too; name the record.

        Raises:
            TemplateError: a column that is not there, data of another kind than the template needs, or more work than
                a template may make.
        """
        if CHOICES in record:
            raise TemplateError(f"The data has a column {CHOICES!r}, which templates need for their own. Rename it.")
        try:
            names = {name: plain(value) for name, value in record.items()}
        except NotAllowedError as error:
            raise TemplateError(f"The template {self.name!r} {error}.") from None
        draw = derive(seed, "template", self.name, key)
        choices = None if self.choices_tree is None else self._run(self.choices_tree, names, draw, f", {CHOICES}")
        known: dict[str, Value] = {**names, CHOICES: plain(choices)}
        return Rendered(parts=self._run(self.tree, known, draw, ""), choices=choices)

    def _run(self, tree: nodes.Template, names: Mapping[str, Value], draw: int, place: str) -> tuple[str, ...]:
        try:
            return parts(Rendering(names=names, seed=draw).run(tree))
        except RefusedError as error:
            raise self._error(error.line, error.why, place) from None

    def _parsed(self, source: str, place: str) -> nodes.Template:
        if len(source) > _LONGEST:
            raise self._error(1, f"has {len(source):,} characters; {_LONGEST:,} at most", place)
        try:
            tree = _PARSER.parse(source)
            check(tree)
        except TemplateSyntaxError as error:
            raise self._error(error.lineno, f"is no Jinja: {error.message}", place) from None
        except RecursionError:
            raise self._error(1, "is nested too deep", place) from None
        except (ValueError, OverflowError) as error:  # a number of thousands of digits
            raise self._error(1, f"cannot be read: {error}", place) from None
        except RefusedError as error:
            raise self._error(error.line, error.why, place) from None
        return tree

    def _error(self, line: int, why: str, place: str) -> TemplateError:
        text = why.rstrip()
        return TemplateError(f"The template {self.name!r}{place}, line {line}: it {text}{'' if text[-1] in '.?!' else '.'}")


def names_in(*trees: nodes.Node) -> set[str]:
    """All names in trees, those that they set themselves included."""
    return {node.name for node in within(*trees) if isinstance(node, nodes.Name)}


def within(*trees: nodes.Node) -> Iterator[nodes.Node]:
    """The roots of trees and all that is below them."""
    for tree in trees:
        yield tree
        yield from tree.find_all(nodes.Node)
