"""`lmtailor eval`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli.options import MachineOptions, ReadoutOptions, Settings, TaskOptions
from lmtailor.core.errors import InputError

_TASK, _ANSWER, _MACHINE = TaskOptions(), ReadoutOptions(), MachineOptions()


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    adapter: Path | None = None,
    /,
    *,
    split: tuple[str, ...] = ("test",),
    settings: Settings = (),
    batch_size: PositiveInt = 32,
    seed: int = 0,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    any_base: bool = False,
    data: TaskOptions = _TASK,
    answer: ReadoutOptions = _ANSWER,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Score an adapter, or a readout that needs no training, on labelled data.

    Each score has the number of examples and a bootstrap interval of 95 %.

    ```
    lmtailor eval MODEL adapters/mine --task card.toml --split test
    lmtailor eval MODEL --task card.toml --readout verbalizer --set readout.demonstrations.k=8
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        adapter: Folder of an adapter. Without it the base itself is asked, by a readout.
        split: Split to score, also an out-of-domain set; may be repeated.
        settings: KEY=VALUE: a setting of the readout or the card, such as aggregate=max or task.limits.test=500.
        batch_size: Examples in a batch.
        seed: Of the bootstrap, and of what a readout draws.
        as_json: Write one JSON object.
        any_base: Take this base although the adapter was made for another.
        data: What the task is.
        answer: How the base answers.
        machine: How it is loaded.
    """
    from lmtailor.cli import choices, results
    from lmtailor.infer.evaluate import plain_adapter

    if adapter is not None and (answer != _ANSWER or any(not text.startswith(choices.TASK) for text in settings)):
        raise InputError(f"The adapter {adapter} has a readout of its own. Leave it out, or the readout and its settings.")
    task = choices.the_task(data, settings, seed=seed)
    splits = list(map(task.split, split))
    readout = choices.the_readout(task, answer, settings) if adapter is None else None
    loaded = choices.the_base(base, machine)
    if adapter is None:
        assert readout is not None
        asked = plain_adapter(loaded, task, readout, seed=seed)
    else:
        asked = choices.the_adapter(adapter, loaded, any_base=any_base)
    scores = {}
    for own in splits:
        scores[own.name] = results.score_split(loaded, task, asked, own.name, batch_size=batch_size, seed=seed)
    if as_json:
        results.write_scores(scores, {"base": base, "adapter": str(adapter) if adapter else None, "task": task.name})
    else:
        results.show_scores(scores)
