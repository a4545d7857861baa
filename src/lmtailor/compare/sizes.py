"""Training sizes: nested samples, one order a seed, so that a curve over sizes adds examples and exchanges none."""

from collections.abc import Sequence
from dataclasses import replace

from lmtailor.compare.plan import Budget, Cell
from lmtailor.core.errors import InputError
from lmtailor.core.rng import derive
from lmtailor.tasks.task import Task

_NAME = "training sizes"


def sized(task: Task, count: int, seed: int) -> Task:
    """The task with so many training examples: a sample of one seed, which contains all smaller samples of that seed.

    In classification labels keep their shares but for rounding, and each label has an example as soon as
    there are as many examples as labels. Other splits stay as they are.

    Args:
        task: what to sample from.
        count: how many examples; at most those that there are.
        seed: another seed draws another sample.
    """
    train = task.split("train")
    if count >= len(train):
        return task
    strata = list(train.labels) if task.kind == "classification" else [0] * len(train)
    order = nested_order(strata, [example.id for example in train], seed)
    chosen = sorted(order[:count])
    examples = tuple(train.examples[index] for index in chosen)
    return replace(task, splits={**task.splits, "train": replace(train, examples=examples)})


def nested_order(strata: Sequence[float], keys: Sequence[str], seed: int) -> list[int]:
    """All items in an order of which every beginning is a stratified sample.

    First comes one item of each stratum, the largest first; then the j-th of n items of a stratum stands at (j − ½) / n, as
    Sainte-Laguë's rule gives seats. Largest remainders would not do: with them a stratum can lose an item when the
    sample grows.

    Args:
        strata: the stratum of each item.
        keys: a text for each item that decides its place within its stratum.
        seed: changes the order.
    """
    members: dict[float, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    places: list[tuple[bool, float, int, int]] = []
    for items in members.values():
        drawn = sorted((derive(seed, _NAME, keys[index]), index) for index in items)
        places += [(rank > 0, (rank + 0.5) / len(items), draw, index) for rank, (draw, index) in enumerate(drawn)]
    return [index for *_, index in sorted(places)]


def check_sizes(cells: Sequence[Cell], task: Task, budget: Budget) -> None:
    """See that the task has as many examples as cells ask for.

    Raises:
        InputError: it has fewer, or the budget says how much is trained on too.
    """
    asking = [cell for cell in cells if cell.examples is not None]
    if asking and budget.shots is not None:
        raise InputError(
            f"The cell {asking[0].name} has a training size, and shots say how much is trained on too. Leave one out."
        )
    there = len(task.split("train"))
    for cell in asking:
        assert cell.examples is not None
        if cell.examples > there:
            raise InputError(
                f"The cell {cell.name} asks for {cell.examples} training examples, and train has {there}. "
                f"Leave out sizes above {there}; sizes = [] in a cell trains on all."
            )
