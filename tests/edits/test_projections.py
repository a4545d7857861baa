"""Edits of projections: parts of fused ones, changed inputs, several edits at one place."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.base.views import LinearView
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.edits.edit import Context, Edit
from lmtailor.edits.kinds import ProjectionEdit
from lmtailor.methods.lora import LoRAEdit
from tests.edits.worn import Added, Affine, Scale, apart, backward, base_of, logits, noise, outputs_of, row, wear, worn
from tests.tiny import FAMILIES, tiny_base, tiny_inputs

FUSED = ("gpt2", "gpt_neox", "phi3", "modernbert")


def parts_of(base: Base, fused: str, output: Tensor) -> dict[str, Tensor]:
    """The parts of a fused projection's output, cut as the model's own file cuts it."""
    model, hidden = base.model.config.model_type, base.hidden_size
    if fused.endswith("gate_up"):
        gate, up = output.chunk(2, -1)
        return {"gate": gate, "up": up}
    if model == "gpt_neox":
        heads = output.view(*output.shape[:-1], base.model.config.num_attention_heads, -1)
        return dict(zip("qkv", heads.chunk(3, -1), strict=True))
    if model == "phi3":
        wide = base.model.config.num_key_value_heads * (hidden // base.model.config.num_attention_heads)
        return dict(zip("qkv", torch.split(output, [hidden, wide, wide], -1), strict=True))
    return dict(zip("qkv", output.chunk(3, -1), strict=True))


@pytest.mark.parametrize("key", FUSED)
def test_an_edit_of_a_part_changes_that_part_alone(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    parts = [site for site in base.sites.values() if site.part is not None and site.block == 1]
    assert {site.name.rsplit(".", 1)[1] for site in parts} >= {"q", "k", "v"}
    for site in parts:
        assert site.fused is not None
        module = base.module(site.module)
        with outputs_of(module) as plain:
            logits(base, inputs)
        edit = Added(site=site.name, shift_O=noise(site.width) + 1.0)
        with attach(base, worn(edit)), outputs_of(module) as edited:
            logits(base, inputs)
        before, after = (parts_of(base, site.fused, calls[0]) for calls in (plain, edited))
        for name, part in after.items():
            if site.name.endswith(f".{name}"):
                # Heads stand in their order, so the shifts fall to the features one after the other.
                assert apart(part, before[name] + edit.shift_O.view(part.shape[-2:] if key == "gpt_neox" else -1)) < 1e-6
            else:
                assert torch.equal(part, before[name]), f"{site.name} changed {name}"


def folded(base: Base, edits: Sequence[Edit]) -> nn.Module:
    """A copy of the model with the edits of its projections folded into the weights."""
    model = copy.deepcopy(base.model)
    for edit in edits:
        assert isinstance(edit, ProjectionEdit)
        site = base.sites[edit.site]
        assert site.part is None
        linear = model.get_submodule(site.module)
        own, transposed = linear.get_parameter("weight"), base.linear(site).transposed
        weight, bias = edit.fold(own.T if transposed else own, linear._parameters["bias"])
        linear.register_parameter("weight", nn.Parameter(weight.T if transposed else weight))
        linear.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    return model


@pytest.mark.parametrize("key", [key for key in FAMILIES if key != "albert"])
def test_inputs_and_outputs_are_edited(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    site = next(site for site in base.sites.values() if site.name.endswith("block.1.ffn.down"))
    o = next(site for site in base.sites.values() if site.name.endswith("block.2.attn.o"))
    assert site.in_width is not None
    edits = [
        Scale(site=site.name, gain_I=1 + noise(site.in_width)),
        Affine(site=o.name, gain_O=1 + noise(o.width, seed=1), shift_O=noise(o.width, seed=2)),
    ]
    with attach(base, worn(*edits)):
        edited = logits(base, inputs)
    assert apart(edited, folded(base, edits)(**inputs).logits) < 1e-5


def test_shared_projections_are_edited_call_by_call() -> None:
    base = base_of("albert")
    inputs, site = tiny_inputs(base), base.sites["block.3.attn.q"]
    edit = Added(site=site.name, shift_O=noise(site.width))
    with outputs_of(base.module(site.module)) as plain:
        logits(base, inputs)
    with attach(base, worn(edit)), outputs_of(base.module(site.module)) as edited:
        logits(base, inputs)
    assert len(edited) == site.calls > 1
    assert torch.equal(edited[0], plain[0])
    assert apart(edited[site.call], plain[site.call] + edit.shift_O) < 1e-6


@pytest.mark.parametrize("key", FUSED)
def test_the_input_of_a_part_cannot_be_edited(key: str) -> None:
    base = base_of(key)
    site, whole = base.sites["block.0.attn.q"], base.sites["block.0.attn.qkv"]
    with pytest.raises(UnsupportedError, match=r"part of the fused block\.0\.attn\.qkv.*share one input"):
        attach(base, worn(Scale(site=site.name, gain_I=noise(48))))
    edits = [Scale(site=whole.name, gain_I=1 + noise(48))]
    inputs = tiny_inputs(base)
    with attach(base, worn(*edits)):
        edited = logits(base, inputs)
    assert apart(edited, folded(base, edits)(**inputs).logits) < 1e-5


def test_an_edit_sees_the_input_that_the_projection_saw() -> None:
    """LoRA after a scale of the input acts on the scaled input, as folding them in that order does."""
    base = base_of("llama")
    inputs, site = tiny_inputs(base), base.sites["block.1.ffn.down"]
    assert site.in_width is not None
    lora = wear(base, "lora", rank=2, at="block.1.ffn.down").edits
    scale = Scale(site=site.name, gain_I=1 + noise(site.in_width))
    with attach(base, worn(*lora, scale)):
        edited = logits(base, inputs)
    assert apart(edited, folded(base, [*lora, scale])(**inputs).logits) < 1e-5


def chains() -> list[list[Edit]]:
    """Three edits at one site, in several orders and numbers."""
    site = "block.1.attn.o"
    one = Affine(site=site, gain_O=1 + noise(48, seed=1), shift_O=noise(48, seed=2))
    two = Affine(site=site, gain_O=1 + noise(48, seed=3), shift_O=noise(48, seed=4))
    three = Added(site=site, shift_O=noise(48, seed=5))
    scale = Scale(site=site, gain_I=1 + noise(48, seed=6))
    return [[one, two, three], [two, one, three], [three, two, one], [one], [scale, three, scale], []]


def test_edits_of_one_site_act_in_their_order_in_every_row() -> None:
    base = base_of("llama")
    inputs = tiny_inputs(base, rows=7, seed=3)
    with torch.no_grad(), attach(base, [worn(*chain) for chain in chains()], [*range(6), None]):
        mixed = logits(base, inputs)
    for number, chain in enumerate([*chains(), []]):
        one = row(inputs, number)
        reference = folded(base, chain)(**one).logits
        assert apart(mixed[number : number + 1, : reference.shape[1]], reference) < 1e-5, number
    assert apart(mixed[0], mixed[1]) > 1e-3


def test_one_call_serves_all_rows_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight adapters of two ranks at one site are one batched call, whatever rows wear them."""
    base = base_of("gpt2")
    adapters = [wear(base, "lora", i, rank=1 + i % 2, at="block.0.attn.o") for i in range(8)]
    calls: list[int] = []
    output = LoRAEdit.output

    def counted(self: LoRAEdit, x: Tensor, y: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        calls.append(len(x))
        return output(self, x, y, lin, ctx)

    monkeypatch.setattr(LoRAEdit, "output", counted)
    with torch.no_grad(), attach(base, adapters, [3, 0, 1, 2, 7, 5, 4, 6, 0, 0, None]):
        logits(base, tiny_inputs(base, rows=11))
    assert calls == [10]


def test_changed_tensors_act_at_once() -> None:
    """Stacked tensors are kept between passes; a step of an optimizer must be seen by the next one."""
    base = tiny_base("gpt2")
    one, two = (wear(base, "lora", i, rank=2, grad=True) for i in range(2))
    inputs = tiny_inputs(base, rows=2)
    with attach(base, [one, two], [0, 1]), torch.no_grad():
        before = logits(base, inputs)
        for tensor in one.edits.state().values():
            tensor.add_(0.5)
        after = logits(base, inputs)
        assert apart(after[0], before[0]) > 1e-2
        assert torch.equal(after[1], before[1])


def test_inference_mode_leaves_nothing_that_autograd_refuses() -> None:
    """Evaluation in inference mode between steps of training, in one attach."""
    base = tiny_base("bert")
    trained = [wear(base, "lora", i, grad=True) for i in range(2)]
    adapters = [worn(*one.edits, *wear(base, "houlsby", 5 + i, bottleneck=3).edits) for i, one in enumerate(trained)]
    inputs = tiny_inputs(base, rows=2)
    with attach(base, adapters, [0, 1]):
        with torch.inference_mode():
            logits(base, inputs)
        backward(logits(base, inputs).square().mean())
    assert all(tensor.grad is not None for one in trained for tensor in one.edits.state().values())
