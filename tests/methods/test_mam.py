"""MAM is the union of its parts, under a name; parity with AdapterHub is in tests/parity."""

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.edits.attach import attach
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.lora import LoRA
from lmtailor.methods.mam import MAM
from lmtailor.methods.parallel_adapter import ParallelAdapter
from lmtailor.methods.prefix import Prefix
from tests.conformance.table import count_of
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.tiny import tiny_inputs

SMALL = MAM(prefix=Prefix(length=2, reparam="mlp", hidden=5), adapter=ParallelAdapter(bottleneck=3))


def count(method: MAM, base: Base) -> int:
    """The sum over the parts."""
    return sum(count_of(part.variant_name())(part, base) for part in (method.prefix, method.adapter))


def test_the_defaults_are_the_paper_s() -> None:
    edits = MAM().edits(base_of("bart").sites, None)
    assert [edit.site for edit in edits][:3] == ["encoder.block.*.attn", "decoder.block.*.attn", "decoder.block.*.cross"]
    assert {edit.site.rsplit(".", 1)[1] for edit in edits.items[3:]} == {"ffn"}


def test_it_is_the_union_of_its_parts() -> None:
    base = base_of("bert")
    edits, union = SMALL.edits(base.sites, generator(0)), (SMALL.prefix + SMALL.adapter).edits(base.sites, generator(0))
    assert edits.state().keys() == union.state().keys()
    assert all(torch.equal(value, union.state()[name]) for name, value in edits.state().items())


def test_it_adds_to_other_methods() -> None:
    base = base_of("bert")
    both = SMALL + BitFit()
    edits = perturbed(both.edits(base.sites, generator(0)))
    kept, finished = both.finished(edits)  # type: ignore[attr-defined]
    assert kept.parts[0].prefix == Prefix(length=2, hidden=5)
    with torch.no_grad():
        found = []
        for one in (edits, finished):
            with attach(base, Worn(one)):
                found.append(logits(base, tiny_inputs(base)))
    assert apart(found[1], found[0]) < 1e-5


def test_settings() -> None:
    assert from_mapping(MAM, to_mapping(SMALL)) == SMALL
    with pytest.raises(InputError, match="MAM mixes a Prefix and a ParallelAdapter, not LoRA and ParallelAdapter"):
        MAM(prefix=LoRA())
