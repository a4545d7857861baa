"""SPoT: a prompt starts from that of another task.  Vu et al. 2022, arXiv:2110.07904, sections 2 and 3.3.

With one source, its prompt is the start. Of several, those closest to the task are taken: a fresh prompt is fitted to the task
for a few steps, and compared with each source (`prompt_closeness`). Of the `top` closest,

    "best"      each is a start, and the adapter that is best on dev is kept             (best of top-k)
    "average"   one start is Σ_i α_i P_i, with α_i = s_i / Σ_j s_j, s the closeness      (top-k weighted average)

A source that is no closer than at a right angle (s ≤ 0) has no weight in the average; the paper does not say what becomes of it.
The paper compares prompts after 10,000 steps of 262,144, which is what `probe_steps` stands for, and finds that the measure
per_token orders sources about as well as average_tokens. What is transferred is the prompt or prefix; a head is fitted anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from lmtailor.core.errors import InputError
from lmtailor.edits.edits import Edits
from lmtailor.fit.fit import fit
from lmtailor.fit.start import started_at
from lmtailor.fit.training import Training
from lmtailor.methods import method_name
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.strategies._prompt_source import check_unchanged, folder_name, load_sources
from lmtailor.strategies.prompt_closeness import Measure, prompt_closeness
from lmtailor.strategies.strategy import Strategy, Work
from lmtailor.tasks.metrics.direction import greater_is_better


@dataclass(frozen=True, kw_only=True)
class SPoT(Strategy):
    """Fit a soft prompt or a prefix from the start that other tasks' adapters give."""

    paper: ClassVar[str] = "Vu et al. 2022, section 3.3"

    sources: tuple[str, ...]
    """Folders of adapters of the same base, each with a soft prompt or a prefix."""
    top: int = 1
    """How many sources are used, the closest first."""
    combine: Literal["best", "average"] = "best"
    """What becomes of the closest: each is a start and dev decides, or their weighted average is the start."""
    measure: Measure = "per_token"
    """By what sources are close."""
    probe_steps: int = 100
    """Steps of the fit that finds where the task itself lies. With as many sources as `top` and combine="best" there is none."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("SPoT needs sources: folders of adapters of other tasks, such as strategy.sources=adapters/mnli.")
        if not 1 <= self.top <= len(self.sources):
            raise InputError(f"top is {self.top}; of {len(self.sources)} sources it takes 1 to {len(self.sources)}.")
        if self.probe_steps < 1:
            raise InputError(f"probe_steps is {self.probe_steps}; the fit that finds where the task lies needs at least 1.")

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            AdapterFileError: a source is of another base.
            InputError: a source has no prompt, or not one of the method that is fitted; several starts, and no dev split.
        """
        sources = load_sources(work.base, self.sources)
        check_unchanged(work.desk, sources)
        method = sources[0].method if work.method is None else work.method
        for folder, source in zip(self.sources, sources, strict=True):
            _check_fits(work, method, folder, source)
        if self.top > 1 and self.combine == "best" and "dev" not in work.task.splits:
            raise InputError(f"The task {work.task.name} has no dev split to choose among {self.top} starts on. Take top=1.")
        whole = self.top == len(sources) and (self.top == 1 or self.combine == "best")
        close = None if whole else self._closeness(work, method, sources)
        order = range(len(sources)) if close is None else sorted(range(len(sources)), key=lambda i: (-close[i], i))
        chosen = list(order)[: self.top]
        adapter, found = self._fitted(work, method, sources, chosen, close)
        listed = [
            {"folder": folder, "task": source.provenance.get("task")}
            for folder, source in zip(self.sources, sources, strict=True)
        ]
        search: dict[str, Any] = {"sources": listed, "measure": self.measure, "closeness": close, "chosen": chosen, **found}
        return replace(adapter, provenance={**adapter.provenance, "search": search})

    def _closeness(self, work: Work, method: Method, sources: Sequence[Adapter]) -> list[float]:
        """How close each source is to where the task's own prompt goes."""
        training = replace(work.training or Training(), max_steps=self.probe_steps, patience=None, keep="last")
        work.tell("where the task lies", 0, 1)
        probe = self._fit(work, method, "probe", training, None)
        work.tell("where the task lies", 1, 1)
        values = work.desk.result(
            "closeness", lambda: {"of": [prompt_closeness(work.base, probe, source).of(self.measure) for source in sources]}
        )
        return [float(value) for value in values["of"]]

    def _fitted(
        self, work: Work, method: Method, sources: Sequence[Adapter], chosen: Sequence[int], close: Sequence[float] | None
    ) -> tuple[Adapter, dict[str, Any]]:
        """The adapter, and what is to be said of how it was chosen."""
        if self.combine == "average" and len(chosen) > 1:
            assert close is not None
            shares = average_shares([close[i] for i in chosen])
            start = averaged([sources[i].edits for i in chosen], shares)
            return self._fit(work, method, "fit", work.training, start), {"shares": shares}
        fitted = []
        for number, i in enumerate(chosen):
            work.tell(f"from {folder_name(self.sources[i])}", number, len(chosen))
            fitted.append(self._fit(work, method, f"fit-{i}", work.training, sources[i].edits))
        work.tell("all starts", len(chosen), len(chosen))
        if len(fitted) == 1:
            return fitted[0], {}
        metric = work.task.choosing
        sign = 1 if greater_is_better(metric) else -1
        values = [one.scores["dev"][metric].value for one in fitted]
        best = max(range(len(fitted)), key=lambda place: (sign * values[place], -place))
        return fitted[best], {"dev": values, "best": chosen[best]}

    def _fit(self, work: Work, method: Method, name: str, training: Training | None, start: Edits | None) -> Adapter:
        return fit(
            work.base,
            work.task,
            method=method,
            readout=work.readout,
            start=start,
            training=training,
            seed=work.seed,
            out=work.desk.path(name),
            callbacks=work.callbacks,
        )


def average_shares(closeness: Sequence[float]) -> list[float]:
    """α_i = s_i / Σ_j s_j over what is above 0; equal shares where nothing is."""
    above = [max(0.0, value) for value in closeness]
    total = sum(above)
    return [value / total for value in above] if total else [1 / len(above)] * len(above)


def averaged(starts: Sequence[Edits], shares: Sequence[float]) -> Edits:
    """Σ_i α_i P_i of prompts of one shape."""
    states = [start.state() for start in starts]
    return starts[0].with_state(
        {
            name: torch.stack([share * state[name] for share, state in zip(shares, states, strict=True)]).sum(0)
            for name in states[0]
        }
    )


def _check_fits(work: Work, method: Method, folder: str, source: Adapter) -> None:
    """See that a source's values are those of the method that is fitted.

    Raises:
        InputError: they are not, such as of another length.
    """
    like = new_adapter(work.base, method=method, seed=work.seed)
    try:
        started_at(like, source.edits)
    except InputError as error:
        raise InputError(
            f"{folder} holds an adapter of {method_name(source.method)}, which is no start for {method_name(method)} as it is "
            f"asked for. {error} Leave the method out to take the first source's."
        ) from error
