"""Every method on every architecture: it works there, or says why it has no meaning there."""

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import SiteError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods import catalogue
from lmtailor.methods.method import Method, Starts
from tests.conformance.table import WORDS
from tests.edits.worn import Worn, base_of, logits, perturbed
from tests.tiny import FAMILIES, tiny_inputs


def edited(base: Base, method: Method) -> Tensor | str:
    """Logits under edits of the method that are away from their start, or why there are none."""
    rng = generator(0, "start")
    try:
        edits = method.edits(base.sites, rng)
        if isinstance(method, Starts):
            edits = method.started(edits, base, WORDS, rng)
        with torch.no_grad(), attach(base, Worn(perturbed(edits))):
            return logits(base, tiny_inputs(base))
    except (UnsupportedError, SiteError) as error:
        return str(error)


@pytest.mark.parametrize("key", FAMILIES)
@pytest.mark.parametrize("name", catalogue())
def test_a_method_gives_finite_logits_or_names_the_model_that_it_refuses(name: str, key: str) -> None:
    base, cls = base_of(key), catalogue()[name]
    found = edited(base, cls(**cls.examples[0]))
    if isinstance(found, str):
        assert base.sites.model_type in found
        assert len(found.split()) > 6, "a reason is more than a refusal"
        return
    assert found.isfinite().all()
    with torch.no_grad():
        own = logits(base, tiny_inputs(base))
    assert found.shape == own.shape
    assert name == "frozen" or not torch.equal(found, own)
