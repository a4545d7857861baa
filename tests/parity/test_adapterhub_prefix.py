"""Prefixes and MAM against what AdapterHub's library computed, whose prefixes no safetensors folder holds.

T5 is left out: the library counts a prefix's slots as positions of keys and not of queries, so that all distances of the input's
own tokens, and with them their biases, are off by the prefix's length.
"""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from lmtailor.edits.attach import attach
from lmtailor.edits.edit import Edit
from lmtailor.edits.edits import Edits
from lmtailor.methods.mam import EVERYWHERE, MAM
from lmtailor.methods.parallel_adapter import ParallelAdapter
from lmtailor.methods.prefix import NetworkPrefix, PlainPrefix, Prefix
from tests.edits.worn import Worn, apart, logits
from tests.parity.adapterhub import Stored, stored

_NETWORK = {
    "embedding_NW": "wte.weight",
    "hidden_MW": "control_trans.0.weight",
    "hidden_bias_M": "control_trans.0.bias",
    "output_OM": "control_trans.2.weight",
    "output_bias_O": "control_trans.2.bias",
}
_FEED = {"down_MH": "down.0.weight", "down_bias_M": "down.0.bias", "up_HM": "up.weight", "up_bias_H": "up.bias"}


def prefix_of(edit: Edit, theirs: Mapping[str, Tensor]) -> Edit:
    """A prefix with the library's values; it calls those of a decoder, or of the only stack, `self`."""
    place = "cross" if edit.site.endswith(".cross") else "encoder" if edit.site.startswith("encoder.") else "self"
    own = {name.split(f".it.{place}_prefix.")[-1]: value for name, value in theirs.items() if f".it.{place}_prefix." in name}
    if isinstance(edit, NetworkPrefix):
        return edit.with_tensors({field: own[name] for field, name in _NETWORK.items()})
    assert isinstance(edit, PlainPrefix)
    layers, _, heads, length, width = edit.prefix_L2KND.shape
    flat = own["control_trans"].view(length, layers, 2, heads, width)
    return edit.with_tensors({"prefix_L2KND": flat.permute(1, 2, 3, 0, 4)})


def found(one: Stored, edits: Edits) -> Tensor:
    with torch.no_grad(), attach(one.base, Worn(edits)):
        return logits(one.base, one.inputs)


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "bart"])
def test_a_prefix(key: str) -> None:
    one = stored(key)
    shapes = Prefix(length=3, at=EVERYWHERE, shift=False).edits(one.base.sites, None)
    edits = Edits(tuple(prefix_of(edit, one.of("prefix/adapter")) for edit in shapes))
    wanted = one.tensors["prefix/logits"]
    assert apart(wanted, one.tensors["plain/logits"]) > 0.05
    assert apart(found(one, edits), wanted) < 1e-5


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "bart"])
def test_mix_and_match(key: str) -> None:
    one = stored(key)
    theirs, base = one.of("mam/adapter"), one.base
    prefix = Prefix(length=3, reparam="mlp", hidden=5, at=EVERYWHERE, shift=False)
    method = MAM(prefix=prefix, adapter=ParallelAdapter(reads="residual"))
    out: list[Edit] = []
    for edit in method.edits(base.sites, None):
        if isinstance(edit, NetworkPrefix):
            out.append(prefix_of(edit, theirs))
            continue
        site = base.sites[edit.site]
        block = next(stack for stack in base.stacks if stack.name == site.stack).blocks[site.block or 0]
        own = {name.split("adapter_")[-1]: v for name, v in theirs.items() if name.startswith(f"{block}.") and "adapter_" in name}
        out.append(edit.with_tensors({field: own[name] for field, name in _FEED.items()}))
    edits, wanted = Edits(tuple(out)), one.tensors["mam/logits"]
    assert apart(found(one, edits), wanted) < 1e-5
    assert apart(found(one, method.finished(edits)[1]), wanted) < 1e-5
