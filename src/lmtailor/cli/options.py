"""Options that several verbs share, with the groups in which help shows them.

A class here is read by cyclopts: its fields are options, and the texts under them their help.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt

DATA = Group("Data", sort_key=1)
ANSWER = Group("Readout", sort_key=2)
TRAINING = Group("Training", sort_key=3)
OUTPUT = Group("Output", sort_key=4)
MACHINE = Group("Machine", sort_key=9)

Settings = Annotated[tuple[str, ...], Parameter(name="--set")]
"""`--set KEY=VALUE`, repeated."""


@Parameter(name="*", group=DATA)
@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """A task: a card, or files and their columns."""

    task: Path | None = None
    """Task card (TOML), instead of the other options of this group."""
    train: Path | None = None
    """File to learn from: CSV, TSV, JSONL or Parquet."""
    dev: Path | None = None
    """File that chooses among checkpoints."""
    test: Path | None = None
    """File that is scored at the end."""
    unlabelled: Path | None = None
    """File of texts without labels, for strategies and settings that learn from them."""
    text: tuple[str, ...] = ()
    """Text column; twice for a pair."""
    label: str | None = None
    """Column of labels. "label" if none is given."""
    kind: Literal["classification", "regression"] | None = None
    """What labels are: names, or numbers. Classification if none is given."""
    metric: tuple[str, ...] = ()
    """Metric; repeated, the first one chooses checkpoints. Those of the kind if none is given."""
    dev_fraction: float | None = None
    """Share of the training texts to hold out as dev, where there is no dev file."""
    shots: PositiveInt | None = None
    """Examples of each label to train on, drawn from train with as many others for dev; the seed draws them."""
    encoding: str | None = None
    """Of text files. "utf-8" if none is given."""
    delimiter: str | None = None
    """Of CSV and TSV files."""


@Parameter(name="*", group=ANSWER)
@dataclass(frozen=True, kw_only=True)
class ReadoutOptions:
    """How the model's output becomes an answer."""

    readout: str | None = None
    """head, a classifier on hidden states; or verbalizer, a pattern whose gap the model fills with a label's word."""
    pattern: str | None = None
    """The verbalizer's pattern, such as "{sentence} It was {mask}."; else the card's first one."""
    pattern_name: str | None = None
    """Instead of a pattern: the name of one of the card's patterns or templates, with its words."""
    word: tuple[str, ...] = ()
    """LABEL=WORD: a word that stands for a label in the gap; at least one for each label, else the card's."""


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The commonest settings of a fit; `--set training.NAME=VALUE` has the others."""

    epochs: float | None = None
    """Passes through the training set."""
    batch_size: int | None = None
    """Examples a batch."""
    lr: float | None = None
    """Peak learning rate; the method's own if none is given."""
    seed: int = 0
    """Of start, order and dropout."""


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What a fit minimises."""

    objective: str = "supervised"
    """supervised, which learns from labels; or distillation, which learns from another model's answers."""
    soft_labels: Path | None = None
    """Those answers: a file that `lmtailor predict` wrote for the training file, or the folder of an adapter of this base."""


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written, and where."""

    out: Path | None = None
    """Folder for the adapter. "adapters/TASK-METHOD" if none is given."""
    overwrite: bool = False
    """Replace the adapter of another fit."""
    log: Path | None = None
    """File for a log of the fit, as JSON Lines."""
    tensorboard: Path | None = None
    """Folder for curves in TensorBoard."""


@Parameter(name="*", group=MACHINE)
@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """How and where the base is loaded."""

    dtype: str = "float32"
    """Type of the weights in memory: float32, bfloat16, float16, or auto for the checkpoint's own."""
    device: str = "cpu"
    """Such as cpu, cuda, cuda:1 or mps."""
    threads: PositiveInt | None = None
    """Processor threads. Those of torch if none is given."""
    revision: str | None = None
    """Branch, tag or commit of a base on the hub."""
    trust_remote_code: bool = False
    """Let code that comes with the base run."""
