"""Demonstrations: which are drawn, how they stand before the input, and when they are too many."""

from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from lmtailor.core.errors import InputError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.readouts.demonstrations import Demonstrations, Shown, choose
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.tasks.example import Example, Split
from lmtailor.tasks.task import Task
from tests.readouts.examples import SENTIMENT, decoded, line_break_base, sentences, sentiment_task
from tests.tiny import tiny_base

WORDS = {"neg": ("awful",), "pos": ("great", "good")}


def drawn(task: Task | None = None, **settings: Any) -> list[tuple[str, str]]:
    train = (task or sentiment_task()).split("train")
    shown = choose(Demonstrations(**settings), train, SENTIMENT, ("sentence",))
    return [(one.fields["sentence"], one.label) for one in shown]


def bound(key: str, pattern: str, demonstrations: Demonstrations, task: Task | None = None, **settings: Any) -> VerbalizerReading:
    readout = Verbalizer(pattern, WORDS, demonstrations=demonstrations, **settings)
    return readout.bind(tiny_base(key), SENTIMENT, None, task or sentiment_task())


def test_the_draw_depends_on_the_seed_alone() -> None:
    assert drawn(k=4, seed=3) == drawn(k=4, seed=3)
    assert drawn(k=4, seed=3) != drawn(k=4, seed=4)
    assert len(set(drawn(k=12))) == 12


def test_more_contain_fewer() -> None:
    assert drawn(k=6)[:4] == drawn(k=4)
    assert set(drawn(k=2, per_class=True)) < set(drawn(k=4, per_class=True))


def test_balance_and_orders() -> None:
    mixed = drawn(k=4, per_class=True, seed=1)
    assert sorted(label for _, label in mixed) == ["neg"] * 4 + ["pos"] * 4
    assert [label for _, label in mixed] != sorted(label for _, label in mixed)
    assert [label for _, label in drawn(k=4, per_class=True, order="by_class")] == ["neg"] * 4 + ["pos"] * 4
    numbers = [int(text.split()[-1]) for text, _ in drawn(k=5, order="as_given")]
    assert numbers == sorted(numbers)
    assert set(drawn(k=5, order="as_given")) == set(drawn(k=5)) == set(drawn(k=5, order="by_class"))


def test_another_order_of_the_same_draw() -> None:
    orders = {tuple(drawn(k=6, seed=3, order_seed=seed)) for seed in range(6)}
    assert len(orders) == 6
    assert {frozenset(one) for one in orders} == {frozenset(drawn(k=6, seed=3))}
    assert drawn(k=6, seed=3, order_seed=1) == drawn(k=6, seed=3, order_seed=1)
    with pytest.raises(InputError, match="order_seed draws a random order, and order is by_class"):
        Demonstrations(k=1, order="by_class", order_seed=1)


def test_sets_are_drawn_apart_and_the_first_is_that_of_one() -> None:
    several = drawn(k=2, sets=3, seed=3)
    assert len(several) == 6
    assert several[:2] == drawn(k=2, seed=3)
    assert len({frozenset(several[i : i + 2]) for i in (0, 2, 4)}) > 1
    balanced = drawn(k=2, per_class=True, sets=2)
    assert [sorted(label for _, label in balanced[i : i + 4]) for i in (0, 4)] == [["neg", "neg", "pos", "pos"]] * 2


@pytest.mark.parametrize(("key", "pattern"), [("bert", "{sentence} It was {mask}."), ("gpt2", "{sentence} It was {mask}")])
def test_each_set_is_a_reading_of_its_own(key: str, pattern: str) -> None:
    reading = bound(key, pattern, Demonstrations(k=2, sets=3))
    variants = reading.variants()
    assert [one.demonstrations for one in variants] == [shown_of(reading)[i : i + 2] for i in (0, 2, 4)]
    for one in variants:
        alone = one.readout.bind(tiny_base(key), SENTIMENT, None)
        assert alone.encode(sentences()[0]) == one.encode(sentences()[0])
        assert alone.prompt() == one.prompt()
        assert one.variants() == (one,)
    assert len({(*one.encode(sentences()[0]).sequences, one.prompt()) for one in variants}) > 1
    stored = from_mapping(Verbalizer, to_mapping(reading.readout)).bind(tiny_base(key), SENTIMENT, None)
    assert [one.demonstrations for one in stored.variants()] == [one.demonstrations for one in variants]
    for use in (lambda: reading.encode(sentences()[0]), reading.prompt):
        with pytest.raises(InputError, match=r"averages over 3 sets of demonstrations.*variants\(\)"):
            use()
    with pytest.raises(InputError, match=r"shows one set of demonstrations, and these are 3.*Fit with sets=1"):
        reading.check_fit()


def shown_of(reading: VerbalizerReading) -> tuple[Shown, ...]:
    """All sets in the settings."""
    assert isinstance(reading.readout, Verbalizer)
    assert reading.readout.demonstrations is not None
    return reading.readout.demonstrations.shown or ()


def test_too_few_examples() -> None:
    with pytest.raises(InputError, match="13 demonstrations are asked for, but train has 12 labelled examples"):
        drawn(k=13)
    with pytest.raises(InputError, match=r"7 demonstrations .* has 6 labelled examples with the label 'neg'"):
        drawn(k=7, per_class=True)
    unknown = Split(name="train", examples=(Example(id="a", fields={"sentence": "x"}),))
    with pytest.raises(InputError, match="train has 0 labelled"):
        choose(Demonstrations(k=1), unknown, SENTIMENT, ("sentence",))


def test_causal_demonstrations_are_a_prompt_of_their_own() -> None:
    base = line_break_base()
    tokenizer = base.tokenizer
    readout = Verbalizer("Review: {sentence}\nSentiment: {mask}", WORDS, demonstrations=Demonstrations(k=2))
    reading = readout.bind(base, SENTIMENT, None, sentiment_task())
    assert reading.single
    demos = [f"Review: {one.fields['sentence']}\nSentiment: {WORDS[one.label][0]}" for one in reading.demonstrations]
    for example in sentences():
        whole = "\n\n".join([*demos, f"Review: {example.fields['sentence']}\nSentiment:"])
        assert list(reading.prompt() + reading.encode(example).sequences[0]) == tokenizer(whole)["input_ids"]


def test_the_boundary_stands_before_the_separator_because_two_line_breaks_are_other_tokens_before_a_word() -> None:
    tokenizer = line_break_base().tokenizer
    apart = tokenizer("great\n\n")["input_ids"] + tokenizer("Review")["input_ids"]
    assert apart != tokenizer("great\n\nReview")["input_ids"]


@pytest.mark.parametrize("key", ["gpt2", "llama"])
def test_causal_scores_with_the_prompt_are_those_of_the_whole_text(key: str) -> None:
    base = tiny_base(key)
    reading = bound(key, "{sentence} It was {mask}", Demonstrations(k=2, separator=" ; "))
    item = reading.encode(sentences()[0])
    assert reading.single
    ids = torch.tensor([reading.prompt() + item.sequences[0]])
    logits = base.model(input_ids=ids).logits[0, -1, [word.pieces[0] for word in reading.words]]
    batch = reading.collate([item])
    states = base.hidden({"input_ids": ids})
    tail = type(states)(last_NTH=states.last_NTH[:, len(reading.prompt()) :])
    expected = torch.stack([logits[0], logits[1:].mean()])
    torch.testing.assert_close(reading.scores(base, tail, batch)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_tokenizers_first_token_goes_to_the_prompt() -> None:
    base = tiny_base("llama")
    base.tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    reading = Verbalizer("{sentence} is {mask}", WORDS, demonstrations=Demonstrations(k=2)).bind(
        base, SENTIMENT, None, sentiment_task()
    )
    assert reading.prompt()[0] == 1
    assert 1 not in reading.encode(sentences()[0]).sequences[0]


def test_masked_demonstrations_stand_in_the_same_sequence() -> None:
    base = tiny_base("bert")
    reading = bound("bert", "{sentence} It was {mask}.", Demonstrations(k=2))
    assert reading.prompt() == ()
    demos = [f"{one.fields['sentence']} It was {WORDS[one.label][0]}." for one in reading.demonstrations]
    item = reading.encode(sentences()[1])
    assert list(item.sequences[0]) == base.tokenizer("\n\n".join([*demos, "bad It was [MASK]."]))["input_ids"]
    assert [item.sequences[0][i] for (i,) in item.read] == [base.tokenizer.mask_token_id]


def test_the_bound_settings_hold_what_was_drawn() -> None:
    reading = bound("bert", "{sentence} It was {mask}.", Demonstrations(k=1, per_class=True))
    stored = from_mapping(Verbalizer, to_mapping(reading.readout))
    again = stored.bind(tiny_base("bert"), SENTIMENT, None)
    assert again.demonstrations == reading.demonstrations
    assert again.encode(sentences()[0]) == reading.encode(sentences()[0])
    assert {one.label for one in again.demonstrations} == {"neg", "pos"}


def test_demonstrations_by_hand() -> None:
    one = Shown(fields={"sentence": "fun"}, label="pos")
    reading = Verbalizer("{sentence} {mask}", WORDS, demonstrations=Demonstrations(k=1, shown=(one,))).bind(
        tiny_base("gpt2"), SENTIMENT, None
    )
    assert decoded(tiny_base("gpt2").tokenizer, reading.prompt()) == "fun great"


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (Shown(fields={"sentence": "fun"}, label="poss"), "label 'poss'. Did you mean pos"),
        (Shown(fields={"sentense": "fun"}, label="pos"), "no column 'sentence'. Did you mean sentense"),
    ],
)
def test_bad_demonstrations_by_hand(shown: Shown, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Verbalizer("{sentence} {mask}", WORDS, demonstrations=Demonstrations(k=1, shown=(shown,))).bind(
            tiny_base("gpt2"), SENTIMENT, None
        )


def test_bad_settings() -> None:
    one = Shown(fields={}, label="pos")
    with pytest.raises(InputError, match="at least 1"):
        Demonstrations(k=0)
    with pytest.raises(InputError, match="1 demonstrations are given, but k is 2"):
        Demonstrations(k=2, shown=(one,))
    with pytest.raises(InputError, match="3 demonstrations are given, but k is 2 a label"):
        Demonstrations(k=2, per_class=True, shown=(one,) * 3)
    with pytest.raises(InputError, match="3 demonstrations are given, but k is 2 in each of 2 sets"):
        Demonstrations(k=2, sets=2, shown=(one,) * 3)
    with pytest.raises(InputError, match="at least 1 set; found 0"):
        Demonstrations(k=2, sets=0)
    with pytest.raises(InputError, match=r"no task is given|Give the task"):
        Verbalizer("{sentence} {mask}", WORDS, demonstrations=Demonstrations(k=1)).bind(tiny_base("gpt2"), SENTIMENT, None)


@pytest.mark.parametrize(("key", "pattern"), [("bert", "{sentence} It was {mask}."), ("gpt2", "{sentence} It was {mask}")])
def test_too_many_say_how_many_fit(key: str, pattern: str) -> None:
    with pytest.raises(InputError, match=r"12 demonstrations are longer than the 40 tokens .* Use k of (\d+) or less") as caught:
        bound(key, pattern, Demonstrations(k=12), max_length=40)
    most = int(str(caught.value).split("Use k of ")[1].split()[0])
    assert 0 < most < 12
    reading = bound(key, pattern, Demonstrations(k=most), max_length=40)
    assert len(reading.prompt()) + reading.encode(sentences()[3]).length <= 40
    assert reading.encode(sentences()[3]).cut > 0
    with pytest.raises(InputError, match="tokens"):
        bound(key, pattern, Demonstrations(k=most + 1), max_length=40)
    with pytest.raises(InputError, match="Show none"):
        bound(key, pattern, Demonstrations(k=1), max_length=10)


def test_a_separator_that_melts_into_a_demonstration() -> None:
    one = Shown(fields={"sentence": "it"}, label="pos")
    shown = Demonstrations(k=1, separator="", shown=(one,))
    reading = Verbalizer("{sentence} is {mask}", {"neg": ("bad",), "pos": ("a",)}, demonstrations=shown).bind(
        tiny_base("gpt2"), SENTIMENT, None
    )
    with pytest.raises(InputError, match="the separator '' together"):
        reading.encode(Example(id="x", fields={"sentence": "nd so"}))


def test_only_the_patterns_columns_are_kept() -> None:
    labels = LabelSet(kind="classification", labels=("neg", "pos"), texts=("sentence",), extra=("title",))
    train = [{"sentence": f"s{i}", "title": "t", "label": ("neg", "pos")[i % 2]} for i in range(4)]
    task = Task.from_records(text="sentence", extra=("title",), train=train)
    reading = Verbalizer("{title}: {mask}", WORDS, demonstrations=Demonstrations(k=2)).bind(tiny_base("gpt2"), labels, None, task)
    assert [dict(one.fields) for one in reading.demonstrations] == [{"title": "t"}] * 2
    assert LabelSet.of(task) == labels
