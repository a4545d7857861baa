"""A plan: which cells of readout × method × training are run on which bases, with which seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lmtailor.base.load import DTypeName
from lmtailor.compare.positions import EXAMPLES, Position, smaller_cells
from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import to_mapping
from lmtailor.fit.teacher import soft_source_digest
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.infer.decoding import Decoding
from lmtailor.methods import method_name
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.method import Method
from lmtailor.objectives.objective import Objective
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.conversation import Chat
from lmtailor.readouts.options import Options
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.registry import READOUTS, readout_name
from lmtailor.readouts.text import Text
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.strategies.sensitivity import Sensitivity
from lmtailor.strategies.strategy import Strategy

MAJORITY = "majority"
"""Name of the readout that looks at nothing."""


@dataclass(frozen=True, kw_only=True)
class Majority:
    """A readout that needs no model: always the training split's most frequent label, and its like in other tasks.

    See `baseline`.
    """


AnyReadout = Readout | Majority

READOUT_NAMES = (*READOUTS, MAJORITY)
"""What a plan may name as a readout."""


@dataclass(frozen=True, kw_only=True)
class BaseSource:
    """Where a base comes from."""

    source: str
    """A folder, a .gguf file or a hub id; in a plan's file, paths count from the plan's folder."""
    dtype: DTypeName = "float32"
    device: str = "cpu"
    revision: str | None = None
    """Branch, tag or commit on the hub."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bounds on what a comparison may take."""

    cell_seconds: float | None = None
    """For the fit of one cell and seed. It is looked at after each step; a run over it fails, with a checkpoint to go on from."""
    total_seconds: float | None = None
    """For all runs together, those of earlier calls included. Runs that would start later fail."""
    train_examples: int | None = None
    """The most examples to train on: a sample of the training split, stratified by label, the same for all cells."""
    shots: int | None = None
    """Examples of each label to train on, and as many others for dev: each run's seed draws its own; see `Task.few_shot`."""
    unlabelled: int | None = None
    """With shots: the most texts of the rest of the training split to keep without labels."""

    def __post_init__(self) -> None:
        for name in ("cell_seconds", "total_seconds", "train_examples", "shots", "unlabelled"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"budget.{name} is {value}; it must be greater than 0.")
        if self.shots is not None and self.train_examples is not None:
            raise InputError("budget.shots and budget.train_examples both say how much is trained on. Leave one out.")
        if self.unlabelled is not None and self.shots is None:
            raise InputError("budget.unlabelled goes with budget.shots: it limits what shots leave of train.")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the leaderboard: a base, a readout, a method and a training, with the seeds to run."""

    name: str
    base: str | None = None
    """Name of a base; None: the only one there is."""
    strategy: Strategy | None = None
    """A way of more than one fit; None: one fit, or none where nothing is trained."""
    readout: AnyReadout | None = None
    """None: the usual one of the task's kind (see `default_readout`), or a strategy's own choice."""
    method: Method | None = None
    """None: `Frozen()`, or a strategy's own choice."""
    training: Training | None = None
    """None: `Training()`, or a strategy's own choice. Not used where nothing is trained."""
    objective: Objective | None = None
    """None: `Supervised()`, or a strategy's own choice."""
    soft_labels: Path | None = None
    """For objectives that learn from them: a file of answers, or the folder of an adapter of the same base; see `fit.teacher`."""
    unlabelled: Unlabelled | None = None
    """Language modelling on the task's unlabelled split besides; None: none, or a strategy's own choice."""
    seeds: tuple[int, ...] = (0, 1, 2)
    examples: int | None = None
    """Training examples: a sample of train that each seed draws anew; smaller ones of a seed lie in larger. None: all."""
    positions: tuple[Position, ...] = ()
    """On which curves over sizes and settings it is a point."""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise InputError(f"A cell's name must be one line of text; found {self.name!r}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"The cell {self.name} needs distinct seeds, none negative; found {list(self.seeds)}.")
        if self.examples is not None and self.examples < 1:
            raise InputError(f"The cell {self.name} needs at least 1 training example; found {self.examples}.")
        self._check_losses()
        if self.strategy is None:
            defaults = (("method", Frozen()), ("training", Training()), ("objective", Supervised()))
            for name, default in defaults:
                object.__setattr__(self, name, default if getattr(self, name) is None else getattr(self, name))
        elif self.is_baseline:
            raise InputError(f"The cell {self.name} is the baseline, which looks at nothing, so it can have no strategy.")

    def _check_losses(self) -> None:
        """See that what is minimised fits the cell."""
        given = [name for name in ("objective", "soft_labels", "unlabelled") if getattr(self, name) is not None]
        if given and self.strategy is not None:
            raise InputError(
                f"The cell {self.name} has the strategy {self.strategy.variant_name()}, which chooses its own losses. Leave "
                f"{given[0]} out; a strategy's settings may have it."
            )
        soft = self.objective is not None and self.objective.soft
        if soft and self.soft_labels is None:
            raise InputError(
                f"The cell {self.name} learns from soft labels. Say where they are: soft_labels = a file of answers, as "
                "`lmtailor predict` writes them, or the folder of an adapter of the same base."
            )
        if self.soft_labels is not None and not soft:
            raise InputError(f'The cell {self.name} has soft_labels, which only objective = "distillation" learns from.')

    @property
    def is_baseline(self) -> bool:
        """Whether it needs no base; see `baseline`."""
        return isinstance(self.readout, Majority)

    @property
    def readout_name(self) -> str:
        """Of its readout; "" where it is left out."""
        if self.readout is None:
            return ""
        return MAJORITY if isinstance(self.readout, Majority) else readout_name(self.readout)

    @property
    def method_name(self) -> str:
        """Of its strategy and its method; "" for the baseline."""
        if self.is_baseline:
            return ""
        names = (None if self.strategy is None else self.strategy.variant_name(), self.method and method_name(self.method))
        return " · ".join(name for name in names if name)

    @property
    def fixed(self) -> bool:
        """Whether nothing is trained and nothing drawn, so that seeds and training examples make no difference."""
        readout = self.readout
        return isinstance(readout, Majority) or (
            self.strategy is None
            and isinstance(self.method, Frozen)
            and (isinstance(readout, Text | Chat | Options) or (isinstance(readout, Verbalizer) and _shows_the_same(readout)))
        )

    @property
    def distinct_seeds(self) -> tuple[int, ...]:
        """The seeds that can differ: only the first if it is fixed."""
        return self.seeds[:1] if self.fixed else self.seeds

    def seeded(self, seed: int) -> AnyReadout | None:
        """The readout of one seed: a seed draws its own demonstrations, counted from the readout's own seed."""
        if isinstance(self.readout, Verbalizer) and self.readout.demonstrations is not None:
            shown = self.readout.demonstrations
            return replace(self.readout, demonstrations=replace(shown, seed=shown.seed + seed))
        return self.readout

    def settings(self, seed: int) -> dict[str, object]:
        """Strategy, readout, method and training of one seed, resolved, as JSON holds them."""
        if self.is_baseline:
            return {"readout": {"name": MAJORITY}}
        readout, method, training = self.seeded(seed), self.method, self.training
        if self.strategy is None:
            assert method is not None
            assert training is not None
            training = training.resolved(method.recipe)
        own: dict[str, object] = {
            "strategy": self.strategy and self.strategy.settings(),
            "readout": readout and {"name": self.readout_name, **to_mapping(readout)},
            "method": method and {"name": method_name(method), **to_mapping(method)},
            "training": training and to_mapping(training),
            "objective": None
            if self.objective in (None, Supervised())
            else {"name": self.objective.variant_name(), **to_mapping(self.objective)},
            "soft_labels": self.soft_labels and soft_source_digest(self.soft_labels),
            "unlabelled": self.unlabelled and to_mapping(self.unlabelled),
        }
        kept = {name: value for name, value in own.items() if value}
        return kept if self.examples is None else {**kept, "examples": self.examples}


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study of sensitivity beside the cells: how far prompted answers depend on template, demonstrations and their order."""

    bases: tuple[str, ...] = ()
    """Names of the bases that are asked; empty: the only one there is."""
    prompts: tuple[str, ...] = ()
    """Names of the task's patterns and templates; empty: all."""
    settings: Sensitivity = field(default_factory=Sensitivity)

    def __post_init__(self) -> None:
        for name, given in (("base", self.bases), ("prompts", self.prompts)):
            if len(set(given)) < len(given):
                raise InputError(f"sensitivity.{name} names something twice: {list(given)}. Name each once.")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compare."""

    cells: tuple[Cell, ...]
    bases: Mapping[str, BaseSource] = field(default_factory=dict)
    """Name → source. Empty if the bases are given as objects."""
    task: Path | None = None
    """The task's card; None if the task is given as an object."""
    metrics: tuple[str, ...] = ()
    """The first one ranks and chooses checkpoints; empty: the task's."""
    budget: Budget = field(default_factory=Budget)
    reference: str | None = None
    """A cell to which all others are compared in the report, besides the best; or a route with several training sizes."""
    baseline: bool = True
    """Whether the cell that needs no model is added where no cell is it; see `baseline`."""
    batch_size: int = 32
    """Examples a batch in prediction."""
    decoding: Decoding | None = None
    """How text is written, in tasks of generation; None: greedily, 64 tokens at most."""
    sensitivity: StudyPlan | None = None
    """Run besides, after the cells."""

    def __post_init__(self) -> None:
        if not self.cells:
            raise InputError("The plan has no cells, so there is nothing to compare. Add a [[cells]] table.")
        names = [cell.name for cell in self.cells]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"Two cells are named {twice!r}. A cell's name is its row in the leaderboard; give each its own.")
        if sum(cell.is_baseline for cell in self.cells) > 1:
            raise InputError("Two cells have the readout majority. One baseline is enough.")
        if self.reference is not None and self.reference not in (known := (*names, *self._largest)):
            raise InputError(f"The reference {self.reference!r} is no cell. {near(self.reference, known)}")
        if self.reference in smaller_cells({cell.name: cell.positions for cell in self.cells}):
            raise InputError(
                f"The reference {self.reference!r} is not in the ranking, which has each route at its largest training size. "
                "Name that cell, or the route."
            )
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it must be at least 1.")

    @property
    def reference_cell(self) -> str | None:
        """The reference by the name of a cell: of a route with several training sizes the one with the largest."""
        return None if self.reference is None else self._largest.get(self.reference, self.reference)

    @property
    def _largest(self) -> dict[str, str]:
        """Route with training sizes → its cell with the largest."""
        smaller = smaller_cells({cell.name: cell.positions for cell in self.cells})
        ranked = [cell for cell in self.cells if cell.name not in smaller]
        return {one.line: cell.name for cell in ranked for one in cell.positions if one.axis == EXAMPLES}

    def with_baseline(self, name: str) -> "Plan":
        """The plan with the baseline among its cells, if it is to have one."""
        if not self.baseline or any(cell.is_baseline for cell in self.cells):
            return self
        if any(cell.name == name for cell in self.cells):
            raise InputError(f"A cell is named {name!r}, the name of the baseline. Rename it, or set baseline = false.")
        return replace(self, cells=(*self.cells, Cell(name=name, readout=Majority(), seeds=(0,))))

    def with_readout(self, readout: Readout) -> "Plan":
        """The plan in which the cells that leave their readout out, and have no strategy to choose one, have this one."""
        lacking = [cell.readout is None and cell.strategy is None for cell in self.cells]
        pairs = zip(self.cells, lacking, strict=True)
        return replace(self, cells=tuple(replace(cell, readout=readout) if bare else cell for cell, bare in pairs))

    def resolved(self, bases: Mapping[str, object]) -> "Plan":
        """The plan in which every cell that needs a base, and the study, names one of these.

        Raises:
            InputError: there is no such base, or there are several and none is named.
        """
        study = None if self.sensitivity is None else _study_with_base(self.sensitivity, bases)
        return replace(self, cells=tuple(_with_base(cell, bases) for cell in self.cells), sensitivity=study)

    def runs(self) -> Iterator[tuple[Cell, int]]:
        """Cells with seeds: base by base, since bases are large; within a base every cell once before any a second time.

        What needs no base comes last.
        """
        for base in sorted(dict.fromkeys(cell.base for cell in self.cells), key=lambda base: base is None):
            own = [cell for cell in self.cells if cell.base == base]
            for turn in range(max(len(cell.distinct_seeds) for cell in own)):
                yield from ((cell, cell.distinct_seeds[turn]) for cell in own if turn < len(cell.distinct_seeds))


def _with_base(cell: Cell, bases: Mapping[str, object]) -> Cell:
    if cell.is_baseline:
        return cell
    if cell.base is None:
        if len(bases) != 1:
            raise InputError(
                f"The cell {cell.name} names no base, and there are {len(bases)}: {', '.join(bases) or 'none'}. Name one."
            )
        return replace(cell, base=next(iter(bases)))
    if cell.base not in bases:
        raise InputError(f"The cell {cell.name} is on the base {cell.base!r}, which is not there. {near(cell.base, bases)}")
    return cell


def _study_with_base(study: StudyPlan, bases: Mapping[str, object]) -> StudyPlan:
    if not study.bases and len(bases) != 1:
        raise InputError(f"[sensitivity] names no base, and there are {len(bases)}: {', '.join(bases) or 'none'}. Name one.")
    unknown = next((name for name in study.bases if name not in bases), None)
    if unknown is not None:
        raise InputError(f"[sensitivity] is on the base {unknown!r}, which is not there. {near(unknown, bases)}")
    return study if study.bases else replace(study, bases=tuple(bases))


def _shows_the_same(readout: Verbalizer) -> bool:
    """Whether every seed shows the same demonstrations, or none."""
    return readout.demonstrations is None or readout.demonstrations.shown is not None
