"""Readouts by name."""

import pytest

from lmtailor.core.errors import InputError
from lmtailor.readouts.head import Head
from lmtailor.readouts.registry import READOUTS, get_readout, readout_name
from lmtailor.readouts.verbalizer import Verbalizer


def test_names() -> None:
    assert {name: get_readout(name) for name in READOUTS} == {"head": Head, "verbalizer": Verbalizer}
    assert readout_name(Head()) == "head"
    assert readout_name(Verbalizer("{a} {mask}", {"0": ("bad",), "1": ("good",)})) == "verbalizer"
    with pytest.raises(InputError, match="Did you mean head"):
        get_readout("haed")
