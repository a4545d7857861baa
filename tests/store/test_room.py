"""Virtual tokens take positions from the input, and must leave some."""

import pytest

from lmtailor.core.errors import InputError
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.store.adapter import new_adapter, virtual_tokens
from tests.tiny import tiny_base


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt", "bart", "t5"])
def test_virtual_tokens_that_leave_no_room_are_refused_with_positions_of_any_kind(family: str) -> None:
    base = tiny_base(family)
    for method in (Prefix(length=base.max_length), SoftPrompt(length=base.max_length + 1)):
        with pytest.raises(InputError, match="128 tokens in all"):
            new_adapter(base, method=method)
    assert virtual_tokens(new_adapter(base, method=Prefix(length=base.max_length - 1)).edits) == base.max_length - 1
