"""A task: what is to be told from what, the data that shows it, and how it is scored."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lmtailor.core.errors import InputError, near
from lmtailor.tasks.build import build_splits
from lmtailor.tasks.example import TEXT_KINDS, Example, Split, TaskKind
from lmtailor.tasks.few_shot import Shots, few_shot_splits
from lmtailor.tasks.metrics import get_metric
from lmtailor.tasks.metrics.direction import choosing_metric
from lmtailor.tasks.metrics.text.statistics import text_statistics
from lmtailor.tasks.metrics.text.table import PERPLEXITY, get_text_metric
from lmtailor.tasks.overlap import overlap_notes
from lmtailor.tasks.prompt import Prompt, named
from lmtailor.tasks.schema import STANDARD, Part, Schema
from lmtailor.tasks.table import table_of_records
from lmtailor.tasks.templates.convert import Shape, plain_prompt, rendered
from lmtailor.tasks.templates.template import JinjaTemplate

__all__ = ["Example", "Split", "Task", "TaskKind"]

Records = Sequence[Mapping[str, object]]

LABELLED = ("classification", "labelling")
"""Kinds whose answers are of named labels."""

_DEFAULT_METRICS: Mapping[TaskKind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "generation": ("bleu", "rouge_l"),
    "labelling": ("tag_accuracy",),
    "span": ("answer_f1", "exact_match"),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be answered to texts: by a label, a number, a text, a tag for each word, or a part of the text.

    A pair has two text columns; there is no separate kind for it.
    """

    name: str
    kind: TaskKind
    text: tuple[str, ...]
    """The text columns: one, or two for a pair."""
    label: str
    """The column of labels, or of references."""
    labels: tuple[str, ...]
    """Names of the labels; an example's label is an index into them. In labelling the tags. Empty in other kinds."""
    metrics: tuple[str, ...]
    """Names of metrics. The first one ranks runs, and chooses checkpoints; see `choosing`."""
    splits: Mapping[str, Split]
    """"train", "dev", "test" and "unlabelled" where they are there, and the out-of-domain sets by their names."""
    ood: tuple[str, ...] = ()
    """Which of the splits are out-of-domain test sets."""
    extra: tuple[str, ...] = ()
    """Further columns of the examples, which patterns may use."""
    prompts: tuple[Prompt, ...] = ()
    """Patterns that the card proposes, by name; the first one is taken where none is named."""
    verbalizer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label -> the words that stand for it, as the card proposes; empty: none proposed."""
    notes: tuple[str, ...] = ()
    """What is odd in the data and no error, such as texts that are in train and test. For people; show them."""

    def __post_init__(self) -> None:
        if not self.name or not self.metrics:
            raise InputError(f"A task needs a name and at least one metric; found {self.name!r} and {list(self.metrics)}.")
        for metric in self.metrics:
            check_metric(metric, self.kind)
        if "f1" in self.metrics and len(self.labels) != 2:
            raise InputError(f"f1 is of the second of two labels; found {len(self.labels)} labels. Use macro_f1.")
        if self.kind in LABELLED and len(self.labels) < 2:
            raise InputError(f"{self.kind.capitalize()} needs at least two labels; found {list(self.labels)}.")
        if self.kind not in LABELLED and self.labels:
            raise InputError(f"A task of {self.kind} has no named labels; found {list(self.labels)}.")
        for name in self.ood:
            if name in STANDARD or name not in self.splits:
                raise InputError(
                    f"{name!r} cannot be an out-of-domain set: it must be a split, and none of {', '.join(STANDARD)}."
                )
        named(self.prompts)
        for prompt in self.prompts:
            self._check_prompt(prompt)
        for words in (self.verbalizer, *(prompt.words for prompt in self.prompts)):
            self._check_words(words)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the prompts."""
        return tuple(prompt.pattern for prompt in self.prompts)

    def prompt(self, name: str) -> Prompt:
        """The prompt of this name, in classification with words for every label, its own or the verbalizer's, or with options.

        Raises:
            InputError: there is none, or there are no words.
        """
        names = [prompt.name for prompt in self.prompts]
        if name not in names:
            raise InputError(f"The task {self.name} has no pattern named {name!r}. {near(name, names)}")
        found = self.prompts[names.index(name)]
        words = found.words or self.verbalizer
        if not words and not found.options and self.kind == "classification":
            raise InputError(f"The pattern {name!r} has no words for the labels. Give it words, or the card a [verbalizer].")
        return replace(found, words=words)

    @property
    def columns(self) -> tuple[str, ...]:
        """All fields of an example: the text columns, then the further ones."""
        return self.text + self.extra

    @property
    def choosing(self) -> str:
        """The metric that chooses checkpoints and candidates on dev: the first; of texts that are written, perplexity."""
        return choosing_metric(self.kind, self.metrics)

    def try_metrics(self) -> None:
        """See before long work that the metrics of texts can be measured here: each is tried on one reference.

        Raises:
            InputError, UnsupportedError: what a metric says, such as METEOR where there is no Java.
        """
        own = next((one.references for split in self.splits.values() for one in split if one.references), None)
        if self.kind in TEXT_KINDS and own is not None:
            for metric in self.metrics:
                if metric != PERPLEXITY:
                    text_statistics(metric, own[:1], [own[:1]])

    @property
    def num_outputs(self) -> int:
        """Scores for an example: one a label, or one where there are none."""
        return len(self.labels) or 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: kind, columns, labels and every example of every split, in hexadecimal.

        Names, metrics, patterns and sources do not count.
        """
        digest = hashlib.sha256()
        _feed(digest, [self.kind, self.text, self.extra, self.labels])
        for name in sorted(self.splits):
            _feed(digest, [name, len(self.splits[name])])
            for example in self.splits[name]:
                _feed(digest, [[example.fields[column] for column in self.columns], _truth(example)])
        return digest.hexdigest()

    def split(self, name: str) -> Split:
        """The split of this name.

        Raises:
            InputError: the task has no such split.
        """
        if name not in self.splits:
            raise InputError(f"The task {self.name} has no split {name!r}. {near(name, self.splits)}")
        return self.splits[name]

    def few_shot(self, k: int, seed: int = 0, *, unlabelled: int | None = None) -> "Task":
        """The task with K examples of each label to train on, by the protocol of LM-BFF; see `few_shot_splits`.

        Where answers are texts, tags or spans, K examples in all.

        Args:
            k: examples of each label in train, and as many others in dev; both are drawn from train.
            seed: changes the draw. The paper's five are `few_shot.LM_BFF_SEEDS`.
            unlabelled: the most examples to keep, without labels, of what is left of train; None: all.

        Raises:
            InputError: there is no train split, or it has too few different texts of some label.
        """
        shots = Shots(k=k, seed=seed, unlabelled=unlabelled)
        splits = few_shot_splits(self.splits, self.kind, self.labels, self.text, shots)
        return replace(self, splits=splits, notes=overlap_notes(splits, self.text))

    def with_template(self, template: JinjaTemplate, *, column: str = "prompt", seed: int = 0) -> "Task":
        """The task with a template as its first prompt.

        A template whose input is text and columns becomes a pattern. One that computes its input is rendered for every
        example into a further column, and the pattern is "{prompt} {mask}"; whoever predicts with it gives that column.

        Args:
            template: as promptsource writes them; see `lmtailor.tasks.templates.convert`.
            column: name of the further column, where there is one.
            seed: of what the template draws.

        Raises:
            TemplateError: the template does not fit the task; the message says why.
            InputError: regression, or there is a column of that name already.
        """
        shape = self.template_shape()
        prompt, splits, extra = plain_prompt(template, shape), self.splits, self.extra
        if prompt is None:
            if column in self.columns:
                raise InputError(f"The task {self.name} has a column {column!r}. Give the template's column another name.")
            splits, prompt = rendered(template, self.splits, shape, column, seed=seed)
            extra = (*extra, column)
        others = tuple(one for one in self.prompts if one.name != prompt.name)
        return replace(self, splits=splits, extra=extra, prompts=(prompt, *others))

    def template_shape(self) -> Shape:
        """What templates must fit.

        Raises:
            InputError: the task is regression.
        """
        if self.kind != "classification":
            raise InputError(f"Templates answer with words for labels; the task {self.name} is a {self.kind} without any.")
        return Shape(columns=self.columns, label=self.label, labels=self.labels)

    @classmethod
    def from_records(  # noqa: PLR0913 - the one door for data in memory; every argument is a key of a card
        cls,
        *,
        text: str | Sequence[str],
        label: str = "label",
        kind: TaskKind = "classification",
        train: Records | None = None,
        dev: Records | None = None,
        test: Records | None = None,
        unlabelled: Records | None = None,
        ood: Mapping[str, Records] | None = None,
        labels: Sequence[str | int] | None = None,
        label_map: Mapping[str, str] | None = None,
        metrics: Sequence[str] | None = None,
        extra: Sequence[str] = (),
        patterns: Sequence[str | Prompt] = (),
        verbalizer: Mapping[str, Sequence[str]] | None = None,
        dev_fraction: float | None = None,
        limits: Mapping[str, int] | None = None,
        seed: int = 0,
        name: str = "task",
    ) -> "Task":
        """A task from rows in memory; each row maps column names to values. Splits that are not there are left out.

        Args:
            text: the text column, or two for a pair.
            label: the column of labels. Labels that are numbers are written out: 1 is the label "1".
            kind: see `TaskKind`, and `Schema` for what their columns hold.
            train: rows to learn from.
            dev: rows that choose checkpoints.
            test: rows that are scored at the end.
            unlabelled: rows without labels; a label column is ignored.
            ood: name -> rows of an out-of-domain test set.
            labels: all labels in their order; None: train's, sorted.
            label_map: label as in the rows -> label of the task.
            metrics: names of metrics; None: `default_metrics`.
            extra: further columns for patterns.
            patterns: proposals for `Verbalizer` readouts, as text or with a name and words of their own.
            verbalizer: label -> words that may stand for it.
            dev_fraction: share of train's texts to hold out as dev.
            limits: split -> the most examples to keep.
            seed: of dev and limits.
            name: for messages, records and reports.

        Raises:
            InputError: rows that are not what the arguments say (DataError), or arguments that contradict each other.
        """
        schema = Schema(
            kind=kind,
            text=(text,) if isinstance(text, str) else tuple(text),
            label=label,
            extra=tuple(extra),
            labels=None if labels is None else tuple(str(item) for item in labels),
            label_map=label_map or {},
            dev_fraction=dev_fraction,
            limits=limits or {},
            seed=seed,
        )
        parts = _record_parts({"train": train, "dev": dev, "test": test, "unlabelled": unlabelled, **(ood or {})})
        return cls.from_parts(parts, schema, name=name, metrics=metrics, patterns=patterns, verbalizer=verbalizer)

    @classmethod
    def from_parts(
        cls,
        parts: Mapping[str, Part],
        schema: Schema,
        *,
        name: str,
        metrics: Sequence[str] | None = None,
        patterns: Sequence[str | Prompt] = (),
        verbalizer: Mapping[str, Sequence[str]] | None = None,
    ) -> "Task":
        """A task from tables; parts that are not train, dev, test or unlabelled are out-of-domain sets.

        Raises:
            DataError, InputError: see `build_splits`.
        """
        if not parts:
            raise InputError(f"The task {name} has no data. Give at least one of {', '.join(STANDARD)}.")
        built = build_splits(parts, schema)
        return cls(
            name=name,
            kind=schema.kind,
            text=schema.text,
            label=schema.label,
            labels=built.labels,
            metrics=tuple(metrics) if metrics else default_metrics(schema.kind),
            splits=built.splits,
            ood=tuple(part for part in parts if part not in STANDARD),
            extra=schema.extra,
            prompts=named(patterns),
            verbalizer={key: tuple(words) for key, words in (verbalizer or {}).items()},
            notes=built.notes,
        )

    def _check_prompt(self, prompt: Prompt) -> None:
        if prompt.target is not None and self.kind != "generation":
            raise InputError(f"The pattern {prompt.name!r} has a target, but nothing is written in a task of {self.kind}.")
        if not prompt.options:
            return
        if prompt.words or set(prompt.options) != set(self.labels):
            raise InputError(
                f"The pattern {prompt.name!r} has options for {', '.join(prompt.options)}. It has one for each label, "
                f"{', '.join(self.labels) or 'which there are none of'}, and no words."
            )
        columns = self.columns
        for column in prompt.options.values():
            if column not in columns:
                raise InputError(
                    f"The pattern {prompt.name!r} has the option {column!r}, no column. {near(column, self.columns)}"
                )

    def _check_words(self, verbalizer: Mapping[str, tuple[str, ...]]) -> None:
        if self.kind != "classification" or not verbalizer:
            return
        for label, words in verbalizer.items():
            if label not in self.labels:
                raise InputError(f"The verbalizer has words for {label!r}, which is no label. {near(label, self.labels)}")
            if not words or not all(word.strip() for word in words):
                raise InputError(f"The verbalizer's words for {label!r} are {list(words)}. Give at least one, none empty.")
        missing = [label for label in self.labels if label not in verbalizer]
        if missing:
            raise InputError(f"The verbalizer has no words for {', '.join(map(repr, missing))}. Every label needs some.")


def default_metrics(kind: TaskKind) -> tuple[str, ...]:
    """The metrics of a task that names none."""
    return _DEFAULT_METRICS[kind]


def check_metric(name: str, kind: TaskKind) -> None:
    """See that there is such a metric for tasks of a kind.

    Raises:
        InputError: there is none.
    """
    if kind not in TEXT_KINDS:
        get_metric(name, kind=kind)
    elif name != PERPLEXITY or kind != "generation":
        get_text_metric(name)


def _truth(example: Example) -> object:
    """What is right, as a digest reads it."""
    return [example.references, example.starts] if example.references else example.label


def _record_parts(given: Mapping[str, Records | None]) -> dict[str, Part]:
    return {name: Part(table=table_of_records(rows, f"{name} records")) for name, rows in given.items() if rows is not None}


def _feed(digest: "hashlib._Hash", value: object) -> None:
    digest.update(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
