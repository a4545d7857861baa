"""Demonstrations chosen for each input: the nearest, or drawn from the nearer half; never the input itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.load import load_base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.readouts.calibration import Calibration
from lmtailor.readouts.demonstrations import Demonstrations, Shown, Similar
from lmtailor.readouts.similar import Chooser
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from tests.readouts.examples import SENTIMENT, decoded
from tests.tiny import tiny_base

WORDS = {"neg": ("awful",), "pos": ("great",)}
PATTERNS = {"bert": "{sentence} It was {mask}.", "gpt2": "{sentence} It was {mask}", "bart": "{sentence} It was {mask}"}
TEXTS = ("a good movie", "a sad cat", "the book was fun", "so boring", "a great text", "the worst dog", "good fun", "no love")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    base = tiny_base("bert", head=False)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


def task() -> Task:
    rows = [{"sentence": text, "label": "neg" if i % 2 else "pos"} for i, text in enumerate(TEXTS)]
    return Task.from_records(text="sentence", train=rows)


def bound(key: str, encoder: str, **settings: Any) -> VerbalizerReading:
    similar = Similar(encoder=encoder, **settings.pop("similar", {}))
    shown = Demonstrations(similar=similar, **settings)
    return Verbalizer(PATTERNS[key], WORDS, demonstrations=shown).bind(tiny_base(key), SENTIMENT, None, task())


def chooser(reading: VerbalizerReading) -> Chooser:
    assert reading.chooser is not None
    return reading.chooser


def picked(reading: VerbalizerReading, text: str) -> list[str]:
    return [one.fields["sentence"] for one in chooser(reading).shown({"sentence": text})]


def by_hand(encoder: str, text: str) -> list[str]:
    """The training texts by the cosine of mean states, each run alone."""
    base = load_base(encoder)

    def embedded(one: str) -> torch.Tensor:
        with torch.no_grad():
            state: torch.Tensor = base.trunk(**base.tokenizer(one, return_tensors="pt")).last_hidden_state[0].mean(0)
        return torch.nn.functional.normalize(state, dim=0)

    return sorted(TEXTS, key=lambda one: -float(embedded(one) @ embedded(text)))


def test_the_nearest_are_those_of_mean_pooled_cosine(encoder: str) -> None:
    reading = bound("gpt2", encoder, k=3, similar={"pick": "nearest"})
    for text in ("a fun cat", "the best movie so far"):
        assert set(picked(reading, text)) == set(by_hand(encoder, text)[:3])
        each = bound("gpt2", encoder, k=1, per_class=True, similar={"pick": "nearest"})
        nearest = by_hand(encoder, text)
        assert set(picked(each, text)) == {next(one for one in nearest if TEXTS.index(one) % 2 == label) for label in range(2)}


def test_halves_are_drawn_from_by_the_seed(encoder: str) -> None:
    text, ranked = "a fun cat", by_hand(encoder, "a fun cat")
    halves = {label: [one for one in ranked if TEXTS.index(one) % 2 == label][:2] for label in range(2)}
    draws = [picked(bound("gpt2", encoder, k=1, per_class=True, seed=seed), text) for seed in range(8)]
    assert draws == [picked(bound("gpt2", encoder, k=1, per_class=True, seed=seed), text) for seed in range(8)]
    for label, half in halves.items():
        found = {one for draw in draws for one in draw if TEXTS.index(one) % 2 == label}
        assert found == set(half), "both of the nearer half, and no other"
    total = picked(bound("gpt2", encoder, k=4), text)
    assert set(total) == set(ranked[:4])


def test_an_example_is_never_shown_to_itself(encoder: str) -> None:
    reading = bound("gpt2", encoder, k=7, similar={"pick": "nearest"})
    for text in TEXTS:
        assert sorted(picked(reading, text)) == sorted(set(TEXTS) - {text})
    with pytest.raises(InputError, match="8 demonstrations are asked for, but there are 7 labelled examples to choose from"):
        picked(bound("gpt2", encoder, k=8, similar={"pick": "nearest"}), TEXTS[0])


def test_orders(encoder: str) -> None:
    text, settings = "a fun cat", {"k": 2, "per_class": True}
    classes = [TEXTS.index(one) % 2 for one in picked(bound("gpt2", encoder, order="by_class", **settings), text)]
    assert classes == [1, 1, 0, 0]  # the labels' order: neg, pos
    places = [TEXTS.index(one) for one in picked(bound("gpt2", encoder, order="as_given", **settings), text)]
    assert places == sorted(places)
    orders = {tuple(picked(bound("gpt2", encoder, order_seed=seed, **settings), text)) for seed in range(5)}
    assert len(orders) > 1
    assert len({frozenset(one) for one in orders}) == 1


@pytest.mark.parametrize("key", PATTERNS)
def test_each_input_has_its_own_demonstrations_before_it(key: str, encoder: str) -> None:
    reading = bound(key, encoder, k=2, similar={"pick": "nearest"})
    tokenizer = tiny_base(key).tokenizer
    assert reading.prompt() == ()
    for text in ("a fun cat", "the best movie so far"):
        shown = chooser(reading).shown({"sentence": text})
        item = reading.encode(Example(id="x", fields={"sentence": text}))
        before = "\n\n".join([f"{one.fields['sentence']} It was {WORDS[one.label][0]}" + "." * (key == "bert") for one in shown])
        ids = tokenizer(f"{before}\n\n{text} It was" + " [MASK]." * (key == "bert"))["input_ids"]
        assert list(item.sequences[0]) == ids, decoded(tokenizer, item.sequences[0])


def test_the_pool_is_kept_with_the_settings(encoder: str) -> None:
    reading = bound("gpt2", encoder, k=1, per_class=True, similar={"pool": 3})
    assert len(reading.demonstrations) == 6
    stored = from_mapping(Verbalizer, to_mapping(reading.readout))
    again = stored.bind(tiny_base("gpt2"), SENTIMENT, None)
    example = Example(id="x", fields={"sentence": "a fun cat"})
    assert again.encode(example) == reading.encode(example)
    assert len(bound("gpt2", encoder, k=1).demonstrations) == 8


def test_sets_draw_from_the_same_pool(encoder: str) -> None:
    reading = bound("gpt2", encoder, k=1, per_class=True, sets=3)
    variants = reading.variants()
    assert len(variants) == 3
    assert all(one.demonstrations == reading.demonstrations for one in variants)
    assert len({tuple(picked(one, "a fun cat")) for one in variants}) > 1
    assert len({id(chooser(one).neighbours) for one in variants}) == 1, "texts are embedded once for all sets"


def test_what_has_no_meaning_is_refused(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"3 demonstrations .* there are 4 labelled examples with the label 'neg' to choose .*2\."
    ):
        bound("gpt2", encoder, k=3, per_class=True)
    plain = Verbalizer("{a} {mask}", WORDS, demonstrations=Demonstrations(k=1, similar=Similar(encoder=encoder)))
    with pytest.raises(InputError, match="calibration is measured behind the prompt that all inputs have"):
        replace(plain, calibration=Calibration())
    with pytest.raises(InputError, match="normalise=pmi is measured behind the prompt that all inputs have"):
        replace(plain, normalise="pmi")
    decoder = tiny_base("gpt2")
    decoder.model.save_pretrained(tmp_path)
    decoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="is a decoder, whose tokens do not all see the whole text"):
        picked(bound("gpt2", str(tmp_path), k=1), "a")
    with pytest.raises(InputError, match="need an encoder"):
        Similar(encoder="")
    with pytest.raises(InputError, match="at least 1 example; found 0"):
        Similar(encoder="x", pool=0)


def test_too_long_demonstrations_say_how_many_fit(encoder: str) -> None:
    long = tuple(Shown(fields={"sentence": "so " * (20 + i)}, label=("neg", "pos")[i % 2]) for i in range(8))
    shown = Demonstrations(k=4, similar=Similar(encoder=encoder, pick="nearest"), shown=long)
    reading = Verbalizer(PATTERNS["gpt2"], WORDS, demonstrations=shown).bind(tiny_base("gpt2"), SENTIMENT, None)
    with pytest.raises(InputError, match=r"4 demonstrations are longer than the 128 tokens .* the first \d fit. Use k of \d"):
        reading.encode(Example(id="x", fields={"sentence": "a"}))
