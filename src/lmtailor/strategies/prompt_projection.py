"""Prompt transfer across models: a soft prompt of another base is projected into this one.  Su et al. 2022, arXiv:2111.06719,
section 5.

A projector (see `lmtailor.methods.ProjectedPrompt`: 100 · d_s → 768 → LeakyReLU → 100 · d_t, then a LayerNorm for each token) is
trained on the task through the target, which stays as it is ("task tuning" in the paper, which goes on to project the prompts of
similar tasks with it). What comes out is an ordinary soft prompt of the target. With `tune`, it is then trained itself, as prompt
tuning that starts from it.
The source's base is not needed: its prompt is read from the adapter's folder.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lmtailor.core.errors import InputError, TrainingError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.edits import Edits
from lmtailor.fit.fit import fit
from lmtailor.methods.method import Method, Words
from lmtailor.methods.projected_prompt import ProjectedPrompt, ProjectedPromptEdit
from lmtailor.store.adapter import Adapter
from lmtailor.strategies._prompt_source import ForeignPrompt, read_foreign_prompt
from lmtailor.strategies.strategy import Strategy, Work


@dataclass(frozen=True, kw_only=True)
class PromptProjection(Strategy):
    """Bring a soft prompt of another base to this one by a trained projector."""

    paper: ClassVar[str] = "Su et al. 2022, section 5"

    source: str
    """Folder of an adapter of another base, with a soft prompt before the input."""
    hidden: int = 768
    """Units between the projector's two linear maps."""
    tune: bool = False
    """Whether the projected prompt is then trained itself."""

    def __post_init__(self) -> None:
        if not self.source:
            raise InputError("A projection needs a source: the folder of an adapter of another base.")
        if self.hidden < 1:
            raise InputError(f"hidden is {self.hidden}; the projector needs at least 1 unit.")

    def run(self, work: Work) -> Adapter:
        """See `Strategy.run`.

        Raises:
            AdapterFileError: the source is damaged or no adapter.
            InputError: the source is no soft prompt.
            UnsupportedError: a method was asked for.
        """
        if work.method is not None:
            raise UnsupportedError(
                f"A projection fits a projector, and ends in a soft prompt; {type(work.method).__name__} was asked for. Leave "
                "the method out."
            )
        source = read_foreign_prompt(self.source)
        if work.desk.result("source", lambda: {"digest": source.digest})["digest"] != source.digest:
            raise TrainingError(
                f"{self.source} is not the adapter that this work began with. Choose another folder, or --overwrite."
            )
        projected = self._projected(work, source)
        search: dict[str, Any] = {"source": self.source, "source_base": source.base_source, "source_digest": source.digest}
        if not self.tune:
            return replace(projected, provenance={**projected.provenance, "search": search})
        work.tell("tuning what was projected", 1, 2)
        tuned = _fit(work, "tuned", projected.method, projected.edits)
        search["projected"] = {split: scores.to_mapping() for split, scores in projected.scores.items()}
        return replace(tuned, provenance={**tuned.provenance, "search": search})

    def _projected(self, work: Work, source: ForeignPrompt) -> Adapter:
        """The soft prompt that the trained projector gives."""
        work.tell("projecting", 0, 2 if self.tune else 1)
        length, width = source.rows_NS.shape
        method = ProjectedPrompt(length=length, source_width=width, hidden=self.hidden)
        rng = generator(work.seed, "start")
        (edit,) = method.started(method.edits(work.base.sites, rng), work.base, Words(), rng)
        assert isinstance(edit, ProjectedPromptEdit)
        return _fit(work, "projector", method, Edits((replace(edit, source_NS=source.rows_NS),)))


def _fit(work: Work, name: str, method: Method, start: Edits) -> Adapter:
    return fit(
        work.base,
        work.task,
        method=method,
        readout=work.readout,
        start=start,
        training=work.training,
        seed=work.seed,
        out=work.desk.path(name),
        callbacks=work.callbacks,
    )
