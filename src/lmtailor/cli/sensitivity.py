"""`lmtailor sensitivity`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions, Settings, TaskOptions

if TYPE_CHECKING:
    from lmtailor.strategies.sensitivity import Sensitivity
    from lmtailor.strategies.sensitivity_record import SensitivityRecord

_TASK, _MACHINE = TaskOptions(), MachineOptions()
STUDY = Group("Study", sort_key=2)
PAGE = "report.html"


def run(  # noqa: PLR0913 - every argument is an option
    base: str,
    /,
    *,
    pattern_name: Annotated[tuple[str, ...], Parameter(group=STUDY)] = (),
    split: Annotated[str, Parameter(group=STUDY)] = "test",
    seed: Annotated[tuple[int, ...], Parameter(group=STUDY)] = (0,),
    settings: Settings = (),
    out: Path = Path("sensitivity"),
    batch_size: PositiveInt = 32,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    data: TaskOptions = _TASK,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Measure how far the answers of a prompted model depend on template, demonstrations and their order.

    The same documents are asked about behind every combination, before and after contextual calibration. A table goes to the
    terminal, records and a page with a box for each template to the folder. What is interrupted goes on when the same command
    is given again, and what was measured is not measured again when the study is made larger.

    ```
    lmtailor sensitivity MODEL --task card.toml --set k=4 --set sets=10 --set limit=200 --out studies/mine
    lmtailor sensitivity MODEL --task card.toml --pattern-name asked --pattern-name told --set calibration=none
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model with an LM head.
        pattern_name: A pattern or template of the card by its name; may be repeated. All of them if none is given.
        split: Split with the documents.
        seed: Of demonstrations and orders; may be repeated, and each draws its own. The first draws the few shots.
        settings: KEY=VALUE: k, per_class, sets, orders, calibration, separator, aggregate, normalise or limit of the study, or a
            setting of the card, such as task.limits.train=500.
        out: Folder for points, record and page.
        batch_size: Documents in a batch.
        as_json: Write the record as one JSON object instead of the table.
        data: What the task is. Its card has the patterns or templates.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.compare.report.sensitivity import write_sensitivity_page
    from lmtailor.strategies.sensitivity import sensitivity

    chosen = _study(settings, seed)
    task = choices.the_task(data, settings, seed=seed[0])
    names = pattern_name or None
    if names is not None:
        names = tuple(task.prompt(name).name for name in names)  # a wrong name is told before the base is loaded
    loaded = choices.the_base(base, machine)
    with say.progress("documents") as tell:
        record = sensitivity(loaded, task, prompts=names, settings=chosen, split=split, out=out, batch_size=batch_size, tell=tell)
    page = write_sensitivity_page(record, out / PAGE)
    for note in record.notes:
        say.warn(note)
    if as_json:
        say.json_line(record.to_mapping(), indent=2)
        return
    _show(record)
    say.fields({"report": str(page)})


def _study(settings: Settings, seeds: tuple[int, ...]) -> "Sensitivity":
    """What is varied, from options."""
    from lmtailor.cli.choices import TASK
    from lmtailor.core.settings import apply_overrides, from_mapping
    from lmtailor.strategies.sensitivity import Sensitivity

    own = [text for text in settings if not text.startswith(TASK)]
    values = apply_overrides({"sensitivity": {"seeds": list(seeds)}}, own, known={"sensitivity": Sensitivity})
    return from_mapping(Sensitivity, values["sensitivity"], path="sensitivity")  # type: ignore[arg-type]  # a table


def _show(record: "SensitivityRecord") -> None:
    """A row a template and side, the best template first, and all together."""
    order = sorted(record.templates, key=lambda name: -record.summary("before", name).median)
    rows = []
    for name in (*order, None):
        for side in record.sides:
            row = record.summary(side, name)
            cells = (row.worst, row.lower, row.median, row.upper, row.best)
            mean = f"{row.mean.value:.4f}", f"{row.mean.low:.4f} to {row.mean.high:.4f}"
            rows.append((name or "all templates", side, str(row.points), *mean, *(f"{cell:.4f}" for cell in cells)))
    numbers = ("points", record.metric, "worst", "lower", "median", "upper", "best")
    say.table(
        ("template", "calibration", "points", record.metric, "95 % interval", "worst", "lower", "median", "upper", "best"),
        rows,
        right=numbers,
    )
