"""One pass of the trunk for examples of several adapters, whose readouts then score their own parts."""

from collections.abc import Sequence

from torch import Tensor

from lmtailor.edits.attach import Attached
from lmtailor.infer.passes import states_of
from lmtailor.readouts.batch import Batch, InputForm, join
from lmtailor.readouts.readout import take_rows


def score_together(
    attached: Attached, slots: Sequence[int], batches: Sequence[Batch], form: InputForm, *, training: bool = False
) -> list[tuple[Tensor, Batch]]:
    """Scores (B, C) of each adapter's batch, and the batch as it ran.

    Args:
        attached: with the adapters.
        slots: the adapter of each batch.
        batches: on the base's device.
        form: how the base takes batches.
        training: whether dropout of readouts acts.
    """
    joined = join(batches, form)
    per_example = [(slot, part.per_row) for slot, part in zip(slots, joined.parts, strict=True) for _ in range(part.size)]
    owners, sizes = zip(*per_example, strict=True)
    states = states_of(attached, joined.inputs, sizes, slots=owners, answer_N=joined.answer_N)
    return [
        (attached.scores(slot, take_rows(states, own), part, training=training), part)
        for slot, part, own in zip(slots, joined.parts, joined.rows, strict=True)
    ]
