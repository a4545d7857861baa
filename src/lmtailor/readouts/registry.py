"""Readouts by name, for manifests, plans and the command line."""

from collections.abc import Mapping

from lmtailor.core.errors import InputError, near
from lmtailor.readouts.conversation import Chat
from lmtailor.readouts.head import Head
from lmtailor.readouts.options import Options
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.span import Span
from lmtailor.readouts.tagging import Tags
from lmtailor.readouts.text import Text
from lmtailor.readouts.verbalizer import Verbalizer

ReadoutClass = type[Chat] | type[Head] | type[Options] | type[Span] | type[Tags] | type[Text] | type[Verbalizer]

READOUTS: Mapping[str, ReadoutClass] = {
    "chat": Chat,
    "head": Head,
    "options": Options,
    "span": Span,
    "tags": Tags,
    "text": Text,
    "verbalizer": Verbalizer,
}


def get_readout(name: str) -> ReadoutClass:
    """The settings class of a readout.

    Raises:
        InputError: there is no such readout.
    """
    if name not in READOUTS:
        raise InputError(f"There is no readout {name!r}. {near(name, READOUTS)}")
    return READOUTS[name]


def readout_name(readout: Readout) -> str:
    """The name of a readout's class in `READOUTS`.

    Raises:
        InputError: it is not there, so it could not be stored by name.
    """
    for name, kind in READOUTS.items():
        if type(readout) is kind:
            return name
    raise InputError(f"{type(readout).__name__} is none of the readouts that have a name: {', '.join(READOUTS)}.")
