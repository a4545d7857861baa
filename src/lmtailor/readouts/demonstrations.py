"""Demonstrations: solved examples that are shown to the model before the one it is to solve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lmtailor.core.errors import InputError, near
from lmtailor.core.rng import derive
from lmtailor.readouts.labels import LabelSet
from lmtailor.tasks.example import Example, Split


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One demonstration."""

    fields: Mapping[str, str]
    """The texts of the pattern's columns."""
    label: str


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """How many examples of the training split are shown, which, and in what order.

    An example's place in the draw is a hash of the seed and its name: more demonstrations of one seed contain the fewer,
    and other examples in the data do not change it.
    """

    k: int
    """How many; with `per_class` of each label."""
    seed: int = 0
    per_class: bool = False
    """Whether every label is shown equally often."""
    order: Literal["random", "by_class", "as_given"] = "random"
    """random: as drawn. by_class: label by label, in the labels' order. as_given: as in the training split."""
    separator: str = "\n\n"
    """Stands after each demonstration."""
    shown: tuple[Shown, ...] | None = None
    """The demonstrations themselves: these, in this order, and nothing is drawn. A reading stores here what it drew."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"Demonstrations need k of at least 1; found {self.k}. Leave them out to show none.")
        if self.shown is None:
            return
        fits = len(self.shown) % self.k == 0 and self.shown if self.per_class else len(self.shown) == self.k
        if not fits:
            raise InputError(
                f"{len(self.shown)} demonstrations are given, but k is {self.k}{' a label' if self.per_class else ''}."
            )


def choose(settings: Demonstrations, train: Split, labels: LabelSet, columns: Sequence[str]) -> tuple[Shown, ...]:
    """Draw demonstrations.

    Args:
        settings: how many and how.
        train: where from; examples without a label are passed over.
        labels: the task's.
        columns: the columns that are kept.

    Raises:
        InputError: there are not enough examples.
    """
    drawn = sorted(
        (example for example in train if example.label is not None),
        key=lambda example: derive(settings.seed, "demonstrations", example.id),
    )
    groups = [[e for e in drawn if e.label == label] for label in range(len(labels.labels))] if settings.per_class else [drawn]
    for label, group in enumerate(groups):
        if len(group) < settings.k:
            which = f" with the label {labels.labels[label]!r}" if settings.per_class else ""
            raise InputError(
                f"{settings.k} demonstrations are asked for, but {train.name} has {len(group)} labelled examples{which}."
            )
    chosen = {example.id for group in groups for example in group[: settings.k]}
    ordered: list[Example] = [example for example in drawn if example.id in chosen]
    if settings.order == "by_class":
        ordered.sort(key=lambda example: example.label or 0)
    elif settings.order == "as_given":
        ordered = [example for example in train if example.id in chosen]
    return tuple(
        Shown(fields={name: e.fields[name] for name in columns}, label=labels.labels[int(e.label)])
        for e in ordered
        if e.label is not None
    )


def check_shown(shown: Sequence[Shown], labels: LabelSet, columns: Sequence[str]) -> None:
    """See that demonstrations given by hand, or read from a file, fit the task and the pattern.

    Raises:
        InputError: an unknown label, or a column of the pattern is missing; the message offers near names.
    """
    for number, one in enumerate(shown, start=1):
        if one.label not in labels.labels:
            raise InputError(f"Demonstration {number} has the label {one.label!r}. {near(one.label, labels.labels)}")
        for name in columns:
            if name not in one.fields:
                raise InputError(f"Demonstration {number} has no column {name!r}. {near(name, one.fields)}")
