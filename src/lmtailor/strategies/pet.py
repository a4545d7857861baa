"""Pattern-exploiting training: an ensemble of patterns labels unlabelled texts, and a classifier learns from what it says.

1. For each pattern, and as often as asked, a model is fitted to the labelled examples with a verbalizer:
   L = (1 − α) · cross-entropy over the label words + α · language modelling on the unlabelled texts (`fit.unlabelled`).
2. The models score the unlabelled texts: s(l | x) = Σ_p w(p) s_p(l | x) / Σ_p w(p), with w(p) = 1, or p's accuracy on the
   labelled examples before training. The soft label of a text is q = softmax(s / T) with T = 2.
3. A classifier of its own readout, by default a fresh head, is fitted to them: T² · KL(q ‖ p) (`objectives.distillation`).

iPET comes between 1 and 2. In each generation every model is fitted anew, to the labelled examples and to texts that a random
quarter (λ) of the other models of the generation before has labelled: c_j(l) examples of each label with c_j(l) = 5 · c_{j−1}(l).
Without labelled examples the first models are the patterns as they are, and c_1(l) = 10 / labels.

Schick & Schütze 2021, arXiv:2001.07676, sections 3.2 to 3.4; settings of section 4. Texts for a generation are drawn in
proportion to their probability, as there; `draw="surest"` takes the most probable ones. The paper knows no dev set: without one
the last weights are kept, with one the best. Each model may be trained by any method, so that an ensemble is a few small
adapters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.fit.fit import fit
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.objectives.distillation import Distillation
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import Adapter
from lmtailor.strategies._pet_ensemble import BATCH, Ensemble, Labelled, Model, method_of, training_of, verbalizers
from lmtailor.strategies._pet_labels import Draw, chosen, combined, labellers, quotas
from lmtailor.strategies.strategy import Strategy, Work
from lmtailor.tasks.example import Split


@dataclass(frozen=True, kw_only=True)
class PET(Strategy):
    """Pattern-exploiting training, and iPET with `generations`."""

    paper: ClassVar[str] = "Schick & Schütze 2021, section 3"

    patterns: tuple[str, ...] = ()
    """Names of patterns of the task's card, or patterns as `Verbalizer` takes them; none: all of the card's."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label → words; none: those of the task's card."""
    repetitions: int = 3
    """Models a pattern, with other seeds."""
    weights: Literal["accuracy", "uniform"] = "accuracy"
    """What a model counts for: its pattern's accuracy on train before training, or as much as any other."""
    steps: int = 250
    """Optimizer steps of each model."""
    unlabelled: Unlabelled | None = field(default_factory=Unlabelled)
    """Language modelling besides; None: none."""
    temperature: float = 2.0
    """T of the soft labels."""
    distil_steps: int = 5000
    """Optimizer steps of the classifier."""
    distil_lr: float | None = None
    """Its learning rate; None: that of the models."""
    generations: int = 0
    """Of iPET, after the first models; 0: PET, 3: as in the paper."""
    share: float = 0.25
    """λ: the share of the other models that label texts for a model of the next generation."""
    growth: int = 5
    """d: how many times as many examples each generation learns from as the one before."""
    draw: Draw = "weighted"
    """How texts are chosen for the next generation: by chance, in proportion to their probability, or the surest ones."""

    def __post_init__(self) -> None:
        for name, least in (("repetitions", 1), ("steps", 1), ("distil_steps", 1), ("generations", 0), ("growth", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 < self.share <= 1:
            raise InputError(f"share is {self.share}; it must be greater than 0 and at most 1.")
        Distillation(temperature=self.temperature)

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`: the adapter is the classifier.

        Raises:
            InputError: no unlabelled split, no pattern or no words, or an ensemble of one model that cannot have generations.
            UnsupportedError: regression, a model without LM head, or language modelling on an encoder-decoder.
        """
        found = verbalizers(work, self.patterns, self.words)
        ensemble = Ensemble(
            work=work, verbalizers=found, repetitions=self.repetitions, steps=self.steps, unlabelled=self.unlabelled
        )
        models = ensemble.models
        if self.generations and len(models) < 2:
            raise InputError("In iPET models learn from each other: it needs two patterns or repetitions, or more.")
        labelled = work.task.splits.get("train")
        weights = [1.0] * len(found) if self.weights == "uniform" or labelled is None else ensemble.weights()
        each = [weights[model.pattern] for model in models]
        history: list[Labelled] = []
        said: list[Labelled] = []
        for generation in range(self.generations + 1):
            trains = self._trains(work, generation, said, each)
            said = [self._labelled(ensemble, model, generation, train) for model, train in zip(models, trains, strict=True)]
            history += said
        adapter = self._classifier(work, said, each, len(history))
        return replace(adapter, provenance={**adapter.provenance, "search": _search(models, history, each, len(said))})

    def _labelled(self, ensemble: Ensemble, model: Model, generation: int, train: Split | None) -> Labelled:
        count = len(ensemble.models)
        ensemble.work.tell("fitting", generation * count + model.number, count * (self.generations + 1) + 1)
        return ensemble.labelled(model, generation, train)

    def _trains(self, work: Work, generation: int, said: Sequence[Labelled], weights: Sequence[float]) -> list[Split | None]:
        """What each model of a generation learns from."""
        own = work.task.splits.get("train")
        if not generation:
            return [own] * len(weights)
        texts, labels = work.task.split("unlabelled").examples, len(work.task.labels)
        examples = () if own is None else own.examples
        wanted = quotas([sum(one.label == label for one in examples) for label in range(labels)], generation, self.growth)
        found: list[Split | None] = []
        for number in range(len(weights)):
            rng = generator(work.seed, "ipet", generation, number)
            by = labellers(len(weights), number, self.share, rng)
            scores_NC = combined([said[i].scores_NC for i in by], [weights[i] for i in by])
            pairs = chosen(scores_NC, wanted, self.draw, rng, first=own is None and generation == 1)
            added = tuple(replace(texts[i], label=label) for i, label in pairs)
            found.append(Split(name="train", examples=(*examples, *added), source="labelled by other models"))
        return found

    def _classifier(self, work: Work, said: Sequence[Labelled], weights: Sequence[float], done: int) -> Adapter:
        """The model that learns from what the last generation says."""
        work.tell("distilling", done, done + 1)
        task, texts = work.task, work.task.split("unlabelled")
        q_NC = combined([one.scores_NC for one in said], weights).softmax(1).tolist()
        splits = {"train": replace(texts, name="train")} | {name: task.splits[name] for name in ("dev",) if name in task.splits}
        return fit(
            work.base,
            replace(task, splits=splits, ood=()),
            method=method_of(work),
            readout=Head() if work.readout is None else work.readout,
            objective=Distillation(temperature=self.temperature),
            soft_labels={text.id: q_C for text, q_C in zip(texts, q_NC, strict=True)},
            training=training_of(work, self.distil_steps, BATCH, self.distil_lr),
            seed=work.seed,
            out=work.desk.path("classifier"),
            callbacks=work.callbacks,
        )


def _search(models: Sequence[Model], history: Sequence[Labelled], weights: Sequence[float], last: int) -> dict[str, Any]:
    """What the provenance says: every model, and how far the last generation agrees."""
    members = [{**one.about, "weight": weights[number % len(models)]} for number, one in enumerate(history)]
    answers = [one.scores_NC.argmax(1) for one in history[-last:]]
    joint = combined([one.scores_NC for one in history[-last:]], weights).argmax(1)
    agree = sum(float((own == joint).float().mean()) for own in answers) / len(answers)
    return {"members": members, "texts": len(joint), "agreement": agree}
