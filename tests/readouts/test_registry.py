"""Readouts by name."""

import pytest

from lmtailor.core.errors import InputError
from lmtailor.readouts.conversation import Chat
from lmtailor.readouts.head import Head
from lmtailor.readouts.options import Options
from lmtailor.readouts.registry import READOUTS, get_readout, readout_name
from lmtailor.readouts.span import Span
from lmtailor.readouts.tagging import Tags
from lmtailor.readouts.text import Text
from lmtailor.readouts.verbalizer import Verbalizer


def test_names() -> None:
    assert {name: get_readout(name) for name in READOUTS} == {
        "chat": Chat,
        "head": Head,
        "options": Options,
        "span": Span,
        "tags": Tags,
        "text": Text,
        "verbalizer": Verbalizer,
    }
    assert readout_name(Head()) == "head"
    assert readout_name(Verbalizer("{a} {mask}", {"0": ("bad",), "1": ("good",)})) == "verbalizer"
    with pytest.raises(InputError, match="Did you mean head"):
        get_readout("haed")


def test_a_readout_without_a_name() -> None:
    class Own(Head):
        pass

    with pytest.raises(InputError, match="Own is none of the readouts that have a name: chat, head, options, "):
        readout_name(Own())
