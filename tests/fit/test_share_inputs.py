"""References of one input share its pass: the losses and gradients of the same batches run plainly."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import Attached, attach
from lmtailor.fit import source
from lmtailor.fit.batching import grouped_batches, grouped_count
from lmtailor.fit.callbacks.callback import Callback, Ended, Evaluated, Started, Stepped
from lmtailor.fit.fit import fit
from lmtailor.fit.kernels import SHORT, fast_kernels
from lmtailor.fit.source import WholeModel
from lmtailor.fit.training import Training
from lmtailor.infer.passes import shared_states
from lmtailor.methods import method_class
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.text import Text
from lmtailor.store.adapter import new_adapter
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

INPUTS = ("a good movie that was so very great", "a bad book that is so boring and awful", "the cat sat")
SAID = ("it was very good", "i love the movie", "no", "yes it was", "this is the worst of all", "fun", "so sad")
ROWS = [{"about": text, "said": said} for text, many in zip(INPUTS, (5, 7, 2), strict=True) for said in SAID[:many]]
TASK = Task.from_records(train=ROWS, kind="generation", text="about", label="said")
READOUT = Text("what do you say of {about}")
METHODS: dict[str, Any] = {
    "lora": LoRA(rank=2),
    "bitfit": BitFit(add_missing=True),
    "prefix": Prefix(length=3),
    "soft_prompt": SoftPrompt(length=3),
    "full": Full(),
}


class Losses(Callback):
    """Keeps the loss of every step, and what the fit said of its source."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.tokens: list[int] = []

    def started(self, event: Started) -> None:
        """Nothing."""
        return

    def evaluated(self, event: Evaluated) -> None:
        """Nothing."""
        return

    def ended(self, event: Ended) -> None:
        """Nothing."""
        return

    def stepped(self, event: Stepped) -> None:
        """One more."""
        self.losses.append(event.loss)
        self.tokens.append(event.tokens)


def trunk_tokens(base: Base) -> tuple[list[int], Any]:
    """A list that every pass of the first stack adds its tokens to, and the handle."""
    seen: list[int] = []
    embedding = base.module(base.stacks[0].embedding)
    return seen, embedding.register_forward_hook(lambda module, args, output: seen.append(args[0].numel()))


def gradients(base: Base, method: Any, *, shared: bool, autocast: bool = False) -> tuple[dict[str, Tensor], int]:
    """The loss of one batch and its gradient by every trained tensor, and how many tokens ran."""
    adapter = new_adapter(base, method=method, readout=READOUT, task=TASK)
    rng = torch.Generator().manual_seed(0)
    adapter = adapter.with_state(
        {name: (value + 0.05 * torch.randn(value.shape, generator=rng)).requires_grad_() for name, value in adapter.state.items()}
    )
    assert adapter.reading is not None
    items = [item for example in TASK.split("train") for item in adapter.reading.items(example)]
    seen, handle = trunk_tokens(base)
    with attach(base, adapter) as attached:
        whole = WholeModel(
            attached, adapter.reading, items, torch.autocast("cpu", torch.bfloat16, enabled=autocast), shared=shared
        )
        scores, _ = whole.scores([11, 0, 5, 1, 13, 6, 2, 12], training=True)
        found = torch.autograd.grad(-scores.mean(), list(adapter.state.values()), allow_unused=True, materialize_grads=True)
    handle.remove()
    return {"loss": scores.detach().mean(), **dict(zip(adapter.state, found, strict=True))}, max(seen)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "qwen3"])
def test_gradients_of_causal_models_are_those_of_plain_rows(family: str, name: str) -> None:
    base = tiny_base(family)
    plain, all_tokens = gradients(base, METHODS[name], shared=False)
    shared, tokens = gradients(base, METHODS[name], shared=True)
    assert tokens < 0.7 * all_tokens
    for key, value in plain.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5)
    assert sum(float(value.abs().sum()) for value in plain.values()) > 0


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_in_bfloat16_they_are_the_same_to_its_precision(autocast: bool, eager: bool) -> None:
    base = tiny_base("llama")
    if not autocast:
        base.model.to(torch.bfloat16)  # type: ignore[arg-type]
    with fast_kernels(base, lengths=[SHORT if eager else SHORT + 1], bfloat16=autocast):
        assert base.trunk.config._attn_implementation == ("eager" if eager else "sdpa")
        plain, all_tokens = gradients(base, METHODS["prefix"], shared=False, autocast=autocast)
        shared, tokens = gradients(base, METHODS["prefix"], shared=True, autocast=autocast)
    assert tokens < 0.7 * all_tokens
    for key, value in plain.items():
        torch.testing.assert_close(shared[key].float(), value.float(), rtol=0.1, atol=0.05 * float(value.float().abs().max()))


@pytest.mark.parametrize("name", ["lora", "bitfit", "prefix", "full"])
@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_encoder_decoders_encode_an_input_once(family: str, name: str) -> None:
    base = tiny_base(family)
    plain, all_tokens = gradients(base, METHODS[name], shared=False)
    shared, tokens = gradients(base, METHODS[name], shared=True)
    assert tokens * 8 == all_tokens * 3
    for key, value in plain.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("family", "at"), [("llama", "block.3.attn.q"), ("t5", "decoder.block.*.attn.q")])
def test_a_fit_has_the_losses_of_the_same_batches_run_plainly(
    family: str, at: str, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[Losses, dict[str, Tensor]]:
        kept, training = Losses(), Training(epochs=3, batch_size=6, lr=1e-2, share_inputs=True, cache_trunk=cached)
        adapter = fit(tiny_base(family), TASK, method=method, readout=READOUT, training=training, callbacks=[kept])
        return kept, adapter.state

    method = LoRA(rank=2, at=at)
    shared, weights = run()
    used = []

    def plainly(attached: Attached, inputs: Any, groups: Any, *, lower_NTH: Any = None, playing: Any = None) -> Any:
        used.append(lower_NTH is not None)
        if lower_NTH is None:
            return attached.states(inputs)
        with playing(lower_NTH):
            return attached.states(inputs)

    monkeypatch.setattr(source, "shared_states", plainly)
    plain, others = run()
    assert used == [cached] * len(used)
    assert len(shared.losses) == 3 * grouped_count([row["about"] for row in ROWS], 6)
    assert max(abs(one - other) for one, other in zip(shared.losses, plain.losses, strict=True)) < 1e-4
    assert shared.losses[-1] < shared.losses[0]
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-4)


@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=40), size=st.integers(1, 12), epoch=st.integers(0, 3))
def test_groups_stay_together_and_every_epoch_has_as_many_batches(counts: list[int], size: int, epoch: int) -> None:
    groups = [group for group, count in enumerate(counts) for _ in range(count)]
    lengths = [3 + i % 7 for i in range(len(groups))]
    batches = grouped_batches(groups, lengths, size, 0, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(groups)))
    assert max(map(len, batches)) <= size
    assert len(batches) == grouped_count(groups, size)
    assert batches == grouped_batches(groups, lengths, size, 0, epoch)
    for group, count in enumerate(counts):
        assert sum(group in {groups[i] for i in batch} for batch in batches) <= -(-count // size)


def test_batches_are_nearly_full_and_change_with_the_epoch() -> None:
    counts = torch.randint(1, 20, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    groups = [group for group, count in enumerate(counts) for _ in range(count)]
    batches = grouped_batches(groups, [5] * len(groups), 8, 0, 0)
    assert len(batches) < 1.1 * len(groups) / 8
    again = {frozenset(batch) for batch in grouped_batches(groups, [5] * len(groups), 8, 0, 1)}
    assert len(again & set(map(frozenset, batches))) < 0.1 * len(batches)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_dev_is_scored_with_shared_inputs_too(family: str) -> None:
    task = Task.from_records(train=ROWS, dev=ROWS, kind="generation", text="about", label="said")
    found, ran = [], []
    for share in (True, False):
        base = tiny_base(family)
        seen, handle = trunk_tokens(base)
        training = Training(max_steps=1, batch_size=4, lr=1e-7, share_inputs=share, eval_every=1)
        adapter = fit(base, task, method=LoRA(rank=2), readout=READOUT, training=training)
        handle.remove()
        found.append(adapter.provenance["history"][0]["scores"]["perplexity"])
        ran.append(sum(seen[1:3]))
    # The one step learns from other examples, at a rate that moves nothing.
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert ran[0] < 0.7 * ran[1]


def test_where_sharing_is_not_exact_it_is_refused_with_the_reason() -> None:
    training = Training(max_steps=1, share_inputs=True)
    loreft = method_class("loreft")()
    for family, method, why in (
        ("llama", loreft, "where in its sequence a token stands"),
        ("mistral", LoRA(rank=2), "the last 6 tokens alone"),
        ("t5", SoftPrompt(length=2), "stand in every row"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            fit(tiny_base(family), TASK, method=method, readout=READOUT, training=training)
    with pytest.raises(InputError, match="fit each alone"):
        fit(tiny_base("llama"), TASK, method=[LoRA(rank=2), LoRA(rank=3)], readout=READOUT, training=training)


def test_where_nothing_is_saved_rows_run_plainly() -> None:
    base = tiny_base("llama")
    adapter = new_adapter(base, method=LoRA(rank=2), readout=READOUT, task=TASK)
    inputs = {"input_ids": torch.tensor([[10, 11, 12], [13, 14, 15]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    seen, handle = trunk_tokens(base)
    with attach(base, adapter) as attached:
        shared_states(attached, inputs, ["a", "b"])
        shared_states(attached, {name: value[:, :2] for name, value in inputs.items()}, ["a", "b"])
    handle.remove()
    assert seen == [6, 4]
