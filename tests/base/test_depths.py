"""The states at every depth, against transformers' own."""

import pytest
import torch

from lmtailor.base.depths import depths
from tests.tiny import FAMILIES, tiny_base, tiny_inputs


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_the_states_that_transformers_gives(family: str) -> None:
    base = tiny_base(family)
    inputs = {name: value for name, value in tiny_inputs(base).items() if not name.startswith("decoder_")}
    model = base.trunk.get_encoder() if base.kind == "encoder-decoder" else base.trunk
    with torch.no_grad():
        own = depths(base, inputs)
        theirs = model(**inputs, output_hidden_states=True).hidden_states
    assert len(own) == len(theirs) == 1 + len(base.stacks[0].blocks)
    for mine, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_no_hook_is_left() -> None:
    base = tiny_base("bert")
    with torch.no_grad():
        depths(base, tiny_inputs(base))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.trunk.encoder.layer)  # type: ignore[union-attr]
