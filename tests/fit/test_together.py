"""Several adapters fitted at once in shared batches: each is what it would be alone."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edits import Edits
from lmtailor.fit.fit import checkpoint_folder, fit
from lmtailor.fit.job import Job
from lmtailor.fit.member import Member
from lmtailor.fit.training import Training
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA, LoRAEdit
from lmtailor.methods.method import Method, Penalises, Rates, Steps
from lmtailor.objectives.consistency import consistency
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import new_adapter
from tests.edits.worn import apart
from tests.fit.tasks import grades, sentiment
from tests.fit.test_fit import Recorder, method, same
from tests.tiny import tiny_base

WORDS = Verbalizer(pattern="{sentence} it was {mask}", words={"pos": ("great",), "neg": ("bad",)})
SHORT = Training(epochs=2, batch_size=8, lr=3e-3, eval_every=3)
LONGER = Training(epochs=3, batch_size=5, lr=1e-3, eval_every=4, accumulate=2, optimizer="adafactor", patience=1)


@pytest.mark.parametrize("family", ["bert", "llama", "bart"])
def test_each_is_what_it_would_be_alone(family: str) -> None:
    """Other methods, tasks, readouts, schedules and numbers of steps."""
    base = tiny_base(family)
    methods = [method("lora"), method("houlsby", bottleneck=4), method("prefix", length=3, reparam="mlp", hidden=8)]
    tasks, trainings = [sentiment(), grades(), sentiment(40, 10)], [SHORT, SHORT, LONGER]
    readouts: list[Readout] = [Head(), Head(), Head(pooling="last") if family == "bart" else WORDS]
    together = fit(base, tasks, method=methods, readout=readouts, training=trainings, seed=[3, 4, 5])
    assert isinstance(together, list)
    for place, adapter in enumerate(together):
        alone = fit(base, tasks[place], method=methods[place], readout=readouts[place], training=trainings[place], seed=3 + place)
        assert adapter.state.keys() == alone.state.keys()
        for name, tensor in adapter.state.items():
            assert apart(tensor, alone.state[name]) < 2e-3, name
        assert adapter.provenance["outcome"] == alone.provenance["outcome"]
        assert adapter.provenance["steps"] == alone.provenance["steps"]
        assert list(adapter.scores) == ["dev"]


def test_an_interrupted_fit_of_several_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    base = tiny_base("bert", hidden_dropout_prob=0.1)
    training = [Training(epochs=1, batch_size=8, checkpoint_every=2), Training(epochs=2, batch_size=8, checkpoint_every=3)]
    methods = [LoRA(dropout=0.1), method("bitfit")]

    def run(name: str, *callbacks: Recorder) -> Any:
        out = [tmp_path / name / "lora", tmp_path / name / "bitfit"]
        return fit(base, sentiment(), method=methods, training=training, out=out, callbacks=callbacks)

    whole = run("whole")
    for stop in (3, 10):  # in the second part the first adapter is done
        with pytest.raises(KeyboardInterrupt):
            run("cut", Recorder(stop))
    assert checkpoint_folder(tmp_path / "cut" / "lora").exists()
    cut = run("cut")
    assert all(same(*pair) for pair in zip(whole, cut, strict=True))
    assert not checkpoint_folder(tmp_path / "cut" / "lora").exists()
    again = run("cut", Recorder(1))
    assert all(same(*pair) for pair in zip(cut, again, strict=True)), "what is done is not done again"


def test_what_cannot_be_fitted_together(tmp_path: Path) -> None:
    base = tiny_base("bert")
    with pytest.raises(InputError, match="Full replaces weights, so its rows cannot share a batch"):
        fit(base, sentiment(), method=[Full(), LoRA()], training=SHORT)
    with pytest.raises(InputError, match="must have one length"):
        fit(base, [sentiment()], method=[LoRA(), LoRA()])
    with pytest.raises(InputError, match="2 adapters need 2 folders"):
        fit(base, sentiment(), method=[LoRA(), LoRA()], out=tmp_path / "out")  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"differ in training\.precision"):
        fit(base, sentiment(), method=LoRA(), training=[SHORT, Training(precision="bfloat16")])


# what methods may ask of the loop


class Journal(list[int | None]):
    """A list that may stand in an edit's settings."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn(LoRAEdit):
    """LoRA that notes the draw of each pass."""

    seen: Journal

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: Any, ctx: Any) -> Tensor:
        self.seen.append(ctx.draw)
        return super().output(x_RTI, y_RTO, lin, ctx)


@dataclass(frozen=True, kw_only=True)
class Demanding(Method, Rates, Penalises, Steps):
    """A method that asks for all there is."""

    passes: ClassVar[int] = 2
    seen: tuple[Any, ...] = ()

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        own = LoRA(rank=2, at="block.0.attn.q").edits(sites, rng)[0]
        assert isinstance(own, LoRAEdit)
        return Edits((Drawn(site=own.site, a_KI=own.a_KI, b_OK=own.b_OK, scale=own.scale, seen=self.seen[0]),))

    def rates(self, edits: Edits) -> Mapping[str, float]:
        return {"block.0.attn.q.b_OK": 16.0}

    def penalty(self, edits: Edits) -> Tensor:
        return 1e3 * edits.state()["block.0.attn.q.b_OK"].square().sum()

    def stepped(self, edits: Edits, memory: dict[str, Tensor], step: int, total: int) -> None:
        gradient = edits.state()["block.0.attn.q.b_OK"].grad
        assert gradient is not None
        memory["sum"] = memory.get("sum", torch.zeros(())) + gradient.abs().sum()
        memory["steps"] = torch.tensor(float(step + 1))


def test_rates_penalties_steps_and_draws_reach_the_loop() -> None:
    base = tiny_base("bert")
    seen = Journal()
    chosen = Demanding(seen=(seen,))
    job = Job(
        base=base,
        task=sentiment(),
        start=new_adapter(base, method=chosen, readout=Head(), task=sentiment()),
        objective=Supervised(),
        training=SHORT.resolved(chosen.recipe),
        seed=0,
    )
    member = Member(job, None, ())
    rates = {id(tensor): group["factor"] for group in member.optimizer.param_groups for tensor in group["params"]}
    assert rates[id(member.parameters["block.0.attn.q.b_OK"])] == 16.0
    assert rates[id(member.parameters["block.0.attn.q.a_KI"])] == 1.0
    with torch.no_grad():
        member.parameters["block.0.attn.q.b_OK"].fill_(0.1)
    scores, labels = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    other = torch.randn(4, 2)
    plain = Supervised().losses(scores, labels, "classification").mean()
    one, two = member.loss([scores], labels, 4, first=False), member.loss([scores, other], labels, 4, first=False)
    assert torch.allclose(one, plain)
    assert torch.allclose(two - one, consistency(scores, other, "classification").mean())
    penalty = 1e3 * 0.01 * member.parameters["block.0.attn.q.b_OK"].numel()
    assert torch.allclose(member.loss([scores], labels, 4, first=True) - one, torch.tensor(penalty))


def test_two_passes_have_two_draws_and_steps_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("bert")
    seen = Journal()
    kept: list[dict[str, Tensor]] = []
    monkeypatch.setattr(Member, "tell_end", lambda self, reason: kept.append(self.memory))
    monkeypatch.setattr(sys.modules[fit.__module__], "method_name", lambda method: "demanding")
    monkeypatch.setattr(sys.modules[fit.__module__], "to_mapping", lambda settings: {})
    fit(base, sentiment(16, 4), method=Demanding(seen=(seen,)), training=Training(epochs=1, batch_size=8))
    draws = [draw for draw in seen if draw is not None]
    assert len(draws) == len(set(draws)) == 4, "two steps, two passes, each with a draw of its own"
    assert float(kept[0]["steps"]) == 2.0
    assert float(kept[0]["sum"]) > 0


def test_consistency_is_the_symmetric_divergence() -> None:
    first, second = torch.randn(5, 3), torch.randn(5, 3)
    p, q = first.softmax(-1), second.softmax(-1)
    wanted = 0.5 * ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1))
    assert torch.allclose(consistency(first, second, "classification"), wanted, atol=1e-6)
    assert torch.equal(consistency(first, second, "regression"), (first[:, 0] - second[:, 0]) ** 2)
