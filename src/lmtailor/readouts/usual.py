"""The readout that a task is answered by where nobody names one."""

from collections.abc import Mapping

from lmtailor.tasks.conversations import CONVERSATION
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.task import Task

_USUAL: Mapping[TaskKind, str] = {
    "classification": "head",
    "regression": "head",
    "generation": "text",
    "labelling": "tags",
    "span": "span",
}


def usual_readout(task: Task) -> str:
    """The usual readout of tasks of this kind by its name; of conversations, and where each example brings its own choices."""
    if task.text == (CONVERSATION,):
        return "chat"
    return "options" if task.prompts and task.prompts[0].options else _USUAL[task.kind]
