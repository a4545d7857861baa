"""Heads: pooling, layers, pairs, length, start, dropout, and bad input."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, StateError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.readouts.batch import Batch, join
from lmtailor.readouts.head import Head, HeadReading
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Reading, take_rows
from lmtailor.tasks.example import Example
from tests.readouts.examples import PAIRS, SCALE, SENTIMENT, TEXTS, pairs, sentences
from tests.tiny import tiny_base


def bound(base: Base, head: Head | None = None, labels: LabelSet = SENTIMENT) -> HeadReading:
    return (head or Head()).bind(base, labels, generator(0, "head"))


def run(base: Base, reading: Reading, examples: list[Example]) -> tuple[States, Batch]:
    batch = reading.collate([reading.encode(example) for example in examples])
    return base.hidden(batch.inputs, reading.layers), batch


def alone(base: Base, text: str) -> torch.Tensor:
    """The last states (T, H) of one text, unpadded."""
    inputs = dict(base.tokenizer(text, return_tensors="pt", return_token_type_ids=False))
    if base.kind == "encoder-decoder":
        ids = inputs["input_ids"]
        start = torch.tensor([[base.model.config.decoder_start_token_id]])
        inputs["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], 1)
    states: torch.Tensor = base.trunk(**inputs)[0]
    return states[0]


@pytest.mark.parametrize("key", ["bert", "roberta", "gpt2", "llama", "t5", "bart"])
@pytest.mark.parametrize("pooling", ["auto", "mean", "last", "cls"])
def test_pooling_equals_the_naive_one_without_padding(key: str, pooling: str) -> None:
    base = tiny_base(key)
    if pooling == "cls" and base.kind != "encoder":
        with pytest.raises(UnsupportedError, match="cannot stand for the text"):
            bound(base, Head(pooling="cls"))
        return
    reading = bound(base, Head(pooling=pooling))  # type: ignore[arg-type]
    features = reading.features(base, *run(base, reading, sentences()))
    naive: Any = {
        "mean": lambda states: states.mean(0),
        "last": lambda states: states[-1],
        "cls": lambda states: states[0],
    }[{"auto": "mean" if base.kind == "encoder" else "last"}.get(pooling, pooling)]
    expected = torch.stack([naive(alone(base, text)) for text in TEXTS])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("layer", "number"), [(0, 0), (2, 2), (-1, 3), (-4, 0)])
def test_a_block_is_read_at_its_output(layer: int, number: int) -> None:
    base = tiny_base("llama")
    reading = bound(base, Head(layer=layer))
    assert reading.layers == (number,)
    states, batch = run(base, reading, sentences())
    every = base.trunk(**batch.inputs, output_hidden_states=True).hidden_states
    if number < 3:  # the last of transformers' own is after the final norm
        expected = every[number + 1]
        rows = torch.arange(4)
        torch.testing.assert_close(reading.features(base, states, batch), expected[rows, batch.mask_NT.sum(1) - 1])
    assert not torch.allclose(reading.features(base, states, batch), bound(base).features(base, states, batch))


@pytest.mark.parametrize("layer", [4, -5])
def test_a_block_that_is_not_there(layer: int) -> None:
    with pytest.raises(InputError, match="numbered 0 to 3"):
        bound(tiny_base("bert"), Head(layer=layer))


def test_scores_are_those_of_the_formula() -> None:
    base = tiny_base("bert")
    linear, deep = bound(base), bound(base, Head(hidden=5))
    states, batch = run(base, linear, sentences())
    z = linear.features(base, states, batch)
    own = linear.parameters()
    torch.testing.assert_close(linear.scores(base, states, batch), z @ own["head.weight"].T + own["head.bias"])
    own = {name: torch.randn_like(value) for name, value in deep.parameters().items()}
    hidden = torch.tanh(z @ own["hidden.weight"].T + own["hidden.bias"])
    scores = deep.with_parameters(own).scores(base, states, batch)
    torch.testing.assert_close(scores, hidden @ own["head.weight"].T + own["head.bias"])
    assert scores.shape == (4, 2)
    assert torch.equal(deep.scores_from(z), deep.scores(base, states, batch))


def test_parameters_are_leaves_with_the_start_of_the_family() -> None:
    base = tiny_base("bert", initializer_range=0.05)
    own = bound(base, Head(hidden=400)).parameters()
    assert {name: tuple(value.shape) for name, value in own.items()} == {
        "hidden.weight": (400, 48),
        "hidden.bias": (400,),
        "head.weight": (2, 400),
        "head.bias": (2,),
    }
    assert all(value.is_leaf and value.requires_grad for value in own.values())
    assert own["hidden.weight"].std().item() == pytest.approx(0.05, rel=0.05)
    assert not own["hidden.bias"].any()
    again = bound(base, Head(hidden=400)).parameters()
    assert all(torch.equal(own[name], again[name]) for name in own)
    other = Head(hidden=400).bind(base, SENTIMENT, generator(1, "head")).parameters()
    assert not torch.equal(own["hidden.weight"], other["hidden.weight"])


def test_gradients_reach_the_head_and_nothing_else() -> None:
    base = tiny_base("bert")
    reading = bound(base, Head(hidden=3))
    states, batch = run(base, reading, sentences())
    reading.scores(base, states, batch).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.any() for value in reading.parameters().values())
    assert all(parameter.grad is None for parameter in base.model.parameters())


@pytest.mark.parametrize("pooling", ["auto", "native"])
def test_without_rng_there_are_shapes_and_no_memory(pooling: str) -> None:
    base = tiny_base("bert")
    head = Head(pooling=pooling)  # type: ignore[arg-type]
    shapes, real = head.bind(base, SENTIMENT, None).parameters(), bound(base, head).parameters()
    assert {name: value.shape for name, value in shapes.items()} == {name: value.shape for name, value in real.items()}
    assert all(value.is_meta for value in shapes.values())


def test_with_parameters_takes_copies_and_checks_them() -> None:
    base = tiny_base("bert")
    shapes = Head().bind(base, SENTIMENT, None)
    own = {name: torch.randn(value.shape) for name, value in shapes.parameters().items()}
    given = shapes.with_parameters(own).parameters()
    assert all(torch.equal(given[name], own[name]) and given[name] is not own[name] for name in own)
    with pytest.raises(InputError, match=r"head.weight"):
        shapes.with_parameters({"head.bias": own["head.bias"]})
    with pytest.raises(InputError, match=r"\(2, 48\), but \(2, 47\)"):
        shapes.with_parameters(own | {"head.weight": torch.zeros(2, 47)})


def test_dropout_acts_in_training_only() -> None:
    base = tiny_base("bert")
    reading = bound(base, Head(dropout=0.5))
    states, batch = run(base, reading, sentences())
    plain = bound(base).scores(base, states, batch)
    assert torch.equal(reading.scores(base, states, batch), plain)
    torch.manual_seed(1)
    one = reading.scores(base, states, batch, training=True)
    assert not torch.allclose(one, plain)
    torch.manual_seed(1)
    assert torch.equal(reading.scores(base, states, batch, training=True), one)


def test_pairs_and_token_types() -> None:
    base = tiny_base("bert")
    reading = bound(base, labels=PAIRS)
    item = reading.encode(pairs()[1])
    expected = base.tokenizer("bad", TEXTS[0], return_token_type_ids=True)
    assert item.sequences == (tuple(expected["input_ids"]),)
    assert item.segments == (tuple(expected["token_type_ids"]),)
    assert 1 in item.segments[0]
    states, batch = run(base, reading, pairs())
    assert batch.inputs["token_type_ids"][1].sum() == sum(expected["token_type_ids"])
    assert reading.scores(base, states, batch).shape == (4, 3)
    assert batch.labels_B is not None
    assert batch.labels_B.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("key", ["gpt2", "distilbert", "modernbert", "t5"])
def test_models_without_token_types_get_none(key: str) -> None:
    base = tiny_base(key)
    assert "token_type_ids" not in run(base, bound(base, labels=PAIRS), pairs())[1].inputs


def test_regression_has_one_score() -> None:
    base = tiny_base("gpt2")
    reading = bound(base, labels=SCALE)
    assert (reading.kind, reading.labels) == ("regression", ())
    examples = [Example(id=str(i), fields=e.fields, label=i / 2) for i, e in enumerate(pairs())]
    states, batch = run(base, reading, examples)
    assert reading.scores(base, states, batch).shape == (4, 1)
    assert batch.labels_B is not None
    assert batch.labels_B.dtype == torch.float32


def test_long_texts_are_cut_and_counted() -> None:
    base = tiny_base("bert")
    long = Example(id="x", fields={"sentence": "good " * 200})
    item = bound(base).encode(long)
    assert (len(item.sequences[0]), item.cut) == (128, 74)
    assert item.sequences[0][-1] == base.tokenizer.sep_token_id
    assert bound(base, Head(max_length=10)).encode(long).cut == 192
    reserved = Head().bind(base, SENTIMENT, generator(0), reserve=28)
    assert (reserved.encode(long).length, reserved.encode(long).cut) == (100, 102)
    assert bound(base).encode(sentences()[0]).cut == 0


def test_of_a_long_pair_the_longer_text_is_cut() -> None:
    base = tiny_base("bert")
    item = bound(base, Head(max_length=20), PAIRS).encode(Example(id="x", fields={"first": "good " * 50, "second": "a bad dog"}))
    assert item.cut == 36
    assert list(item.sequences[0][-4:-1]) == base.tokenizer("a bad dog", add_special_tokens=False)["input_ids"]


def test_lengths_that_cannot_be() -> None:
    base = tiny_base("bert")
    with pytest.raises(InputError, match="max_length is 129, but the model takes 128"):
        bound(base, Head(max_length=129))
    with pytest.raises(InputError, match="leaves none"):
        Head().bind(base, SENTIMENT, generator(0), reserve=128)
    with pytest.raises(InputError, match="adds 2 of its own"):
        bound(base, Head(max_length=2))


def test_a_text_without_tokens() -> None:
    with pytest.raises(InputError, match="no token of the text of example 'dev/3'"):
        bound(tiny_base("gpt2")).encode(Example(id="dev/3", fields={"sentence": ""}))


def test_a_missing_column_offers_near_ones() -> None:
    with pytest.raises(InputError, match=r"no column 'sentence'. Did you mean sentences\?"):
        bound(tiny_base("bert")).encode(Example(id="x", fields={"sentences": "a"}))


@pytest.mark.parametrize("how", ["cls", "mean", "last"])
def test_virtual_tokens_are_pooled_where_asked(how: str) -> None:
    base = tiny_base("bert")
    reading, plain = (bound(base, Head(pooling=how, virtual=virtual)) for virtual in (True, False))  # type: ignore[arg-type]
    states, batch = run(base, reading, sentences())
    more = torch.randn(4, 3, 48)
    wide = replace(states, last_NTH=torch.cat([more, states.last_NTH], 1))
    lengths = batch.mask_NT.sum(1)
    expected = {
        "cls": more[:, 0],
        "mean": torch.stack([wide.last_NTH[i, : 3 + lengths[i]].mean(0) for i in range(4)]),
        "last": plain.features(base, states, batch),
    }
    torch.testing.assert_close(reading.features(base, wide, batch), expected[how])
    with pytest.raises(StateError, match="its own run"):
        plain.scores(base, wide, batch)
    with pytest.raises(StateError, match="its own run"):
        reading.scores(base, take_rows(states, slice(0, 2)), batch)


@pytest.mark.parametrize("key", ["bert", "llama", "bart"])
def test_joined_batches_give_each_readout_its_own_scores(key: str) -> None:
    base = tiny_base(key)
    readings = [bound(base), bound(base, Head(hidden=4, layer=1), PAIRS)]
    batches = [
        readings[0].collate([readings[0].encode(e) for e in sentences()]),
        readings[1].collate([readings[1].encode(e) for e in pairs()]),
    ]
    joined = join(batches, readings[0].form)
    together = base.hidden(joined.inputs, readings[1].layers)
    for reading, part, rows, batch in zip(readings, joined.parts, joined.rows, batches, strict=True):
        solo = reading.scores(base, base.hidden(batch.inputs, reading.layers), batch)
        torch.testing.assert_close(reading.scores(base, take_rows(together, rows), part), solo, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            reading.scores(base, take_rows(take_rows(together, rows), torch.tensor([2, 0])), part.rows([2, 0])),
            solo[[2, 0]],
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "at least 1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"max_length": 0}, "at least 1 token"),
        ({"pooling": "native", "layer": 1}, "leave layer and hidden out"),
        ({"pooling": "native", "hidden": 8}, "leave layer and hidden out"),
        ({"pooling": "native", "virtual": "maybe"}, "true or false"),
        ({"pooling": "men"}, "Did you mean mean"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(Head, settings)


def test_settings_round_trip() -> None:
    head = Head(pooling="last", layer=-2, hidden=7, dropout=0.1, max_length=30, virtual=True)
    assert from_mapping(Head, to_mapping(head)) == head


def test_label_sets_are_checked() -> None:
    with pytest.raises(InputError, match="at least two labels"):
        LabelSet(kind="classification", labels=("a",), texts=("t",))
    with pytest.raises(InputError, match="no labels"):
        LabelSet(kind="regression", labels=("a", "b"), texts=("t",))
    with pytest.raises(InputError, match="one text column"):
        LabelSet(kind="regression", labels=(), texts=())
