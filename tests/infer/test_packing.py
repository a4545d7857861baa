"""Sequences packed as trees: the states of plain rows, whatever the tree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.infer.packing import WORTH, by_position, pack, packs, tree_size
from lmtailor.infer.passes import states_of
from lmtailor.methods.frozen import Frozen
from lmtailor.store.adapter import new_adapter
from tests.infer.conftest import Taken
from tests.tiny import FAMILIES, kind_of, tiny_base, tiny_inputs

LLAMA = tiny_base("llama")
SEQUENCE = st.lists(st.integers(10, 13), min_size=1, max_size=7)
EXAMPLE = st.lists(SEQUENCE, min_size=1, max_size=4)


def _inputs(sequences: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, sequences))
    return {
        "input_ids": torch.tensor([own + [0] * (width - len(own)) for own in sequences]),
        "attention_mask": torch.tensor([[1] * len(own) + [0] * (width - len(own)) for own in sequences]),
    }


@given(st.lists(EXAMPLE, min_size=1, max_size=3))
@settings(max_examples=60)
def test_states_are_those_of_plain_rows(examples: list[list[list[int]]]) -> None:
    sequences = [sequence for example in examples for sequence in example]
    inputs = _inputs(sequences)
    packed = pack(inputs, [len(example) for example in examples], torch.float32)
    width = max(map(tree_size, examples))
    assert (packed is None) == (len(examples) * width > WORTH * inputs["input_ids"].numel())
    if packed is None:
        return
    with torch.no_grad():
        plain, ran = LLAMA.hidden(inputs, (1,)), LLAMA.hidden(packed.inputs, (1,))
    spread = packed.spread(ran)
    assert packed.inputs["input_ids"].shape == (len(examples), width)
    for number, sequence in enumerate(sequences):
        for own, other in ((spread.last_NTH, plain.last_NTH), (spread.layers[1], plain.layers[1])):
            torch.testing.assert_close(own[number, : len(sequence)], other[number, : len(sequence)], rtol=1e-5, atol=1e-5)


def test_a_tree_has_each_token_once() -> None:
    assert tree_size([[1, 2, 3], [1, 2, 4], [1, 2, 3], [1, 2], [5, 2]]) == 6


def test_packed_tokens_see_their_own_path_and_stand_at_their_depth() -> None:
    packed = pack(_inputs([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3]]), [3], torch.float32)
    assert packed is not None
    assert packed.inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert packed.inputs["position_ids"].tolist() == [[0, 1, 2, 2, 3]]
    assert packed.spot_NT.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [0, 1, 2, 0]]
    assert (packed.inputs["attention_mask"][0, 0] == 0).long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_where_states_depend_on_path_and_position_alone(family: str) -> None:
    base, nothing = tiny_base(family), Edits()
    decoder = kind_of(family) == "decoder"
    assert by_position(base, nothing) == decoder
    assert packs(base, nothing, 6) == decoder
    assert packs(base, nothing, 7) == (decoder and family not in ("mistral", "gemma2", "gemma3_text"))


def test_not_where_a_rotary_embedding_depends_on_the_batch() -> None:
    base = tiny_base("llama")
    base.trunk.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not by_position(base, Edits())


def test_not_where_attention_takes_no_mask() -> None:
    base = tiny_base("llama")
    base.model.config._attn_implementation_internal = "flash_attention_2"
    assert not packs(base, Edits(), 6)
    assert by_position(base, Edits())


def _plain(base: Base, inputs: dict[str, torch.Tensor]) -> States:
    with torch.no_grad():
        return base.hidden(inputs)


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("equal", [True, False])
def test_encodings_are_shared_only_where_they_are_equal(family: str, equal: bool) -> None:
    base = tiny_base(family)
    inputs = tiny_inputs(base, rows=4)
    if equal:
        inputs = {k: v if k.startswith("decoder") else v[::2].repeat_interleave(2, 0) for k, v in inputs.items()}
    ran: list[int] = []
    hook = base.module(base.stacks[0].root).register_forward_hook(lambda module, args, out: ran.append(len(out[0])))
    with torch.no_grad(), attach(base, new_adapter(base, method=Frozen())) as attached:
        found = states_of(attached, inputs, [2, 2]).last_NTH
        assert ran == ([2] if equal else [4])
        uneven = [states_of(attached, inputs, sizes).last_NTH for sizes in ([1, 3], [3, 1])]
    hook.remove()
    for one in (found, *uneven):
        torch.testing.assert_close(one, _plain(base, inputs).last_NTH, rtol=1e-5, atol=1e-5)


def test_with_gradient_rows_run_plainly(taken: Taken) -> None:
    inputs = _inputs([[10, 11, 12, 13, 10], [10, 11, 12, 13, 11]])
    with attach(LLAMA, new_adapter(LLAMA, method=Frozen())) as attached:
        states_of(attached, inputs, [2])
        assert not taken.packed
        with torch.no_grad():
            states_of(attached, inputs, [2])
    assert taken.packed == [1]
