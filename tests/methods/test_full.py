"""Every parameter that an answer depends on."""

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.rng import generator
from lmtailor.methods.full import Full
from tests.edits.worn import base_of
from tests.tiny import FAMILIES, tiny_base


def count(method: Full, base: Base) -> int:
    """All numbers in the model; tied ones once."""
    return sum(parameter.numel() for parameter in base.model.parameters())


@pytest.mark.parametrize("key", FAMILIES)
def test_it_starts_at_copies_of_the_base_s_values(key: str) -> None:
    base = base_of(key)
    edits = Full().edits(base.sites, generator(0))
    own = dict(base.model.named_parameters())
    computed = {path for path in own if path.removesuffix(".weight").removeprefix("model.") in base.family.computed}
    assert len(computed) == (2 if key == "marian" else 0)
    assert {edit.site for edit in edits} == own.keys() - computed
    for edit in edits:
        (value,) = edit.trained().values()
        assert torch.equal(value, own[edit.site])
        assert value.data_ptr() != own[edit.site].data_ptr()


def test_it_starts_in_float32_whatever_the_base_has() -> None:
    base = tiny_base("gpt2")
    base.model.bfloat16()
    assert {value.dtype for value in Full().edits(base.sites, generator(0)).state().values()} == {torch.float32}


def test_the_pooler_and_for_other_readouts_the_lm_head_stay_out() -> None:
    headless = tiny_base("bert", head=False)
    assert headless.pooler is not None
    assert not any("pooler" in edit.site for edit in Full().edits(headless.sites, None))
    base = base_of("bert")
    sites = {edit.site for edit in Full().edits(base.sites.without_head(), None)}
    assert sites == {name for name, _ in base.model.named_parameters() if not name.startswith("cls.")}
