"""A strategy for tests: it fits twice and keeps the better one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmtailor.core.errors import UnsupportedError
from lmtailor.fit.fit import fit
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import Adapter
from lmtailor.strategies.strategy import Strategy, Work


@dataclass(frozen=True, kw_only=True)
class TwoFits(Strategy):
    """Two fits of seeds one apart; the one with the higher accuracy on dev, of equals the first."""

    rank: int = 2
    stop_after: int | None = None
    """For tests of what a crash leaves: how many parts come before it."""

    @classmethod
    def variants(cls) -> Mapping[str, type[Any]]:
        """Only itself."""
        return {"two_fits": cls}

    def run(self, work: Work) -> Adapter:
        """Fit, fit, choose."""
        if work.readout is not None and not isinstance(work.readout, Head):
            raise UnsupportedError("Two fits need a head.")
        made: list[Adapter] = []
        for number in range(2):
            if number == self.stop_after:
                raise KeyboardInterrupt
            work.tell("fitting", number, 2)
            adapter = fit(
                work.base,
                work.task,
                method=work.method or LoRA(rank=self.rank),
                readout=work.readout or Head(),
                training=work.training,
                seed=work.seed + number,
                out=work.desk.path(f"fits/{number}"),
                callbacks=work.callbacks,
            )
            made.append(adapter)
        scores = [adapter.scores["dev"]["accuracy"].value for adapter in made]
        kept = work.desk.result("choice", lambda: {"scores": scores, "best": scores.index(max(scores))})
        best = made[int(kept["best"])]
        return replace(best, provenance={**best.provenance, "search": kept})
