"""Demonstrations: solved examples that are shown to the model before the one it is to solve."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lmtailor.core.errors import InputError, near
from lmtailor.core.rng import derive
from lmtailor.readouts.labels import LabelSet
from lmtailor.tasks.example import Split


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One demonstration."""

    fields: Mapping[str, str]
    """The texts of the pattern's columns."""
    label: str


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Each input is shown demonstrations that are like it: Gao et al. 2021 (LM-BFF), arXiv:2012.15723, section 6.

    Likeness is the cosine of sentence embeddings, of the columns' texts joined by spaces. An example is never shown to itself.
    """

    encoder: str
    """What embeds texts: an encoder's folder or hub id. An embedding is the mean of its last states over the tokens."""
    pick: Literal["half", "nearest"] = "half"
    """half: drawn from the more similar half (the paper's way). nearest: the k most similar. With `per_class` of each label."""
    pool: int | None = None
    """How many labelled examples there are to choose from, drawn by the seed; with `per_class` of each label. None: all."""

    def __post_init__(self) -> None:
        if not self.encoder:
            raise InputError("Similar demonstrations need an encoder that embeds texts: a folder or a hub id.")
        if self.pool is not None and self.pool < 1:
            raise InputError(f"The pool must have at least 1 example; found {self.pool}.")


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
    order_seed: int | None = None
    """Another random order of the same demonstrations; None: as drawn."""
    sets: int = 1
    """How many sets are drawn, each by a seed of its own. Each answers apart, and the labels' probabilities are averaged."""
    similar: Similar | None = None
    """Chooses for each input by similarity. Nothing is then shared between inputs, and each runs its own demonstrations."""
    separator: str = "\n\n"
    """Stands after each demonstration."""
    shown: tuple[Shown, ...] | None = None
    """The demonstrations themselves: these, in this order, set after set, and nothing is drawn; with `similar` those to choose
    from. A reading stores here what it drew."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"Demonstrations need k of at least 1; found {self.k}. Leave them out to show none.")
        if self.sets < 1:
            raise InputError(f"Demonstrations need at least 1 set; found {self.sets}.")
        if self.order_seed is not None and self.order != "random":
            raise InputError(f"order_seed draws a random order, and order is {self.order}. Leave one of the two out.")
        if self.shown is None or self.similar is not None:
            return
        each = self.k * self.sets
        fits = len(self.shown) % each == 0 and self.shown if self.per_class else len(self.shown) == each
        if not fits:
            asked = f"{self.k}{' a label' if self.per_class else ''}" + (f" in each of {self.sets} sets" if self.sets > 1 else "")
            raise InputError(f"{len(self.shown)} demonstrations are given, but k is {asked}.")

    def seed_of(self, number: int) -> int:
        """The seed of a set: of the first the setting itself, so that one set is the first of several."""
        return self.seed if number == 0 else derive(self.seed, "set", number)

    def of_set(self, number: int) -> "Demonstrations":
        """Settings that show one set of those that were drawn, or choose for it from the same examples."""
        shown = self.shown or ()
        each = len(shown) // self.sets
        own = shown if self.similar is not None else shown[number * each : (number + 1) * each]
        return replace(self, sets=1, seed=self.seed_of(number), shown=own)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An example that may be shown."""

    shown: Shown
    name: str
    """What its place in a draw is a hash of."""
    label: int
    """The label's index."""
    place: int
    """Its place in the training split."""


def candidates(train: Split, labels: LabelSet, columns: Sequence[str]) -> list[Candidate]:
    """The labelled examples of a split, with the columns that are kept."""
    return [
        Candidate(
            shown=Shown(fields={name: example.fields[name] for name in columns}, label=labels.labels[int(example.label)]),
            name=example.id,
            label=int(example.label),
            place=place,
        )
        for place, example in enumerate(train)
        if example.label is not None
    ]


def choose(settings: Demonstrations, train: Split, labels: LabelSet, columns: Sequence[str]) -> tuple[Shown, ...]:
    """Draw demonstrations, set after set; with `similar` those that are to be chosen from, in the order of the split.

    Args:
        settings: how many and how.
        train: where from; examples without a label are passed over.
        labels: the task's.
        columns: the columns that are kept.

    Raises:
        InputError: there are not enough examples.
    """
    known = candidates(train, labels, columns)
    if settings.similar is not None:
        pool = len(known) if settings.similar.pool is None else settings.similar.pool
        drawn = [one for group in groups(settings, by_seed(settings.seed, known), labels) for one in group[:pool]]
        return tuple(one.shown for one in sorted(drawn, key=lambda one: one.place))
    sets = []
    for number in range(settings.sets):
        drawn = by_seed(settings.seed_of(number), known)
        for label, group in enumerate(groups(settings, drawn, labels)):
            if len(group) < settings.k:
                which = f" with the label {labels.labels[label]!r}" if settings.per_class else ""
                raise InputError(
                    f"{settings.k} demonstrations are asked for, but {train.name} has {len(group)} labelled examples{which}."
                )
        chosen = {one.name for group in groups(settings, drawn, labels) for one in group[: settings.k]}
        sets += ordered(settings, [one for one in drawn if one.name in chosen])
    return tuple(one.shown for one in sets)


def by_seed(seed: int, known: Iterable[Candidate]) -> list[Candidate]:
    """Candidates in the order of a draw."""
    return sorted(known, key=lambda one: derive(seed, "demonstrations", one.name))


def groups(settings: Demonstrations, known: Sequence[Candidate], labels: LabelSet) -> list[list[Candidate]]:
    """The candidates of which `k` each are shown: all, or those of each label."""
    if not settings.per_class:
        return [list(known)]
    return [[one for one in known if one.label == label] for label in range(len(labels.labels))]


def ordered(settings: Demonstrations, drawn: Sequence[Candidate]) -> list[Candidate]:
    """What was drawn in the order in which it is shown."""
    if settings.order == "by_class":
        return sorted(drawn, key=lambda one: one.label)
    if settings.order == "as_given":
        return sorted(drawn, key=lambda one: one.place)
    seed = settings.order_seed
    return list(drawn) if seed is None else sorted(drawn, key=lambda one: derive(seed, "order", one.name))


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
