"""Answers that adapters write: what leaves no room for them is refused, and how probable references are."""

import math
from dataclasses import replace

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.edits.attach import attach
from lmtailor.infer.decoding import Decoding
from lmtailor.infer.evaluate import evaluate, plain_adapter, reference_perplexity
from lmtailor.infer.predict import predict
from lmtailor.infer.written_answers import write_answers
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import Prefix
from lmtailor.readouts.text import Text, TextReading
from lmtailor.store.adapter import new_adapter
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base, tiny_model, tiny_tokenizer

ROWS = [{"input": "the cat is", "target": "good"}, {"input": "a movie is", "target": "bad"}]
TASK = Task.from_records(train=ROWS, test=ROWS, kind="generation", text="input", label="target", metrics=("exact_match",))


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_a_decoder_without_positions_for_what_is_to_be_written_is_refused(family: str) -> None:
    base = tiny_base(family)
    adapter = plain_adapter(base, TASK, Text("{input}"))
    long = Decoding(max_new_tokens=129)
    with pytest.raises(InputError, match="the decoder has 128 positions"):
        predict(base, adapter, ["the cat is"], decoding=long)
    with pytest.raises(InputError, match="the decoder has 128 positions"):
        evaluate(base, TASK, adapter, decoding=long)
    assert predict(base, adapter, ["the cat is"], decoding=Decoding(max_new_tokens=2))[0].text is not None


def test_an_answer_that_leaves_no_room_for_an_input_is_named_as_what_is_too_long() -> None:
    base = tiny_base("gpt2")
    adapter = plain_adapter(base, TASK, Text("{input}", max_length=16))
    with pytest.raises(InputError, match=r"16 tokens are to be written \(max_new_tokens\), but input and answer have 16"):
        predict(base, adapter, ["the cat is"], decoding=Decoding(max_new_tokens=16))
    assert predict(base, adapter, ["the cat is"], decoding=Decoding(max_new_tokens=2))[0].text is not None


def test_where_nobody_says_how_much_is_written_the_readouts_length_does() -> None:
    base = tiny_base("gpt2")
    text = "the cat is so good and the book is so bad " * 3
    for length, most in ((16, 8), (17, 8), (64, 32), (None, 64)):
        adapter = plain_adapter(base, TASK, Text("{input}", max_length=length))
        said = predict(base, adapter, [text], decoding=Decoding(max_new_tokens=most))
        assert predict(base, adapter, [text]) == said
        examples = [Example(id="x", fields={"input": text})]
        (one,) = write_answers(base, [adapter], examples, slots=[0])
        assert len(one.written.tokens) == most, "the tiny model never ends"
    short, long = (plain_adapter(base, TASK, Text("{input}", max_length=length)) for length in (16, 32))
    with pytest.raises(InputError, match=r"The adapters write \[8, 16\] tokens at most where nobody says how many"):
        predict(base, [short, long], [text, text], rows=[0, 1])
    assert len(predict(base, [short, long], [text, text], rows=[0, 1], decoding=Decoding(max_new_tokens=4))) == 2
    with pytest.raises(InputError, match=r"64 tokens are to be written \(max_new_tokens\), but input and answer have 32"):
        predict(base, long, [text], decoding=Decoding())
    bart = tiny_base("bart")
    adapter = plain_adapter(bart, TASK, Text("{input}", max_length=12))
    (one,) = write_answers(bart, [adapter], [Example(id="x", fields={"input": text})], slots=[0])
    assert len(one.written.tokens) <= 12


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("method", [LoRA(rank=2), Prefix(length=3)])
def test_a_decoder_writes_behind_what_it_was_taught_behind(method: Method, beams: int) -> None:
    """BART's tokenizer begins every target with <s>, which is not learned: so it must stand there when an answer is written."""
    tokenizer = tiny_tokenizer("encoder-decoder")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    base = Base.from_model(tiny_model("bart"), tokenizer)
    adapter = new_adapter(base, method=method, readout=Text("{input}", max_length=20), task=TASK)
    adapter = adapter.with_state({name: value.detach() + 0.1 for name, value in adapter.state.items()})
    reading, example = adapter.reading, TASK.split("test").examples[0]
    assert isinstance(reading, TextReading)
    (one,) = write_answers(base, [adapter], [example], slots=[0], decoding=Decoding(max_new_tokens=4, beams=beams))
    target = (*one.written.tokens, reading.end)
    (item,) = reading.items(example)
    assert item.decoder is not None
    assert item.decoder[0][:2] == (2, 1)
    taught = replace(item, decoder=((2, 1, *target[:-1]),), read=(tuple(range(1, 1 + len(target))),), targets=(target,))
    batch = reading.collate([replace(taught, units=len(target))])
    with torch.no_grad(), attach(base, adapter) as attached:
        states = attached.states(batch.inputs, batch.answer_N)
        likeliest = base.lm_logits(states.last_NTH[0, -len(target) :]).argmax(-1).tolist()
    assert len(one.written.tokens) == 4
    if beams == 1:
        assert tuple(likeliest[:4]) == one.written.tokens
    with pytest.raises(InputError, match=r"the decoder has 12\d positions"):
        write_answers(base, [adapter], [example], slots=[0], decoding=Decoding(max_new_tokens=128))


def test_what_cannot_be_measured_is_refused_before_it_is_written() -> None:
    base = tiny_base("gpt2")
    task = Task.from_records(train=ROWS, unlabelled=[{"input": "a book"}], kind="generation", text="input", label="target")
    adapter = plain_adapter(base, task, Text("{input}"))
    heard: list[tuple[int, ...]] = []
    with pytest.raises(InputError, match="have no label or reference"):
        evaluate(base, task, adapter, split="unlabelled", progress=lambda *done: heard.append(done))
    assert not heard


def test_references_of_one_input_are_one_example_of_perplexity() -> None:
    pair = [{"about": "a cat", "said": "good"}, {"about": "a cat", "said": "it was very good"}, {"about": "a dog", "said": "no"}]
    task = Task.from_records(train=pair, dev=pair, kind="generation", text="about", label="said")
    base = tiny_base("gpt2")
    adapter = plain_adapter(base, task, Text("about {about}"))
    score = reference_perplexity(base, adapter, task.split("dev").examples)["perplexity"]
    alone = [
        reference_perplexity(base, adapter, [replace(example, references=(reference,))])["perplexity"]
        for example in task.split("dev")
        for reference in example.references
    ]
    reading = adapter.reading
    assert reading is not None
    units = [item.units for example in task.split("dev") for item in reading.items(example)]
    nats = sum(count * math.log(one.value) for count, one in zip(units, alone, strict=True))
    assert score.n == 2
    assert score.value == pytest.approx(math.exp(nats / sum(units)), rel=1e-5)
