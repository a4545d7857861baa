r"""Task cards: a task described in a TOML file beside its data.

kind = "classification"                  # or "regression", "generation", "labelling", "span"; a pair has two text columns
folder = "data/films"                    # where all files are, from the card's folder; without it: that folder itself
labels = ["negative", "positive"]        # their order; without it: train's labels, sorted
metrics = ["accuracy", "macro_f1"]       # the first one chooses checkpoints and ranks runs
dev_fraction = 0.1                       # where there is no dev file
seed = 0

[files]                                  # train, dev, test, unlabelled: paths from there
train = "train.csv"                      # or the tables [dataset] with an id or a path, and [splits]
test = "test.csv"

[format]                                 # where suffix and defaults do not fit: format, encoding, delimiter, header, quoting …
encoding = "latin-1"
rename = { "#1 Text" = "sentence" }      # columns that patterns could not name

[columns]
text = "sentence"                        # or two names
label = "label"
extra = ["author"]                       # further columns for patterns

[label_map]                              # label as written -> label of the task
"0" = "negative"
"1" = "positive"

[limits]
train = 1000

[ood.reviews]                            # an out-of-domain test set with its own columns, label map and format
file = "reviews.tsv"
text = "review"
where = { stars = ["1", "2", "4", "5"] } # only these rows

[[patterns]]
text = "{sentence} It was {mask}."
name = "was"                             # without it: its number, from 1
words = { negative = ["bad"], positive = ["good"] }   # without it: those of [verbalizer]

[verbalizer]
negative = ["terrible"]
positive = ["great"]

[templates]                              # or templates = "prompts.yaml"
file = "prompts.yaml"                    # templates in Jinja, as promptsource has them
use = ["asked", "told"]                  # without it: all that are patterns

Other kinds say the same with the columns that they have:

generation   `label` is the text to be written, or a list of texts, or SQuAD's answers; rows of the same texts are one
             example with all their references. A pattern is the input alone, `target` what is written behind it:
             text = "Data: {mr}\nText:" and target = " {ref}". Without a target it is the reference (see `Text`); the first
             pattern is the one taken.
             references = { train = 1 } keeps the first reference of each example alone.
             With chat = true and no [columns], rows are conversations (messages, ShareGPT's) or instructions (Alpaca's).
labelling    `text` is the words and `label` their tags, with one space between or as lists; `labels` are the tags. Without
             [columns] a file of CoNLL-U is read as its words and its upos; one of two columns as words and tags.
span         `text` is the question and the text with the answers (or that alone); `label` the answers, a list of
             { text, answer_start }. Without [columns] those of SQuAD.
multiple choice is a classification: the options are further columns, the label is the number or name of the right one, and a
             pattern says which is which: options = { 0 = "choice1", 1 = "choice2" }.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import apply_overrides, from_mapping
from lmtailor.tasks.conversations import ANSWER, CONVERSATION, conversations
from lmtailor.tasks.default_columns import label_column, named_columns, text_columns
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.formats.hub import read_dataset
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.read import Format, read_table
from lmtailor.tasks.schema import STANDARD, Part, Schema
from lmtailor.tasks.table import Table
from lmtailor.tasks.task import Task
from lmtailor.tasks.templates.collection import read_templates
from lmtailor.tasks.with_templates import with_collection


@dataclass(frozen=True, kw_only=True)
class Files:
    """The table `[files]`: paths from the card's `folder`."""

    train: str | None = None
    dev: str | None = None
    test: str | None = None
    unlabelled: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where a `datasets` data set is; exactly one of `id` and `path`."""

    id: str | None = None
    path: str | None = None
    """A folder, from the card's `folder`."""
    name: str | None = None
    """Its configuration, where it has several."""
    revision: str | None = None
    """Commit, tag or branch of an id."""

    def __post_init__(self) -> None:
        if (self.id is None) == (self.path is None):
            raise InputError("A data set has an id or a path. Give exactly one of them.")
        if self.revision is not None and self.id is None:
            raise InputError("A revision is of a data set with an id; a folder has none.")

    def table(self, split: str, folder: Path) -> Table:
        """One split of it. Raises what `read_dataset` raises."""
        source = self.id if self.path is None else str(folder / self.path)
        assert source is not None
        if self.path is not None and not Path(source).is_dir():
            raise InputError(f"Cannot read the data set {source}: there is no such folder.")
        return read_dataset(source, split=split, name=self.name, revision=self.revision)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The table `[columns]`."""

    text: str | tuple[str, ...] = ()
    """The text column, or two for a pair; empty: those that the files of labelling and spans have, else there must be some."""
    label: str | None = None
    """None: that of the files of labelling and spans, else "label"."""
    extra: tuple[str, ...] = ()
    """Further columns that patterns may use."""


@dataclass(frozen=True, kw_only=True)
class OutOfDomain:
    """A table `[ood.NAME]`; what it leaves out is as in the rest of the card."""

    file: str | None = None
    dataset: Dataset | None = None
    split: str | None = None
    """The data set's name for the split; needed with `dataset`."""
    text: str | tuple[str, ...] = ()
    """Its columns for the task's text columns, in the same order."""
    label: str | None = None
    label_map: Mapping[str, str] | None = None
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column of the file -> the values whose rows are read; empty: all rows."""
    format: Format | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.dataset is None):
            raise InputError("An out-of-domain set has a file or a dataset. Give exactly one of them.")
        if (self.dataset is None) != (self.split is None):
            raise InputError("split goes with dataset: give both or neither.")
        if self.dataset is not None and self.format is not None:
            raise InputError("format goes with file; a dataset has none.")


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A table of `[[patterns]]`, in a card or in a mixture's list of templates."""

    text: str
    name: str | None = None
    """None: its number, from 1; in a list behind the list's name."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label -> words; empty: those of `[verbalizer]`."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Multiple choice: label -> the column with that option."""
    target: str | None = None
    """Where answers are written, what is written behind the text; None: the reference."""

    def prompt(self, number: str) -> Prompt:
        """The pattern as a task has it; `number` names it where it has no name."""
        name = number if self.name is None else self.name
        return Prompt(name=name, pattern=self.text, words=self.words, options=self.options, target=self.target)


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The table `[templates]`."""

    file: str
    """A YAML file as promptsource has them, from the card's own folder."""
    use: tuple[str, ...] | None = None
    """Names of templates, in the order of the task's prompts; those that compute their input are rendered into columns.
    None: all that need no column."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A whole card; see the module's docstring."""

    columns: Columns = field(default_factory=Columns)
    kind: TaskKind = "classification"
    name: str | None = None
    """None: the card's file name without its suffix."""
    folder: str = "."
    """Where all files of the card are, from the card's folder."""
    labels: tuple[str | int, ...] | None = None
    label_map: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    files: Files = field(default_factory=Files)
    format: Format = field(default_factory=Format)
    """Of all files that have none of their own."""
    dataset: Dataset | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    """With `dataset`: train, dev, test or unlabelled -> the data set's name for it."""
    ood: Mapping[str, OutOfDomain] = field(default_factory=dict)
    dev_fraction: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    references: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    chat: bool = False
    """Whether rows are conversations or instructions; see `lmtailor.tasks.conversations`. They have columns of their own."""
    patterns: tuple[Pattern, ...] = ()
    templates: str | Templates | None = None
    """A file's name alone stands for that file's templates."""
    verbalizer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chat and (self.kind != "generation" or self.columns != Columns()):
            raise InputError('chat is for kind = "generation", and conversations have columns of their own: leave [columns] out.')
        if (self.dataset is None) != (not self.splits):
            raise InputError('dataset and splits go together: say which splits it has, such as splits = {train = "train"}.')
        for name in self.splits:
            if name not in STANDARD:
                raise InputError(f"splits has {name!r}. {near(name, STANDARD)}")
            if getattr(self.files, name) is not None:
                raise InputError(f"{name} is given twice: as a file and as a split of the dataset.")
        for name in self.ood:
            if name in STANDARD:
                raise InputError(f"{name!r} cannot name an out-of-domain set; {', '.join(STANDARD)} have meanings of their own.")


def load_task(path: str | Path, *, overrides: Iterable[str] = ()) -> Task:
    """The task that a card describes.

    Args:
        path: the card, a TOML file.
        overrides: settings of the card as `key=value`, such as "limits.train=100"; see `apply_overrides`.

    Raises:
        InputError: no card, a card that is no TOML, has unknown keys or values of another type, or names files that are
            not there.
        DataError: data that is not what the card says.
    """
    path = Path(path)
    try:
        values: Mapping[str, object] = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}.") from error
    values = apply_overrides(values, overrides, known={"": Card})
    _refuse_pair(values.get("kind"))
    card = from_mapping(Card, values, source=str(path))
    files = [*_files(card), *(one.file for one in card.ood.values())]
    schema = Schema(
        kind=card.kind,
        text=(CONVERSATION,) if card.chat else text_columns(card.kind, card.columns.text),
        label=ANSWER if card.chat else label_column(card.kind, card.columns.label, files, card.format),
        extra=card.columns.extra,
        labels=None if card.labels is None else tuple(map(str, card.labels)),
        label_map=card.label_map,
        dev_fraction=card.dev_fraction,
        limits=card.limits,
        references=card.references,
        seed=card.seed,
    )
    parts = _parts(card, path.parent / card.folder)
    task = Task.from_parts(
        parts,
        schema,
        name=card.name or path.stem,
        metrics=card.metrics,
        patterns=[pattern.prompt(str(number)) for number, pattern in enumerate(card.patterns, start=1)],
        verbalizer=card.verbalizer,
    )
    if card.templates is None:
        return task
    chosen = Templates(file=card.templates) if isinstance(card.templates, str) else card.templates
    return with_collection(task, read_templates(path.parent / chosen.file), chosen.use)


def task_from_files(  # noqa: PLR0913 - what a card would say, as the command line's options
    *,
    text: str | Sequence[str] = (),
    label: str | None = None,
    kind: TaskKind = "classification",
    train: str | Path | None = None,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    unlabelled: str | Path | None = None,
    ood: Mapping[str, str | Path] | None = None,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    form: Format | None = None,
    dev_fraction: float | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Task:
    """A task from data files without a card.

    Args:
        text: the text column, or two for a pair; empty: `text` in labelling, `question` and `context` in a span.
        label: the column of labels or references; None: `upos` or `tags` in labelling, by the first file; `answers` in a span;
            else "label".
        kind: see `TaskKind`.
        train: the file to learn from; leave out any that is not there.
        dev: the file that chooses checkpoints.
        test: the file that is scored at the end.
        unlabelled: a file of texts without labels.
        ood: name -> file of an out-of-domain test set with the same columns.
        labels: all labels in their order; None: train's, sorted.
        metrics: names of metrics; None: `default_metrics`.
        form: how all the files are written; None: by their suffixes.
        dev_fraction: share of train's texts to hold out as dev.
        limits: split -> the most examples to keep.
        seed: of dev and limits.
        name: of the task; None: the first file's name without its suffix.

    Raises:
        InputError, DataError: as `load_task`.
    """
    _refuse_pair(kind)
    given: dict[str, str | Path | None] = {"train": train, "dev": dev, "test": test, "unlabelled": unlabelled}
    files = {split: Path(file) for split, file in {**given, **(ood or {})}.items() if file is not None}
    schema = Schema(
        kind=kind,
        text=text_columns(kind, text),
        label=label_column(kind, label, files.values(), form),
        labels=None if labels is None else tuple(labels),
        dev_fraction=dev_fraction,
        limits=limits or {},
        seed=seed,
    )
    parts = {split: Part(table=read_table(file, form)) for split, file in files.items()}
    first = next(iter(files.values()), Path("task"))
    return Task.from_parts(parts, schema, name=name or Path(first.name.removesuffix(".gz")).stem, metrics=metrics)


def _files(card: Card) -> list[str]:
    return [file for file in (getattr(card.files, name) for name in STANDARD) if file is not None]


def _parts(card: Card, folder: Path) -> dict[str, Part]:
    """Every split of the card, read."""
    parts: dict[str, Part] = {}
    for name in STANDARD:
        file = getattr(card.files, name)
        if file is not None:
            parts[name] = Part(table=read_table(folder / file, card.format))
        elif card.dataset is not None and name in card.splits:
            parts[name] = Part(table=card.dataset.table(card.splits[name], folder))
    for name, ood in card.ood.items():
        parts[name] = Part(
            table=_ood_table(ood, card.format, folder), text=named_columns(ood.text), label=ood.label, label_map=ood.label_map
        )
    return {name: replace(part, table=conversations(part.table)) for name, part in parts.items()} if card.chat else parts


def _ood_table(ood: OutOfDomain, form: Format, folder: Path) -> Table:
    if ood.dataset is not None and ood.split is not None:
        table = ood.dataset.table(ood.split, folder)
    else:
        assert ood.file is not None
        table = read_table(folder / ood.file, ood.format or form)
    return table.only(ood.where) if ood.where else table


def _refuse_pair(kind: object) -> None:
    if kind == "pair":
        raise InputError('A pair is kind = "classification" (or "regression") with two text columns; there is no kind "pair".')
