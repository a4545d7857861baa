"""From a Jinja template to a pattern and words, which a verbalizer can use with every model, method and calibration.

- A template whose input is text, columns and constants becomes a pattern: `{{ a }} Good? ||| {{ answer_choices[label] }}`
  is "{a} Good? {mask}".
- A template that computes its input (conditions, loops, filters) is rendered for every example into a column of its
  own, and the pattern is that column and the gap.

In both the words are what the template answers for each label. So it must answer something for every label, the same
for every example, and its input must not depend on the label.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from jinja2 import nodes

from lmtailor.core.errors import near
from lmtailor.tasks.example import Example, Split
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.templates.template import CHOICES, JinjaTemplate, Rendered, TemplateError, names_in, within
from lmtailor.tasks.templates.values import SEPARATOR

_LABEL = "label"
_GAP = "mask"
"""The gap of a pattern, which therefore cannot name a column that is called so."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a template must fit: the task without its data."""

    columns: tuple[str, ...]
    label: str
    """The column of labels. Templates may call it so, or "label"; its value is the label's index."""
    labels: tuple[str, ...]

    def record(self, fields: Mapping[str, str], label: int) -> dict[str, object]:
        """An example as templates see it, with some label."""
        return {_LABEL: label, self.label: label, **fields}

    @property
    def label_names(self) -> set[str]:
        """Names that stand for the label."""
        return {_LABEL, self.label} - set(self.columns)


def plain_prompt(template: JinjaTemplate, shape: Shape) -> Prompt | None:
    """The template as a pattern; None if its input must be computed.

    Raises:
        TemplateError: it names what the data has not, shows the label, or does not answer each label in its own words.
    """
    if SEPARATOR not in template.source:
        raise TemplateError(f"The template {template.name!r} has no {SEPARATOR}, so it gives no answer for any label.")
    halves = _halves(template.tree)
    if halves is None or not _fixed_answers(template, halves[1], shape):
        return None
    pieces = [_piece(node, shape, template.fixed_choices) for node in halves[0]]
    if None in pieces:
        return None
    _check_names(template, names_in(*halves[0]), shape)
    empty = dict.fromkeys(shape.columns, "")
    answers = [template.render(shape.record(empty, index)) for index in range(len(shape.labels))]
    text = "".join(piece for piece in pieces if piece is not None)
    return Prompt(name=template.name, pattern=f"{text.strip()} {{mask}}", words=_words(template, answers, shape))


def rendered(
    template: JinjaTemplate, splits: Mapping[str, Split], shape: Shape, column: str, *, seed: int = 0
) -> tuple[dict[str, Split], Prompt]:
    """The splits with the template's input as a further column, and the prompt that shows it.

    Args:
        template: the template.
        splits: of the task.
        shape: of the task.
        column: name of the new column.
        seed: of what `choice` draws.

    Raises:
        TemplateError: as `plain_prompt`, or its answers are not the same for every example.
    """
    halves = _halves(template.tree)
    fixed = halves is not None and _fixed_answers(template, halves[1], shape) and not names_in(*halves[0]) & shape.label_names
    words: dict[str, tuple[str, ...]] | None = None
    made: dict[str, Split] = {}
    for name, split in splits.items():
        examples = []
        for example in split:
            answers = _answers(template, example, shape, seed, 1 if fixed and words is not None else len(shape.labels))
            if len(answers) > 1:
                words = _same(words, _words(template, answers, shape), template, example)
            examples.append(replace(example, fields={**example.fields, column: answers[0].input}))
        made[name] = replace(split, examples=tuple(examples))
    if words is None:
        raise TemplateError(f"The template {template.name!r} cannot be used on a task without examples.")
    return made, Prompt(name=template.name, pattern=f"{{{column}}} {{mask}}", words=words)


def _answers(template: JinjaTemplate, example: Example, shape: Shape, seed: int, labels: int) -> list[Rendered]:
    """What the template makes of an example with the first so many labels."""
    records = (shape.record(example.fields, index) for index in range(labels))
    found = [template.render(record, seed=seed, key=example.id) for record in records]
    if any(one.input != found[0].input for one in found):
        raise TemplateError(f"The template {template.name!r} shows the label in its input, so it asks nothing.")
    return found


def _words(template: JinjaTemplate, answers: Sequence[Rendered], shape: Shape) -> dict[str, tuple[str, ...]]:
    """Label -> the one word that the template answers."""
    targets = [one.target for one in answers]
    for label, target, one in zip(shape.labels, targets, answers, strict=True):
        if not target:
            raise TemplateError(f"The template {template.name!r} gives no answer for the label {label!r}.")
        if len(one.parts) > 2:
            raise TemplateError(f"The template {template.name!r} has {len(one.parts)} parts; it needs an input and a target.")
    if len(set(targets)) < len(targets):
        raise TemplateError(f"The template {template.name!r} gives the same answer for several labels: {targets}.")
    return {label: (target,) for label, target in zip(shape.labels, targets, strict=True) if target}


def _same(
    known: dict[str, tuple[str, ...]] | None, found: dict[str, tuple[str, ...]], template: JinjaTemplate, example: Example
) -> dict[str, tuple[str, ...]]:
    if known is not None and known != found:
        before, now = (", ".join(word for (word,) in one.values()) for one in (known, found))
        raise TemplateError(
            f"The template {template.name!r} answers {now} for {example.id}, and {before} for another example. A verbalizer's "
            "words are the same for all."
        )
    return found


def _halves(tree: nodes.Template) -> tuple[list[nodes.Node], list[nodes.Node]] | None:
    """What stands before the separator and what after it; None if it stands within a condition, or not once."""
    found: list[list[nodes.Node]] = [[]]
    for node in _flat(tree.body):
        if isinstance(node, nodes.TemplateData):
            first, *others = node.data.split(SEPARATOR)
            found[-1].append(nodes.TemplateData(first, lineno=node.lineno))
            found += [[nodes.TemplateData(other, lineno=node.lineno)] for other in others]
        elif any(SEPARATOR in data.data for data in node.find_all(nodes.TemplateData)):
            return None
        else:
            found[-1].append(node)
    return (found[0], found[1]) if len(found) == 2 else None


def _flat(body: Sequence[nodes.Node]) -> Iterator[nodes.Node]:
    for node in body:
        yield from node.nodes if isinstance(node, nodes.Output) else [node]


def _fixed_answers(template: JinjaTemplate, target: Sequence[nodes.Node], shape: Shape) -> bool:
    """Whether it is plain to see that the target depends on the label alone."""
    known = shape.label_names | ({CHOICES} if template.fixed_choices is not None else set())
    plain = all(isinstance(node, nodes.TemplateData | nodes.Expr) for node in target)
    return (
        plain and names_in(*target) <= known and not any(isinstance(node, nodes.Filter | nodes.Call) for node in within(*target))
    )


def _piece(node: nodes.Node, shape: Shape, choices: tuple[str, ...] | None) -> str | None:
    """A node of the input as a pattern has it; None if it must be computed."""
    if isinstance(node, nodes.TemplateData):
        return _escaped(node.data)
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        return _escaped(node.value)
    if isinstance(node, nodes.Name) and node.name not in shape.label_names | {CHOICES, _GAP}:
        return f"{{{node.name}}}"
    if isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Name) and node.node.name == CHOICES and choices:
        place = node.arg.value if isinstance(node.arg, nodes.Const) else None
        return _escaped(choices[place]) if isinstance(place, int) and -len(choices) <= place < len(choices) else None
    return None


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _check_names(template: JinjaTemplate, names: set[str], shape: Shape) -> None:
    unknown = sorted(names - set(shape.columns) - {CHOICES})
    if unknown:
        raise TemplateError(
            f"The template {template.name!r} names {unknown[0]!r}, but the data has no such column. "
            f"{near(unknown[0], shape.columns)}"
        )
