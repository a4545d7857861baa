"""P-tuning v2 is a prefix, so what is compared with others is the prefix; here, that it is one."""

import pytest

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.methods.p_tuning_v2 import PTuningV2
from lmtailor.methods.prefix import Prefix
from tests.edits.worn import base_of
from tests.methods.test_prefix import count as count_of_prefix


def count(method: PTuningV2, base: Base) -> int:
    """L · 2 · N · W."""
    return count_of_prefix(Prefix(length=method.length, at=method.at), base)


@pytest.mark.parametrize("key", ["bert", "llama", "t5"])
def test_it_is_a_prefix_and_is_kept_as_one(key: str) -> None:
    sites = base_of(key).sites
    method = PTuningV2(length=4, at="block.[1:].attn")
    edits, prefix = method.edits(sites, generator(3)), Prefix(length=4, at="block.[1:].attn", reparam=None)
    expected = prefix.edits(sites, generator(3)).state()
    assert {name: value.tolist() for name, value in edits.state().items()} == {n: v.tolist() for n, v in expected.items()}
    kept, finished = method.finished(edits)
    assert kept == prefix
    assert finished is edits


def test_settings_are_the_prefix_s() -> None:
    with pytest.raises(InputError, match="length is 0; a prefix needs at least 1"):
        PTuningV2(length=0)
