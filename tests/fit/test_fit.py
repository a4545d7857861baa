"""The training loop: what it learns, what it keeps, and that it goes on where it was stopped, to the same bits."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, TrainingError
from lmtailor.fit.callbacks.callback import Ended, Evaluated, Started, Stepped
from lmtailor.fit.fit import checkpoint_folder, fit
from lmtailor.fit.training import Training
from lmtailor.methods import method_class
from lmtailor.methods.method import Method
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from tests.fit.tasks import grades, sentiment
from tests.tiny import tiny_base

WORDS = Verbalizer(pattern="{sentence} it was {mask} .", words={"pos": ("great",), "neg": ("bad",)})
SHORT = Training(epochs=2, batch_size=8, lr=3e-3, eval_every=3)


@dataclass
class Recorder:
    """Keeps what a fit tells; stops it at a step, if asked."""

    stop_at: int | None = None
    notes: tuple[str, ...] = ()
    first: int = -1
    losses: list[float] = field(default_factory=list)
    evaluations: list[Evaluated] = field(default_factory=list)
    reason: str = ""

    def started(self, event: Started) -> None:
        self.notes, self.first = event.notes, event.step

    def stepped(self, event: Stepped) -> None:
        self.losses.append(event.loss)
        if event.step == self.stop_at:
            raise KeyboardInterrupt

    def evaluated(self, event: Evaluated) -> None:
        self.evaluations.append(event)

    def ended(self, event: Ended) -> None:
        self.reason = event.reason


def method(name: str, **settings: Any) -> Method:
    return method_class(name)(**settings)


def same(a: Adapter, b: Adapter) -> bool:
    return a.state.keys() == b.state.keys() and all(torch.equal(a.state[name], b.state[name]) for name in a.state)


@pytest.fixture(scope="module")
def bert() -> Base:
    return tiny_base("bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)


def test_full_fine_tuning_learns_and_leaves_the_base_alone(bert: Base) -> None:
    before = {name: value.clone() for name, value in bert.model.named_parameters()}
    adapter = fit(bert, sentiment(), method=method("full"), training=Training(epochs=6, batch_size=8, lr=3e-3))
    assert adapter.scores["dev"]["accuracy"].value > 0.9
    assert adapter.scores["dev"]["accuracy"].n == 30
    assert all(torch.equal(value, before[name]) for name, value in bert.model.named_parameters())
    assert not bert.model.training
    assert all(not tensor.requires_grad for tensor in adapter.state.values())


@pytest.mark.parametrize("readout", [Head(), WORDS])
def test_equal_seeds_give_equal_bits_and_others_do_not(bert: Base, readout: Head | Verbalizer) -> None:
    runs = [
        fit(bert, sentiment(), method=method("lora", dropout=0.1), readout=readout, training=SHORT, seed=s) for s in (0, 0, 1)
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_the_global_random_state_is_as_before(bert: Base) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(bert, sentiment(), method=method("lora"), training=SHORT)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "settings", "optimizer"),
    [
        ("lora", {"dropout": 0.1}, "adamw"),
        ("soft_prompt", {"length": 4}, "adafactor"),
        ("top_layers", {"n": 2}, "adamw"),
        ("frozen", {}, "adamw"),
    ],
)
def test_an_interrupted_fit_goes_on_to_the_same_bits(
    bert: Base, tmp_path: Path, name: str, settings: dict[str, Any], optimizer: Any
) -> None:
    training = Training(epochs=2, batch_size=8, lr=3e-3, eval_every=3, checkpoint_every=1, accumulate=2, optimizer=optimizer)
    whole = fit(bert, sentiment(), method=method(name, **settings), training=training, out=tmp_path / "whole")
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            fit(
                bert,
                sentiment(),
                method=method(name, **settings),
                training=training,
                out=tmp_path / "cut",
                callbacks=[Recorder(stop)],
            )
        assert checkpoint_folder(tmp_path / "cut").exists()
        assert not (tmp_path / "cut").exists()
    recorder = Recorder()
    cut = fit(bert, sentiment(), method=method(name, **settings), training=training, out=tmp_path / "cut", callbacks=[recorder])
    assert recorder.first == 4
    assert same(whole, cut)
    files = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
    assert files
    assert all((tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes() for file in files)
    assert not checkpoint_folder(tmp_path / "cut").exists()
    assert cut.provenance["history"][-1]["scores"] == whole.provenance["history"][-1]["scores"]


def test_a_checkpoint_of_other_settings_or_threads_is_refused(bert: Base, tmp_path: Path) -> None:
    training = Training(epochs=1, batch_size=8, lr=3e-3, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(bert, sentiment(), method=method("lora"), training=training, out=tmp_path / "a", callbacks=[Recorder(2)])
    with pytest.raises(TrainingError, match="other settings"):
        fit(bert, sentiment(), method=method("lora", rank=4), training=training, out=tmp_path / "a")
    torch.set_num_threads(2)
    try:
        with pytest.raises(TrainingError, match="OMP_NUM_THREADS=1"):
            fit(bert, sentiment(), method=method("lora"), training=training, out=tmp_path / "a")
    finally:
        torch.set_num_threads(1)


def test_a_finished_fit_is_returned_and_another_is_not_overwritten(bert: Base, tmp_path: Path) -> None:
    first = fit(bert, sentiment(), method=method("lora"), training=SHORT, out=tmp_path / "a")
    recorder = Recorder()
    again = fit(bert, sentiment(), method=method("lora"), training=SHORT, out=tmp_path / "a", callbacks=[recorder])
    assert recorder.first == -1
    assert same(first, again)
    with pytest.raises(TrainingError, match="another fit"):
        fit(bert, sentiment(), method=method("lora"), training=SHORT, seed=1, out=tmp_path / "a")
    other = fit(bert, sentiment(), method=method("lora"), training=SHORT, seed=1, out=tmp_path / "a", overwrite=True)
    assert not same(first, other)


@pytest.mark.parametrize("readout", [Head(), Head(layer=-1), Head(layer=1), WORDS])
def test_a_cached_trunk_gives_the_same_losses(readout: Head | Verbalizer) -> None:
    base = tiny_base("bert", hidden_dropout_prob=0.1)
    runs = []
    for cached in (True, False):
        recorder = Recorder()
        training = Training(epochs=2, batch_size=8, lr=3e-3, cache_trunk=cached)
        fit(base, sentiment(), method=method("top_layers", n=2), readout=readout, training=training, callbacks=[recorder])
        runs.append(recorder.losses)
        depth = min(2, 2 if not isinstance(readout, Head) or readout.layer is None else readout.layer % 4 + 1)
        assert any(f"the first {depth} of 4 blocks" in note for note in recorder.notes) == cached
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "modernbert", "electra", "t5", "bart"])
def test_trunks_of_all_kinds_are_cached(family: str) -> None:
    base = tiny_base(family)
    at = "decoder.block.[-1].attn.q" if base.kind == "encoder-decoder" else "block.[2:].attn.v"
    runs = []
    for cached in (True, False):
        recorder = Recorder()
        training = Training(epochs=2, batch_size=8, lr=1e-3, cache_trunk=cached)
        fit(base, sentiment(24, 8), method=method("lora", at=at), training=training, callbacks=[recorder])
        runs.append(recorder.losses)
        assert any("they ran once" in note for note in recorder.notes) == cached
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def test_a_cache_that_spills_to_disk_gives_the_same_bits(bert: Base) -> None:
    recorder = Recorder()
    inside = fit(bert, sentiment(), method=method("top_layers", n=1), training=SHORT)
    spilled = Training(epochs=2, batch_size=8, lr=3e-3, eval_every=3, cache_memory=10_000)
    assert same(inside, fit(bert, sentiment(), method=method("top_layers", n=1), training=spilled, callbacks=[recorder]))
    assert any("on disk" in note for note in recorder.notes)


def test_a_cache_beyond_its_bounds_is_not_made(bert: Base) -> None:
    recorder = Recorder()
    training = Training(epochs=1, batch_size=8, cache_memory=1000, cache_disk=1000)
    fit(bert, sentiment(), method=method("top_layers", n=1), training=training, callbacks=[recorder])
    assert any("not cached" in note for note in recorder.notes)


def test_lower_blocks_really_do_not_run_with_a_cached_trunk(bert: Base) -> None:
    calls: list[int] = []
    handle = bert.module(bert.stacks[-1].blocks[0] + ".attention").register_forward_hook(lambda *_: calls.append(1))
    try:
        fit(bert, sentiment(), method=method("top_layers", n=1), training=Training(epochs=5, batch_size=8))
    finally:
        handle.remove()
    train, dev, final = -(-60 // 8), -(-30 // 8), -(-30 // 32)
    assert len(calls) == train + dev + final


def test_dropout_acts_in_trained_blocks_alone(bert: Base) -> None:
    seen: dict[str, bool] = {}
    paths = [f"{block}.output.dropout" for block in bert.stacks[-1].blocks]
    handles = [
        bert.module(path).register_forward_hook(
            lambda module, *_, path=path: seen.__setitem__(path, seen.get(path, False) or module.training)
        )
        for path in paths
    ]
    try:
        training = Training(epochs=1, batch_size=8, cache_trunk=False)
        fit(bert, sentiment(), method=method("lora", at="block.[-1].attn.q"), training=training)
    finally:
        for handle in handles:
            handle.remove()
    assert list(seen.values()) == [False, False, False, True]


def test_accumulated_micro_batches_give_the_gradient_of_the_whole() -> None:
    base = tiny_base("bert")
    big = fit(base, sentiment(), method=method("lora"), training=Training(max_steps=1, batch_size=60, lr=1e-2, keep="last"))
    small = fit(
        base, sentiment(), method=method("lora"), training=Training(max_steps=1, batch_size=7, accumulate=9, lr=1e-2, keep="last")
    )
    for name, tensor in big.state.items():
        torch.testing.assert_close(tensor, small.state[name], rtol=1e-3, atol=2e-4)


def test_gradient_checkpointing_changes_nothing(bert: Base) -> None:
    plain, saved = (
        fit(bert, sentiment(), method=method("lora"), training=Training(max_steps=4, batch_size=8, lr=3e-3, checkpointing=on))
        for on in (False, True)
    )
    for name, tensor in plain.state.items():
        torch.testing.assert_close(tensor, saved.state[name], rtol=1e-4, atol=1e-6)
    assert not bert.model.is_activation_checkpointing


def test_bfloat16_runs_and_learns_in_float32(bert: Base) -> None:
    training = Training(epochs=6, batch_size=8, lr=3e-3, precision="bfloat16")
    adapter = fit(bert, sentiment(), method=method("full"), training=training)
    assert adapter.scores["dev"]["accuracy"].value > 0.8
    assert {tensor.dtype for tensor in adapter.state.values()} == {torch.float32}


def test_the_best_weights_are_kept_and_waiting_ends() -> None:
    base = tiny_base("bert")
    recorder = Recorder()
    training = Training(epochs=40, batch_size=8, lr=3e-3, patience=2)
    adapter = fit(base, sentiment(), method=method("full"), training=training, callbacks=[recorder])
    assert recorder.reason.startswith("early stop")
    values = [event.scores["accuracy"].value for event in recorder.evaluations]
    assert adapter.scores["dev"]["accuracy"].value == max(values)
    assert adapter.provenance["best_step"] == recorder.evaluations[values.index(max(values))].step
    assert len(values) - 1 - values.index(max(values)) == 2


def test_a_loss_that_is_no_number_stops_the_fit_and_keeps_the_checkpoint(bert: Base, tmp_path: Path) -> None:
    training = Training(epochs=5, batch_size=8, lr=1e30, clip=None, warmup=0.0, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) at step \d+ of 40"):
        fit(bert, sentiment(), method=method("full"), training=training, out=tmp_path / "a")
    assert checkpoint_folder(tmp_path / "a").joinpath("state.safetensors").exists()
    assert not (tmp_path / "a").exists()


def test_regression_is_fitted_with_the_squared_error(bert: Base) -> None:
    adapter = fit(bert, grades(), method=method("full"), training=Training(epochs=8, batch_size=8, lr=3e-3))
    assert adapter.scores["dev"]["pearson"].value > 0.8


def test_without_dev_the_last_weights_are_kept(bert: Base) -> None:
    task = sentiment()

    alone = replace(task, splits={"train": task.split("train")})
    adapter = fit(bert, alone, method=method("lora"), training=SHORT)
    assert adapter.scores == {}
    assert adapter.provenance["steps"] == 16


def test_a_reparameterised_prefix_ends_as_a_plain_one(bert: Base) -> None:
    adapter = fit(bert, sentiment(), method=method("prefix", length=3, reparam="mlp", hidden=8), training=SHORT)
    assert adapter.method == method("prefix", length=3, hidden=8)
    assert set(adapter.edits.state()) == {"block.*.attn.prefix_L2KND"}


def test_nothing_to_train_is_said(bert: Base) -> None:
    with pytest.raises(InputError, match="Nothing would be trained"):
        fit(bert, sentiment(), method=method("frozen"), readout=WORDS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "greater than 0"),
        ({"warmup": 1.0}, "share of the steps"),
        ({"weight_decay": -1}, "negative"),
        ({"patience": 0}, "greater than 0"),
    ],
)
def test_training_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Training(**settings)
