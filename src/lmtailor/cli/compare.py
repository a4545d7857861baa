"""`lmtailor compare`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions, Settings, TaskOptions, WritingOptions
from lmtailor.core.errors import InputError, TrainingError

if TYPE_CHECKING:
    from lmtailor.compare.compare import Comparison
    from lmtailor.compare.plan import Plan
    from lmtailor.tasks.task import Task

_TASK, _MACHINE, _WRITING = TaskOptions(), MachineOptions(), WritingOptions()
PLAN = ".toml"


def run(
    source: str | None = None,
    /,
    *,
    plan: Path | None = None,
    out: Path = Path("comparison"),
    settings: Settings = (),
    no_retry: bool = False,
    data: TaskOptions = _TASK,
    writing: WritingOptions = _WRITING,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Run a plan of routes to one task, and report which to use.

    A plan (TOML) names bases, cells of readout × method × training, and seeds; the leaderboard goes to the terminal, and
    with curves and records to `report.html`. What was done before in the same folder is not done again: an interrupted
    comparison goes on when the same command is given again. A run that fails is kept with its reason and stops no other.

    ```
    lmtailor compare plan.toml --out runs/first
    lmtailor compare MODEL --task card.toml --out runs/all
    ```

    Args:
        source: The plan; or a base (hub id, folder or .gguf file) to run the plan on, without a plan every method there is.
        plan: The plan, where the first argument is a base.
        out: Folder for adapters, records and the report.
        settings: KEY=VALUE: a setting of the plan in full, such as budget.total_seconds=600, or of the card, such as
            task.limits.train=500.
        no_retry: Leave runs that failed before as they are.
        data: What the task is.
        writing: How text is written, by what writes, instead of the plan's [decoding].
        machine: How the base is loaded.
    """
    from lmtailor.cli import answering, choices
    from lmtailor.compare.compare import compare

    base, file = (None, source) if source is not None and source.endswith(PLAN) else (source, None)
    if file is not None and plan is not None:
        raise InputError(f"{file} and {plan} are both plans. Give one.")
    task = _given_task(data, settings)
    chosen = _plan(plan if file is None else Path(file), base, settings, task)
    task = task or _own_task(chosen, settings)
    choices.use_threads(machine)
    if base is None:
        _refuse_place(machine)
    comparison = compare(
        None if base is None else choices.the_base(base, machine),
        task,
        plan=chosen,
        shots=data.shots,
        decoding=answering.the_decoding(writing, 0),
        out=out,
        retry=not no_retry,
        console=say.stderr(),
    )
    _show(comparison)


def _plan(file: Path | None, base: str | None, settings: Settings, task: "Task | None") -> "Plan | None":
    """The plan with the settings that are its own, if there is one.

    Raises:
        InputError: there is neither plan nor base, or there are settings without a plan.
    """
    from lmtailor.cli.choices import TASK
    from lmtailor.compare.plan_file import read_plan

    own = [text for text in settings if not text.startswith(TASK)]
    if file is not None:
        card = [text.removeprefix(TASK) for text in settings if text.startswith(TASK)]
        return read_plan(file, overrides=own, task=task, card_overrides=card)
    if base is None:
        raise InputError("Give a plan (lmtailor compare plan.toml), or a base to compare all methods on.")
    if own:
        raise InputError(f"{own[0]} is a setting of a plan, but there is none. Give --plan, or leave it out.")
    return None


def _given_task(data: TaskOptions, settings: Settings) -> "Task | None":
    """The task that options name; None: they name none."""
    from lmtailor.cli.choices import the_task

    data = replace(data, shots=None)  # each run's seed draws its own
    return None if data == _TASK else the_task(data, settings, tell=False)


def _own_task(plan: "Plan | None", settings: Settings) -> "Task | None":
    """The plan's task, if there are settings for its card; None: the plan's as it is."""
    from lmtailor.cli.choices import TASK, the_task

    card = None if plan is None else plan.task
    if card is not None and not any(text.startswith(TASK) for text in settings):
        return None
    return the_task(TaskOptions(task=card), settings, tell=False)


def _refuse_place(machine: MachineOptions) -> None:
    """The plan says how its bases are loaded.

    Raises:
        InputError: so do options.
    """
    default = MachineOptions(threads=machine.threads)
    given = [name for name, value in vars(machine).items() if value != getattr(default, name)]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(f"{option} is for a base that is given as an argument. Those of a plan have it in [bases].")


def _show(comparison: "Comparison") -> None:
    """Leaderboard, recommendation, and what comes next.

    Raises:
        TrainingError: no run gave a result.
    """
    report = comparison.to_html()
    comparison.show(say.stdout())
    if comparison.winner is None:
        raise TrainingError(f"Every run failed; the reasons are above, and in {comparison.folder}.")
    say.result()
    say.fields({"report": str(report), **{f"sensitivity on {study.base}": study.said for study in comparison.studies}})
    commands = comparison.commands()
    if commands is not None:
        say.result(f"\nTo use {commands.cell} (seed {commands.seed}):\n")
        for line in (*commands.lines, "", *commands.python.splitlines()):
            say.result(f"    {line}".rstrip())
