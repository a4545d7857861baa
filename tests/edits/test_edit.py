"""Edits as data: stacking, names and states."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lmtailor.base.views import NormView
from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.edit import Context, Edit, counters_of, freshness, per_row, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import DenseWeight, HiddenEdit, SparseWeight
from tests.edits.worn import Added, Shift, base_of, noise, wear


@dataclass(frozen=True, kw_only=True, eq=False)
class Low(HiddenEdit):
    """h + s · (B A h + b), with or without b."""

    a_KH: Tensor = trained(pad=(0,))
    b_HK: Tensor = trained(pad=(1,))
    bias_H: Tensor | None = trained()
    scale: float = per_row(1.0)
    kind: str = "plain"

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        delta = torch.bmm(torch.bmm(h_RTH, self.a_KH.transpose(1, 2)), self.b_HK.transpose(1, 2))
        return h_RTH + self.scale * (delta if self.bias_H is None else delta + self.bias_H[:, None])


def low(rank: int, *, bias: bool = True, scale: float = 1.0, kind: str = "plain", width: int = 6) -> Low:
    return Low(
        site="block.0",
        a_KH=noise(rank, width, seed=rank),
        b_HK=noise(width, rank, seed=-rank),
        bias_H=noise(width, seed=9) if bias else None,
        scale=scale,
        kind=kind,
    )


def run(edit: Low, h_RTH: Tensor) -> Tensor:
    return edit.hidden(None, h_RTH, None, None, Context(training=False))


@pytest.mark.parametrize("bias", [True, False])
def test_edits_of_several_ranks_and_scales_are_one(bias: bool) -> None:
    edits = [low(1, bias=bias, scale=0.5), low(4, bias=bias, scale=-2.0), low(2, bias=bias)]
    h_RTH = noise(3, 5, 6, seed=3)
    stacked = Low.stack(edits, dtype=torch.float32)
    assert stacked.a_KH.shape == (3, 4, 6)
    found = run(stacked, h_RTH)
    for number, edit in enumerate(edits):
        alone = run(Low.stack([edit], dtype=torch.float32), h_RTH[number : number + 1])
        assert torch.allclose(found[number : number + 1], alone, atol=1e-6)


def test_rows_take_their_edits() -> None:
    edits = [low(1), low(4, scale=3.0)]
    taken = Low.stack(edits, dtype=torch.float32).take(torch.tensor([1, 1, 0]))
    h_RTH = noise(3, 5, 6, seed=3)
    for number, edit in enumerate([edits[1], edits[1], edits[0]]):
        alone = run(Low.stack([edit], dtype=torch.float32), h_RTH[number : number + 1])
        assert torch.allclose(run(taken, h_RTH)[number : number + 1], alone, atol=1e-6)


def test_what_can_be_stacked() -> None:
    key = low(2).stack_key()
    assert low(5).stack_key() == key
    assert low(2, scale=7.0).stack_key() == key
    assert low(2, kind="other").stack_key() != key
    assert low(2, bias=False).stack_key() != key
    assert low(2, width=8).stack_key() != key
    assert Shift(site="block.0", delta_H=noise(6)).stack_key() != Added(site="block.0", shift_O=noise(6)).stack_key()


def test_one_edit_is_viewed_and_not_copied() -> None:
    edit = low(2)
    stacked = Low.stack([edit], dtype=torch.float32)
    edit.a_KH.add_(1.0)
    assert torch.equal(stacked.a_KH[0], edit.a_KH)


def test_what_was_made_is_out_of_date() -> None:
    tensor = noise(3)
    first, live = freshness([tensor])
    assert not live
    assert freshness([tensor])[0] == first
    tensor.add_(1.0)
    assert freshness([tensor])[0] != first
    now = freshness([tensor])[0]
    with torch.inference_mode():
        assert freshness([tensor])[0] != now
    tensor.requires_grad_()
    assert freshness([tensor])[1]
    with torch.no_grad():
        assert not freshness([tensor])[1]


def test_views_are_counted_by_what_they_are_views_of() -> None:
    shelf, alone = torch.zeros(3, 2), torch.zeros(2)
    views = [shelf[0], shelf[1], alone]
    counters = counters_of(views)
    assert len(counters) == 2
    before = freshness(views, counters)[0]
    assert freshness(views, counters)[0] == before
    views[1].add_(1)
    after = freshness(views, counters)[0]
    assert after != before
    alone.add_(1)
    assert freshness(views, counters)[0] != after
    leaf = shelf.detach()[2].requires_grad_()
    assert freshness([leaf], counters_of([leaf]))[1]


def test_two_edits_of_one_name_are_told_apart() -> None:
    edits = Edits((low(2), low(3), Shift(site="block.1", delta_H=noise(6))))
    assert list(edits.state()) == [
        "block.0.a_KH",
        "block.0.b_HK",
        "block.0.bias_H",
        "block.0.a_KH#1",
        "block.0.b_HK#1",
        "block.0.bias_H#1",
        "block.1.delta_H",
    ]
    assert edits.num_parameters == 12 + 12 + 6 + 18 + 18 + 6 + 6
    assert edits.state()["block.0.a_KH#1"] is edits[1].trained()["a_KH"]


def test_a_state_comes_back_as_it_is() -> None:
    edits = Edits((low(2), low(2, bias=False), Shift(site="block.1", delta_H=noise(6))))
    state = {name: torch.randn_like(value) for name, value in edits.state().items()}
    again = edits.with_state(state)
    assert list(again.state()) == list(state)
    assert all(again.state()[name] is value for name, value in state.items())
    assert [type(edit) for edit in again] == [type(edit) for edit in edits]
    assert [edit.stack_key() for edit in again] == [edit.stack_key() for edit in edits]


def test_a_state_that_does_not_fit_raises() -> None:
    edits = Edits((low(2),))
    state = edits.state()
    with pytest.raises(AdapterFileError, match=r"1 tensors are missing, the first is 'block\.0\.a_KH'"):
        edits.with_state({name: value for name, value in state.items() if name != "block.0.a_KH"})
    with pytest.raises(AdapterFileError, match="do not belong to this method, the first is 'other'"):
        edits.with_state({**state, "other": noise(2)})
    with pytest.raises(AdapterFileError, match=r"block\.0\.bias_H has shape \(3,\); this base and method need \(6,\)"):
        edits.with_state({**state, "block.0.bias_H": noise(3)})


@pytest.mark.parametrize(
    ("edit", "shares"),
    [
        (Shift(site="block.0", delta_H=noise(6)), True),
        (DenseWeight(site="lm_head.weight", value=noise(6)), False),
        (SparseWeight(site="lm_head.weight", index=torch.arange(2), value=noise(2)), False),
    ],
)
def test_weights_alone_cannot_share_a_batch(edit: Edit, shares: bool) -> None:
    assert Edits((edit,)).shares_batch is shares
    assert Edits((*wear(base_of("gpt2"), "lora").edits, edit)).shares_batch is shares
