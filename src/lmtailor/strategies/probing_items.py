"""What probes tell apart: the words of sentences with their tags, or whole texts with their labels; and control tasks for them.

A control task (Hewitt & Liang 2019, arXiv:1909.03368, section 2) gives each word type a label of its own, drawn once from the
tags' frequencies in train, and each word the label of its type. Nothing in the language tells it; a probe that does well on it
has learned the types by heart. Of whole texts each text is a type. A type's draw is a hash of the type and the seed, so that it
is the same in all splits, bases and samples.

Selectivity is the accuracy on the task less that on control tasks (section 2.3).

Shapes: N items, K sets of labels (the task's, then those of control tasks).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from lmtailor.core.errors import InputError, UnsupportedError, near
from lmtailor.core.rng import derive
from lmtailor.tasks.example import Example, Split
from lmtailor.tasks.sample import stratified
from lmtailor.tasks.task import Task

Numbers = NDArray[np.float64]

KINDS = ("classification", "regression", "labelling")
HELD_OUT = 0.1
"""The share of train that is dev where there is none."""

MAJORITY = "always the most frequent label"
EACH_WORD = "each word's most frequent tag"
BAG_OF_WORDS = "bag of words"

_WORD = re.compile(r"[^ \t\r\n\f\v]+")
"""As in `lmtailor.readouts.tagging`: a no-break space is inside a word."""

_TYPE = "\x1f"
"""Between the texts of a pair, in the name of its type."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """The words or texts of one split."""

    examples: tuple[Example, ...]
    types: tuple[str, ...]
    """Of each item the word, or the text."""
    labels_N: Numbers
    """Its label by number; in regression its value."""
    example_N: NDArray[np.int64]
    """The number of the example that it is of."""

    def __len__(self) -> int:
        """N."""
        return len(self.types)


def splits(task: Task, split: str, seed: int) -> dict[str, Items]:
    """The items of "train", "dev" and "test", where the last are those of a split by name.

    Args:
        task: of classification, regression or labelling.
        split: whose items answer at the end.
        seed: of the texts that are held out of train where there is no dev.

    Raises:
        InputError: a split is missing, empty or without labels, or an example has not as many tags as words.
        UnsupportedError: a task of another kind.
    """
    if task.kind not in KINDS:
        raise UnsupportedError(f"Probes give labels, numbers or tags; {task.name} is a task of {task.kind}.")
    train, dev = task.split("train").examples, task.splits["dev"].examples if "dev" in task.splits else ()
    if not dev:
        train, dev = _held_out(train, seed)
    found = {"train": train, "dev": dev, "test": task.split(split).examples}
    for name, examples in found.items():
        if not examples:
            raise InputError(f"{task.name} has no examples to probe in {split if name == 'test' else name}.")
        if not Split(name=name, examples=examples).labelled:
            raise InputError(f"Some examples of {split if name == 'test' else name} have no label. Probe labelled splits.")
    return {name: _items(task, examples) for name, examples in found.items()}


def control(types: Sequence[str], train_N: Numbers, seed: int) -> Numbers:
    """The labels (N,) of a control task: each type's own, drawn from those of train.

    Args:
        types: of the items.
        train_N: labels of train, as often as they are there.
        seed: of the control task.
    """
    labels_N = np.sort(train_N)
    drawn = {one: labels_N[derive(seed, "control", one) * len(labels_N) >> 63] for one in dict.fromkeys(types)}
    return np.array([drawn[one] for one in types])


def baselines(task: Task, train: Items, test: Items) -> dict[str, Numbers]:
    """Answers (N,) to the items of test that need no model, by name."""
    if task.kind == "labelling":
        return {MAJORITY: np.full(len(test), _most(train.labels_N)), EACH_WORD: _by_type(train, test)}
    texts = [[one.replace(_TYPE, " ") for one in items.types] for items in (train, test)]
    counts = CountVectorizer(token_pattern=r"\S+")
    model = Ridge() if task.kind == "regression" else LogisticRegression(max_iter=1000)
    fitted = make_pipeline(counts, model).fit(texts[0], train.labels_N)
    bag = {BAG_OF_WORDS: np.asarray(fitted.predict(texts[1]), dtype=np.float64)}
    return bag if task.kind == "regression" else {MAJORITY: np.full(len(test), _most(train.labels_N)), **bag}


def _held_out(train: Sequence[Example], seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    count = max(1, round(HELD_OUT * len(train)))
    chosen = set(stratified([0] * len(train), [one.id for one in train], count, seed=seed, name="probing"))
    rest = tuple(one for index, one in enumerate(train) if index not in chosen)
    return rest, tuple(one for index, one in enumerate(train) if index in chosen)


def _items(task: Task, examples: tuple[Example, ...]) -> Items:
    types: list[str] = []
    labels: list[float] = []
    of: list[int] = []
    numbers: Mapping[str, int] = {tag: number for number, tag in enumerate(task.labels)}
    for index, example in enumerate(examples):
        if task.kind == "labelling":
            words, tags = (_WORD.findall(text) for text in (example.fields[task.text[0]], example.references[0]))
            if len(words) != len(tags):
                raise InputError(f"The {example.called} has {len(words)} words but {len(tags)} tags. Give each word a tag.")
            types += words
            labels += [_number(tag, numbers, example.called) for tag in tags]
            of += [index] * len(words)
        else:
            assert example.label is not None, "checked before"
            types.append(_TYPE.join(example.fields[column] for column in task.text))
            labels.append(float(example.label))
            of.append(index)
    return Items(examples=examples, types=tuple(types), labels_N=np.array(labels), example_N=np.array(of, dtype=np.int64))


def _number(tag: str, numbers: Mapping[str, int], name: str) -> int:
    if tag not in numbers:
        raise InputError(f"The {name} has the tag {tag!r}, none of the task's. {near(tag, numbers)}")
    return numbers[tag]


def _most(labels_N: Numbers) -> float:
    """The most frequent label; of several the first."""
    values, counts = np.unique(labels_N, return_counts=True)
    return float(values[counts.argmax()])


def _by_type(train: Items, test: Items) -> Numbers:
    counts: dict[str, Counter[float]] = defaultdict(Counter)
    for one, label in zip(train.types, train.labels_N.tolist(), strict=True):
        counts[one][label] += 1
    best = {one: min(tags, key=lambda tag: (-tags[tag], tag)) for one, tags in counts.items()}
    unseen = _most(train.labels_N)
    return np.array([best.get(one, unseen) for one in test.types])
