"""Templates that put an example to a model that writes: what it is asked, what it should answer, and what else it could say.

A pattern is text with columns in braces, "{premise} Question: {hypothesis} True or false?", and the answer follows its end or
stands at {mask}, behind which only text may come. Answers are the words of labels, columns with options, or a pattern of the
references. A Jinja template says all of it; its `answer_choices`, or else what it answers to each label, are the choices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Protocol

from lmtailor.core.errors import InputError, near
from lmtailor.tasks.example import Example
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from lmtailor.tasks.templates.template import JinjaTemplate

_MASK = "mask"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An example as a template puts it."""

    input: str
    target: str
    choices: tuple[str, ...] = ()
    """All answers there are, each once, the target among them; none where any text may be written."""
    decided: bool = True
    """Whether the target tells the right choice: not where a wrong one has the same text."""


class Asking(Protocol):
    """A template for examples of one task."""

    @property
    def name(self) -> str:
        """The template's."""

    def asked(self, example: Example) -> Asked | None:
        """The example as a question; None where the template leaves it out.

        Raises:
            InputError: the template fails on the example.
        """


@dataclass(frozen=True, kw_only=True)
class JinjaAsking:
    """A template as promptsource writes them."""

    template: JinjaTemplate
    task: Task
    seed: int = 0
    """Of what `choice` draws."""

    @property
    def name(self) -> str:
        """The template's."""
        return self.template.name

    def asked(self, example: Example) -> Asked | None:
        """See `Asking`."""
        known = example.references[0] if example.references else example.label
        if known is None:
            return None
        found = self.template.render(self._record(example, known), seed=self.seed, key=example.id)
        if not found.input or not found.target:
            return None
        choices = () if found.choices is None else tuple(dict.fromkeys(found.choices))
        if self.task.kind == "classification" and found.choices is None:
            others = [
                self.template.render(self._record(example, label), seed=self.seed, key=example.id)
                for label in range(len(self.task.labels))
            ]
            if all(one.target and one.input == found.input for one in others):
                choices = tuple(dict.fromkeys(one.target or "" for one in others))
        usable = len(choices) > 1 and found.target in choices
        # Of choices that are the same for all examples, equal ones are meant to be one.
        own = found.choices if found.choices is not None and self.template.fixed_choices is None else ()
        decided = own.count(found.target) < 2
        return Asked(input=found.input, target=found.target, choices=choices if usable else (), decided=decided)

    def _record(self, example: Example, known: object) -> dict[str, object]:
        return {"label": known, self.task.label: known, **example.fields}


@dataclass(frozen=True, kw_only=True)
class PatternAsking:
    """A named pattern."""

    name: str
    task: Task
    before: str
    """What stands before the answer, as `str.format_map` takes it."""
    behind: str = ""
    """What follows a label's word directly and belongs to the answer."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Classification: label -> its word."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Multiple choice: label -> the column with that option."""
    target: str = ""
    """Generation: the answer, with the column of the references."""

    def asked(self, example: Example) -> Asked | None:
        """See `Asking`."""
        text = self.before.format_map(example.fields).strip()
        if self.task.kind == "generation":
            if not text or not example.references:
                return None
            values = {**example.fields, self.task.label: example.references[0]}
            return Asked(input=text, target=self.target.format_map(values).strip())
        if not text or example.label is None:
            return None
        shown = {label: example.fields[self.options[label]] for label in self.task.labels} if self.options else self.words
        choices = [shown[label].strip() + self.behind for label in self.task.labels]
        target = choices[int(example.label)]
        return Asked(input=text, target=target, choices=tuple(dict.fromkeys(choices)), decided=choices.count(target) < 2)


def pattern_asking(task: Task, pattern: Prompt) -> PatternAsking:
    """A pattern as a template of a task.

    Args:
        task: the data.
        pattern: with {mask} or without. Of a label's words the first is taken; where it has none, those of the task's verbalizer.

    Raises:
        InputError: a column that the data lacks, a brace alone, columns behind {mask}, or no words for a label.
    """
    name, target = pattern.name, pattern.target
    before, mask, behind = pattern.pattern.replace(":cut}", "}").partition("{" + _MASK + "}")
    _check(before, task.columns, task, name)
    if mask and _columns(behind, task, name):
        raise InputError(f"The pattern {name!r} has columns behind {{mask}}. A model answers last: move them before it.")
    if task.kind == "generation":
        if pattern.words or pattern.options or behind.strip():
            raise InputError(f"The pattern {name!r} has words for labels, or text behind {{mask}}; {task.name} has no labels.")
        answer = f"{{{task.label}}}" if target is None else target
        _check(answer, (*task.columns, task.label), task, name)
        return PatternAsking(name=name, task=task, before=before, target=answer)
    if task.kind != "classification":
        raise InputError(f"The pattern {name!r} is for labels or texts, and {task.name} is a {task.kind}. Use a Jinja template.")
    if target is not None:
        raise InputError(f"The pattern {name!r} has a target, but the answers of {task.name} are labels. Give words.")
    words, end = _words(task, pattern), behind.rstrip().replace("{{", "{").replace("}}", "}")
    return PatternAsking(name=name, task=task, before=before, behind=end, words=words, options=pattern.options)


def _words(task: Task, pattern: Prompt) -> dict[str, str]:
    """The word of each label; none where options stand for them."""
    name, known = pattern.name, pattern.options or pattern.words or task.verbalizer
    missing = next((label for label in task.labels if not known.get(label)), None)
    if missing is not None:
        raise InputError(f"The pattern {name!r} has no words for the label {missing!r} of {task.name}. {near(missing, known)}")
    strange = next((label for label in known if label not in task.labels), None)
    if strange is not None:
        raise InputError(f"The pattern {name!r} has words for {strange!r}, no label of {task.name}. {near(strange, task.labels)}")
    if pattern.options:
        _check("".join(f"{{{column}}}" for column in pattern.options.values()), task.columns, task, name)
        return {}
    words = {label: (pattern.words or task.verbalizer)[label][0] for label in task.labels}
    if len(set(words.values())) < len(words):
        raise InputError(f"The pattern {name!r} has one word for several labels of {task.name}: {list(words.values())}.")
    return words


def _check(text: str, columns: tuple[str, ...], task: Task, name: str) -> None:
    for column in _columns(text, task, name):
        if column not in columns:
            raise InputError(
                f"The pattern {name!r} names {{{column}}}, but {task.name} has no such column. {near(column, columns)}"
            )


def _columns(text: str, task: Task, name: str) -> list[str]:
    """The columns in a pattern; nothing in it is ever evaluated, since a name has no dots or brackets."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise InputError(f"The pattern {name!r} of {task.name} cannot be read: {error}. Write {{{{ for a brace itself.") from None
    for _, column, form, conversion in parts:
        if column is not None and (not column.strip() or form or conversion or any(mark in column for mark in ".[]")):
            raise InputError(f"The pattern {name!r} of {task.name} has {{{column}}}; in braces goes a plain column's name.")
    return [column for _, column, _, _ in parts if column is not None]
