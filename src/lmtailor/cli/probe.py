"""`lmtailor probe`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions, Settings, TaskOptions

if TYPE_CHECKING:
    from lmtailor.strategies.probing_record import ProbingRecord
    from lmtailor.strategies.probing_settings import Probing
    from lmtailor.tasks.task import Task

_TASK, _MACHINE = TaskOptions(), MachineOptions()
STUDY = Group("Study", sort_key=2)
PAGE = "report.html"


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    /,
    *others: str,
    name: Annotated[tuple[str, ...], Parameter(group=STUDY)] = (),
    split: Annotated[str, Parameter(group=STUDY)] = "test",
    seed: Annotated[int, Parameter(group=STUDY)] = 0,
    settings: Settings = (),
    out: Path = Path("probing"),
    batch_size: PositiveInt = 32,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    data: TaskOptions = _TASK,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Measure how much of a task can be read off each layer of frozen models, and how selective the probes are.

    Each model runs once. Probes on all its layers and on a learned mix are trained together, for the task and for control
    tasks, in which each word (or each text) has a label without meaning. A table goes to the terminal, a record and a page
    with heat maps to the folder. What is interrupted goes on when the same command is given again.

    ```
    lmtailor probe MODEL --task card.toml --out studies/mine
    lmtailor probe ONE OTHER --name one --name other --task card.toml --set hidden=[0,64] --set controls=[0,1,2]
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        others: Further models, which are probed alike and stand in the same record and page.
        name: What a model is called, in the order of the models; repeated, once for each. Their folders' or ids' names if none
            is given.
        split: Split whose words or texts answer at the end.
        seed: Of the order of training, and of the probes' start.
        settings: KEY=VALUE: hidden, controls, words, pooling, standardise, clip, lr, mix_lr, l2, batch_size, epochs, patience,
            early_stopping or memory of the study, or a setting of the card, such as task.limits.train=500.
        out: Folder for kept probes, record and page.
        batch_size: Sentences or texts in a batch of the forward.
        as_json: Write the record as one JSON object instead of the table.
        data: What the task is.
        machine: How the bases are loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.compare.report.probing import write_probing_page
    from lmtailor.strategies.probing import write_record

    bases = dict(zip(_names((base, *others), name), (base, *others), strict=True))
    chosen = _study(settings, seed)
    task = choices.the_task(data, settings, seed=seed)
    record = _probed(bases, machine, task, settings=chosen, split=split, out=out, batch_size=batch_size)
    write_record(record, out)
    page = write_probing_page(record, out / PAGE)
    for note in record.notes:
        say.warn(note)
    if as_json:
        say.json_line(record.to_mapping(), indent=2)
        return
    _show(record)
    say.fields({"report": str(page)})


def _probed(bases: Mapping[str, str], machine: MachineOptions, task: "Task", **how: Any) -> "ProbingRecord":
    """One study of several bases by name, one after the other in memory."""
    from lmtailor.cli import choices
    from lmtailor.strategies.probing import probe
    from lmtailor.strategies.probing_record import beside

    with say.stages() as tell:
        return beside([probe(choices.the_base(base, machine), task, name=name, tell=tell, **how) for name, base in bases.items()])


def _names(sources: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """What each base is called.

    Raises:
        InputError: other than one name for each, or the same twice.
    """
    from lmtailor.core.errors import InputError

    if names and len(names) != len(sources):
        raise InputError(
            f"There are {len(sources)} models and {len(names)} names. Give --name once for each model, or not at all."
        )
    own = names or tuple(Path(source).name if Path(source).exists() else source for source in sources)
    twice = next((one for one in own if own.count(one) > 1), None)
    if twice is not None:
        raise InputError(f"Two models are called {twice!r}. Give each a name with --name, in their order.")
    return own


def _study(settings: Settings, seed: int) -> "Probing":
    """How probes are trained, from options."""
    from lmtailor.cli.choices import TASK
    from lmtailor.core.settings import apply_overrides, from_mapping
    from lmtailor.strategies.probing_settings import Probing

    own = [text for text in settings if not text.startswith(TASK)]
    values = apply_overrides({"probing": {"seed": seed}}, own, known={"probing": Probing})
    return from_mapping(Probing, values["probing"], path="probing")  # type: ignore[arg-type]  # a table


def _show(record: "ProbingRecord") -> None:
    """A row a base, kind of probe and place; the best layer has a star."""
    rows = []
    for base in record.bases:
        for probe in base.probes:
            for number, one in enumerate(probe.places):
                best = " *" if one == probe.best else ""
                interval = f"{one.score.low:.4f} to {one.score.high:.4f}"
                cells = [f"{score.value:.4f}" if score is not None else "" for score in (one.control, one.selectivity)]
                share = f"{probe.shares[number]:.3f}" if number < len(probe.shares) else ""
                rows.append((base.name, probe.name, one.layer + best, f"{one.score.value:.4f}", interval, *cells, share))
    for label, score in record.baselines.items():
        rows.append(("", label, "", f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}", "", "", ""))
    header = ("base", "probe", "layer", record.metric, "95 % interval", "control", "selectivity", "share of mix")
    say.table(header, rows, right=("layer", record.metric, "control", "selectivity", "share of mix"))
