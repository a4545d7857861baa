"""Held-out tasks that a fit is asked as it goes: before the first step, and whenever dev is scored."""

from collections.abc import Sequence

from lmtailor.fit.callbacks.callback import Asked, HearsAsked
from lmtailor.fit.dev import RESAMPLES, token_rows
from lmtailor.fit.member import Member
from lmtailor.fit.source import Source, why_not_shared
from lmtailor.infer.watched import Watching
from lmtailor.readouts.batch import Encoded


class Watch:
    """The held-out tasks of one adapter in training."""

    def __init__(self, member: Member) -> None:
        """Encode them.

        Raises:
            InputError: see `Watching`.
        """
        self.member, self.watching = member, Watching(member.reading, member.job.watched)

    @property
    def items(self) -> Sequence[Encoded]:
        """What is run."""
        return self.watching.items

    def shares(self) -> bool:
        """Whether the choices of an example can share its input's pass, exactly."""
        return why_not_shared(self.member.base, self.member.adapter.edits, self.member.reading, self.items) is None

    def ask(self, source: Source) -> None:
        """Score them, note the scores in the fit's progress, and tell listeners.

        Args:
            source: scores the items.
        """
        member = self.member
        rows = token_rows(self.items, source, 2 * member.training.batch_size, together=True)
        scores = self.watching.scores(rows, resamples=RESAMPLES)
        progress = member.progress
        epoch = progress.step / member.data.per_epoch
        progress.watched.append(
            {"step": progress.step, "epoch": epoch, "scores": {name: own.to_mapping() for name, own in scores.items()}}
        )
        event = Asked(name=member.name, step=progress.step, epoch=epoch, scores=scores)
        for callback in member.callbacks:
            if isinstance(callback, HearsAsked):
                callback.asked(event)
