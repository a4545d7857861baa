"""A task with the templates of a collection among its prompts."""

from collections.abc import Sequence
from dataclasses import replace

from lmtailor.core.errors import InputError
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from lmtailor.tasks.templates.collection import TemplateCollection
from lmtailor.tasks.templates.convert import plain_prompt
from lmtailor.tasks.templates.template import TemplateError

_COLUMN = "prompt"
"""Name of the column of the first template that computes its input; the next are prompt_2, prompt_3 …"""


def with_collection(task: Task, collection: TemplateCollection, use: Sequence[str] | None = None) -> Task:
    """The task with these templates as prompts, after those that it has, in the order of `use` or of the file.

    Args:
        task: of classification.
        collection: the templates of a file.
        use: names; None: all that become patterns without a further column. What is left out is told in a note.

    Raises:
        TemplateError: a template of `use` is not allowed or does not fit the task.
        InputError: there is no such template, none of the file fits, or a prompt of that name is there already.
    """
    made, fresh, left = _all_plain(task, collection) if use is None else (*_chosen(task, collection, use), [])
    twice = next((prompt.name for prompt in fresh if prompt.name in [one.name for one in task.prompts]), None)
    if twice is not None:
        raise InputError(f"Both the card and {collection.source} have a pattern named {twice!r}. Rename one.")
    if not fresh:
        raise InputError(f"No template of {collection.source} fits the task {task.name}. {' '.join(left)}")
    notes = [f"{collection.source}: {len(left)} templates are left out. {' '.join(left)}"] if left else []
    return replace(made, prompts=(*task.prompts, *fresh), notes=(*task.notes, *notes))


def _chosen(task: Task, collection: TemplateCollection, use: Sequence[str]) -> tuple[Task, list[Prompt]]:
    if not use or len(set(use)) < len(use):
        raise InputError(f"templates.use must name templates of {collection.source}, each once; found {list(use)}.")
    fresh = []
    for name in use:
        taken = sum(column == _COLUMN or column.startswith(f"{_COLUMN}_") for column in task.columns)
        task = task.with_template(collection.template(name), column=f"{_COLUMN}_{taken + 1}" if taken else _COLUMN)
        fresh.append(task.prompts[0])
    return task, fresh


def _all_plain(task: Task, collection: TemplateCollection) -> tuple[Task, list[Prompt], list[str]]:
    """The task, the templates that are patterns, and why the others are not."""
    shape, fresh, left = task.template_shape(), [], list(collection.refused.values())
    for template in collection.templates.values():
        try:
            prompt = plain_prompt(template, shape)
        except TemplateError as error:
            left.append(str(error))
            continue
        if prompt is None:
            left.append(f"The template {template.name!r} computes its input; name it under templates.use.")
        else:
            fresh.append(prompt)
    return task, fresh, left
