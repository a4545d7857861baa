"""What to compare when no plan is given.

The probe, every method there is, and prompting where model and labels allow it. Where answers are written, each cell writes every
test text anew for each seed, which takes longer than its fit; so there it is a choice of methods, see `WRITING`. The readout is
the usual one for tasks of the kind, see `default_readout`; a plan's cells that name none have it too.
"""

from collections.abc import Iterator, Mapping

from lmtailor.base.base import Base
from lmtailor.compare.plan import Cell, Majority, Plan
from lmtailor.core.errors import InputError
from lmtailor.fit.training import Training
from lmtailor.methods import catalogue
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.top_layers import TopLayers
from lmtailor.readouts.conversation import Chat
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.options import Options
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.span import Span
from lmtailor.readouts.tagging import Tags
from lmtailor.readouts.text import Text
from lmtailor.readouts.usual import usual_readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import build_adapter
from lmtailor.tasks.conversations import CONVERSATION
from lmtailor.tasks.task import Task

SHOTS = 4
"""Demonstrations of each label."""

_PLAIN: Mapping[str, type[Head] | type[Tags] | type[Span]] = {"head": Head, "tags": Tags, "span": Span}

WRITING: Mapping[str, Method] = {"LoRA": LoRA(), "prefix": Prefix(), "top layers": TopLayers()}
"""Cell → method, where answers are written: one that changes projections, one that stands before the input, one that replaces
weights."""


def default_plan(base: Base, task: Task, *, name: str) -> Plan:
    """All methods with the usual readout of such tasks; prompts, if the base has an LM head.

    In classification a verbalizer is asked zero-shot and with demonstrations, or where each example brings its own choices these
    are scored. Where answers are written, all cells write: zero-shot, and by the methods of `WRITING`.

    Methods that this base does not take, and those that need settings, are left out; a plan of one's own can have them.

    Args:
        base: what to adapt.
        task: its labels, and the patterns and words that its card proposes.
        name: of the base, in the cells' names.

    Raises:
        InputError: the base takes none of them, such as one that writes no text where answers are written.
    """
    build_adapter(base, Frozen(), default_readout(task), LabelSet.of(task), None, task)  # else all cells would be left out
    cells = [cell for cell in _cells(base, task, name) if _fits(base, task, cell)]
    return Plan(cells=tuple(cells))


def default_readout(task: Task) -> Readout:
    """The usual readout of tasks of this kind, with what the card proposes for it."""
    name = usual_readout(task)
    if name == "options":
        return Options(task.prompts[0].pattern, task.prompts[0].options)
    return proposed_text(task) if task.kind == "generation" else _PLAIN[name]()


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


def proposed_text(task: Task) -> Text | Chat:
    """The task card's first pattern with what it writes, else the columns, a line each; of conversations their turns."""
    if task.text == (CONVERSATION,):
        return Chat()
    plain = "\n".join(f"{{{column}}}" for column in task.text) + "\n"
    prompt = next(iter(task.prompts), None)
    return Text(plain) if prompt is None else Text(prompt.pattern, target=prompt.target)


def _cells(base: Base, task: Task, name: str) -> Iterator[Cell]:
    own = default_readout(task)
    if isinstance(own, Text | Chat | Options):
        yield Cell(name="zero-shot", base=name, readout=own)
    else:
        yield Cell(name="probe", base=name, readout=own, method=Frozen(), training=Training(epochs=20, batch_size=64))
    if task.kind == "generation":
        yield from (Cell(name=cell, base=name, readout=own, method=method) for cell, method in WRITING.items())
        return
    for method_name, method in catalogue().items():
        settled = _settled(method)
        if settled is not None and method is not Frozen:
            yield Cell(name=method_name, base=name, readout=own, method=settled)
    verbalizer = None if isinstance(own, Options) else proposed_verbalizer(task)
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
    assert cell.readout is not None
    assert not isinstance(cell.readout, Majority)
    try:
        build_adapter(base, cell.method, cell.readout, LabelSet.of(task), None, task)
    except InputError:
        return False
    return True
