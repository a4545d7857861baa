"""From options to the things they name: a base, a task, and the four choices of a fit."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch

from lmtailor.base.base import Base
from lmtailor.base.load import DTypeName, load_base
from lmtailor.cli import say
from lmtailor.cli.answering import readout_name_of, readout_settings
from lmtailor.cli.options import LossOptions, MachineOptions, ReadoutOptions, TaskOptions, TrainingOptions
from lmtailor.compare.commands import decoding_flags
from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import apply_overrides, from_mapping, resolve_name
from lmtailor.core.typed import init_fields
from lmtailor.fit.soft_labels import SoftLabels
from lmtailor.fit.teacher import check_soft_source, soft_labels_from
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.infer.decoding import Decoding
from lmtailor.methods import method_class
from lmtailor.methods.method import Method
from lmtailor.methods.union import Union
from lmtailor.objectives.objective import Objective
from lmtailor.readouts.columns import columns_read
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.registry import get_readout
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import load_adapter
from lmtailor.strategies import strategy_class
from lmtailor.strategies.strategy import Strategy
from lmtailor.tasks.card import load_task, task_from_files
from lmtailor.tasks.read import Format
from lmtailor.tasks.task import Task

TASK = "task."
"""Start of settings that are the card's."""

UNLABELLED = "unlabelled"
"""Section of settings of language modelling beside the task; one of them is enough to ask for it."""

_SHOWN = 60
"""The longest text of the data that stands in a command (characters)."""

_FLAGS = {"epochs": "--epochs", "batch_size": "--batch-size", "lr": "--lr"}
"""Settings of `Training` that have an option of their own."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a fit is asked to do."""

    method: Method
    readout: Readout
    objective: Objective
    training: Training
    unlabelled: Unlabelled | None


def the_base(source: str, machine: MachineOptions) -> Base:
    """Load the base, with as many threads as asked.

    Raises:
        InputError: see `load_base`.
    """
    use_threads(machine)
    if machine.dtype not in get_args(DTypeName):
        raise InputError(f"There is no dtype {machine.dtype!r} for weights. {near(machine.dtype, get_args(DTypeName))}")
    with say.doing(f"loading {source}"):
        return load_base(
            source,
            dtype=cast(DTypeName, machine.dtype),
            device=machine.device,
            revision=machine.revision,
            plain_products=machine.plain_products,
            trust_remote_code=machine.trust_remote_code,
        )


def use_threads(machine: MachineOptions) -> None:
    """Compute with as many processor threads as asked."""
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)


def the_adapter(folder: Path, base: Base, *, any_base: bool) -> Adapter:
    """Load an adapter for a base.

    Raises:
        AdapterFileError: see `load_adapter`.
    """
    return load_adapter(folder, base, any_base=any_base)


def the_task(options: TaskOptions, settings: Sequence[str] = (), *, tell: bool = True, seed: int = 0) -> Task:
    """Read the task, and say what is odd in its data.

    Args:
        options: a card, or files.
        settings: those of `--set`; what starts with `task.` is the card's.
        tell: whether to say it.
        seed: draws the few shots, if any are asked for.

    Raises:
        InputError: both a card and files, or neither; and as `load_task`.
    """
    own = [text.removeprefix(TASK) for text in settings if text.startswith(TASK)]
    task = _from_files(options, own) if options.task is None else _from_card(options, options.task, own)
    if options.shots is not None:
        task = task.few_shot(options.shots, seed)
    for note in task.notes if tell else ():
        say.warn(note)
    return task


def the_choices(
    task: Task, method: str, answer: ReadoutOptions, training: TrainingOptions, loss: LossOptions, settings: Sequence[str]
) -> Choices:
    """The four choices of a fit.

    Raises:
        InputError: an unknown name or a value that does not fit; the message offers near names.
    """
    methods = method_classes(method)
    classes: dict[str, type[Any]] = {
        **methods,
        "readout": get_readout(readout_name_of(task, answer)),
        "training": Training,
        "objective": _objective_class(loss),
        UNLABELLED: Unlabelled,
    }
    given = {name: getattr(training, name) for name in _FLAGS if getattr(training, name) is not None}
    values = _with_settings({"readout": readout_settings(task, answer), "training": given}, settings, classes)
    wanted = {name: cls for name, cls in classes.items() if name != UNLABELLED or name in values}
    built: dict[str, Any] = {UNLABELLED: None}
    built |= {name: from_mapping(cls, values.get(name, {}), path=name) for name, cls in wanted.items()}
    return Choices(method=_joined([built.pop(name) for name in methods]), **built)


def _objective_class(loss: LossOptions) -> type[Any]:
    """The objective that is asked for.

    Raises:
        InputError: there is none of this name, or soft labels are missing or of no use.
    """
    known = Objective.variants()
    if loss.objective not in known:
        raise InputError(f"There is no objective {loss.objective!r}. {near(loss.objective, known)}")
    cls = known[loss.objective]
    if cls.soft and loss.soft_labels is None:
        raise InputError(
            f"{loss.objective} learns from another model's answers: give --soft-labels, a file as `lmtailor predict` writes it "
            "for the training file, or the folder of an adapter of the same base."
        )
    if loss.soft_labels is not None and not cls.soft:
        raise InputError("--soft-labels are for --objective distillation. Add it, or leave them out.")
    if loss.soft_labels is not None:
        check_soft_source(loss.soft_labels)
    return cls


def the_soft_labels(loss: LossOptions, base: Base, task: Task) -> SoftLabels | None:
    """What the training examples should be answered; None where the labels say it.

    Raises:
        InputError, DataError: see `soft_labels_from`.
    """
    return None if loss.soft_labels is None else soft_labels_from(loss.soft_labels, base, task)


@dataclass(frozen=True, kw_only=True)
class StrategyChoices:
    """What a strategy is asked to do; what is None is its own choice."""

    strategy: Strategy
    method: Method | None
    readout: Readout | None
    training: Training | None


def the_strategy(
    task: Task, strategy: str, method: str | None, answer: ReadoutOptions, training: TrainingOptions, settings: Sequence[str]
) -> StrategyChoices:
    """The choices of a work.

    Raises:
        InputError: an unknown name or a value that does not fit; the message offers near names.
    """
    methods = {} if method is None else method_classes(method)
    if answer.readout is None and answer != ReadoutOptions():  # options of a pattern are of a readout that has one
        usual = readout_name_of(task, answer)
        answer = replace(answer, readout="verbalizer" if usual == "head" and answer.target is None else usual)
    readout: dict[str, type[Any]] = {} if answer.readout is None else {"readout": get_readout(answer.readout)}
    classes: dict[str, type[Any]] = {"strategy": strategy_class(strategy), **methods, **readout, "training": Training}
    given = {name: getattr(training, name) for name in _FLAGS if getattr(training, name) is not None}
    start: dict[str, dict[str, object]] = {"training": given}
    if answer.readout is not None:
        alone = _with_settings(start, settings, classes)
        wanted = from_mapping(classes["strategy"], alone.get("strategy", {}), path="strategy")
        start["readout"] = readout_settings(task, answer, wanted)
    values = _with_settings(start, settings, classes)
    built = {name: from_mapping(cls, values.get(name, {}), path=name) for name, cls in classes.items()}
    return StrategyChoices(
        strategy=built["strategy"],
        method=_joined([built[name] for name in methods]) if methods else None,
        readout=built.get("readout"),
        training=built["training"] if values.get("training") else None,
    )


def _joined(parts: Sequence[Method]) -> Method:
    return parts[0] if len(parts) == 1 else Union(parts=tuple(parts))


def method_classes(text: str) -> dict[str, type[Any]]:
    """The method that is asked for, under "method"; of a union such as lora+bitfit each part under its own name.

    Raises:
        InputError: an unknown name, or one that stands twice.
    """
    names = [name.strip() for name in text.split("+")]
    if len(names) == 1:
        return {"method": method_class(names[0])}
    classes = {name: method_class(name) for name in names}
    if len(classes) < len(names):
        raise InputError(f"A method stands twice in {text!r}, so --set could not tell its settings apart. Use a plan, or Python.")
    return classes


def the_readout(task: Task, answer: ReadoutOptions, settings: Sequence[str]) -> Readout:
    """A readout alone.

    Raises:
        InputError: as `the_choices`.
    """
    cls: type[Any] = get_readout(readout_name_of(task, answer))
    values = _with_settings({"readout": readout_settings(task, answer)}, settings, {"readout": cls})
    readout: Readout = from_mapping(cls, values["readout"], path="readout")
    return readout


def predict_command(
    base: str, folder: Path, adapter: Adapter, task: Task, machine: MachineOptions, decoding: Decoding | None
) -> str:
    """How to predict with an adapter, with texts of the task's data.

    Args:
        base: as the user named it.
        folder: the adapter's.
        adapter: what is in it.
        task: its data.
        machine: how the base was loaded.
        decoding: how text was written; None: as is done unasked.
    """
    examples = (example for split in task.splits.values() for example in split)
    reading = adapter.reading
    columns = task.text if reading is None else columns_read(reading.readout, reading.label_set)
    texts = next(
        (own for example in examples if all(map(_stands, own := [example.fields[name] for name in columns]))),
        [f"some {name}" for name in columns],
    )
    default = MachineOptions()
    changed = [name for name in ("dtype", "device", "revision") if getattr(machine, name) != getattr(default, name)]
    words = [word for name in changed for word in (f"--{name}", str(getattr(machine, name)))]
    remote = ["--trust-remote-code"] if machine.trust_remote_code else []
    return shlex.join(["lmtailor", "predict", base, str(folder), *texts, *words, *remote, *decoding_flags(decoding)])


def _stands(text: str) -> bool:
    """Whether a text can stand in a command: not empty, short, one line, and not like an option."""
    return bool(text.strip()) and len(text) <= _SHOWN and text.isprintable() and not text.startswith("-")


def _from_card(options: TaskOptions, card: Path, settings: Sequence[str]) -> Task:
    clash = [name for name in vars(TaskOptions()) if name not in ("task", "shots") and getattr(options, name) not in (None, ())]
    if clash:
        raise InputError(
            f"--{clash[0].replace('_', '-')} and --task are both given. The card says it: change it there, or leave --task out."
        )
    return load_task(card, overrides=settings)


def _from_files(options: TaskOptions, settings: Sequence[str]) -> Task:
    if settings:
        raise InputError(f"{TASK}{settings[0]} is a setting of a task card, but there is none. Give --task, or leave it out.")
    if options.train is None and options.dev is None and options.test is None:
        raise InputError(
            "There is no data. Give a card (--task card.toml), or files (--train a.csv --text COLUMN --label COLUMN)."
        )
    return task_from_files(
        text=options.text,
        label=options.label,
        kind=options.kind or "classification",
        train=options.train,
        dev=options.dev,
        test=options.test,
        unlabelled=options.unlabelled,
        metrics=options.metric or None,
        form=Format(format=options.format, encoding=options.encoding or "utf-8", delimiter=options.delimiter),
        dev_fraction=options.dev_fraction,
    )


def _with_settings(
    values: Mapping[str, Mapping[str, object]], settings: Iterable[str], classes: Mapping[str, type]
) -> Mapping[str, Any]:
    """The tables with the settings in them."""
    rest = [_in_full(text, classes) for text in settings if not text.startswith(TASK)]
    named = {resolve_name(text.partition("=")[0].strip(), classes) for text in rest if "=" in text}
    for name, flag in _FLAGS.items():
        if name in values.get("training", {}) and f"training.{name}" in named:
            raise InputError(f"training.{name} is given twice, by {flag} and by --set. Leave one out.")
    return apply_overrides(values, rest, known=classes)


def _in_full(text: str, classes: Mapping[str, type]) -> str:
    """A setting with its whole path, where it is given by a bare name.

    Settings of unlabelled texts have no bare names, so that `batch_size` stays that of the training.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if UNLABELLED not in classes or not equals or not name or "." in name:
        return text
    if name in init_fields(Unlabelled) and not any(name in init_fields(cls) for key, cls in classes.items() if key != UNLABELLED):
        raise InputError(f"Settings of unlabelled are written in full: --set {UNLABELLED}.{name}={value}.")
    return f"{resolve_name(name, {key: cls for key, cls in classes.items() if key != UNLABELLED})}={value}"
