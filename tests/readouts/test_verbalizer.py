"""Verbalizers: scores against one plain run of the model for each word, and bad input."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, StateError, UnsupportedError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.readouts.batch import join
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Reading, take_rows
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.readouts.words import single_pieces
from lmtailor.tasks.example import Example
from tests.readouts.examples import SCALE, SENTIMENT, decoded, line_break_base, sentences
from tests.tiny import tiny_base

SINGLE = {"neg": ("awful",), "pos": ("great",)}
MULTI = {"neg": ("terrible", "utterly bad"), "pos": ("splendid", "great")}
PATTERNS = {"encoder": "{sentence} It was {mask}, so {{yes}}.", "decoder": "Review: {sentence}\nSentiment: {mask}"}


def bound(base: Base, words: Mapping[str, tuple[str, ...]], **settings: Any) -> VerbalizerReading:
    return Verbalizer(settings.pop("pattern", PATTERNS[base.kind]), words, **settings).bind(base, SENTIMENT, None)


def scored(base: Base, reading: Reading, examples: list[Example]) -> torch.Tensor:
    batch = reading.collate([reading.encode(example) for example in examples])
    return reading.scores(base, base.hidden(batch.inputs, reading.layers), batch)


def log_p(base: Base, text: str, word: str) -> tuple[float, int]:
    """Σ log p of a word's tokens, by one run of the whole model on one sequence; and their number."""
    tokenizer = base.tokenizer
    if base.kind == "encoder":
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        filled = PATTERNS["encoder"].format(sentence=text, mask=tokenizer.mask_token * len(pieces))
        inputs = tokenizer(filled, return_tensors="pt", return_token_type_ids=False)
        where = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    else:
        pieces = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        asked = PATTERNS["decoder"].format(sentence=text, mask="").rstrip()
        inputs = tokenizer(asked + " " + word, return_tensors="pt", return_token_type_ids=False)
        assert inputs["input_ids"][0, -len(pieces) :].tolist() == pieces
        where = torch.arange(inputs["input_ids"].shape[1] - len(pieces), inputs["input_ids"].shape[1]) - 1
    logits = base.model(**inputs).logits[0, where].log_softmax(-1)
    return float(logits[torch.arange(len(pieces)), pieces].sum()), len(pieces)


@pytest.mark.parametrize("key", ["bert", "roberta", "modernbert", "gpt2", "llama", "gemma2"])
@pytest.mark.parametrize(("aggregate", "normalise"), [("mean", "none"), ("max", "length"), ("sum", "none"), ("sum", "length")])
def test_words_of_many_tokens_score_as_one_run_each(key: str, aggregate: str, normalise: str) -> None:
    base = tiny_base(key)
    reading = bound(base, MULTI, aggregate=aggregate, normalise=normalise)
    assert {len(word.pieces) for word in reading.words} > {1}
    scores = scored(base, reading, sentences())
    join_words: Any = {"mean": torch.mean, "max": torch.amax, "sum": torch.logsumexp}[aggregate]
    for example, row in zip(sentences(), scores, strict=True):
        expected = []
        for words in MULTI.values():
            runs = [log_p(base, example.fields["sentence"], word) for word in words]
            own = torch.tensor([score / (count if normalise == "length" else 1) for score, count in runs])
            expected.append(join_words(own, dim=0))
        torch.testing.assert_close(row, torch.stack(expected), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("key", ["bert", "roberta", "albert", "gpt2", "llama"])
def test_words_of_one_token_score_by_their_logits_alone(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(key)
    reading = bound(base, SINGLE)
    assert reading.single
    assert reading.encode(sentences()[0]).targets == ()
    seen: list[tuple[int, ...]] = []
    plain = Base.lm_logits

    def watched(self: Base, hidden: torch.Tensor, words: torch.Tensor | None = None) -> torch.Tensor:
        out = plain(self, hidden, words)
        seen.append(tuple(out.shape))
        return out

    monkeypatch.setattr(Base, "lm_logits", watched)
    scores = scored(base, reading, sentences())
    assert seen == [(4, 2)]  # never the vocabulary
    for example, row in zip(sentences(), scores, strict=True):
        expected = [log_p(base, example.fields["sentence"], word)[0] for (word,) in SINGLE.values()]
        torch.testing.assert_close(row.log_softmax(0), torch.tensor(expected).log_softmax(0), rtol=1e-5, atol=2e-5)


def test_the_vocabulary_is_computed_at_read_positions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("gpt2")
    reading = bound(base, MULTI)
    seen: list[int] = []
    plain = Base.lm_logits

    def watched(self: Base, hidden: torch.Tensor, words: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(hidden.shape[0])
        return plain(self, hidden, words)

    monkeypatch.setattr(Base, "lm_logits", watched)
    scored(base, reading, sentences())
    longest = max(len(word.pieces) for word in reading.words)
    assert (
        4 * longest < seen[0] < 4 * sum(len(word.pieces) for word in reading.words)
    )  # the state before the gap serves all words


def test_masked_words_of_equal_length_share_a_run() -> None:
    reading = bound(tiny_base("bert"), {"neg": ("awful", "xyz"), "pos": ("splendid", "qrs")})
    item = reading.encode(sentences()[0])
    lengths = [len(word.pieces) for word in reading.words]
    assert lengths == [1, 3, 8, 3]
    assert [run.words for run in reading.runs] == [(0,), (1, 3), (2,)]
    assert [len(read) for read in item.read] == [1, 6, 8]
    assert item.targets[1] == reading.words[1].pieces + reading.words[3].pieces
    masks = [sequence.count(tiny_base("bert").tokenizer.mask_token_id) for sequence in item.sequences]
    assert masks == [1, 3, 8]


def test_causal_words_share_the_run_that_holds_their_beginning() -> None:
    reading = bound(tiny_base("llama"), {"neg": ("awful", "very bad so"), "pos": ("very good", "great", "no fun")})
    assert [run.words for run in reading.runs] == [(0, 1, 2, 3), (4,)]
    item = reading.encode(sentences()[0])
    gap = item.read[0][0]
    assert item.read == ((gap, gap, gap + 1, gap + 2, gap, gap + 1, gap), (gap, gap + 1))
    assert [len(sequence) - gap - 1 for sequence in item.sequences] == [2, 1]


def test_the_gap_is_the_patterns_own_even_if_the_text_holds_a_mask() -> None:
    base = tiny_base("bert")
    tricky = Example(id="x", fields={"sentence": "[MASK] it was [MASK] . "})
    ((position,),) = bound(base, SINGLE).encode(tricky).read
    ids = bound(base, SINGLE).encode(tricky).sequences[0]
    assert [i for i, token in enumerate(ids) if token == base.tokenizer.mask_token_id][-1] == position
    first = bound(base, SINGLE, pattern="{mask} said: {sentence}").encode(tricky)
    assert first.read == ((1,),)


def test_a_causal_input_ends_without_space_and_the_word_begins_with_it() -> None:
    base = tiny_base("gpt2")
    reading = bound(base, SINGLE)
    ids = reading.encode(sentences()[0]).sequences[0]
    assert decoded(base.tokenizer, ids).endswith("Sentiment:")
    assert decoded(base.tokenizer, reading.words[0].pieces) == " awful"
    glued = bound(base, SINGLE, pattern="{sentence}\n{mask}")
    assert decoded(base.tokenizer, glued.words[0].pieces) == "awful"


def test_a_tokenizers_first_tokens_are_kept_and_its_last_left_out() -> None:
    base = tiny_base("llama")
    base.tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    ids = bound(base, SINGLE).encode(sentences()[0]).sequences[0]
    assert ids[0] == 1
    assert 2 not in ids


def test_nothing_is_trained() -> None:
    reading = bound(tiny_base("bert"), SINGLE)
    assert reading.parameters() == {}
    assert reading.with_parameters({}) is reading
    with pytest.raises(InputError, match=r"head.weight"):
        reading.with_parameters({"head.weight": torch.zeros(1)})
    assert (reading.prompt(), reading.layers, reading.virtual) == ((), (), False)


def test_gradients_flow_to_the_states() -> None:
    base = tiny_base("gpt2")
    for words in (SINGLE, MULTI):
        reading = bound(base, words)
        batch = reading.collate([reading.encode(example) for example in sentences()])
        states = base.hidden(batch.inputs)
        states.last_NTH.requires_grad_()
        reading.scores(base, states, batch, training=True).sum().backward()  # type: ignore[no-untyped-call]
        assert states.last_NTH.grad is not None
        touched = (states.last_NTH.grad.abs().sum(-1) > 0).nonzero().tolist()
        read = {
            (row, position) for row, positions in enumerate(batch.read_NP.tolist()) for position in positions if position >= 0
        }
        assert {(row, position) for row, position in touched} == read


def test_a_long_text_is_cut_and_the_question_kept() -> None:
    base = tiny_base("gpt2")
    long = Example(id="x", fields={"sentence": " good" * 200})
    for words in (SINGLE, MULTI):
        reading = bound(base, words)
        item = reading.encode(long)
        longest = max(len(word.pieces) for word in reading.words)
        assert item.length == 128 - (longest - 1) + (longest - 1)
        assert item.cut == len(base.tokenizer("Review: " + " good" * 200 + "\nSentiment:")["input_ids"]) - (128 - longest + 1)
        assert decoded(base.tokenizer, item.sequences[0]).startswith("Review:  good good")
        assert "good\nSentiment:" in decoded(base.tokenizer, item.sequences[0])


def test_joined_with_a_head_each_scores_as_alone() -> None:
    base = tiny_base("bert")
    readings: tuple[Reading, ...] = (
        bound(base, MULTI),
        Head().bind(base, SENTIMENT, torch.Generator().manual_seed(0)),
        bound(base, SINGLE),
    )
    batches = [reading.collate([reading.encode(example) for example in sentences()]) for reading in readings]
    assert [batch.per_row for batch in batches] == [2, 1, 1]
    joined = join(batches, readings[0].form)
    together = base.hidden(joined.inputs)
    for reading, part, rows, batch in zip(readings, joined.parts, joined.rows, batches, strict=True):
        solo = reading.scores(base, base.hidden(batch.inputs), batch)
        torch.testing.assert_close(reading.scores(base, take_rows(together, rows), part), solo, rtol=1e-4, atol=1e-5)
    some = batches[0].rows([3, 1])
    torch.testing.assert_close(
        readings[0].scores(base, base.hidden(some.inputs), some),
        scored(base, readings[0], sentences())[[3, 1]],
        rtol=1e-4,
        atol=1e-5,
    )


def test_states_of_another_batch_are_refused() -> None:
    base = tiny_base("bert")
    reading = bound(base, SINGLE)
    batch = reading.collate([reading.encode(example) for example in sentences()])
    with pytest.raises(StateError, match="its own run"):
        reading.scores(base, base.hidden(batch.inputs), batch.rows([0]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"neg": ("terrible",)}, "no words for the label 'pos'"),
        ({"neg": ("terrible",), "pos": ("great",), "poss": ("good",)}, "'poss', which is no label of the task. Did you mean pos"),
        ({"neg": ("great",), "pos": ("great",)}, "'neg' and 'pos' have the same words, 'great'"),
        ({"neg": ("great", "good"), "pos": ("Good", "GREAT")}, "have the same words"),
        ({"neg": ("bad", "BAD"), "pos": ("great",)}, "'bad' and 'BAD' of the label 'neg' are the same tokens"),
        ({"neg": ("bad",), "pos": ("☃",)}, r"does not know the label word '☃'; it makes \['\[UNK\]'\]"),
        ({"neg": ("bad",), "pos": ("[MASK]",)}, "no word to the tokenizer"),
        ({"neg": ("bad",), "pos": (" great",)}, "begins or ends with space"),
        ({"neg": ("bad",), "pos": ("",)}, "is empty"),
        ({"neg": ("bad",), "pos": ()}, "at least one"),
        ({}, "needs words for every label"),
        ({"neg": "bad", "pos": "great"}, "must be a list of at least one; found 'bad'"),
    ],
)
def test_bad_words(words: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bound(tiny_base("bert"), words)


def test_labels_that_are_numbers_are_written_out() -> None:
    assert Verbalizer("{a} {mask}", {0: ["bad"], 1: ["good"]}).words == {"0": ("bad",), "1": ("good",)}  # type: ignore[dict-item]


def test_words_of_two_labels_may_overlap() -> None:
    words = bound(tiny_base("bert"), {"neg": ("bad", "so"), "pos": ("great", "so")}).words
    assert [(word.label, word.word) for word in words] == [(0, "bad"), (0, "so"), (1, "great"), (1, "so")]


def test_words_that_melt_into_the_text_are_refused() -> None:
    with pytest.raises(InputError, match="together with what stands before the gap"):
        bound(line_break_base(), SINGLE, pattern="{sentence}\n\n{mask}")
    with pytest.raises(InputError, match="together with what stands before the gap"):
        bound(tiny_base("gpt2"), {"neg": ("nd",), "pos": ("great",)}, pattern="{sentence} a{mask}")


def test_bad_patterns_and_columns() -> None:
    with pytest.raises(InputError, match="exactly one"):
        Verbalizer("{sentence} It was great.", SINGLE)
    with pytest.raises(InputError, match="Did you mean sentence"):
        bound(tiny_base("bert"), SINGLE, pattern="{sentences} {mask}")
    with pytest.raises(InputError, match="no column 'sentence'"):
        bound(tiny_base("bert"), SINGLE).encode(Example(id="x", fields={"text": "a"}))
    with pytest.raises(UnsupportedError, match=r"stands after {mask}"):
        bound(tiny_base("gpt2"), SINGLE, pattern="{sentence} It was {mask}.")
    with pytest.raises(InputError, match="Nothing stands before the gap"):
        bound(tiny_base("gpt2"), SINGLE, pattern="{sentence} {mask}").encode(Example(id="x", fields={"sentence": ""}))
    with pytest.raises(InputError, match="alone is longer than the 6 tokens"):
        bound(tiny_base("bert"), SINGLE, max_length=6)
    with pytest.raises(InputError, match="at least 1 token"):
        Verbalizer("{sentence} {mask}", SINGLE, max_length=0)


def test_extra_columns_may_be_named() -> None:
    labels = LabelSet(kind="classification", labels=("neg", "pos"), texts=("sentence",), extra=("title",))
    reading = Verbalizer("{title}: {sentence} {mask}", SINGLE).bind(tiny_base("bert"), labels, None)
    assert reading.encode(Example(id="x", fields={"sentence": "a", "title": "book"})).length == 6


def test_models_and_tasks_that_cannot_be_read_so() -> None:
    verbalizer = Verbalizer("{first} {mask}", SINGLE)
    with pytest.raises(UnsupportedError, match="this is a task of regression"):
        verbalizer.bind(tiny_base("bert"), SCALE, None)
    with pytest.raises(UnsupportedError, match=r"tiny-bert has no LM head.*Use Head"):
        verbalizer.bind(tiny_base("bert", head=False), SENTIMENT, None)


def test_settings_round_trip() -> None:
    settings = Verbalizer(
        "{sentence:cut} It was {mask}.",
        {"neg": ("bad", "awful"), "pos": ("good",)},
        aggregate="sum",
        demonstrations=Demonstrations(k=3, seed=2),
    )
    assert from_mapping(Verbalizer, to_mapping(settings)) == settings
    read = from_mapping(Verbalizer, {"pattern": "{sentence} {mask}", "words": {"neg": ["bad"], "pos": ["good"]}})
    assert read.words == {"neg": ("bad",), "pos": ("good",)}


def test_where_one_piece_is_needed_the_pieces_are_shown() -> None:
    base = tiny_base("bert")
    found = single_pieces(base.tokenizer, bound(base, SINGLE).words, who="It", instead="")
    assert base.tokenizer.convert_ids_to_tokens(list(found)) == ["awful", "great"]
    with pytest.raises(
        InputError, match=r"'xyz' is \['x', '##y', '##z'\] to the tokenizer, and It reads words of one token. Stop\."
    ):
        single_pieces(base.tokenizer, bound(base, {"neg": ("xyz",), "pos": ("great",)}).words, who="It", instead="Stop.")
