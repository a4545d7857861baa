"""Parameters that are swapped while attached."""

import copy
from dataclasses import replace

import pytest
import torch

from lmtailor.core.errors import SiteError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.edits.kinds import DenseWeight, SparseWeight
from tests.edits.worn import apart, backward, base_of, logits, noise, wear, worn
from tests.tiny import tiny_base, tiny_inputs

TIED = {
    "bert": "bert.embeddings.word_embeddings.weight",
    "gpt2": "transformer.wte.weight",
    "t5": "shared.weight",
    "bart": "model.shared.weight",
}


@pytest.mark.parametrize("key", TIED)
def test_tied_weights_are_replaced_together(key: str) -> None:
    """The word embeddings serve as encoder's, decoder's and LM head's; one edit replaces them all."""
    base = tiny_base(key)
    own = dict(base.model.named_parameters(remove_duplicate=False))[TIED[key]]
    names = [name for name, value in base.model.named_parameters(remove_duplicate=False) if value is own]
    assert len(names) > 1
    value = own.detach() + noise(*own.shape)
    changed = copy.deepcopy(base.model)
    with torch.no_grad():
        changed.get_parameter(TIED[key]).copy_(value)
    inputs = tiny_inputs(base)
    with attach(base, worn(DenseWeight(site=TIED[key], value=value))):
        assert apart(logits(base, inputs), changed(**inputs).logits) == 0
        places = dict(base.model.named_parameters(remove_duplicate=False))
        assert all(places[name] is value for name in names)
    assert all(dict(base.model.named_parameters(remove_duplicate=False))[name] is own for name in names)


def test_every_name_of_a_tied_weight_will_do() -> None:
    base = base_of("gpt2")
    inputs, value = tiny_inputs(base), noise(*base.model.get_parameter("lm_head.weight").shape)
    with attach(base, worn(DenseWeight(site="transformer.wte.weight", value=value))):
        wanted = logits(base, inputs)
    with attach(base, worn(DenseWeight(site="lm_head.weight", value=value))):
        assert torch.equal(logits(base, inputs), wanted)


def test_sparse_entries_replace_those_of_the_base() -> None:
    base = tiny_base("llama")
    path = "model.layers.1.mlp.up_proj.weight"
    own = base.model.get_parameter(path)
    index = torch.randperm(own.numel())[:50]
    edit = SparseWeight(site=path, index=index, value=noise(50).requires_grad_())
    changed = copy.deepcopy(base.model)
    with torch.no_grad():
        changed.get_parameter(path).view(-1)[index] = edit.value
    inputs = tiny_inputs(base)
    changed.requires_grad_(True)
    wanted = changed(**inputs).logits
    backward(wanted.square().sum())
    with attach(base, worn(edit)):
        found = logits(base, inputs)
        backward(found.square().sum())
    assert apart(found, wanted) == 0
    gradient = changed.get_parameter(path).grad
    assert gradient is not None
    assert edit.value.grad is not None
    assert apart(edit.value.grad, gradient.view(-1)[index]) < 1e-5


def test_a_changed_sparse_entry_acts_in_the_next_pass() -> None:
    base = base_of("llama")
    edit = SparseWeight(site="model.layers.1.mlp.up_proj.weight", index=torch.arange(9), value=noise(9))
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, worn(edit)):
        before = logits(base, inputs)
        edit.value.add_(1.0)
        assert apart(logits(base, inputs), before) > 1e-4


@pytest.mark.parametrize("rows", [[0, 1], [0, None], [1, 0, 0]])
def test_rows_cannot_differ_in_weights(rows: list[int | None]) -> None:
    base = base_of("gpt2")
    weights = wear(base, "select", at="block.0.attn")
    assert not weights.edits.shares_batch
    with pytest.raises(UnsupportedError, match="cannot share a batch"):
        attach(base, [weights, wear(base, "lora")], rows)


def test_rows_that_agree_in_weights_may_share_them() -> None:
    base = base_of("gpt2")
    weights, inputs = wear(base, "select", at="block.0.attn"), tiny_inputs(base, rows=2)
    with torch.no_grad(), attach(base, weights):
        wanted = logits(base, inputs)
    with torch.no_grad(), attach(base, [weights, wear(base, "lora")], [0, 0]):
        assert torch.equal(logits(base, inputs), wanted)


def test_unknown_parameters_and_wrong_shapes_raise() -> None:
    base = base_of("gpt2")
    with pytest.raises(SiteError, match=r"no parameter 'transformer\.wte\.wight'. Did you mean transformer\.wte\.weight"):
        attach(base, worn(DenseWeight(site="transformer.wte.wight", value=noise(3))))
    edit = DenseWeight(site="transformer.wte.weight", value=noise(3, 48))
    with pytest.raises(UnsupportedError, match=r"its replacement has \(3, 48\)"), attach(base, worn(edit)):
        pass
    with attach(base, worn(replace(edit, value=noise(*base.model.get_parameter("transformer.wte.weight").shape)))):
        pass


def test_weights_are_cast_to_the_type_of_the_base() -> None:
    base = tiny_base("gpt2")
    base.model.bfloat16()
    weights = wear(base, "select", at="block.0.attn", grad=True)
    with attach(base, weights):
        out = logits(base, tiny_inputs(base))
        backward(out.float().square().mean())
    assert out.dtype == torch.bfloat16
    assert all(
        value.dtype == value.grad.dtype == torch.float32 for value in weights.edits.state().values() if value.grad is not None
    )
    assert all(value.grad is not None for value in weights.edits.state().values())
