"""Curves in TensorBoard. Needs `pip install lmtailor[tensorboard]`."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lmtailor.fit.callbacks.callback import Asked, Ended, Evaluated, HearsAsked, Started, Stepped


class TensorBoardCallback(HearsAsked):
    """Writes training loss, learning rate and dev scores by step."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def started(self, event: Started) -> None:
        """The run's description as text."""
        said = f"{event.method} · {event.readout} · {event.trained} trained numbers"
        self._writer.add_text(_tag(event.name, "run"), said, event.step)

    def stepped(self, event: Stepped) -> None:
        """Loss and learning rate."""
        self._writer.add_scalar(_tag(event.name, "train/loss"), event.loss, event.step)
        self._writer.add_scalar(_tag(event.name, "train/lr"), event.lr, event.step)

    def evaluated(self, event: Evaluated) -> None:
        """Dev scores."""
        for name, score in event.scores.items():
            self._writer.add_scalar(_tag(event.name, f"dev/{name}"), score.value, event.step)

    def asked(self, event: Asked) -> None:
        """Scores of held-out tasks."""
        for task, own in event.scores.items():
            for name, score in own.items():
                self._writer.add_scalar(_tag(event.name, f"held_out/{task}/{name}"), score.value, event.step)

    def ended(self, event: Ended) -> None:
        """Write everything out."""
        self._writer.close()


def _tag(adapter: str, name: str) -> str:
    """A curve's name; of one of several adapters with its own in front."""
    return f"{adapter}/{name}" if adapter else name
