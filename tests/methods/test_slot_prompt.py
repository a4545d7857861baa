"""Virtual tokens in slots against the plain model with these embeddings in its table."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import plain_adapter, predict_split
from lmtailor.methods.method import Words
from lmtailor.methods.slot_prompt import SlotPrompt
from lmtailor.methods.warp import WARP
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base

TASK = sentiment(24, 8)


def count(method: SlotPrompt, base: Base) -> int:
    """N · H."""
    return len(method.ids) * table(base).shape[1]


def table(base: Base) -> torch.Tensor:
    weight = base.module(base.stacks[0].embedding).weight
    assert isinstance(weight, torch.Tensor)
    return weight


def words(base: Base, **settings: Any) -> Verbalizer:
    """Two slots, one of them in the midst of the text."""
    trigger = tuple(base.tokenizer.convert_ids_to_tokens([30, 31]))
    settings = {"trigger": trigger, **settings}
    return Verbalizer(pattern="so {trigger} {sentence} {trigger} {mask}", words={"pos": ("great",), "neg": ("bad",)}, **settings)


@pytest.mark.parametrize("key", ["bert", "roberta", "albert", "gemma2"])
def test_a_table_with_these_rows_does_the_same(key: str) -> None:
    base, changed, method = base_of(key), tiny_base(key), SlotPrompt(ids=(30, 31))
    edits = method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))
    edits = perturbed(edits, scale=0.5)
    lin = changed.linear(changed.sites["lm_head"])
    with torch.no_grad():
        lin.module.weight = torch.nn.Parameter(lin.module.weight.clone())  # type: ignore[operator]  # no longer tied
        (rows,) = edits.state().values()
        scale = float(getattr(changed.module(changed.stacks[0].embedding), "embed_scale", 1.0))
        table(changed)[[30, 31]] = rows / scale
    inputs = {"input_ids": torch.tensor([[12, 30, 14, 15, 31, 16], [30, 30, 17, 18, 19, 20]])}
    with torch.no_grad():
        theirs, plain = logits(changed, inputs), logits(base, inputs)
        with attach(base, Worn(edits)):
            found = logits(base, inputs)
    assert apart(found, theirs) < 1e-5
    assert apart(found, plain) > 1e-3


@pytest.mark.parametrize("key", ["bert", "gpt2", "t5"])
def test_the_verbalizer_s_slots_are_trained(key: str, tmp_path: Path) -> None:
    base = base_of(key)
    readout = words(base)
    start = new_adapter(base, method=SlotPrompt(), readout=readout, task=TASK)
    assert start.method == SlotPrompt(ids=(30, 31))
    wanted = predict_split(base, TASK, plain_adapter(base, TASK, readout), split="dev").scores_NC
    assert predict_split(base, TASK, start, split="dev").scores_NC == pytest.approx(wanted, abs=1e-5)
    adapter = fit(base, TASK, method=SlotPrompt(), readout=readout, training=Training(max_steps=3, batch_size=8, lr=0.1))
    (before,), (after,) = start.state.values(), adapter.state.values()
    assert ((after - before).abs().amax(1) > 1e-3).all(), "each slot learns"
    save_adapter(adapter, tmp_path)
    again = load_adapter(tmp_path, base)
    found = [predict_split(base, TASK, one, split="dev").scores_NC for one in (adapter, again)]
    assert (found[0] == found[1]).all()
    assert abs(found[0] - wanted).max() > 1e-3


def test_slots_and_classes() -> None:
    """P-tuning's tokens in the pattern, and WARP's classes."""
    base = base_of("bert")
    adapter = new_adapter(base, method=SlotPrompt() + WARP(), readout=words(base), task=TASK)
    assert adapter.edits.num_parameters == 2 * 48 + 8 * 48 + 2 * 48
    assert len(adapter.edits) == 4


def test_what_cannot_be() -> None:
    base = base_of("bert")
    for settings, message in (({"trigger": None}, "has no trigger"), ({"trigger": ("cat", "cat")}, "a token of its own")):
        with pytest.raises(InputError, match=message):
            new_adapter(base, method=SlotPrompt(), readout=words(base, **settings), task=TASK)
    with pytest.raises(InputError, match="no tokens to train"):
        SlotPrompt().edits(base.sites, None)
    with pytest.raises(InputError, match="token 140, but bert has 140 words"):
        SlotPrompt(ids=(140,)).edits(base.sites, None)
    with pytest.raises(InputError, match="numbered from 0"):
        SlotPrompt(ids=(-1,))
    assert isinstance(SlotPrompt(ids=(3,)).edits(base.sites, None), Edits)
