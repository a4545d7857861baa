"""Plans in TOML.

task = "tweets.toml"                     # the task's card; paths count from the plan's folder
seeds = [0, 1, 2]
metrics = ["macro_f1", "accuracy"]       # the first one ranks
reference = "probe"                      # optional: a cell that all others are set against
sizes = [50, 100, 200]                   # optional: training examples; each cell once a size, nested samples a seed

[budget]                                 # optional; also total_seconds, train_examples, shots, unlabelled
cell_seconds = 600

[decoding]                               # optional, where answers are written: settings of `Decoding`
max_new_tokens = 64
beams = 4

[bases]
minilm = "models/all-MiniLM-L6-v2"
smollm2 = { source = "models/smollm2.gguf", dtype = "float32" }

[methods]                                # settings by name; a method without settings needs no entry
lora16 = { name = "lora", rank = 16 }

[readouts.asked]
name = "verbalizer"
pattern = "{text} It was {mask}."        # or pattern_name = "was": a pattern of the card by its name, with its words
words = { negative = ["terrible"], positive = ["great"] }

[trainings]
long = { epochs = 10 }

[[cells]]                                # one cell: names of entries, or tables in place
name = "LoRA"
base = "minilm"
readout = "head"
method = { name = "lora", rank = 8 }
training = "long"

[strategies.ipet]                        # a way of more than one fit
name = "pet"
generations = 3

[[cells]]                                # what a strategy's cell leaves out is the strategy's own choice
strategy = "ipet"
method = "lora16"

[[cells]]                                # what is minimised, where it is not plain cross-entropy
method = "lora16"
objective = { name = "supervised", label_smoothing = 0.1 }     # or the name of an entry of [objectives]
unlabelled = { weight = 1e-4 }           # language modelling on the task's unlabelled texts besides

[[cells]]                                # learning from another model's answers instead of labels
name = "small, taught by the large one"
method = "bitfit"
objective = "distillation"
soft_labels = "answers.jsonl"            # as lmtailor predict writes them for the training file; or an adapter of the same base

[[cells]]                                # a product: every combination but those excluded
base = ["minilm", "smollm2"]
method = ["lora16", "bitfit", "prefix"]
exclude = [{ base = "smollm2", method = "prefix" }]
name = "{method} on {base}"

[[cells]]                                # a sweep: a cell for each value of a setting, or combination of values
method = "prefix"
sweep = { "method.length" = [1, 5, 10] } # of method, readout, training, …; see `plan_sweeps` for named values
sizes = []                               # here all of train; a cell's own sizes stand before the plan's
name = "prefix, {method.length} tokens"  # else "prefix · head · length 5"; likewise {examples}

[sensitivity]                            # optional: besides, the prompts of the card on the split that ranks
base = "smollm2"                         # or a list; not needed where there is only one
prompts = ["was", "told"]                # names of the card's patterns and templates; all if none are named
k = 4                                    # and sets, orders, seeds, calibration, limit, …: settings of the study
sets = 10

The study asks the same documents behind every template, set of demonstrations and order, before and after calibration; its boxes
stand in the report, its record in sensitivity/BASE. Points that were measured before are not measured again.

A cell with sizes is several cells, "LoRA · 50 examples" and so on. The leaderboard ranks each route at its largest size, and
a picture shows all of them. What is neither trained nor drawn, such as a prompt without demonstrations, runs once. Then
`reference` may be "LoRA", which is its cell with the largest size.

What a cell without strategy leaves out: the usual readout of tasks of this kind, such as the head, the frozen method,
`Training()`, the only base, the plan's seeds.
The readout "majority" is the baseline; it is added by itself unless `baseline = false`.
"""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lmtailor.compare.plan import Budget, Plan, StudyPlan
from lmtailor.compare.plan_cells import CellReader
from lmtailor.compare.plan_entries import ENTRIES, Entries, within
from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import apply_overrides, from_mapping
from lmtailor.core.typed import found
from lmtailor.infer.decoding import Decoding
from lmtailor.strategies.sensitivity import Sensitivity
from lmtailor.tasks.card import load_task
from lmtailor.tasks.task import Task

_CELLS = "cells"
_STUDY = "sensitivity"


@dataclass(frozen=True, kw_only=True)
class _Top:
    """The keys of a plan that are no tables of entries."""

    task: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    sizes: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ()
    reference: str | None = None
    baseline: bool = True
    batch_size: int = 32
    budget: Budget = field(default_factory=Budget)
    decoding: Decoding | None = None


def read_plan(
    path: str | Path, *, overrides: Iterable[str] = (), task: Task | None = None, card_overrides: Iterable[str] = ()
) -> Plan:
    """Read a plan.

    Args:
        path: the TOML file.
        overrides: `key.path=value` texts that are set in it first, such as "budget.total_seconds=600".
        task: the data, if it is not what the plan's card says.
        card_overrides: likewise for the card, such as "limits.train=100"; see `load_task`.

    Raises:
        InputError: no file, no TOML, or something in it that is unknown or does not fit; the message names the place.
    """
    file = Path(path).expanduser()
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the plan {file}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The plan {file} is not valid TOML: {error}.") from error
    values = apply_overrides(values, overrides)
    return plan_from_mapping(values, folder=file.parent, source=file.name, task=task, card_overrides=card_overrides)


def plan_from_mapping(
    values: Mapping[str, object],
    *,
    folder: Path = Path(),
    source: str = "",
    task: Task | None = None,
    card_overrides: Iterable[str] = (),
) -> Plan:
    """A plan from tables.

    Args:
        values: as the module's docstring shows them.
        folder: from which paths count.
        source: the file's name, for messages.
        task: as in `read_plan`.
        card_overrides: likewise.

    Raises:
        InputError: something is unknown or does not fit.
    """
    known = (*_Top.__dataclass_fields__, *ENTRIES, _CELLS, _STUDY)
    for key in values:
        if key not in known:
            raise InputError(f"{key}{within(source)} is not a key of a plan. {near(key, known)}")
    own = {key: value for key, value in values.items() if key in _Top.__dataclass_fields__}
    top = from_mapping(_Top, own, source=source)
    card = None if top.task is None else Path(os.path.normpath(folder / Path(top.task).expanduser()))
    entries = Entries(values, task=_data(card, task, tuple(card_overrides)), folder=folder, source=source)
    tables = values.get(_CELLS, [])
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        raise InputError(f"cells{within(source)} must be tables, each under [[cells]]; found {found(tables)}.")
    reader = CellReader(entries, seeds=top.seeds, sizes=top.sizes)
    plan = Plan(
        cells=tuple(cell for number, table in enumerate(tables) for cell in reader.cells(table, f"cells[{number}]")),
        bases=entries.bases,
        task=card,
        metrics=top.metrics,
        budget=top.budget,
        reference=top.reference,
        baseline=top.baseline,
        batch_size=top.batch_size,
        decoding=top.decoding,
        sensitivity=_study(values[_STUDY], entries) if _STUDY in values else None,
    )
    return plan.resolved(entries.bases) if entries.bases else plan


def _data(card: Path | None, task: Task | None, overrides: tuple[str, ...]) -> Callable[[], Task] | None:
    """What gives the data, which is read at most once; None where nobody says what it is."""
    if task is not None:
        return lambda: task
    return None if card is None else cache(lambda: load_task(card, overrides=overrides))


@dataclass(frozen=True, kw_only=True)
class _StudyTop:
    """The keys of the study that are no settings of it."""

    base: str | tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


def _study(value: object, entries: Entries) -> StudyPlan:
    """The study of sensitivity; its table has the study's own settings beside base and prompts."""
    table = entries.table(value, _STUDY)
    known = (*_StudyTop.__dataclass_fields__, *Sensitivity.__dataclass_fields__)
    for key in table:
        if key not in known:
            raise InputError(f"{_STUDY}.{key}{within(entries.source)} is not a setting of the study. {near(key, known)}")
    own = {key: item for key, item in table.items() if key in _StudyTop.__dataclass_fields__}
    top = from_mapping(_StudyTop, own, path=_STUDY, source=entries.source)
    rest = {key: item for key, item in table.items() if key not in own}
    return StudyPlan(
        bases=(top.base,) if isinstance(top.base, str) else top.base,
        prompts=top.prompts,
        settings=from_mapping(Sensitivity, rest, path=_STUDY, source=entries.source),
    )
