"""UniPELT against what AdapterHub's library computed, as `scripts/fixtures/unipelt.py` stored it.

T5 is left out for the library's biases, see `test_adapterhub_prefix`.
"""

from collections.abc import Mapping

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.attach import attach
from lmtailor.edits.edit import Edit
from lmtailor.edits.edits import Edits
from lmtailor.methods.unipelt import GatedBottleneck, GatedLoRA, GatedPrefix, UniPELT
from tests.edits.worn import Worn, apart, logits
from tests.parity.adapterhub import FOLDER, stored

METHOD = UniPELT(
    length=3,
    reduction=4,
    rank=2,
    prefix_at="block.*.{attn,cross}",
    lora_at="block.*.{attn,cross}.{q,v}",
)
_NETWORK = {
    "down_MH": "adapter_down.0.weight",
    "down_bias_M": "adapter_down.0.bias",
    "up_HM": "adapter_up.weight",
    "up_bias_H": "adapter_up.bias",
    "gate_bias_1": "gate.bias",
}


def theirs_of(key: str) -> dict[str, Tensor]:
    """The file of a model."""
    with safe_open(FOLDER / f"unipelt_{key}.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary


def given(edit: Edit, base: Base, theirs: Mapping[str, Tensor]) -> Edit:
    """An edit with the library's values."""
    if isinstance(edit, GatedPrefix):
        return prefix_of(edit, base, theirs)
    site = base.sites[edit.site]
    if isinstance(edit, GatedLoRA):
        start = f"adapter/{site.module}.loras.it."
        a, b, gate, bias = (theirs[f"{start}{name}"] for name in ("lora_A", "lora_B", "gate.weight", "gate.bias"))
        if site.part is not None:  # GPT-2: q and v one after the other
            part = 0 if site.name.endswith(".q") else 1
            a, b, gate, bias = (x.chunk(2)[part] for x in (a, b, gate, bias))
        return edit.with_tensors({"a_KI": a, "b_OK": b, "gate_I": gate[0], "gate_bias_1": bias})
    assert isinstance(edit, GatedBottleneck)
    assert site.block is not None
    stack = next(stack for stack in base.stacks if stack.name == site.stack)
    start = f"adapter/{stack.blocks[site.block]}."
    own = {
        name.split(".adapters.it.")[1]: value for name, value in theirs.items() if name.startswith(start) and ".adapters." in name
    }
    tensors = {field: own[name] for field, name in _NETWORK.items()}
    return edit.with_tensors({**tensors, "gate_H": own["gate.weight"][0]})


def prefix_of(edit: GatedPrefix, base: Base, theirs: Mapping[str, Tensor]) -> Edit:
    """A prefix; the library calls those of a decoder, or of the only stack, `self`."""
    place = "cross" if edit.site.endswith(".cross") else "encoder" if edit.site.startswith("encoder.") else "self"
    (flat,) = (value for name, value in theirs.items() if name.endswith(f"{place}_prefix.control_trans"))
    layers, _, heads, length, width = edit.prefix_L2KND.shape
    attentions = [base.sites[name].attention for name in edit.sites]
    gates = [f"adapter/{one.module}.prefix_tuning.prefix_gates.it." for one in attentions if one is not None]
    return edit.with_tensors(
        {
            "prefix_L2KND": flat.view(length, layers, 2, heads, width).permute(1, 2, 3, 0, 4),
            "gate_LH": torch.cat([theirs[f"{gate}weight"] for gate in gates]),
            "gate_bias_L": torch.cat([theirs[f"{gate}bias"] for gate in gates]),
        }
    )


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "bart"])
def test_unipelt(key: str) -> None:
    base, theirs = stored(key).base, theirs_of(key)
    method = METHOD if key == "bart" else UniPELT(length=3, reduction=4, rank=2)
    edits = Edits(tuple(given(edit, base, theirs) for edit in method.edits(base.sites, None)))
    inputs = {name.removeprefix("inputs/"): value for name, value in theirs.items() if name.startswith("inputs/")}
    with torch.no_grad():
        plain = logits(base, inputs)
        with attach(base, Worn(edits)):
            found = logits(base, inputs)
    assert apart(theirs["logits"], plain) > 0.05
    assert apart(found, theirs["logits"]) < 1e-5
