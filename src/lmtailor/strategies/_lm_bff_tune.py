"""Candidates fine-tuned one after the other, and chosen on dev.  Gao et al. 2021, arXiv:2012.15723, sections 5.1 and 5.2."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import measure, plain_adapter, predict_split
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.full import Full
from lmtailor.methods.method import Method
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from lmtailor.strategies.desk import Desk
from lmtailor.strategies.strategy import Work
from lmtailor.tasks.metrics.direction import greater_is_better

_LR = 1e-5
"""For full fine-tuning: the rate at which the paper's code tunes candidates, the least of its grid {1e-5, 2e-5, 5e-5}."""
_DEFAULT = Training(max_steps=1000, batch_size=8, eval_every=100)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A prompt that may turn out best."""

    readout: Verbalizer
    likelihood: float
    """The log-probability that its search gave it on the training set: what chooses among equals on dev."""
    shown: dict[str, Any]
    """What the record says of it."""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The best of some candidates."""

    candidate: Candidate
    adapter: Adapter
    worth: float
    """Its score on dev, larger is better."""
    record: tuple[dict[str, Any], ...]
    """All candidates in their order, each with its scores on dev."""


class Tuner:
    """Fine-tunes candidates of one work in the same way."""

    def __init__(self, work: Work) -> None:
        """Settle the method and the training: full fine-tuning with the paper's settings, where nothing else is asked for."""
        self._work = work
        self._method: Method = Full() if work.method is None else work.method
        training = _DEFAULT if work.training is None else work.training
        own_rate = isinstance(self._method, Full) and training.lr is None
        self._training = replace(training, lr=_LR) if own_rate else training

    def best(self, candidates: Sequence[Candidate], desk: Desk, what: str) -> Winner:
        """Fine-tune each candidate, and keep the adapter that is best on dev; of equals the likelier, then the earlier.

        Only the best adapter so far is kept on the desk, with a small record of each.

        Args:
            candidates: at least one.
            desk: where records and adapters are kept.
            what: they are, for those who listen.
        """
        work, metric = self._work, self._work.task.choosing
        doing = f"{'comparing' if isinstance(self._method, Frozen) else 'fine-tuning'} {what}"
        sign = 1 if greater_is_better(metric) else -1
        best, key, kept = 0, (float("-inf"), float("-inf")), None
        records: list[dict[str, Any]] = []
        for number, candidate in enumerate(candidates):
            work.tell(doing, number, len(candidates))
            made: list[Adapter] = []
            make = partial(self._tuned, candidate, _place(desk, number), made)
            record = desk.result(f"{number:04d}", make)
            records.append(candidate.shown | record)
            own = (sign * float(record["dev"][metric]), candidate.likelihood)
            loser = number
            if own > key:
                loser, best, key, kept = best, number, own, made[0] if made else None
            if loser != best:
                _forget(_place(desk, loser))
        work.tell(doing, len(candidates), len(candidates))
        if kept is None:  # its record is of an earlier run, and its adapter lies on the desk
            kept = self._adapter(candidates[best], _place(desk, best))
        return Winner(candidate=candidates[best], adapter=kept, worth=key[0], record=tuple(records))

    def _tuned(self, candidate: Candidate, place: Path | None, made: list[Adapter]) -> dict[str, Any]:
        """The record of a candidate; its adapter is put into `made`."""
        made.append(self._adapter(candidate, place))
        dev = made[0].scores["dev"]
        history = {name: made[0].provenance[name] for name in ("steps", "best_step") if name in made[0].provenance}
        return {"dev": {name: score.value for name, score in dev.items()}, **history}

    def _adapter(self, candidate: Candidate, place: Path | None) -> Adapter:
        work = self._work
        if isinstance(self._method, Frozen):  # nothing to train: the candidate as it is
            adapter = plain_adapter(work.base, work.task, candidate.readout, seed=work.seed)
            return replace(adapter, scores={"dev": measure(work.task, predict_split(work.base, work.task, adapter, split="dev"))})
        return fit(
            work.base,
            work.task,
            method=self._method,
            readout=candidate.readout,
            training=self._training,
            seed=work.seed,
            out=place,
            callbacks=work.callbacks,
        )


def _place(desk: Desk, number: int) -> Path | None:
    return desk.path(f"{number:04d}")


def _forget(place: Path | None) -> None:
    if place is not None and place.exists():
        shutil.rmtree(place)
