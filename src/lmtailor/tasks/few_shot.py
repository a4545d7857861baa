"""K-shot splits: a few examples of each label to train on, as many others to choose by, the rest without labels.

The protocol of LM-BFF: K examples of each label for train and K others for dev, both from the training split, so that
a method never sees more labels than a few-shot setting has; several seeds draw several such pairs, and the mean and
deviation over them are reported. The paper's K is 16 and its code's seeds are 13, 21, 42, 87 and 100.
Gao, Fisch & Chen 2021, arXiv:2012.15723, section 3 ("evaluation protocol") and appendix A.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from lmtailor.core.errors import InputError
from lmtailor.core.rng import derive
from lmtailor.tasks.example import TEXT_KINDS, Example, Split, TaskKind
from lmtailor.tasks.overlap import text_of

LM_BFF_SEEDS = (13, 21, 42, 87, 100)
"""The seeds with which the paper's authors drew their splits."""

_NAME = "few-shot"
_UNLABELLED = "unlabelled"
_ALL = "all"
"""The only stratum of examples without labels."""


@dataclass(frozen=True, kw_only=True)
class Shots:
    """How a K-shot split is drawn."""

    k: int
    """Examples of each label in train, and as many others in dev."""
    seed: int = 0
    """Changes the draw. More shots of one seed contain the fewer, in train and in dev."""
    unlabelled: int | None = None
    """The most examples to keep of what is left of train, a plain sample; None: all of it."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"A few-shot split needs at least 1 example a label; found {self.k}.")
        if self.unlabelled is not None and self.unlabelled < 1:
            raise InputError(f"The limit of unlabelled texts must be at least 1; found {self.unlabelled}.")


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Which examples of train go where, by their indices."""

    train: tuple[int, ...]
    dev: tuple[int, ...]
    rest: tuple[int, ...]


def few_shot_splits(
    splits: Mapping[str, Split], kind: TaskKind, labels: Sequence[str], columns: Sequence[str], shots: Shots
) -> dict[str, Split]:
    """The splits of the K-shot task.

    - train and dev: K examples of each label each, from train. No text is drawn twice, in whatever split. In regression
      the examples below and above the median of train count as two labels, as in the paper. Where answers are texts, tags
      or spans there are no labels to draw by, and K is the number of examples in all.
    - test: as it is where it has labels. Otherwise the old dev, which is not used for anything else. (The paper tests
      the tasks of GLUE on the old dev for the same reason.) With a test split, the old dev is left out.
    - unlabelled: as it is, or else the rest of train without its labels and without texts that were drawn.
    - out-of-domain sets: as they are.

    Args:
        splits: those of the task.
        kind: of the task.
        labels: the task's labels.
        columns: the text columns, which say what the same text is.
        shots: how many, and the seed.

    Raises:
        InputError: there is no train split, or not 2 K different texts of some label.
    """
    if "train" not in splits:
        raise InputError("Few shots are drawn from train, and the task has no train split.")
    train = splits["train"]
    drawn = _draw(train, kind, labels, columns, shots)
    found = {name: split for name, split in splits.items() if name not in ("train", "dev")}
    if "dev" in splits and not ("test" in splits and splits["test"].labelled):
        found["test"] = _renamed(splits["dev"], range(len(splits["dev"])), "test")
    if _UNLABELLED not in splits and drawn.rest:
        found[_UNLABELLED] = _renamed(train, drawn.rest, _UNLABELLED, labelled=False)
    parts = {"train": _renamed(train, drawn.train, "train"), "dev": _renamed(train, drawn.dev, "dev")}
    order = [name for name in ("test", _UNLABELLED) if name in found]
    return parts | {name: found[name] for name in [*order, *(name for name in found if name not in order)]}


def _draw(train: Split, kind: TaskKind, labels: Sequence[str], columns: Sequence[str], shots: Shots) -> _Drawn:
    """Order train by hash; of each label, take texts in turn for train and for dev until both have K."""
    strata = _strata(train, kind)
    texts = [text_of(example.fields, columns) for example in train]
    order = sorted(range(len(train)), key=lambda index: derive(shots.seed, _NAME, train.examples[index].id))
    taken: dict[Hashable, list[int]] = {stratum: [] for stratum in strata}
    seen: set[tuple[str, ...]] = set()
    for index in order:
        own = taken[strata[index]]
        if len(own) < 2 * shots.k and texts[index] not in seen:
            own.append(index)
            seen.add(texts[index])
    _check_enough(taken, kind, labels, shots)
    rest = [index for index in order if texts[index] not in seen][: shots.unlabelled]
    return _Drawn(
        train=tuple(sorted(index for own in taken.values() for index in own[0::2])),
        dev=tuple(sorted(index for own in taken.values() for index in own[1::2])),
        rest=tuple(sorted(rest)),
    )


def _strata(train: Split, kind: TaskKind) -> list[Hashable]:
    """Each example's label; in regression whether it lies above the median; where answers are texts, all the same."""
    if kind in TEXT_KINDS:
        return [_ALL for _ in train.references]
    if kind == "classification":
        return list(train.labels)
    middle = median(train.labels)
    return [value > middle for value in train.labels]


def _check_enough(taken: Mapping[Hashable, Sequence[int]], kind: TaskKind, labels: Sequence[str], shots: Shots) -> None:
    wanted: Mapping[Hashable, str] = {False: " of one side of the median", True: " of one side of the median"}
    if kind in TEXT_KINDS:
        wanted = {_ALL: ""}
    elif kind == "classification":
        wanted = {number: f" of {label!r}" for number, label in enumerate(labels)}
    each = "" if kind in TEXT_KINDS else " of each label"
    for stratum, which in wanted.items():
        found = len(taken.get(stratum, ()))
        if found < 2 * shots.k:
            most = f"Ask for {found // 2} or fewer" if found > 1 else "Add examples"
            raise InputError(
                f"{shots.k} shots need {2 * shots.k} different texts{each}, {shots.k} for train and {shots.k} for dev; "
                f"train has {found}{which} to give. {most}."
            )


def _renamed(split: Split, indices: Sequence[int], name: str, *, labelled: bool = True) -> Split:
    """Some examples of a split as another split; their names say where they come from."""
    chosen: list[Example] = [split.examples[index] for index in indices]
    if name != split.name:
        chosen = [replace(example, id=f"{name}/{example.id}") for example in chosen]
    if not labelled:
        chosen = [replace(example, label=None, references=(), starts=()) for example in chosen]
    return Split(name=name, examples=tuple(chosen), source=split.source)
