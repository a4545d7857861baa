"""Verbalizers of encoder-decoders: against one plain run of transformers with labels for each word, and what is refused."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.readouts.batch import join
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Reading, take_rows
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from lmtailor.tasks.example import Example
from tests.readouts.examples import SENTIMENT, decoded, sentences, sentiment_task
from tests.tiny import SPECIALS, tiny_base, tiny_model, tiny_tokenizer

SINGLE = {"neg": ("a",), "pos": ("i",)}
MULTI = {"neg": ("terrible", "utterly bad"), "pos": ("splendid", "great")}
SPAN = "{sentence} It was {mask}, so."
ANSWER = "{sentence} Is it good? {mask}"
START = {"t5": (0,), "umt5": (0,), "bart": (2,), "mbart": (2,), "marian": (2,)}
"""The decoders' first token; mBART's is the last of a target."""


def bound(base: Base, pattern: str, words: Mapping[str, tuple[str, ...]] = MULTI, **settings: Any) -> VerbalizerReading:
    return Verbalizer(pattern, words, **settings).bind(base, SENTIMENT, None)


def scored(base: Base, reading: Reading, examples: list[Example]) -> torch.Tensor:
    batch = reading.collate([reading.encode(example) for example in examples])
    return reading.scores(base, base.hidden(batch.inputs, reading.layers), batch)


def log_p(base: Base, text: str, target: list[int], skip: int) -> float:
    """Σ log p of a target's tokens behind the first `skip`, by transformers' own loss on one sequence."""
    inputs = base.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    labels = torch.tensor([target])
    fed = torch.tensor([[START[base.family.name][0], *target[:-1]]])
    labels[:, :skip] = -100
    out = base.model(**inputs, decoder_input_ids=fed, labels=labels)
    return -float(out.loss) * (len(target) - skip)


def expected(base: Base, example: Example, words: Mapping[str, tuple[str, ...]], *, span: bool) -> list[list[float]]:
    tokenizer, text = base.tokenizer, example.fields["sentence"]
    out: list[list[float]] = []
    for own in words.values():
        out.append([])
        for word in own:
            if span:
                target = [SPECIALS.index("<extra_id_0>"), *tokenizer(" " + word, add_special_tokens=False)["input_ids"]]
                out[-1].append(log_p(base, f"{text} It was <extra_id_0>, so.", target, 1))
            else:
                target = tokenizer(word, add_special_tokens=False)["input_ids"]
                out[-1].append(log_p(base, f"{text} Is it good?", target, 0))
    return out


@pytest.mark.parametrize(
    ("key", "span"),
    [("t5", True), ("t5", False), ("umt5", True), ("bart", False), ("mbart", False), ("marian", False)],
)
def test_words_of_many_tokens_score_as_one_labelled_run_each(key: str, span: bool) -> None:
    base = tiny_base(key)
    reading = bound(base, SPAN if span else ANSWER, fill="span" if span else "answer")
    assert max(len(word.pieces) for word in reading.words) > 1
    scores = scored(base, reading, sentences())
    for example, row in zip(sentences(), scores, strict=True):
        wanted = torch.tensor([sum(own) / len(own) for own in expected(base, example, MULTI, span=span)])
        torch.testing.assert_close(row, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("key", ["t5", "bart"])
def test_words_of_one_token_score_by_their_logits_alone(key: str) -> None:
    base = tiny_base(key)
    reading = bound(base, ANSWER, SINGLE, fill="answer")
    assert reading.single
    assert reading.encode(sentences()[0]).targets == ()
    for example, row in zip(sentences(), scored(base, reading, sentences()), strict=True):
        wanted = torch.tensor([own[0] for own in expected(base, example, SINGLE, span=False)])
        torch.testing.assert_close(row.log_softmax(0), wanted.log_softmax(0), rtol=1e-5, atol=2e-5)


def test_auto_fills_sentinels_where_the_family_knows_them() -> None:
    t5 = bound(tiny_base("t5"), SPAN).encode(sentences()[0])
    tokenizer = tiny_base("t5").tokenizer
    assert decoded(tokenizer, t5.sequences[0]).count("<extra_id_0>") == 1
    assert t5.decoder is not None
    assert t5.decoder[0][:2] == (0, SPECIALS.index("<extra_id_0>"))
    assert t5.read[0][0] == 1
    bart = bound(tiny_base("bart"), ANSWER).encode(sentences()[0])
    assert bart.decoder is not None
    assert bart.decoder[0][0] == 2
    assert decoded(tokenizer, bart.sequences[0]).endswith("Is it good?</s>")


def test_the_decoder_starts_as_the_model_s_own_does() -> None:
    """BART's targets begin with <s>; a language that is forced comes instead; mBART begins with a target's last token."""
    tokenizer = tiny_tokenizer("encoder-decoder")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    bart = Base.from_model(tiny_model("bart"), tokenizer)
    assert [one[:2] for one in bound(bart, ANSWER).encode(sentences()[0]).decoder or ()] == [(2, 1)] * 4
    bart.model.generation_config.forced_bos_token_id = 5
    assert (bound(bart, ANSWER).encode(sentences()[0]).decoder or ())[0][:2] == (2, 5)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s> [CLS]", pair="$A $B </s> [CLS]", special_tokens=[("[CLS]", 5), ("</s>", 2)]
    )
    mbart = Base.from_model(tiny_model("mbart"), tokenizer)
    ids = (bound(mbart, ANSWER, SINGLE).encode(sentences()[0]).decoder or ())[0]
    assert ids == (5,)


def test_demonstrations_stand_in_the_encoder() -> None:
    readout = Verbalizer(ANSWER, MULTI, demonstrations=Demonstrations(k=2))
    base = tiny_base("bart")
    reading = readout.bind(base, SENTIMENT, None, sentiment_task())
    assert reading.prompt() == ()
    demos = [f"{one.fields['sentence']} Is it good? {MULTI[one.label][0]}" for one in reading.demonstrations]
    item = reading.encode(sentences()[1])
    assert list(item.sequences[0]) == base.tokenizer("\n\n".join([*demos, "bad Is it good?"]))["input_ids"]
    with pytest.raises(InputError, match=r"demonstrations are longer than the 60 tokens .* Use k of \d+ or less"):
        Verbalizer(ANSWER, MULTI, demonstrations=Demonstrations(k=12), max_length=60).bind(
            base, SENTIMENT, None, sentiment_task()
        )


def test_a_long_text_is_cut_in_the_encoder() -> None:
    base = tiny_base("t5")
    long = Example(id="x", fields={"sentence": " good" * 200})
    item = bound(base, SPAN).encode(long)
    assert item.length == base.max_length == 128
    assert item.cut > 0
    assert decoded(base.tokenizer, item.sequences[0]).endswith("It was <extra_id_0>, so.</s>")


def test_joined_with_heads_each_scores_as_alone() -> None:
    """A decoder that writes a word is short, one that reads the text is long, and one may be longer than its own text."""
    base = tiny_base("t5")
    readings: tuple[Reading, ...] = (
        bound(base, SPAN),
        Head().bind(base, SENTIMENT, torch.Generator().manual_seed(0)),
        Head(pooling="mean").bind(base, SENTIMENT, torch.Generator().manual_seed(1)),
        bound(base, ANSWER, {"neg": ("an utterly terrible text so boring",), "pos": ("good",)}, fill="answer"),
    )
    short = [Example(id="x", fields={"sentence": "bad"}), Example(id="y", fields={"sentence": "good fun"})]
    for examples in (sentences(), short):
        batches = [reading.collate([reading.encode(example) for example in examples]) for reading in readings]
        joined = join(batches, readings[0].form)
        together = base.hidden(joined.inputs)
        for reading, part, rows, batch in zip(readings, joined.parts, joined.rows, batches, strict=True):
            solo = reading.scores(base, base.hidden(batch.inputs), batch)
            torch.testing.assert_close(reading.scores(base, take_rows(together, rows), part), solo, rtol=1e-4, atol=1e-5)
    some = batches[0].rows([1])
    torch.testing.assert_close(
        readings[0].scores(base, base.hidden(some.inputs), some), scored(base, readings[0], short)[[1]], rtol=1e-4, atol=1e-5
    )


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"fill=span says where an encoder-decoder writes the word, and bert is none"):
        bound(tiny_base("bert"), SPAN, fill="span")
    with pytest.raises(UnsupportedError, match=r"bart was not, or its tokenizer has none. Use fill=answer"):
        bound(tiny_base("bart"), SPAN, fill="span")
    with pytest.raises(UnsupportedError, match=r"A decoder writes its answer at the end .*End the pattern with {mask}"):
        bound(tiny_base("bart"), SPAN)
    with pytest.raises(UnsupportedError, match=r"tiny-t5 has no LM head"):
        bound(tiny_base("t5", head=False), SPAN)
    with pytest.raises(InputError, match=r"The decoder would be fed with \d+ tokens for the longest word, and takes 128"):
        bound(tiny_base("bart"), ANSWER, {"neg": ("bad " * 150 + "bad",), "pos": ("good",)})
    tokenizer = tiny_tokenizer("encoder-decoder")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    mbart = Base.from_model(tiny_model("mbart"), tokenizer)
    with pytest.raises(InputError, match="The tokenizer puts nothing behind a target"):
        bound(mbart, ANSWER)


def test_settings_round_trip() -> None:
    settings = Verbalizer(SPAN, MULTI, fill="answer", normalise="bytes")
    assert from_mapping(Verbalizer, to_mapping(settings)) == settings


def sentence_pieces() -> PreTrainedTokenizerFast:
    """A tokenizer as T5's: word pieces begin with a mark for space, and sentinels swallow the space around them."""
    words = ["a", "good", "fun", "bad", "great", "It", "was", "so", "review", "very"]
    vocabulary = [(token, 0.0) for token in SPECIALS] + [(f"▁{word}", -2.0) for word in words]
    letters = sorted(set("".join(words)) | set("▁.,:"))
    inner = Tokenizer(models.Unigram([*vocabulary, *((letter, -9.0) for letter in letters)], unk_id=3))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)])
    inner.add_special_tokens([AddedToken(token, lstrip="extra" in token, rstrip="extra" in token) for token in SPECIALS])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="</s>", unk_token="[UNK]")  # type: ignore[no-untyped-call]


def test_sentinels_that_swallow_space_are_found() -> None:
    base = Base.from_model(tiny_model("t5"), sentence_pieces())
    shown = base.tokenizer.convert_ids_to_tokens
    reading = bound(base, "{sentence} It was {mask} , so .", {"neg": ("very bad",), "pos": ("good",)})
    item = reading.encode(Example(id="x", fields={"sentence": "a fun review"}))
    text = shown(list(item.sequences[0]))
    assert text[:6] == ["▁a", "▁fun", "▁review", "▁It", "▁was", "<extra_id_0>"]
    assert text[-1] == "</s>"
    assert [shown(list(word.pieces)) for word in reading.words] == [["▁very", "▁bad"], ["▁good"]]
    assert [shown(list(one)) for one in item.decoder or ()] == [["[PAD]", "<extra_id_0>", "▁very"]]
    assert item.read == ((1, 2, 1),)
    answer = bound(base, "{sentence} It was {mask}", {"neg": ("bad",), "pos": ("good",)}, fill="answer")
    ids = answer.encode(Example(id="x", fields={"sentence": "a fun review"}))
    assert shown(list(ids.sequences[0])) == ["▁a", "▁fun", "▁review", "▁It", "▁was", "</s>"]
    assert ids.decoder == ((0,),)
