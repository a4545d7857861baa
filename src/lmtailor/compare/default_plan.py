"""What to compare when no plan is given: the probe, every method there is, and prompting where model and labels allow it."""

from collections.abc import Iterator

from lmtailor.base.base import Base
from lmtailor.compare.plan import Cell, Plan
from lmtailor.core.errors import InputError
from lmtailor.fit.training import Training
from lmtailor.methods import catalogue
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.method import Method
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import build_adapter
from lmtailor.tasks.task import Task

SHOTS = 4
"""Demonstrations of each label."""


def default_plan(base: Base, task: Task, *, name: str) -> Plan:
    """All methods with a head; with a verbalizer zero-shot and with demonstrations, if the base has an LM head.

    Methods that this base does not take, and those that need settings, are left out; a plan of one's own can have them.

    Args:
        base: what to adapt.
        task: its labels, and the patterns and words that its card proposes.
        name: of the base, in the cells' names.
    """
    cells = [cell for cell in _cells(base, task, name) if _fits(base, task, cell)]
    return Plan(cells=tuple(cells))


def proposed_verbalizer(task: Task) -> Verbalizer | None:
    """The task card's pattern and words, else a plain question with the labels' names; None if these are no words."""
    if task.kind != "classification":
        return None
    prompt = next(iter(task.prompts), None)
    words = dict((prompt.words if prompt is not None else None) or task.verbalizer)
    if not words:
        if not all(any(char.isalpha() for char in label) for label in task.labels):
            return None
        words = {label: (label.replace("_", " ").strip(),) for label in task.labels}
    plain = "\n".join(f"{{{column}}}" for column in task.text) + "\nLabel: {mask}"
    return Verbalizer(plain if prompt is None else prompt.pattern, words)


def _cells(base: Base, task: Task, name: str) -> Iterator[Cell]:
    yield Cell(name="probe", base=name, readout=Head(), method=Frozen(), training=Training(epochs=20, batch_size=64))
    for method_name, method in catalogue().items():
        settled = _settled(method)
        if settled is not None and method is not Frozen:
            yield Cell(name=method_name, base=name, readout=Head(), method=settled)
    verbalizer = proposed_verbalizer(task)
    if verbalizer is not None and base.has_lm_head:
        yield Cell(name="zero-shot", base=name, readout=verbalizer)
        shown = Demonstrations(k=SHOTS, per_class=True)
        few = Verbalizer(verbalizer.pattern, verbalizer.words, demonstrations=shown)
        yield Cell(name=f"{SHOTS} demonstrations a label", base=name, readout=few)


def _settled(method: type[Method]) -> Method | None:
    """A method with its defaults; None where something must be said first."""
    try:
        return method()
    except (InputError, TypeError):
        return None


def _fits(base: Base, task: Task, cell: Cell) -> bool:
    """Whether base, readout, method and task go together. Nothing is allocated for the answer."""
    assert cell.method is not None
    assert isinstance(cell.readout, Head | Verbalizer)
    try:
        build_adapter(base, cell.method, cell.readout, LabelSet.of(task), None, task)
    except InputError:
        return False
    return True
