"""Unions: all parts act, and each part's own start, plain form and rates hold."""

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.union import Union
from tests.conformance.table import count_of
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.tiny import tiny_inputs


def count(method: Union, base: Base) -> int:
    """The sum over the parts."""
    return sum(count_of(part.variant_name())(part, base) for part in method.parts)


def test_plus_makes_one_flat_union() -> None:
    one = LoRA() + Prefix() + BitFit()
    assert one == Union(parts=(LoRA(), Prefix(), BitFit())) == LoRA() + (Prefix() + BitFit())


def test_a_union_is_its_parts_one_after_the_other() -> None:
    """Of LoRA and biases both are additions to the output, so the parts' weights add up in a copy."""
    base = base_of("bert")
    union = LoRA(rank=2) + LoRA(rank=3, at="block.*.attn.{q,k}") + BitFit()
    edits = perturbed(union.edits(base.sites, generator(0)))
    parts = edits.split()
    assert [len(part) for part in parts] == [8, 8, len(BitFit().edits(base.sites, None))]
    with torch.no_grad():
        found = []
        for own in (edits, *(Edits(part.items) for part in parts)):
            with attach(base, Worn(own)):
                found.append(logits(base, tiny_inputs(base)))
    assert all(apart(found[0], one) > 1e-3 for one in found[1:]), "every part has its share"
    together = Edits(tuple(edit for part in reversed(parts) for edit in part))
    with torch.no_grad(), attach(base, Worn(together)):
        assert apart(logits(base, tiny_inputs(base)), found[0]) < 1e-5


def test_a_part_is_brought_into_its_plain_form() -> None:
    base = base_of("llama")
    union = LoRA(rank=2) + Prefix(length=3, reparam="mlp", hidden=8)
    edits = perturbed(union.edits(base.sites, generator(0)))
    plain, finished = union.finished(edits)  # type: ignore[attr-defined]
    assert plain == LoRA(rank=2) + Prefix(length=3, reparam=None, hidden=8)
    with torch.no_grad(), attach(base, Worn(edits)):
        wanted = logits(base, tiny_inputs(base))
    with torch.no_grad(), attach(base, Worn(finished)):
        assert apart(logits(base, tiny_inputs(base)), wanted) < 1e-5


def test_settings_name_the_parts() -> None:
    union = LoRA(rank=3) + BitFit()
    table = to_mapping(union)
    assert table["parts"][0]["name"] == "lora"  # type: ignore[index]
    assert from_mapping(Union, table) == union
    with pytest.raises(InputError, match=r"parts\[0\]\.name must be one of .*; found the text \"lorra\".*Did you mean lora"):
        from_mapping(Union, {"parts": [{"name": "lorra"}, "bitfit"]})


@pytest.mark.parametrize("parts", [(), (LoRA(),)])
def test_a_union_has_two_parts_or_more(parts: tuple[Method, ...]) -> None:
    with pytest.raises(InputError, match="two parts or more"):
        Union(parts=parts).edits(base_of("bert").sites, None)
