"""PET and iPET: the formulas against NumPy, what the ensemble and the classifier learn, and that a cut work goes on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.special import softmax

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.core.settings import apply_overrides, from_mapping, to_mapping
from lmtailor.fit.callbacks.callback import Ended, Evaluated, Started, Stepped
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from lmtailor.strategies._pet_ensemble import verbalizers
from lmtailor.strategies._pet_labels import chosen, combined, labellers, quotas
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.desk import Desk
from lmtailor.strategies.pet import PET
from lmtailor.strategies.strategy import Work
from lmtailor.tasks.prompt import Prompt, named
from lmtailor.tasks.task import Task
from tests.fit.tasks import grades, records, sentiment
from tests.tiny import tiny_base

PATTERNS = ("{sentence} it was {mask}", "the text is {mask}", "so {sentence} is {mask}")
WORDS = {"neg": ("bad",), "pos": ("great",)}
FAST = Training(batch_size=4, lr=1e-2, eval_every=4, checkpoint_every=1)


def task(train: int = 16, texts: int = 60) -> Task:
    """A few labelled examples, and texts without labels."""
    few = sentiment(train, 20)
    rows = [{"sentence": row["text"]} for row in records(texts, 7)]
    other = Task.from_records(text=["sentence"], unlabelled=rows, labels=["neg", "pos"])
    splits = {**few.splits, "unlabelled": other.split("unlabelled")}
    return replace(few, splits=splits, prompts=named([PATTERNS[0], PATTERNS[2]]), verbalizer=WORDS)


def small(**settings: Any) -> PET:
    """A PET that takes no time."""
    chosen: Mapping[str, Any] = {"repetitions": 1, "steps": 4, "distil_steps": 8, "unlabelled": Unlabelled(batch_size=4)}
    return PET(**{**chosen, **settings})


@dataclass
class Counting:
    """Keeps the fits that were begun; stops the work at a step, counted over all fits."""

    stop_at: int | None = None
    steps: int = 0
    begun: int = 0

    def started(self, event: Started) -> None:
        self.begun += 1

    def stepped(self, event: Stepped) -> None:
        self.steps += 1
        if self.steps == self.stop_at:
            raise KeyboardInterrupt

    def evaluated(self, event: Evaluated) -> None: ...

    def ended(self, event: Ended) -> None: ...


# the formulas


def test_the_ensemble_is_the_weighted_mean_of_its_scores() -> None:
    scores, weights = [torch.randn(7, 3) for _ in range(4)], [0.9, 0.5, 0.0, 0.7]
    s = sum(w * one.double().numpy() for w, one in zip(weights, scores, strict=True)) / sum(weights)
    np.testing.assert_allclose(combined(scores, weights).numpy(), s, rtol=1e-12)
    np.testing.assert_allclose(combined(scores, [0.0] * 4).numpy(), np.mean([one.double().numpy() for one in scores], 0))
    q = combined(scores, weights).softmax(1).numpy()
    np.testing.assert_allclose(softmax(np.log(q) / 2.0, 1), softmax(s / 2.0, 1), rtol=1e-9, err_msg="T acts on the logits")


def test_each_generation_has_d_times_as_many_examples_of_each_label() -> None:
    counts = [3, 7]
    sizes = [[c + more for c, more in zip(counts, quotas(counts, j, 5), strict=True)] for j in (1, 2, 3)]
    assert sizes == [[15, 35], [75, 175], [375, 875]]
    assert [quotas([0, 0], j, 5) for j in (1, 2, 3)] == [[5, 5], [25, 25], [125, 125]]
    assert quotas([0] * 14, 1, 5) == [1] * 14


def test_a_model_is_labelled_by_a_share_of_the_others() -> None:
    for own in range(9):
        by = labellers(9, own, 0.25, generator(own, "test"))
        assert len(by) == len(set(by)) == 2
        assert own not in by
    assert labellers(2, 0, 0.25, generator(0, "test")) == [1]
    seen = Counter(i for seed in range(400) for i in labellers(5, 2, 0.25, generator(seed, "test")))
    assert set(seen) == {0, 1, 3, 4}
    assert min(seen.values()) > 70


def test_the_surest_texts_of_each_label_are_chosen() -> None:
    scores = torch.randn(200, 3)
    q, wanted = softmax(scores.double().numpy(), 1), [5, 8, 3]
    expected = set()
    for label, count in enumerate(wanted):
        own = [i for i in range(200) if q[i].argmax() == label]
        expected |= {(i, label) for i in sorted(own, key=lambda i: -q[i, label])[:count]}
    assert set(chosen(scores, wanted, "surest", generator(0, "test"))) == expected
    pairs = chosen(scores, wanted, "weighted", generator(0, "test"))
    assert Counter(label for _, label in pairs) == {0: 5, 1: 8, 2: 3}
    assert all(q[i].argmax() == label for i, label in pairs)
    assert pairs == sorted(pairs)
    few = chosen(scores[:4], [9, 9, 9], "weighted", generator(0, "test"))
    assert [i for i, _ in few] == [0, 1, 2, 3], "where there are too few, all are taken"


def test_texts_are_drawn_in_proportion_to_their_probability() -> None:
    q = torch.tensor([[0.95, 0.05], [0.55, 0.45], [0.75, 0.25], [0.1, 0.9]], dtype=torch.float64)
    drawn = Counter(chosen(q.log(), [1, 0], "weighted", generator(seed, "test"))[0][0] for seed in range(3000))
    total = 0.95 + 0.55 + 0.75
    for i in (0, 1, 2):
        assert drawn[i] / 3000 == pytest.approx(float(q[i, 0]) / total, abs=0.03)
    assert drawn[3] == 0


def test_without_labels_the_first_texts_of_a_label_are_those_with_its_highest_probability() -> None:
    scores = torch.stack([torch.linspace(3, 5, 300), torch.zeros(300)], 1)  # label 1 is never the answer
    pairs = chosen(scores, [5, 5], "weighted", generator(0, "test"), first=True)
    assert Counter(label for _, label in pairs) == {0: 5, 1: 5}
    assert all(i >= 200 for i, label in pairs if label == 0)
    assert all(i < 100 for i, label in pairs if label == 1)
    alike = chosen(scores[:8], [5, 5], "surest", generator(0, "test"), first=True)
    assert len({i for i, _ in alike}) == len(alike) == 8, "no text has two labels"


# the work


def test_the_classifier_learns_from_the_ensemble() -> None:
    base, own = tiny_base("gpt2"), task(40, 80)
    strategy, training = PET(repetitions=1, steps=80, distil_steps=80), Training(batch_size=8, lr=5e-3, eval_every=20)
    told: list[tuple[str, int, int]] = []
    adapter = adapt(base, own, strategy=strategy, method=LoRA(), training=training, tell=lambda *what: told.append(what))
    assert adapter.scores["dev"]["accuracy"].value > 0.8
    assert isinstance(adapter.readout, Head)
    search = adapter.provenance["search"]
    assert [(one["pattern"], one["repetition"]) for one in search["members"]] == [(PATTERNS[0], 0), (PATTERNS[2], 0)]
    assert all(0 <= one["weight"] <= 1 and one["dev"]["accuracy"] > 0.7 for one in search["members"])
    assert search["texts"] == 80
    assert search["agreement"] > 0.7
    assert told == [("fitting", 0, 3), ("fitting", 1, 3), ("distilling", 2, 3)]


@pytest.mark.parametrize(("generations", "stops"), [(0, (3, 7, 12)), (1, (6, 14, 21))])
def test_a_work_that_was_cut_goes_on_to_the_same_bits(tmp_path: Path, generations: int, stops: tuple[int, ...]) -> None:
    base = tiny_base("bert", hidden_dropout_prob=0.1)
    strategy = small(generations=generations, steps=4)

    def run(name: str, counting: Counting) -> Adapter:
        return adapt(
            base, task(), strategy=strategy, method=LoRA(), training=FAST, seed=3, out=tmp_path / name, callbacks=[counting]
        )

    whole, count = run("whole", Counting()), Counting()
    steps = 0
    for stop in stops:
        count = Counting(stop - steps)
        with pytest.raises(KeyboardInterrupt):
            run("cut", count)
        steps = stop - 1  # the step that was cut is done again
    last = Counting()
    cut = run("cut", last)
    files = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
    assert files
    assert all((tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes() for file in files)
    assert cut.provenance["search"] == whole.provenance["search"]
    assert last.begun == 1, "models that are done are not fitted again"
    assert not (tmp_path / ".cut.work").exists()


def test_generations_learn_from_more_and_more_texts() -> None:
    base, own = tiny_base("bert"), task(16, 100)
    adapter = adapt(base, own, strategy=small(generations=2, growth=3, draw="surest"), method=LoRA(), training=FAST)
    members = adapter.provenance["search"]["members"]
    assert [one["generation"] for one in members] == [0, 0, 1, 1, 2, 2]
    assert [one["train"] for one in members[:2]] == [16, 16]
    for one in members[2:]:
        assert 16 < one["train"] <= 16 * 3 ** one["generation"]


def test_without_labelled_examples_the_first_models_are_the_patterns_as_they_are() -> None:
    base, own = tiny_base("bert"), task()
    bare = replace(own, splits={name: split for name, split in own.splits.items() if name != "train"})
    counting = Counting()
    adapter = adapt(base, bare, strategy=small(repetitions=2, generations=1), method=LoRA(), training=FAST, callbacks=[counting])
    members = adapter.provenance["search"]["members"]
    assert [(one["generation"], one["train"]) for one in members] == [(0, 0)] * 4 + [(1, 10)] * 4
    assert {one["weight"] for one in members} == {1.0}
    assert counting.begun == 5


def test_an_encoder_decoder_takes_part_without_language_modelling() -> None:
    base, strategy = tiny_base("t5"), small(unlabelled=None, patterns=PATTERNS[:1])
    adapter = adapt(base, task(), strategy=strategy, method=LoRA(), training=FAST)
    assert [one["pattern"] for one in adapter.provenance["search"]["members"]] == [PATTERNS[0]]


def test_the_settings_are_read_from_the_command_line() -> None:
    def given(*texts: str) -> PET:
        return from_mapping(PET, cast(Any, apply_overrides({}, texts, known={"strategy": PET})["strategy"]))

    assert given("strategy.unlabelled=none", "generations=3") == PET(unlabelled=None, generations=3)
    assert given("unlabelled.weight=0.001") == PET(unlabelled=Unlabelled(weight=0.001))


def test_the_settings_decide() -> None:
    base, own = tiny_base("bert"), task()
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "temperature": {"temperature": 1.0},
        "uniform": {"weights": "uniform"},
        "no language": {"unlabelled": None},
        "lr": {"distil_lr": 1e-3},
        "patterns": {"patterns": PATTERNS[:2]},
        "words": {"words": {"neg": ("awful",), "pos": ("good",)}},
    }
    runs = {name: adapt(base, own, strategy=small(**one), method=LoRA(), training=FAST) for name, one in settings.items()}
    first = runs.pop("plain")
    assert {one["weight"] for one in runs["uniform"].provenance["search"]["members"]} == {1.0}
    for name, other in runs.items():
        if name != "uniform" or len({one["weight"] for one in first.provenance["search"]["members"]}) > 1:
            assert any(not torch.equal(first.state[key], other.state[key]) for key in first.state), name


def test_patterns_are_named_or_written_out_and_may_have_words_of_their_own() -> None:
    base, own = tiny_base("bert"), task()
    mine = Prompt(name="mine", pattern=PATTERNS[2], words={"neg": ("awful",), "pos": ("good",)})
    own = replace(own, prompts=(*named(PATTERNS[:1]), mine))
    desk = Desk(None)
    work = Work(base=base, task=own, method=None, readout=None, training=None, seed=0, desk=desk, tell=lambda *what: None)
    assert verbalizers(work, (), {}) == [Verbalizer(PATTERNS[0], WORDS), Verbalizer(PATTERNS[2], mine.words)]
    assert verbalizers(work, ("mine", PATTERNS[1]), {}) == [
        Verbalizer(PATTERNS[2], mine.words),
        Verbalizer(PATTERNS[1], WORDS),
    ]
    assert verbalizers(work, ("mine",), WORDS) == [Verbalizer(PATTERNS[2], WORDS)]


def test_the_papers_settings_are_the_default() -> None:
    base, own = tiny_base("bert"), task()
    adapter = adapt(base, own, strategy=small(steps=2, distil_steps=2))
    training = adapter.provenance["settings"]
    assert training["method"] is None
    assert isinstance(adapter.method, Full)
    assert from_mapping(PET, to_mapping(PET(generations=3))) == PET(generations=3)
    plain = PET()
    assert (plain.steps, plain.distil_steps, plain.temperature, plain.share, plain.growth) == (250, 5000, 2.0, 0.25, 5)
    assert plain.unlabelled == Unlabelled(weight=1e-4, batch_size=12)


def test_what_pet_cannot_do_is_refused() -> None:
    base, own = tiny_base("bert"), task()

    def run(other: Task, **settings: Any) -> Adapter:
        return adapt(base, other, strategy=small(**settings), method=LoRA(), training=FAST)

    with pytest.raises(InputError, match=r"has no unlabelled split, .* Put texts into one: files\.unlabelled in its card"):
        run(replace(sentiment(), prompts=named(PATTERNS), verbalizer=WORDS))
    with pytest.raises(UnsupportedError, match="regression has no labels"):
        run(grades())
    with pytest.raises(InputError, match=r"needs a pattern or more, and task proposes none\. Put \[\[patterns\]\]"):
        run(replace(own, prompts=()))
    with pytest.raises(InputError, match=r"needs words for the labels, .* strategy\.words"):
        run(replace(own, verbalizer={}))
    with pytest.raises(UnsupportedError, match="no LM head"):
        adapt(tiny_base("bert", head=False), own, strategy=small(), method=LoRA(), training=FAST)
    with pytest.raises(UnsupportedError, match="is an encoder-decoder; language modelling"):
        adapt(tiny_base("t5"), replace(own, prompts=named(PATTERNS[:1])), strategy=small(), method=LoRA(), training=FAST)
    with pytest.raises(InputError, match="needs two patterns or repetitions"):
        run(own, generations=1, patterns=PATTERNS[:1])
    with pytest.raises(InputError, match=r"set strategy\.steps and strategy\.distil_steps"):
        adapt(base, own, strategy=small(), method=LoRA(), training=Training(epochs=2))
    for wrong in ({"repetitions": 0}, {"growth": 1}, {"share": 0.0}, {"temperature": 0.0}, {"steps": 0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is"):
            PET(**wrong)
