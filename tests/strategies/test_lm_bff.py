"""LM-BFF from end to end on models whose best words are known."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, TrainingError, UnsupportedError
from lmtailor.fit.callbacks.callback import Callback, Ended, Evaluated, Started, Stepped
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import evaluate
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.demonstrations import Demonstrations, Similar
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import load_adapter
from lmtailor.strategies import strategy_class
from lmtailor.strategies.adapt import adapt, work_folder
from lmtailor.strategies.lm_bff import LMBFF
from lmtailor.tasks.task import Task
from tests.fit.tasks import grades, records
from tests.strategies.taught import PATTERN, taught, the_task, words_of
from tests.tiny import tiny_base

ANY = {"neg": ("neg",), "pos": ("pos",)}
SHORT = Training(max_steps=4, batch_size=4, eval_every=2)
SMALL = LMBFF(top_words=4, candidates=4)
START = Verbalizer(PATTERN, ANY)
TUNED: dict[str, Any] = dict(strategy=SMALL, method=LoRA(rank=2), readout=START, training=SHORT)


@pytest.fixture(scope="module")
def task() -> Task:
    return the_task()


@pytest.fixture(scope="module")
def bert(task: Task) -> Base:
    return taught("bert")


@pytest.fixture(scope="module")
def tiny() -> Base:
    return tiny_base("bert")


@pytest.fixture(scope="module")
def whole(tiny: Base, task: Task) -> Adapter:
    """What LM-BFF makes of `TUNED` if nothing interrupts it."""
    return adapt(tiny, task, **TUNED)


def same(one: Adapter, other: Adapter) -> None:
    """Equal bits, answers and records."""
    assert one.readout == other.readout
    assert one.state.keys() == other.state.keys()
    for name, value in one.state.items():
        assert torch.equal(value, other.state[name]), name
    assert one.provenance["search"] == other.provenance["search"]


def stopping_at(what: str, number: int) -> Any:
    """A listener that interrupts."""

    def tell(now: str, done: int, total: int) -> None:
        if now == what and done == number:
            raise KeyboardInterrupt

    return tell


def test_it_is_found_by_its_name() -> None:
    assert strategy_class("lm_bff") is LMBFF


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_words_that_were_taught_are_chosen_without_training(family: str) -> None:
    task, base = the_task(), taught(family)
    adapter = adapt(base, task, strategy=SMALL, method=Frozen(), readout=START)
    assert isinstance(adapter.readout, Verbalizer)
    assert dict(adapter.readout.words) == words_of(family)
    search = adapter.provenance["search"]
    assert search["words"] == {label: list(own) for label, own in words_of(family).items()}
    assert search["exact"] is True
    assert len(search["word_candidates"]) == 4
    assert search["word_candidates"][0]["words"] == {"neg": "no", "pos": "yes"}
    assert search["word_candidates"][0]["dev"]["accuracy"] == evaluate(base, task, adapter, split="dev")["accuracy"].value == 1.0


@pytest.mark.parametrize(("family", "method"), [("bert", BitFit()), ("llama", LoRA(rank=2)), ("t5", LoRA(rank=2))])
def test_candidates_are_fine_tuned_and_the_best_on_dev_is_kept(family: str, method: Any, task: Task, tmp_path: Path) -> None:
    base = tiny_base(family)
    adapter = adapt(base, task, strategy=SMALL, method=method, readout=START, training=SHORT, seed=3, out=tmp_path / "a")
    rows = adapter.provenance["search"]["word_candidates"]
    best = max(range(4), key=lambda i: (rows[i]["dev"]["accuracy"], rows[i]["likelihood"]))
    assert isinstance(adapter.readout, Verbalizer)
    assert {label: own[0] for label, own in adapter.readout.words.items()} == rows[best]["words"]
    alone = fit(base, task, method=method, readout=adapter.readout, training=SHORT, seed=3)
    for name, value in alone.state.items():
        assert torch.equal(value, adapter.state[name])
    assert adapter.scores["dev"]["accuracy"].value == rows[best]["dev"]["accuracy"]
    assert not work_folder(tmp_path / "a").exists()
    same(load_adapter(tmp_path / "a", base), adapter)


@pytest.mark.parametrize(
    ("what", "number"), [("searching label words", 0), *(("fine-tuning label words", done) for done in (0, 1, 3, 4))]
)
def test_an_interrupted_work_goes_on_to_the_same_bits(
    what: str, number: int, tiny: Base, whole: Adapter, task: Task, tmp_path: Path
) -> None:
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        adapt(tiny, task, **TUNED, out=out, tell=stopping_at(what, number))
    told: list[tuple[str, int, int]] = []
    same(adapt(tiny, task, **TUNED, out=out, tell=lambda *event: told.append(event)), whole)
    assert told[-1] == ("fine-tuning label words", 4, 4)


class Stops(Callback):
    """Interrupts a fit after some steps, counted over all fits."""

    def __init__(self, after: int) -> None:
        self.left = after

    def started(self, event: Started) -> None:
        """Nothing."""

    def evaluated(self, event: Evaluated) -> None:
        """Nothing."""

    def ended(self, event: Ended) -> None:
        """Nothing."""

    def stepped(self, event: Stepped) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [3, 7])
def test_an_interrupted_fit_of_a_candidate_goes_on_to_the_same_bits(
    after: int, tiny: Base, whole: Adapter, task: Task, tmp_path: Path
) -> None:
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        adapt(tiny, task, **TUNED, out=out, callbacks=[Stops(after)])
    assert list(work_folder(out).glob("words/.*.checkpoint/state.safetensors")), "it stopped within a fit"
    same(adapt(tiny, task, **TUNED, out=out), whole)


def test_after_a_crash_nothing_that_is_done_is_done_again(
    tiny: Base, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, out = tiny, tmp_path / "a"
    settings = {**TUNED, "out": out}
    with pytest.raises(KeyboardInterrupt):
        adapt(base, task, **settings, tell=stopping_at("fine-tuning label words", 3))
    kept = sorted(path.name for path in (work_folder(out) / "words").iterdir())
    assert [name for name in kept if name.endswith(".json")] == ["0000.json", "0001.json", "0002.json"]
    assert len([name for name in kept if not name.endswith(".json")]) == 1, "only the best adapter so far is kept"
    monkeypatch.setattr("lmtailor.strategies.lm_bff.search_words", None)
    fitted: list[Path] = []

    def counting(*args: Any, **named: Any) -> Adapter:
        fitted.append(named["out"])
        made: Adapter = fit(*args, **named)
        return made

    monkeypatch.setattr("lmtailor.strategies._lm_bff_tune.fit", counting)
    adapt(base, task, **settings)
    assert {path.name for path in fitted} - set(kept) == {"0003"}
    with pytest.raises(TrainingError):
        adapt(base, task, **{**settings, "strategy": LMBFF(top_words=5, candidates=4)})


def test_a_lost_adapter_of_the_best_is_fitted_again(tiny: Base, whole: Adapter, task: Task, tmp_path: Path) -> None:
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        adapt(tiny, task, **TUNED, out=out, tell=stopping_at("fine-tuning label words", 4))
    for path in (work_folder(out) / "words").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    same(adapt(tiny, task, **TUNED, out=out), whole)


def test_by_default_all_of_the_model_is_fine_tuned_as_in_the_paper(
    bert: Base, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def shortened(*args: Any, **named: Any) -> Adapter:
        asked.append(dict(named))
        made: Adapter = fit(*args, **{**named, "training": SHORT})
        return made

    monkeypatch.setattr("lmtailor.strategies._lm_bff_tune.fit", shortened)
    adapt(bert, task, strategy=LMBFF(top_words=3, candidates=1), readout=START)
    assert asked[0]["method"] == Full()
    assert asked[0]["training"] == Training(max_steps=1000, batch_size=8, eval_every=100, lr=1e-5)
    adapt(bert, task, strategy=LMBFF(top_words=3, candidates=1), readout=START, training=Training(epochs=1, lr=3e-4))
    assert asked[1]["training"] == Training(epochs=1, lr=3e-4)
    adapt(bert, task, strategy=LMBFF(top_words=3, candidates=1), readout=START, method=BitFit(), training=Training(epochs=1))
    assert asked[2]["training"].lr is None, "left to the method's recipe"


def test_the_pattern_may_come_from_the_card(bert: Base, task: Task) -> None:
    carded = Task.from_records(
        text="text", train=records(16, 0), dev=records(12, 1), patterns=["{text} so it was {mask}"], metrics=["macro_f1"]
    )
    adapter = adapt(bert, carded, strategy=SMALL, method=Frozen())
    assert isinstance(adapter.readout, Verbalizer)
    assert (adapter.readout.pattern, dict(adapter.readout.words)) == ("{text} so it was {mask}", words_of("bert"))
    with pytest.raises(InputError, match="needs a pattern"):
        adapt(bert, task, strategy=SMALL, method=Frozen())


@pytest.mark.parametrize("similar", [False, True])
def test_demonstrations_are_shown_to_the_candidates(similar: bool, bert: Base, task: Task, tmp_path: Path) -> None:
    bert.model.save_pretrained(tmp_path / "encoder")
    bert.tokenizer.save_pretrained(tmp_path / "encoder")
    like = Similar(encoder=str(tmp_path / "encoder")) if similar else None
    shown = Demonstrations(k=1, per_class=True, similar=like, separator=" ")
    strategy = LMBFF(top_words=3, candidates=2, demonstrations=shown)
    adapter = adapt(bert, task, strategy=strategy, method=LoRA(rank=2), readout=START, training=SHORT)
    assert isinstance(adapter.readout, Verbalizer)
    drawn = adapter.readout.demonstrations
    assert drawn is not None
    assert drawn.similar == like
    assert drawn.shown is not None
    assert {one.label for one in drawn.shown} == {"neg", "pos"}
    assert len(drawn.shown) == (16 if similar else 2)
    without = adapt(bert, task, strategy=replace(strategy, demonstrations=None), method=Frozen(), readout=START)
    found, plain = (one.provenance["search"]["word_candidates"] for one in (adapter, without))
    assert [row["words"] for row in found] == [row["words"] for row in plain], "the search leaves them out"


def test_what_was_measured_for_other_words_is_measured_again(bert: Base, task: Task) -> None:
    measured = replace(START, normalise="pmi", prior=((-1.0, -2.0),))
    adapter = adapt(bert, task, strategy=SMALL, method=Frozen(), readout=measured)
    assert isinstance(adapter.readout, Verbalizer)
    assert adapter.readout.normalise == "pmi"
    assert adapter.readout.prior != measured.prior


def test_what_it_refuses(bert: Base, task: Task) -> None:
    with pytest.raises(UnsupportedError, match="regression"):
        adapt(bert, grades(12, 6), strategy=SMALL, readout=START)
    with pytest.raises(UnsupportedError, match="no LM head"):
        adapt(tiny_base("bert", head=False), task, strategy=SMALL, readout=START)
    with pytest.raises(UnsupportedError, match="Head has none"):
        adapt(bert, task, strategy=SMALL, readout=Head())
    without_dev = replace(task, splits={"train": task.split("train")})
    with pytest.raises(InputError, match="has no dev split"):
        adapt(bert, without_dev, strategy=SMALL, readout=START)
    three = replace(task, labels=("neg", "pos", "mixed"))
    with pytest.raises(InputError, match="no example of 'mixed'"):
        adapt(bert, three, strategy=SMALL, readout=Verbalizer(PATTERN, {**ANY, "mixed": ("cat",)}))
    trigger = Verbalizer("{sentence} {trigger} {mask}", ANY, trigger=("so",))
    with pytest.raises(InputError, match="A trigger belongs to its pattern"):
        adapt(tiny_base("gpt2"), task, strategy=LMBFF(search="templates"), readout=trigger)
    with pytest.raises(InputError, match="candidates must be at least 1; found 0"):
        LMBFF(candidates=0)
