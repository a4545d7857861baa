"""What holds of every method, whatever it is."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edit import Edit
from lmtailor.edits.kinds import NormEdit, ProjectionEdit, WeightEdit
from lmtailor.methods import catalogue
from lmtailor.methods.method import Finishes
from tests.conformance.table import REFUSED, SUPPORTED, TRAINED, Cell, count_of, every, table
from tests.edits.worn import Worn, all_apart, apart, backward, base_of, logits
from tests.tiny import tiny_base, tiny_inputs


def plain(base: Base) -> Tensor:
    with torch.no_grad():
        return logits(base, tiny_inputs(base))


def edited(base: Base, worn: Worn) -> Tensor:
    with torch.no_grad(), attach(base, worn):
        return logits(base, tiny_inputs(base))


# what a method says of itself


@pytest.mark.parametrize("name", catalogue())
def test_a_method_is_described(name: str) -> None:
    method = catalogue()[name]
    assert method.paper
    assert method.formula
    assert method.__doc__
    assert method.examples, "a method shows how it is used on a toy model"


@pytest.mark.parametrize("name", catalogue())
def test_a_method_runs_somewhere_in_each_of_its_ways(name: str) -> None:
    for number in range(len(catalogue()[name].examples)):
        assert any(cell.name == name and cell.number == number for cell in SUPPORTED)


@every(REFUSED)
def test_a_refusal_has_a_reason(cell: Cell) -> None:
    """It names the model or what was asked for, and says more than that it cannot be."""
    reason = table()[cell]
    settings = catalogue()[cell.name].examples[cell.number]
    assert cell.base.sites.model_type in reason or any(str(value) in reason for value in settings.values())
    assert len(reason.split()) > 6


@every(SUPPORTED)
def test_the_number_of_parameters_is_the_formula_s(cell: Cell) -> None:
    assert cell.shapes().num_parameters == count_of(cell.name)(cell.method, cell.base)


# starts


@every(SUPPORTED)
def test_the_start_is_as_declared(cell: Cell) -> None:
    base = cell.base
    distance = apart(edited(base, Worn(cell.start())), plain(base))
    declared = cell.method.start
    bounds = {"identity": (0.0, 1e-5), "near": (1e-7, 0.05), "elsewhere": (1e-4, float("inf"))}[declared]
    assert bounds[0] <= distance < bounds[1]


@every(SUPPORTED)
def test_the_start_is_a_function_of_the_seed(cell: Cell) -> None:
    """And of no other random numbers."""
    torch.manual_seed(1)
    first, state = cell.start(seed=7).state(), torch.get_rng_state()
    torch.manual_seed(2)
    again = cell.start(seed=7).state()
    assert first.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


@every(SUPPORTED)
def test_shapes_need_no_memory(cell: Cell) -> None:
    shapes, real = cell.shapes(), cell.method.edits(cell.base.sites, generator(0))
    assert {name: value.shape for name, value in shapes.state().items()} == {
        name: value.shape for name, value in real.state().items()
    }
    assert all(value.is_meta for value in shapes.state().values())
    assert all(value.dtype == torch.float32 for value in real.state().values())
    assert [(type(edit), edit.site) for edit in shapes] == [(type(edit), edit.site) for edit in real]
    started = cell.start()
    assert {name: value.shape for name, value in started.state().items()} == {name: v.shape for name, v in shapes.state().items()}


# training


def gradients(base: Base, worn: Worn) -> dict[str, Tensor]:
    """Of every trained tensor."""
    inputs = tiny_inputs(base)
    with attach(base, worn):
        backward(logits(base, inputs).square().mean())
    out = {}
    for name, tensor in worn.edits.state().items():
        assert tensor.grad is not None, f"no gradient reached {name}"
        out[name], tensor.grad = tensor.grad, None
    return out


@every(TRAINED)
def test_gradients_reach_what_is_trained_and_nothing_else(cell: Cell) -> None:
    base, worn = cell.base, cell.worn(grad=True)
    for name, gradient in gradients(base, worn).items():
        assert gradient.isfinite().all()
        assert gradient.any(), f"{name} has no influence"
    assert all(parameter.grad is None for parameter in base.model.parameters())


@every(TRAINED)
def test_a_step_of_training_leaves_the_base_as_it_was(cell: Cell) -> None:
    base, worn = cell.base, cell.worn(grad=True)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    first, tensors = edited(base, worn), list(worn.edits.state().values())
    optimizer = torch.optim.AdamW(tensors, lr=0.05)
    for name, gradient in gradients(base, worn).items():
        worn.edits.state()[name].grad = gradient
    optimizer.step()
    assert apart(edited(base, worn), first) > 1e-4, "the step was not seen"
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@every(SUPPORTED)
def test_leaving_restores_the_base_bitwise(cell: Cell) -> None:
    base, wanted = cell.base, plain(cell.base)
    parameters = {name: id(value) for name, value in base.model.named_parameters(remove_duplicate=False)}
    distance = apart(edited(base, cell.worn()), wanted)
    assert distance > 1e-3 or cell not in TRAINED, "the edits do nothing"
    assert torch.equal(plain(base), wanted)
    assert {name: id(value) for name, value in base.model.named_parameters(remove_duplicate=False)} == parameters


@every(SUPPORTED)
def test_a_state_comes_back_exactly(cell: Cell) -> None:
    base, worn = cell.base, cell.worn()
    state = {name: value.clone() for name, value in worn.edits.state().items()}
    again = cell.shapes().with_state(state).with_fixed(worn.edits.fixed())
    assert all(torch.equal(value, state[name]) for name, value in again.state().items())
    assert torch.equal(edited(base, Worn(again)), edited(base, worn))


@every(cell for cell in SUPPORTED if isinstance(cell.method, Finishes))
def test_what_is_kept_computes_what_was_trained(cell: Cell) -> None:
    base, method, worn = cell.base, cell.method, cell.worn()
    assert isinstance(method, Finishes)
    kept, finished = method.finished(worn.edits)
    assert apart(edited(base, Worn(finished)), edited(base, worn)) < 1e-5
    expected = kept.edits(base.sites, None).state()
    assert {name: value.shape for name, value in finished.state().items()} == {n: v.shape for n, v in expected.items()}


# checkpointing and precision


@cache
def in_training(key: str, checkpointing: bool) -> Base:
    """A base in training mode; transformers checkpoints blocks in no other."""
    base = tiny_base(key)
    base.model.train()
    for module in base.model.modules():
        if isinstance(module, PreTrainedModel):
            module.config.use_cache = False
    if checkpointing:
        base.model.activation_checkpointing_enable()
    return base


@cache
def in_bfloat16(key: str) -> Base:
    return Base.from_model(tiny_base(key).model.bfloat16(), base_of(key).tokenizer)


@every(TRAINED)
def test_gradients_do_not_depend_on_checkpointing(cell: Cell) -> None:
    worn = cell.worn(grad=True)
    wanted = gradients(in_training(cell.base_key, False), worn)
    found = gradients(in_training(cell.base_key, True), worn)
    assert all_apart(list(found.values()), list(wanted.values())) < 1e-4


@every(SUPPORTED)
def test_bfloat16_is_close_to_float32(cell: Cell) -> None:
    base, half, worn = cell.base, in_bfloat16(cell.base_key), cell.worn()
    bound = 0.02 + 4 * apart(plain(half), plain(base))
    found = edited(half, worn)
    assert found.dtype == torch.bfloat16
    assert apart(found, edited(base, worn)) < bound


@every(SUPPORTED)
def test_autocast_is_close_to_float32(cell: Cell) -> None:
    base, worn = cell.base, cell.worn(grad=True)
    wanted = edited(base, worn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, found = plain(base), edited(base, worn)
        if cell in TRAINED:
            assert all(gradient.isfinite().all() for gradient in gradients(base, worn).values())
    assert apart(found, wanted) < 0.02 + 4 * apart(rounded, plain(base))


# merging


def fold(base: Base, model: nn.Module, edit: Edit) -> None:
    """Change the weights of a copy of the base's model as one edit says."""
    if isinstance(edit, WeightEdit):
        parameter = dict(model.named_parameters(remove_duplicate=False))[edit.site]
        parameter.data = edit.weight(parameter)
        return
    site = base.sites[edit.site]
    module = model.get_submodule(site.module)
    weight, bias = module.get_parameter("weight").data, module._parameters.get("bias")
    shift = None if bias is None else bias.data
    if isinstance(edit, NormEdit):
        unit = base.norm(site).unit
        gain, shift = edit.fold(weight + unit, shift)
        weight = gain - unit
    else:
        assert isinstance(edit, ProjectionEdit)
        transposed = base.linear(site).transposed
        whole = (weight.T if transposed else weight).clone()
        rows = torch.arange(len(whole)) if site.part is None else site.part.rows()
        new, new_shift = edit.fold(whole[rows], None if shift is None else shift[rows])
        whole[rows] = new
        if new_shift is not None:
            shift = torch.zeros(len(whole)) if shift is None else shift.clone()
            shift[rows] = new_shift
        weight = whole.T if transposed else whole
    module.register_parameter("weight", nn.Parameter(weight))
    if shift is not None:
        module.register_parameter("bias", nn.Parameter(shift))


@every(cell for cell in TRAINED if cell.foldable)
def test_folded_weights_do_what_the_edits_do(cell: Cell) -> None:
    base, worn = cell.base, cell.worn()
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for edit in worn.edits:
            fold(base, model, edit)
        merged = model(**tiny_inputs(base)).logits
    assert apart(merged, edited(base, worn)) < 1e-4


@every(cell for cell in SUPPORTED if not cell.shares_batch)
def test_weights_do_not_share_a_batch(cell: Cell) -> None:
    with pytest.raises(UnsupportedError, match="cannot share a batch"):
        attach(cell.base, [cell.worn()], [0, None])
