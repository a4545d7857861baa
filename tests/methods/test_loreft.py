"""LoReFT by the paper's formula; parity with AdapterHub is in tests/parity."""

from typing import Any

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edit import Context
from lmtailor.methods.loreft import LoReFT, ReFTEdit, orthonormal
from lmtailor.methods.soft_prompt import SoftPrompt
from tests.edits.worn import Worn, apart, base_of, generated, left_padded, logits, noise, outputs_of, perturbed, row
from tests.methods.formula import numbers
from tests.tiny import tiny_base, tiny_inputs


def count(method: LoReFT, base: Base) -> int:
    """2 H K + K a block, of one stack; twice where first and last tokens have one each."""
    blocks, units = len(base.stacks[0].blocks), 2 if method.first and method.last and not method.tied else 1
    return blocks * units * (2 * base.hidden_size * method.rank + method.rank)


def test_the_count_by_hand() -> None:
    assert LoReFT(rank=2).edits(base_of("gpt2").sites, None).num_parameters == 4 * 2 * (2 * 48 * 2 + 2)
    assert LoReFT(rank=2, tied=True).edits(base_of("bart").sites, None).num_parameters == 4 * (2 * 48 * 2 + 2)
    assert LoReFT(rank=2, last=0).edits(base_of("bert").sites, None).num_parameters == 4 * (2 * 48 * 2 + 2)


def test_orthonormal_rows() -> None:
    matrix = noise(3, 5, 48)
    rows = orthonormal(matrix)
    assert torch.allclose(rows @ rows.transpose(1, 2), torch.eye(5).expand(3, 5, 5), atol=1e-5)
    assert torch.allclose(orthonormal(rows), rows, atol=1e-5)
    own = matrix @ rows.transpose(1, 2) @ rows  # the same span
    assert torch.allclose(own, matrix, atol=1e-5)


@pytest.mark.parametrize(("orthogonal", "subtract"), [(True, True), (False, True), (True, False)])
def test_the_formula(orthogonal: bool, subtract: bool) -> None:
    """h + Rᵀ (W h + b − R h) at the first two and the last token."""
    method = LoReFT(rank=3, first=2, last=1, tied=True, orthogonal=orthogonal, subtract=subtract)
    edit = perturbed(method.edits(base_of("gpt2").sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, ReFTEdit)
    t, h_RTH = numbers(edit), noise(1, 6, 48, scale=1.0)
    h, rotation = h_RTH[0].double().numpy(), t["projection_KH"]
    if orthogonal:
        q, r = np.linalg.qr(rotation.T)
        rotation = (q * np.sign(np.diag(r))).T
        assert np.allclose(rotation @ rotation.T, np.eye(3))
    inner = h @ t["source_KH"].T + t["source_bias_K"] - (h @ rotation.T if subtract else 0)
    wanted = h.copy()
    wanted[[0, 1, 5]] += (inner @ rotation)[[0, 1, 5]]
    places = torch.tensor([[[i, 6, -1] for i in range(6)]])
    stacked = ReFTEdit.stack([edit], dtype=torch.float32)
    assert np.allclose(stacked.placed(h_RTH, places, Context(training=False))[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "first", "last", "wanted"),
    [
        (7, 2, 1, [0, 1, 6]),
        (3, 2, 1, [0, 1, 2]),
        (5, 7, 7, [0, 1, 2, 3, 4]),
        (5, 1, 7, [0, 2, 3, 4]),  # the paper's rule: p = min(1, 2), s = min(7, 3)
        (1, 3, 3, [0]),
        (6, 0, 2, [4, 5]),
    ],
)
def test_the_places(tokens: int, first: int, last: int, wanted: list[int]) -> None:
    """Padding on either side does not count."""
    base = base_of("llama")
    edits = perturbed(LoReFT(rank=2, first=first, last=last, at="block.3").edits(base.sites, generator(0)))
    ids = tiny_inputs(base, rows=1, tokens=tokens)["input_ids"]
    for left, right in ((0, 0), (2, 0), (0, 3)):
        padded = torch.nn.functional.pad(ids, (left, right))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        with torch.no_grad(), outputs_of(base.module(base.stacks[0].blocks[3])) as states:
            logits(base, {"input_ids": padded, "attention_mask": mask})
            with attach(base, Worn(edits)), outputs_of(base.module(base.stacks[0].blocks[3])) as edited:
                logits(base, {"input_ids": padded, "attention_mask": mask})
        moved = (edited[0] - states[0]).abs().amax(-1)[0] > 1e-4
        assert moved.nonzero().flatten().tolist() == [left + place for place in wanted]


@pytest.mark.parametrize("key", ["llama", "t5"])
def test_what_is_generated_is_left_as_it_is(key: str) -> None:
    """With a cache and without last tokens, generation is what one forward over all gives."""
    base = base_of(key)
    edits = perturbed(LoReFT(rank=2, first=2, last=0).edits(base.sites, generator(0)), scale=0.3)
    inputs = left_padded(base, [4, 6])
    with torch.no_grad(), attach(base, Worn(edits)):
        cached, without = generated(base, inputs), generated(base, inputs, use_cache=False)
    assert torch.equal(cached, without)
    with torch.no_grad(), attach(base, Worn(edits)):
        assert torch.equal(generated(base, row(inputs, 0)), cached[:1])


def test_virtual_tokens_do_not_count() -> None:
    base = base_of("bert")
    union = LoReFT(rank=2, first=2, last=1, at="block.3")
    both = SoftPrompt(length=3) + union
    edits = perturbed(both.edits(base.sites, generator(0)))
    inputs, block = tiny_inputs(base), base.module(base.stacks[0].blocks[3])
    with torch.no_grad():
        states = []
        for part in (edits.split()[0], edits):
            with attach(base, Worn(part)), outputs_of(block) as kept:
                logits(base, inputs)
            states.append(kept[0])
    moved = (states[1] - states[0]).abs().amax(-1) > 1e-4
    assert moved[0].nonzero().flatten().tolist() == [3, 4, 9]
    assert moved[1].nonzero().flatten().tolist() == [3, 4, 7]


def test_what_is_kept_is_the_rotation_itself() -> None:
    base = base_of("bert")
    method = LoReFT(rank=3, first=2, last=2)
    edits = perturbed(method.edits(base.sites, generator(0)))
    kept, finished = method.finished(edits)
    assert kept == LoReFT(rank=3, first=2, last=2, orthogonal=False)
    for edit in finished:
        assert isinstance(edit, ReFTEdit)
        assert torch.allclose(edit.projection_KH @ edit.projection_KH.T, torch.eye(3), atol=1e-5)


def test_dropout_acts_while_training() -> None:
    base = tiny_base("bert")
    edits = perturbed(LoReFT(rank=2, first=2, last=0, dropout=0.5).edits(base.sites, generator(0)))
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        assert apart(logits(base, inputs), logits(base, inputs)) == 0
        base.model.train()
        assert apart(logits(base, inputs), logits(base, inputs)) > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; an intervention needs at least 1"),
        ({"first": 0, "last": 0}, "first is 0 and last is 0"),
        ({"first": -1}, "first is -1"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoReFT(**settings)


def test_it_needs_a_prompt() -> None:
    with pytest.raises(UnsupportedError, match="the decoder of t5, which has no prompt"):
        LoReFT(at="block.*").edits(base_of("t5").sites, None)
    with pytest.raises(InputError, match=r"rank 49 is above the 48 features of block\.0"):
        LoReFT(rank=49).edits(base_of("bert").sites, None)
