"""The one door of strategies: what it hands over, what it keeps, and how it goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmtailor.core.errors import InputError, TrainingError, UnsupportedError
from lmtailor.fit.training import Training
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.full import Full
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.folder import load_adapter
from lmtailor.strategies import strategy_class
from lmtailor.strategies.adapt import adapt, work_folder
from lmtailor.strategies.strategy import Strategy, Work
from tests.fit.tasks import sentiment
from tests.strategies.two_fits import TwoFits
from tests.tiny import tiny_base

SHORT = Training(max_steps=2, batch_size=4, eval_every=1)


def test_the_adapter_says_how_it_came_to_be(tmp_path: Path) -> None:
    base, task = tiny_base("bert"), sentiment()
    told: list[tuple[str, int, int]] = []
    out = tmp_path / "out"
    adapter = adapt(
        base,
        task,
        strategy=TwoFits(),
        training=SHORT,
        seed=3,
        out=out,
        tell=lambda what, done, total: told.append((what, done, total)),
    )
    assert told == [("fitting", 0, 2), ("fitting", 1, 2)]
    again = load_adapter(out, base)
    for known in (adapter.provenance, again.provenance):
        assert known["search"]["best"] in (0, 1)
        assert known["seed"] == 3
        assert known["settings"]["strategy"] == {"name": "two_fits", "rank": 2, "stop_after": None}
        assert known["settings"]["method"] is None
        assert known["data"] == task.digest
    assert all(torch.equal(adapter.state[name], tensor) for name, tensor in again.state.items())
    assert not work_folder(out).exists()


def test_what_is_asked_for_reaches_the_strategy() -> None:
    mean = Head(pooling="mean")
    adapter = adapt(tiny_base("bert"), sentiment(), strategy=TwoFits(), method=BitFit(), readout=mean, training=SHORT)
    assert isinstance(adapter.method, BitFit)
    assert adapter.readout == mean


def test_a_finished_work_is_returned_and_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task, out = tiny_base("bert"), sentiment(), tmp_path / "out"
    first = adapt(base, task, strategy=TwoFits(), training=SHORT, out=out)
    with monkeypatch.context() as patch:
        patch.setattr(TwoFits, "run", lambda self, work: pytest.fail("it was done"))
        second = adapt(base, task, strategy=TwoFits(), training=SHORT, out=out)
    assert all(torch.equal(first.state[name], tensor) for name, tensor in second.state.items())
    with pytest.raises(TrainingError, match="--overwrite"):
        adapt(base, task, strategy=TwoFits(rank=3), training=SHORT, out=out)
    third = adapt(base, task, strategy=TwoFits(rank=3), training=SHORT, out=out, overwrite=True)
    assert third.num_parameters > first.num_parameters


def test_an_interrupted_work_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task, out = tiny_base("bert"), sentiment(), tmp_path / "out"
    whole = adapt(base, task, strategy=TwoFits(), training=SHORT, seed=1)
    stopping = TwoFits()
    with monkeypatch.context() as patch:
        run = TwoFits.run
        patch.setattr(TwoFits, "run", lambda self, work: run(replace(self, stop_after=1), work))
        with pytest.raises(KeyboardInterrupt):
            adapt(base, task, strategy=stopping, training=SHORT, seed=1, out=out)
    place = work_folder(out)
    written = (place / "fits" / "0" / "adapter.json").stat().st_mtime_ns
    with pytest.raises(TrainingError, match="unfinished work of other settings"):
        adapt(base, task, strategy=stopping, training=SHORT, seed=2, out=out)
    assert (place / "fits" / "0" / "adapter.json").stat().st_mtime_ns == written
    resumed = adapt(base, task, strategy=stopping, training=SHORT, seed=1, out=out)
    assert all(torch.equal(whole.state[name], tensor) for name, tensor in resumed.state.items())
    assert not place.exists()


def test_a_strategy_may_refuse() -> None:
    base, task = tiny_base("bert"), sentiment()
    asked = Verbalizer("{sentence} {mask}", {"neg": ("bad",), "pos": ("good",)})
    with pytest.raises(UnsupportedError, match="need a head"):
        adapt(base, task, strategy=TwoFits(), readout=asked)
    work = Work(base=base, task=task, method=Full(), readout=None, training=None, seed=0, tell=lambda what, done, total: None)
    with pytest.raises(UnsupportedError, match=r"It searches\. Leave the method out, or use frozen; Full was asked for"):
        work.refuse_method("It searches.")
    replace(work, method=Frozen()).refuse_method("It searches.")
    replace(work, method=None).refuse_method("It searches.")


def test_names() -> None:
    for name, found in Strategy.variants().items():
        assert strategy_class(name) is found
        assert strategy_class(found.__name__) is found
        assert found.__doc__
        assert found.paper
    with pytest.raises(InputError, match="There is no strategy 'pett'"):
        strategy_class("pett")
