"""The baseline of each kind of task: what needs no model, and what a route must beat to have learned anything.

classification    always the most frequent label of the training split
regression        always its mean
generation        always the same text: the reference of the training split that is most like the others
labelling         each word's most frequent tag there; of words that are not there, the most frequent tag of all
span              the whole text
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from lmtailor.compare.answers import AnyAnswers, answers_of
from lmtailor.core.errors import InputError
from lmtailor.tasks.example import Example, TaskKind
from lmtailor.tasks.task import Task

_SHOWN = 200
"""Of a longer text only so many characters stand in a note."""


@dataclass(frozen=True, kw_only=True)
class BaselineWords:
    """How a kind's baseline is spoken of."""

    name: str
    """Of its cell."""
    doing: str
    """What it does, after "better than"."""
    short: str
    """Beside its line in a picture."""


_SAME = "always giving the same answer"
_WORDS: Mapping[TaskKind, BaselineWords] = {
    "classification": BaselineWords(name="majority class", doing=_SAME, short="same answer always"),
    "regression": BaselineWords(name="mean value", doing=_SAME, short="same answer always"),
    "generation": BaselineWords(name="most typical text", doing="always writing the same text", short="same text always"),
    "labelling": BaselineWords(
        name="most frequent tags", doing="giving each word its most frequent tag", short="most frequent tags"
    ),
    "span": BaselineWords(name="whole text", doing="answering with the whole text", short="whole text"),
}


def baseline_words(kind: TaskKind) -> BaselineWords:
    """How the baseline of tasks of a kind is spoken of."""
    return _WORDS[kind]


def baseline_answers(task: Task, splits: Sequence[str]) -> tuple[dict[str, AnyAnswers], str]:
    """What the baseline answers on splits, and a note that says what it does.

    Raises:
        DataError: the training split, or one that is to be answered, is not labelled.
    """
    answer, note = _LEARN[task.kind](task)
    return {split: answers_of(task, split, [answer(example) for example in task.split(split)]) for split in splits}, note


_Answer = Callable[[Example], float | int | str]


def _majority(task: Task) -> tuple[_Answer, str]:
    labels = task.split("train").labels
    counts = Counter(int(label) for label in labels)
    answer = max(counts, key=lambda label: (counts[label], -label))
    note = f"It always answers {task.labels[answer]!r}, {counts[answer] / len(labels):.0%} of the training split."
    return lambda _: answer, note


def _mean(task: Task) -> tuple[_Answer, str]:
    answer = fmean(task.split("train").labels)
    return lambda _: answer, f"It always answers {answer:.4g}, the mean of the training split."


def _typical(task: Task) -> tuple[_Answer, str]:
    """The reference whose words are most like the mean of all: the largest cosine of counts. Of equals, the first."""
    texts = [text for own in task.split("train").references for text in own]
    counts = normalize(CountVectorizer(token_pattern=r"\S+").fit_transform(texts))
    centre = np.asarray(counts.mean(axis=0)).ravel()
    answer = texts[int(np.argmax(counts @ centre))]
    shown = answer if len(answer) <= _SHOWN else f"{answer[: _SHOWN - 1]}…"
    return lambda _: answer, f"It always writes the training reference that is most like the others: {shown!r}."


def _frequent(task: Task) -> tuple[_Answer, str]:
    column, order = task.text[0], {tag: number for number, tag in enumerate(task.labels)}
    train = task.split("train")
    overall: Counter[str] = Counter()
    by_word: dict[str, Counter[str]] = {}
    for example, own in zip(train, train.references, strict=True):
        for word, tag in zip(example.fields[column].split(" "), own[0].split(" "), strict=True):
            overall[tag] += 1
            by_word.setdefault(word, Counter())[tag] += 1

    def most(counts: Counter[str]) -> str:
        return max(counts, key=lambda tag: (counts[tag], -order.get(tag, len(order))))

    default, known = most(overall), {word: most(counts) for word, counts in by_word.items()}
    note = f"It gives each word its most frequent tag in train, and {default!r} to words that are not there."
    return lambda example: " ".join(known.get(word, default) for word in example.fields[column].split(" ")), note


def _whole(task: Task) -> tuple[_Answer, str]:
    column = _answered_column(task)
    return lambda example: example.fields[column], f"It answers with the whole of {column!r}."


def _answered_column(task: Task) -> str:
    """The column of which answers are parts.

    Raises:
        InputError: there is none.
    """
    for column in task.text:
        if all(
            example.fields[column].startswith(text, start)
            for example in task.split("train")
            for text, start in zip(example.references, example.starts, strict=False)
        ):
            return column
    raise InputError(f"The answers of {task.name} are parts of none of its text columns ({', '.join(task.text)}).")


_LEARN: Mapping[TaskKind, Callable[[Task], tuple[_Answer, str]]] = {
    "classification": _majority,
    "regression": _mean,
    "generation": _typical,
    "labelling": _frequent,
    "span": _whole,
}
