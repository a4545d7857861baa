"""The examples of one fit as its readout encodes them: what is learned from, in which order, and what dev is scored with."""

from collections.abc import Sequence

from lmtailor.core.errors import InputError
from lmtailor.fit.batching import epoch_batches, grouped_batches, grouped_count, steps_in
from lmtailor.fit.training import Training
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.inquiry import Inquires, Inquiry
from lmtailor.readouts.readout import Reading
from lmtailor.tasks.example import Split
from lmtailor.tasks.task import Task


class Data:
    """Train and dev of one adapter in training."""

    def __init__(self, task: Task, reading: Reading, training: Training, seed: int) -> None:
        """Encode them.

        Args:
            task: with a train split.
            reading: encodes.
            training: sizes of batches and steps, and whether references of one input stand together.
            seed: of the order.

        Raises:
            InputError: no example of train has an answer to learn, or one that the readout refuses.
        """
        self.task, self.training, self.seed = task, training, seed
        each = [reading.items(example) for example in task.split("train")]
        self.train: list[Encoded] = [item for own in each for item in own]
        """What is learned from."""
        self.left_out = sum(not own for own in each)
        """Examples of train that have nothing of it."""
        if not self.train:
            raise InputError(f"No example of {task.name}'s train has an answer that the model sees. Raise max_length.")
        asked = task.split("dev").examples if "dev" in task.splits else ()
        self.inquiries: list[Inquiry] = []
        """How answers to dev are read, where one pass gives texts."""
        if isinstance(reading, Inquires):
            self.inquiries = [reading.inquiry(example) for example in asked]
            self.dev = [item for one in self.inquiries for item in one.items]
            """What dev is scored with."""
        else:
            self.dev = [item for example in asked for item in reading.items(example)]
        self.per_epoch = self._steps_in_epoch()
        """Steps."""
        self._order: tuple[int, list[list[int]]] | None = None

    def micro_batches(self, step: int) -> list[list[int]]:
        """Indices of the training items of a step, counted from 0."""
        epoch, within = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._batches(epoch)
        accumulate = self.training.accumulate
        return self._order[1][within * accumulate : (within + 1) * accumulate]

    def units(self, indices: Sequence[int]) -> int:
        """How many answers these training items have, which the loss is averaged over."""
        return sum(self.train[i].units for i in indices)

    def notes(self) -> list[str]:
        """Splits of which texts lost their end, and what is left out."""
        both = (("train", self.train), ("dev", self.dev))
        notes = [_cut_note(self.task.split(name), items) for name, items in both if any(item.cut for item in items)]
        if self.left_out:
            notes.append(f"{self.left_out:,} examples of train have no answer that the model sees, and are left out")
        return notes

    def _batches(self, epoch: int) -> list[list[int]]:
        lengths, size = [item.length for item in self.train], self.training.batch_size
        if self.training.share_inputs:
            return grouped_batches([item.id for item in self.train], lengths, size, self.seed, epoch)
        return epoch_batches(lengths, size, self.seed, epoch)

    def _steps_in_epoch(self) -> int:
        size, accumulate = self.training.batch_size, self.training.accumulate
        if self.training.share_inputs:
            return steps_in(grouped_count([item.id for item in self.train], size), 1, accumulate)
        return steps_in(len(self.train), size, accumulate)


def _cut_note(split: Split, items: Sequence[Encoded]) -> str:
    most = {item.id: item.cut for item in sorted(items, key=lambda item: item.cut)}  # of an example's windows or references
    count, lost = f"{sum(map(bool, most.values())):,} of {len(most):,} examples", sum(most.values())
    first = next(example.called for example in split if most.get(example.id))
    longer = f"{count} of {split.name} are longer than the model takes, or than max_length"
    return f"{longer}; {lost:,} tokens were cut off, first of {first}"
