"""The models of an ensemble of patterns: each is fitted, labels the unlabelled texts, and is not needed any more.

Shapes: N unlabelled texts, C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import derive
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.infer.evaluate import measure, plain_adapter, predict_split
from lmtailor.methods.full import Full
from lmtailor.methods.method import Method
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from lmtailor.strategies.strategy import Work
from lmtailor.tasks.example import Split
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task

BATCH = 16
"""Examples a step (section 4); with language modelling a quarter of them are labelled."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A place in the ensemble."""

    number: int
    """In the order of the ensemble."""
    pattern: int
    repetition: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """What a model of the ensemble said."""

    scores_NC: Tensor
    """Of the unlabelled texts."""
    about: Mapping[str, object]
    """For the provenance: which model, what it learned from, and how good it is on dev."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Everything that the models of an ensemble have in common."""

    work: Work
    verbalizers: Sequence[Verbalizer]
    repetitions: int
    steps: int
    unlabelled: Unlabelled | None

    @property
    def models(self) -> list[Model]:
        """All places, pattern by pattern."""
        pairs = [(p, r) for p in range(len(self.verbalizers)) for r in range(self.repetitions)]
        return [Model(number=number, pattern=p, repetition=r) for number, (p, r) in enumerate(pairs)]

    def weights(self) -> list[float]:
        """For each pattern its accuracy on train before training (section 3.3)."""
        base, task = self.work.base, self.work.task

        def make() -> dict[str, list[float]]:
            found = []
            for verbalizer in self.verbalizers:
                predictions = predict_split(base, task, plain_adapter(base, task, verbalizer), split="train")
                assert predictions.reference is not None
                found.append(float((predictions.predicted == predictions.reference).mean()))
            return {"accuracy": found}

        accuracies: list[float] = self.work.desk.result("weights", make)["accuracy"]
        return accuracies

    def labelled(self, model: Model, generation: int, train: Split | None) -> Labelled:
        """Fit a model and let it label.

        Args:
            model: its place.
            generation: from 0.
            train: what it learns from; None leaves it as it is: the base with a pattern.
        """
        work, task = self.work, self.work.task
        repetition = 0 if train is None else model.repetition  # what is not trained is equal in all repetitions
        name = f"generation-{generation}-pattern-{model.pattern}-{repetition}"

        @cache
        def adapter() -> Adapter:
            if train is None:
                return plain_adapter(work.base, task, self.verbalizers[model.pattern])
            return self._fitted(model, generation, train)

        def scores() -> dict[str, Tensor]:
            predictions = predict_split(work.base, task, adapter(), split="unlabelled")
            return {"scores": torch.from_numpy(predictions.scores_NC)}

        def about() -> dict[str, object]:
            dev = {}
            if "dev" in task.splits:
                measured = adapter().scores.get("dev") or measure(task, predict_split(work.base, task, adapter(), split="dev"))
                dev = {metric: score.value for metric, score in measured.items()}
            return {"generation": generation, "pattern": self.verbalizers[model.pattern].pattern, "dev": dev}

        kept = work.desk.tensors(f"{name}.scores", scores)["scores"]
        known = work.desk.result(f"{name}.about", about)
        examples = 0 if train is None else len(train)
        return Labelled(scores_NC=kept, about={**known, "repetition": model.repetition, "train": examples})

    def _fitted(self, model: Model, generation: int, train: Split) -> Adapter:
        work, place = self.work, (generation, model.pattern, model.repetition)
        return fit(
            work.base,
            replace(work.task, splits={**work.task.splits, "train": train}),
            method=method_of(work),
            readout=self.verbalizers[model.pattern],
            unlabelled=self.unlabelled,
            training=training_of(work, self.steps, BATCH if self.unlabelled is None else BATCH // 4),
            seed=derive(work.seed, "pet", *place) % 2**31,
            out=work.desk.path("generation-{}-pattern-{}-{}".format(*place)),
            callbacks=work.callbacks,
        )


def method_of(work: Work) -> Method:
    """The method that was asked for, or full fine-tuning as in the paper."""
    return Full() if work.method is None else work.method


def training_of(work: Work, steps: int, batch_size: int, lr: float | None = None) -> Training:
    """How a model is trained: as asked for, and what that leaves open as in the paper (section 4, appendix A).

    Args:
        work: its training is taken where it was given.
        steps: optimizer steps.
        batch_size: where nothing was asked for.
        lr: instead of the one of `work`.

    Raises:
        InputError: epochs or steps were asked for, of which there are two kinds here.
    """
    given = work.training
    if given is not None and (given.epochs != Training().epochs or given.max_steps is not None):
        raise InputError(
            "PET counts the steps of its models and of its classifier apart, since they learn from data of different sizes. "
            "Leave training.epochs and training.max_steps out; set strategy.steps and strategy.distil_steps."
        )
    chosen = Training(batch_size=batch_size, eval_every=max(1, steps // 10)) if given is None else given
    chosen = replace(chosen, max_steps=steps, lr=chosen.lr if lr is None else lr)
    if isinstance(method_of(work), Full):
        warmup = 0.0 if chosen.warmup is None else chosen.warmup
        chosen = replace(chosen, lr=1e-5 if chosen.lr is None else chosen.lr, warmup=warmup)
    return chosen


def verbalizers(work: Work, patterns: Sequence[str], words: Mapping[str, Sequence[str]]) -> list[Verbalizer]:
    """A verbalizer for each pattern, which fit the base and the data.

    Args:
        work: the task proposes patterns and words.
        patterns: instead of all of the task's, if there are any: names of its patterns, or patterns themselves.
        words: instead of the task's, if there are any.

    Raises:
        InputError: there are no patterns, no words, no unlabelled texts, or they do not fit.
        UnsupportedError: regression, or a model without LM head.
    """
    task = work.task
    if task.kind == "regression":
        raise UnsupportedError("PET asks for words that stand for labels, and regression has no labels. Fit a Head.")
    if not len(task.splits.get("unlabelled", ())):
        raise InputError(
            f"The task {task.name} has no unlabelled split, which PET's ensemble labels for its classifier to learn from. Put "
            "texts into one: files.unlabelled in its card, --unlabelled, unlabelled= of Task.from_records; few-shot splits keep "
            "the rest of train there."
        )
    prompts = [_prompt(task, one) for one in patterns] or list(task.prompts)
    if not prompts:
        raise InputError(
            f"PET needs a pattern or more, and {task.name} proposes none. Put [[patterns]] into its card, or set "
            "strategy.patterns."
        )
    found = []
    for prompt in prompts:
        own = words or prompt.words or task.verbalizer
        if not own:
            raise InputError(
                f"PET needs words for the labels, and {task.name} proposes none for the pattern {prompt.pattern!r}. Put "
                "[verbalizer] into its card, or set strategy.words."
            )
        found.append(Verbalizer(prompt.pattern, {label: tuple(some) for label, some in own.items()}))
    for one in found:
        one.bind(work.base, LabelSet.of(task), None, task)
    return found


def _prompt(task: Task, asked: str) -> Prompt:
    """The prompt of the task of this name, or a pattern itself."""
    return next((one for one in task.prompts if one.name == asked), None) or Prompt(name="asked", pattern=asked)
