"""Options that several verbs share, with the groups in which help shows them.

A class here is read by cyclopts: its fields are options, and the texts under them their help.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from cyclopts.types import NonNegativeFloat, PositiveInt

from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.file_formats import FormatName

DATA = Group("Data", sort_key=1)
ANSWER = Group("Readout", sort_key=2)
TRAINING = Group("Training", sort_key=3)
OUTPUT = Group("Output", sort_key=4)
WRITING = Group("Writing", sort_key=5)
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
    """File to learn from: CSV, TSV, JSON, JSONL, Parquet, CoNLL-U or CoNLL, or of another --format."""
    dev: Path | None = None
    """File that chooses among checkpoints."""
    test: Path | None = None
    """File that is scored at the end."""
    unlabelled: Path | None = None
    """File of texts without labels, for strategies and settings that learn from them."""
    text: tuple[str, ...] = ()
    """Text column; twice for a pair. Files of labelling and spans have their own."""
    label: str | None = None
    """Column of labels, tags or references. "label" if none is given, in labelling and spans the file's own."""
    kind: TaskKind | None = None
    """What answers are: names, numbers, texts, a tag for each word, or a part of the text. Classification if none is given."""
    metric: tuple[str, ...] = ()
    """Metric; repeated, the first one chooses checkpoints. Those of the kind if none is given."""
    dev_fraction: float | None = None
    """Share of the training texts to hold out as dev, where there is no dev file."""
    shots: PositiveInt | None = None
    """Examples of each label to train on, drawn from train with as many others for dev; the seed draws them."""
    format: FormatName | None = None
    """Of the files, where their suffixes do not say it: such as squad, dart or nested."""
    encoding: str | None = None
    """Of text files. "utf-8" if none is given."""
    delimiter: str | None = None
    """Of CSV, TSV and CoNLL files."""


@Parameter(name="*", group=DATA)
@dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """Many tasks at once."""

    mixture: Path | None = None
    """File of a mixture (TOML), instead of a task: many cards through templates, and tasks that are held out and scored zero-shot
    as training goes. `--set mixture.NAME=VALUE` changes its settings."""


@Parameter(name="*", group=ANSWER)
@dataclass(frozen=True, kw_only=True)
class ReadoutOptions:
    """How the model's output becomes an answer."""

    readout: str | None = None
    """head, a classifier on hidden states; verbalizer, a pattern whose gap the model fills with a label's word; text, a pattern
    behind which it writes; chat, its turn in a conversation; tags, one for each word; span, a part of the text; or options, which
    of several texts. If none is given, the usual one for the kind of task."""
    pattern: str | None = None
    """The pattern of a verbalizer, such as "{sentence} It was {mask}.", or of text, such as "Data: {mr} Text:"; else the card's
    first one."""
    target: str | None = None
    """What text writes behind its pattern, such as " {ref}"; else the card's, or the reference after a space."""
    pattern_name: str | None = None
    """Instead of a pattern: the name of one of the card's patterns or templates, with its words."""
    word: tuple[str, ...] = ()
    """LABEL=WORD: a word that stands for a label in the gap; at least one for each label, else the card's."""


@Parameter(name="*", group=WRITING)
@dataclass(frozen=True, kw_only=True)
class WritingOptions:
    """How text is written."""

    max_new_tokens: PositiveInt = 64
    """The most tokens that are written for a prompt."""
    beams: PositiveInt = 1
    """Texts that are followed at a time; 1 takes the likeliest token each time."""
    length_penalty: float = 1.0
    """With beams: above 1 favours long texts, below 1 short ones."""
    temperature: NonNegativeFloat = 0.0
    """Draw tokens from softmax(logits / temperature); 0 takes the likeliest."""
    top_k: PositiveInt | None = None
    """When drawing: only among so many of the likeliest tokens."""
    top_p: float | None = None
    """When drawing: only among the likeliest tokens that together have this probability."""
    stop: tuple[str, ...] = ()
    """A string at which a text ends, and which is cut off; repeated."""


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
    plain_products: bool = False
    """Leave matrix products under adapters to the library that torch takes by itself: slower on CPUs that are not Intel's, and
    rounded as without adapters."""
