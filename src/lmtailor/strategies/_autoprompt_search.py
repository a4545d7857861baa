"""The search for a trigger: one slot at a time, by the gradient at its embedding.  Shin et al. 2020, section 2.2."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch

from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.infer.evaluate import plain_adapter
from lmtailor.infer.score import decide
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.readouts.verbalizer_reading import VerbalizerReading
from lmtailor.strategies._autoprompt_halving import successive_halving
from lmtailor.strategies._autoprompt_loss import Over, Prompted, TriggerLoss, prompted
from lmtailor.strategies._autoprompt_tokens import allowed_tokens, candidates, embedding_table
from lmtailor.strategies.strategy import Work
from lmtailor.tasks.metrics import get_metric

_STATE = "search"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to search."""

    examples: int
    """Examples that a gradient is summed over, and as many others that candidates are scored on."""
    candidates: int
    halving: int
    iterations: int
    patience: int | None
    filtered: bool
    over: Over
    rows: int
    """The most sequences in a forward."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """How far a search is."""

    step: int = 0
    trigger: tuple[int, ...]
    """The trigger of now (token ids)."""
    best: tuple[int, ...]
    """The best one on dev."""
    score: float
    """Its value on dev, by the task's first metric."""
    loss: float
    """Its loss on dev."""
    still: int = 0
    """Iterations since the trigger changed."""
    history: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def to_mapping(self) -> dict[str, Any]:
        """A dictionary that JSON holds exactly."""
        return vars(self)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_mapping`."""
        own = {name: tuple(values[name]) for name in ("trigger", "best", "history")}
        return cls(**{**values, **own})


class Search:
    """One search. Each iteration depends only on the trigger before it, the seed and its number."""

    def __init__(self, work: Work, readout: Verbalizer, plan: Plan) -> None:
        """Prepare.

        Args:
            work: base, data, seed, and where to keep how far it is.
            readout: with slots, and the trigger to start from.
            plan: how to search.

        Raises:
            InputError: see `TriggerLoss`, `prompted` and `allowed_tokens`.
        """
        self.work, self.readout, self.plan = work, readout, plan
        self.adapter = plain_adapter(work.base, work.task, readout, seed=work.seed)
        reading = self.adapter.reading
        assert isinstance(reading, VerbalizerReading)
        self.reading = reading
        self.loss = TriggerLoss(work.base, reading, plan.rows, plan.over)
        self.train = [prompted(reading, example) for example in work.task.split("train")]
        self.dev = [prompted(reading, example) for example in work.task.split("dev")]
        self.table_VH = embedding_table(work.base)
        self.allowed_V = allowed_tokens(work.base, reading, filtered=plan.filtered)
        self.start = tuple(int(i) for i in self._ids(readout.trigger or ()))

    def run(self) -> Found:
        """Search, from where an interrupted work stood."""
        kept = self.work.desk.latest(_STATE)
        if kept is None:
            score, loss = self._on_dev(self.start)
            now = Found(trigger=self.start, best=self.start, score=score, loss=loss)
            self.work.desk.put(_STATE, now.to_mapping())
        else:
            now = Found.from_mapping(kept)
        while now.step < self.plan.iterations and not self._patient(now):
            now = self._step(now)
            self.work.desk.put(_STATE, now.to_mapping())
            self.work.tell(
                f"trigger {self.text(now.best)!r}, {self._metric} {now.score:.4f} on dev", now.step, self.plan.iterations
            )
        return now

    def tokens(self, trigger: Sequence[int]) -> tuple[str, ...]:
        """A trigger's tokens as the tokenizer writes them."""
        return tuple(self.work.base.tokenizer.convert_ids_to_tokens(list(trigger)))

    def text(self, trigger: Sequence[int]) -> str:
        """A trigger as text."""
        return str(self.work.base.tokenizer.decode(list(trigger))).strip()

    @property
    def _metric(self) -> str:
        return self.work.task.choosing

    def _patient(self, now: Found) -> bool:
        return self.plan.patience is not None and now.still >= self.plan.patience

    def _ids(self, tokens: Sequence[str]) -> list[int]:
        found: Any = self.work.base.tokenizer.convert_tokens_to_ids(list(tokens))
        return list(found)

    def _step(self, now: Found) -> Found:
        """Replace the token in one slot by a better one, if there is one among the candidates."""
        trigger_S = torch.tensor(now.trigger, device=self.work.base.device)
        slot = int(torch.randint(len(now.trigger), (1,), generator=generator(self.work.seed, "slot", now.step)))
        fresh = self._window(2 * now.step + 1)
        with attach(self.work.base, self.adapter, fast=True) as attached:
            gradient_SH, before = self.loss.gradient(attached, self._window(2 * now.step), trigger_S)
            tokens_K = candidates(self.table_VH, gradient_SH[slot], self.allowed_V, now.trigger[slot], self.plan.candidates).to(
                trigger_S.device
            )
            triggers_AS = trigger_S.repeat(len(tokens_K) + 1, 1)
            triggers_AS[1:, slot] = tokens_K
            ranking = successive_halving(
                len(triggers_AS),
                len(fresh),
                self.plan.halving,
                lambda numbers, part: self.loss.losses(attached, fresh[part.start : part.stop], triggers_AS[list(numbers)]),
            )
        better = ranking.best > 0 and ranking.loss < ranking.kept
        event: dict[str, Any] = {"iteration": now.step, "slot": slot, "loss": before, "kept": ranking.kept, "changed": better}
        if not better:
            return replace(now, step=now.step + 1, still=now.still + 1, history=(*now.history, event))
        trigger = tuple(triggers_AS[ranking.best].tolist())
        score, loss = self._on_dev(trigger)
        event |= {"token": self.tokens(trigger)[slot], "rank": ranking.best, "new": ranking.loss, "dev": score, "dev_loss": loss}
        after = replace(now, step=now.step + 1, trigger=trigger, still=0, history=(*now.history, event))
        metric = get_metric(self._metric)
        gain = score - now.score if metric.greater_is_better else now.score - score
        return replace(after, best=trigger, score=score, loss=loss) if (gain, -loss) > (0.0, -now.loss) else after

    def _window(self, number: int) -> list[Prompted]:
        """The examples of one gradient, or of one scoring: the next ones of an endless shuffled sequence of the training set."""
        size, count = len(self.train), min(self.plan.examples, len(self.train))
        places = range(number * count, (number + 1) * count)
        orders = {
            epoch: torch.randperm(size, generator=generator(self.work.seed, "order", epoch)).tolist()
            for epoch in {place // size for place in places}
        }
        return [self.train[orders[place // size][place % size]] for place in places]

    def _on_dev(self, trigger: Sequence[int]) -> tuple[float, float]:
        """The task's first metric, and the loss."""
        base, task = self.work.base, self.work.task
        adapter = plain_adapter(base, task, replace(self.readout, trigger=self.tokens(trigger)), seed=self.work.seed)
        with attach(base, adapter, fast=True) as attached:
            scores, loss = self.loss.measured(attached, self.dev, torch.tensor(trigger, device=base.device))
        predicted = decide(scores, task.kind).astype(float)
        reference = np.array([one.label for one in self.dev], dtype=float)
        return get_metric(self._metric).value(predicted, reference), loss
