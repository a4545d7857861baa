"""Instructed: a mixture of other tasks is learned, and the task is asked zero-shot.

The method is fitted to the mixture (`lmtailor.tasks.mixture`) as a text that is written; then the task is put to the adapter as
the readout puts it. The readout has nothing to train, and nothing is learned from the task: its examples are at most shown, as a
verbalizer's demonstrations. So what instructions bring can be compared with every other route to the task.

Whether the mixture holds the task out is up to its file. Examples of the task's measured splits that stand in what is learned
from all the same, word by word, are told in a note; so is what was learned.

Wei et al. 2022 (FLAN), arXiv:2109.01652, section 2; Sanh et al. 2022 (T0), arXiv:2110.08207.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from lmtailor.core.errors import InputError
from lmtailor.fit.fit import fit
from lmtailor.infer.calibrate import measured
from lmtailor.infer.evaluate import measure, predict_split
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Reading
from lmtailor.readouts.text import Text
from lmtailor.store.adapter import Adapter, build_adapter
from lmtailor.strategies.strategy import Strategy, Work
from lmtailor.tasks.mixture import INPUT, Mixture, load_mixture
from lmtailor.tasks.overlap import standing_in
from lmtailor.tasks.schema import UNLABELLED
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Instructed(Strategy):
    """Learn a mixture of other tasks, and ask the task zero-shot."""

    paper: ClassVar[str] = "Wei et al. 2022, section 2; Sanh et al. 2022"

    mixture: str
    """The mixture's file."""

    @cached_property
    def _loaded(self) -> Mixture:
        return load_mixture(self.mixture)

    @property
    def content(self) -> Mapping[str, str]:
        """See `Strategy.content`: the examples of the mixture."""
        return {"learned": self._loaded.task.digest}

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            InputError: no readout, one that must be trained on the task, a method that trains nothing, or a mixture's file that
                is not what it should be.
            UnsupportedError: a model that writes no text.
        """
        method = LoRA() if work.method is None else work.method
        if isinstance(method, Frozen):
            raise InputError("What is instructed learns the mixture, and frozen trains nothing. Name another method.")
        reading, found = _asked(work, method), self._loaded
        learned = fit(
            work.base,
            found.task,
            method=method,
            readout=Text(f"{{{INPUT}}}"),
            training=work.training,
            seed=work.seed,
            out=work.desk.path("fit"),
            callbacks=work.callbacks,
        )
        adapter = measured(work.base, replace(learned, reading=reading, scores={}))
        known = learned.provenance
        notes = (*known.get("notes", ()), f"It learned {found}.", *found.task.notes, *_seen(found, work.task))
        search = {"mixture": self.mixture, **self.content, "counts": dict(found.counts), "fit": known}
        adapter = replace(adapter, provenance={"search": search, "notes": notes})
        if "dev" not in work.task.splits or work.task.kind == "generation":
            return adapter  # texts would be written, which takes longer than the fit
        return replace(adapter, scores={"dev": measure(work.task, predict_split(work.base, work.task, adapter, split="dev"))})


def _asked(work: Work, method: Method) -> Reading:
    """How the task is put.

    Raises:
        InputError: nobody says, or it must be trained.
    """
    if work.readout is None:
        raise InputError(
            "The task is asked without being learned: say how (readout), such as a verbalizer, options or text with a pattern."
        )
    reading = build_adapter(work.base, method, work.readout, LabelSet.of(work.task), None, work.task).reading
    assert reading is not None
    if reading.parameters() or not reading.reads_lm_head:
        raise InputError(
            f"The task is asked without being learned, and {type(work.readout).__name__} has parameters of its own to train. "
            "Use a verbalizer, options or text."
        )
    return reading


def _seen(found: Mixture, task: Task) -> Iterator[str]:
    """Notes on measured splits of the task that stand in what is learned from."""
    inputs = [example.fields[INPUT] for example in found.task.split("train")]
    for name, split in task.splits.items():
        if name not in ("train", UNLABELLED) and (shared := standing_in(inputs, split, task.text)):
            yield (
                f"{shared} of {len(split)} examples of {name} stand in what is learned from: scores on them are not those of a "
                "task that is held out"
            )
