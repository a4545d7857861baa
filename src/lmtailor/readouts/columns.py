"""Which columns of an example a readout reads: the task's texts, and others that its pattern or its options name."""

from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.options import Options
from lmtailor.readouts.pattern import MASK, parse_pattern
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.text import Text
from lmtailor.readouts.verbalizer import Verbalizer


def columns_read(readout: Readout, labels: LabelSet) -> tuple[str, ...]:
    """The columns that a raw input must have, in the order of the task's."""
    named: set[str] = set()
    if isinstance(readout, Text):
        named |= set(parse_pattern(f"{readout.pattern}{{{MASK}}}").fields)
    elif isinstance(readout, Options | Verbalizer):
        named |= set(parse_pattern(readout.pattern).fields)
    if isinstance(readout, Options):
        named |= set(readout.options.values())
    return labels.texts + tuple(column for column in labels.extra if column in named)
