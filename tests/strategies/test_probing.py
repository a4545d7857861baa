"""Probing: what is read of which state, that it depends on nothing but what is asked, and that it goes on after a crash."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmtailor.base.depths import depths
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.settings import to_mapping
from lmtailor.strategies import probing, probing_fit
from lmtailor.strategies.probing import RECORD, probe
from lmtailor.strategies.probing_items import BAG_OF_WORDS, EACH_WORD, MAJORITY, baselines, control, splits
from lmtailor.strategies.probing_record import ProbingRecord, beside, read_probing
from lmtailor.strategies.probing_settings import Probing
from lmtailor.strategies.probing_states import layer_states, place, seen
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

NOUNS, VERBS = ("cat", "dog", "movie", "book", "review"), ("sat", "love", "like", "was", "is")
SHORT = Probing(epochs=3, batch_size=16, lr=0.01, controls=(0, 1))


def sentences(count: int, start: int = 0) -> list[dict[str, str]]:
    """Determiner, noun, verb, in sentences of two lengths; some words are several tokens."""
    rows = []
    for i in range(start, start + count):
        words, tags = ["the", NOUNS[i % 5], VERBS[i * 3 % 5]], ["D", "N", "V"]
        if i % 2:
            words, tags = [*words, "a", "zebra"], [*tags, "D", "N"]
        rows.append({"text": " ".join(words), "tags": " ".join(tags)})
    return rows


def tagged(**more: object) -> Task:
    data = {"train": sentences(20), "dev": sentences(8, 20), "test": sentences(11, 30)}
    return Task.from_records(kind="labelling", text="text", label="tags", **{**data, **more})  # type: ignore[arg-type]


def labelled(kind: str = "classification") -> Task:
    worth = {"good": 1.0, "bad": -1.0, "great": 2.0, "awful": -2.5}
    rows = [
        {"text": f"the {noun} was {word}", "label": number if kind == "regression" else int(number > 0)}
        for noun in NOUNS
        for word, number in worth.items()
    ]
    dev = {"dev": rows[8:12]} if kind == "regression" else {}
    return Task.from_records(kind=kind, text="text", train=rows[:14], test=rows[14:], **dev)  # type: ignore[arg-type]


def without_times(record: ProbingRecord) -> ProbingRecord:
    bases = [replace(base, probes=tuple(replace(one, seconds=0.0) for one in base.probes)) for base in record.bases]
    return replace(record, bases=tuple(bases))


@pytest.mark.parametrize(
    ("family", "words", "pieces"),
    [("bert", "auto", "first"), ("llama", "auto", "last"), ("t5", "auto", "first"), ("bert", "mean", "mean")],
)
@pytest.mark.parametrize("memory", [0, 3000, 10**9])
def test_the_states_are_those_of_each_word_alone_and_padded(family: str, words: str, pieces: str, memory: int) -> None:
    base, task = tiny_base(family), tagged()
    settings = Probing(words=words, memory=memory)  # type: ignore[arg-type]
    where = place(base, task, settings)
    assert where.how == pieces
    examples = task.split("test").examples
    encoded = seen(where, examples)
    states = layer_states(base, where, encoded, settings, batch_size=4, folder=None, tell=None)
    assert bool(states.spilled) == (memory < 10**9)
    item = 0
    for example, one in zip(examples, encoded.encoded, strict=True):
        text = example.fields["text"]
        tokens = base.tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        offsets = tokens.pop("offset_mapping")[0].tolist()
        assert tuple(tokens["input_ids"][0].tolist()) == one.sequences[0]
        with torch.no_grad():
            every = torch.stack(depths(base, {name: value for name, value in tokens.items() if name != "token_type_ids"}))[:, 0]
        for word in re.finditer(r"\S+", text):
            own = [i for i, (begin, end) in enumerate(offsets) if end > begin and begin < word.end() and end > word.start()]
            read = {"first": own[:1], "last": own[-1:], "mean": own}[pieces]
            expected = every[:, read].mean(1)
            torch.testing.assert_close(states.batch(torch.tensor([item]))[:, 0], expected, rtol=1e-4, atol=1e-5)
            item += 1
    assert item == sum(encoded.counts)


def test_standardised_states_have_median_0_and_spread_1_and_no_state_rules() -> None:
    base, task = tiny_base("gpt2"), tagged()
    where = place(base, task, SHORT)
    states = layer_states(base, where, seen(where, task.split("train").examples), SHORT, batch_size=4, folder=None, tell=None)
    items = torch.arange(33)
    raw_LNH = states.batch(items)
    states._cache._memory[5] *= 1000  # one word's state is some hundred times as large as all others
    x_LNH = states.standardised(items, 5.0).batch(items)
    torch.testing.assert_close(x_LNH.median(1).values, torch.zeros(5, 48), rtol=0, atol=1e-4)
    assert x_LNH.abs().max() == 5
    others = [item for item in range(33) if item != 5]
    shifted = x_LNH[:, others] - x_LNH[:, others].mean(1, keepdim=True)
    spread = raw_LNH[:, others].std(1) > 1e-3
    assert bool((shifted.std(1)[spread] > 0.3).all()), "the others still differ"


def test_a_control_task_is_a_label_for_each_type_as_frequent_as_in_train() -> None:
    types = [f"word {number}" for number in range(4000)]
    train_N = np.array([0.0] * 70 + [1.0] * 20 + [2.0] * 10)
    one, again, other = control(types + types, train_N, 0), control(types[:7], train_N, 0), control(types, train_N, 1)
    assert (one[:4000] == one[4000:]).all()
    assert (again == one[:7]).all()
    assert (one[:4000] != other).mean() > 0.3
    shares = np.bincount(one.astype(int)) / 8000
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.03)


def test_simple_answers_that_need_no_model() -> None:
    task = tagged(train=[{"text": "cat sat the cat dog", "tags": "N V D V N"}, {"text": "cat sat", "tags": "N V"}])
    items = splits(task, "test", 0)
    simple = baselines(task, items["train"], items["test"])
    words = dict(zip(items["test"].types, simple[EACH_WORD], strict=True))
    labels = {tag: number for number, tag in enumerate(task.labels)}
    assert [words[word] for word in ("cat", "sat", "the", "zebra")] == [labels[tag] for tag in ("N", "V", "D", "N")]
    assert set(simple[MAJORITY]) == {labels["N"]}  # N and V are as frequent; the first
    texts = splits(labelled(), "test", 0)
    assert (baselines(labelled(), texts["train"], texts["test"])[BAG_OF_WORDS] == texts["test"].labels_N).all()
    numbers = splits(labelled("regression"), "test", 0)
    assert set(baselines(labelled("regression"), numbers["train"], numbers["test"])) == {BAG_OF_WORDS}


@pytest.mark.parametrize("family", ["bert", "llama", "bart"])
def test_a_study_of_words(family: str, tmp_path: Path) -> None:
    told = []
    record = probe(
        tiny_base(family), tagged(), settings=replace(SHORT, hidden=(0, 4)), out=tmp_path, tell=lambda *words: told.append(words)
    )
    assert record == read_probing(tmp_path / RECORD)
    (base,) = record.bases
    assert record.examples == {"train": 20, "dev": 8, "test": 11}
    assert base.n == record.items["test"] == sum(base.counts)
    assert [probe.hidden for probe in base.probes] == [0, 4]
    for one in base.probes:
        assert [place.layer for place in one.places] == ["0", "1", "2", "3", "4", "mix"]
        assert sum(one.shares) == pytest.approx(1)
        for layer in one.places:
            assert layer.control is not None
            assert layer.selectivity is not None
            assert layer.score.value == pytest.approx(sum(layer.right) / base.n)
            assert layer.selectivity.value == pytest.approx(layer.score.value - layer.control.value)
            assert layer.score.low <= layer.score.value <= layer.score.high
    assert base.probes[0].layers[0].score.value > 0.9  # a word is known by its embedding
    assert {what for what, _, _ in told} == {
        f"tiny-{family}: states",
        f"tiny-{family}: linear probes",
        f"tiny-{family}: probes with a hidden layer of 4",
    }
    assert len(record.frame()) == 12


def test_what_was_killed_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task, settings = tiny_base("bert"), tagged(), replace(SHORT, hidden=(0, 4))
    whole = probe(base, task, settings=settings)
    train, calls = probing_fit.train_probes, []

    def dies(*given: object, **more: object) -> object:
        calls.append(given[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(probing, "train_probes", dies)
    with pytest.raises(KeyboardInterrupt):
        probe(base, task, settings=settings, out=tmp_path)
    assert not (tmp_path / RECORD).exists()
    resumed = probe(base, task, settings=settings, out=tmp_path)
    assert calls == [0, 4, 4]
    assert without_times(resumed) == without_times(whole)
    probe(base, task, settings=settings, out=tmp_path)
    probe(base, task, settings=replace(settings, hidden=(4,)), out=tmp_path)
    assert calls == [0, 4, 4]
    probe(base, task, settings=replace(settings, hidden=(4,), l2=0.1), out=tmp_path)
    assert calls == [0, 4, 4, 4]


@pytest.mark.parametrize("pooling", ["auto", "last"])
def test_texts_and_numbers(pooling: str) -> None:
    settings = replace(SHORT, pooling=pooling, epochs=30)  # type: ignore[arg-type]
    record = probe(tiny_base("bert"), labelled(), settings=settings)
    assert record.examples["train"] == 13, "a tenth was held out"
    assert record.metric == "accuracy"
    numbers = probe(tiny_base("bert"), labelled("regression"), settings=settings)
    assert numbers.metric == "pearson"
    one = numbers.bases[0].probes[0].best
    assert one.right == ()
    assert one.train > 0.5
    uncontrolled = probe(tiny_base("bert"), labelled(), settings=replace(settings, controls=()))
    assert not uncontrolled.controlled
    assert uncontrolled.bases[0].probes[0].best.selectivity is None


def test_words_that_the_model_does_not_see_are_left_out_and_told() -> None:
    rows = [*sentences(6, 30), {"text": " ".join(["cat"] * 200), "tags": " ".join(["N"] * 200)}]
    record = probe(tiny_base("bert"), tagged(test=rows), settings=SHORT)
    (base,) = record.bases
    assert base.n + base.unread == record.items["test"]
    assert base.unread == 200 - 126  # two places are [CLS] and [SEP]
    assert base.cut == 1
    assert f"{base.unread} of" in record.notes[0]


def test_several_bases_beside_each_other() -> None:
    records = [probe(tiny_base("bert"), tagged(), settings=SHORT, name=name) for name in ("one", "two")]
    assert [base.name for base in beside(records).bases] == ["one", "two"]
    with pytest.raises(InputError, match="Two bases are called 'one'"):
        beside([records[0], records[0]])
    other = probe(tiny_base("bert"), tagged(), settings=replace(SHORT, seed=1), name="three")
    with pytest.raises(InputError, match="other data or settings"):
        beside([records[0], other])


def test_what_cannot_be_probed(tmp_path: Path) -> None:
    base = tiny_base("llama")
    generation = Task.from_records(
        kind="generation", text="text", label="out", train=[{"text": "a", "out": "b"}], test=[{"text": "a", "out": "b"}]
    )
    with pytest.raises(UnsupportedError, match="task of generation"):
        probe(base, generation)
    seen = probe(base, tagged(), split="dev", settings=SHORT).notes
    assert "dev ended the training of probes and names the best layer, so scores on it are too good" in seen[0]
    with pytest.raises(InputError, match="no split 'tset'"):
        probe(base, tagged(), split="tset")
    with pytest.raises(UnsupportedError, match="first token"):
        probe(base, labelled(), settings=Probing(pooling="cls"))
    for settings in (
        {"hidden": ()},
        {"hidden": (0, 0)},
        {"controls": (1, 1)},
        {"lr": 0.0},
        {"l2": -1.0},
        {"clip": 0.0},
        {"standardise": False},
        {"epochs": 0},
    ):
        with pytest.raises(InputError):
            Probing(**settings)
    with pytest.raises(InputError, match="cannot be read"):
        read_probing(tmp_path / "none.json")
    (tmp_path / "deep.json").write_text("[" * 100_000, "utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_probing(tmp_path / "deep.json")
    good = probe(base, tagged(), settings=SHORT)
    values = json.loads(json.dumps(to_mapping(good)))
    values["bases"][0]["probes"][0]["shares"] = [1.0]
    (tmp_path / "bad.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(InputError, match="damaged"):
        read_probing(tmp_path / "bad.json")
