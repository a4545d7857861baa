"""Where tokens stand: padding on either side, virtual tokens in front, and in passes that are run again."""

import pytest
import torch

from lmtailor.core.errors import UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.places import places_of
from lmtailor.methods.loreft import LoReFT
from tests.edits.worn import Worn, all_apart, backward, base_of, logits, perturbed
from tests.tiny import tiny_base, tiny_inputs

CPU = torch.device("cpu")


def test_padding_does_not_count() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]])
    places = places_of(mask, 4, 5, (0,), CPU)
    assert places[..., 0].tolist() == [[-1, -1, 0, 1, 2], [0, 1, 2, 3, -1], [0, -1, 1, -1, 2], [-1] * 5]
    assert places[:, 0, 1].tolist() == [3, 4, 3, 0]
    assert (places[..., 2] == -1).all()


def test_without_a_mask_all_are_real() -> None:
    places = places_of(None, 2, 3, (0, 0), CPU)
    assert places[..., 0].tolist() == [[0, 1, 2]] * 2
    assert (places[..., 1] == 3).all()


def test_virtual_tokens_are_aligned_on_the_right() -> None:
    """Two rows of two beams, with one and three virtual tokens before four tokens."""
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 0]] * 2 + [[1, 1, 1, 1, 1, 1, 1]] * 2)
    places = places_of(mask, 4, 7, (1, 3), CPU)
    assert places[1:3, :, 2].tolist() == [[-1, -1, 0, -1, -1, -1, -1], [0, 1, 2, -1, -1, -1, -1]]
    assert places[1:3, :, 0].tolist() == [[-1, -1, -1, 0, 1, 2, -1], [-1, -1, -1, 0, 1, 2, 3]]
    assert torch.equal(places[0], places[1])
    assert torch.equal(places[2], places[3])


def test_another_mask_raises() -> None:
    base = base_of("llama")
    edits = LoReFT(rank=2).edits(base.sites, generator(0))
    ids = tiny_inputs(base)["input_ids"]
    mask = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril()
    with (
        torch.no_grad(),
        attach(base, Worn(edits)),
        pytest.raises(UnsupportedError, match="need a two-dimensional attention mask"),
    ):
        logits(base, {"input_ids": ids, "attention_mask": mask})


def test_a_block_that_is_run_again_has_the_places_of_its_own_pass() -> None:
    """Two passes over inputs of different lengths and padding, then one backward."""
    found = []
    for checkpointing in (False, True):
        base = tiny_base("bert")
        base.model.train()
        if checkpointing:
            base.model.activation_checkpointing_enable()
        edits = perturbed(LoReFT(rank=2, first=2, last=1).edits(base.sites, generator(0)), grad=True)
        with attach(base, Worn(edits)):
            losses = [logits(base, tiny_inputs(base, tokens=tokens)).square().mean() for tokens in (9, 5)]
            backward(losses[0] + losses[1])
        found.append([tensor.grad for tensor in edits.state().values()])
    assert all_apart(found[1], found[0]) < 1e-4  # type: ignore[arg-type]
