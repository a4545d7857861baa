"""Prompt tuning against PEFT's, and its starts."""

from typing import Any

import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods._prompts import SoftPromptEdit
from lmtailor.methods.method import Words
from lmtailor.methods.soft_prompt import SoftPrompt
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import tiny_base, tiny_inputs


def count(method: SoftPrompt, base: Base) -> int:
    """N · H, of the table of word embeddings, for each stack."""
    table = base.module(base.stacks[0].embedding).weight
    assert isinstance(table, torch.Tensor)
    return method.length * table.shape[1] * (2 if method.at == "both" else 1)


def start(base: Base, method: SoftPrompt, words: Words | None = None, seed: int = 0) -> torch.Tensor:
    """The prompt at its start."""
    rng = generator(seed)
    (edit,) = method.started(method.edits(base.sites, rng), base, words or Words(), rng)
    assert isinstance(edit, SoftPromptEdit)
    return edit.prompt_NH


def table_of(base: Base) -> torch.Tensor:
    """Embeddings of words as the encoder or decoder takes them, (V, H)."""
    weight = base.module(base.stacks[0].embedding).weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach() * base.stacks[0].embedding_scale


@pytest.mark.parametrize("key", ["llama", "gpt2"])
def test_peft_computes_the_same(key: str) -> None:
    base = base_of(key)
    edits = perturbed(SoftPrompt(length=4).edits(base.sites, generator(0)), scale=0.5)
    (edit,) = edits
    assert isinstance(edit, SoftPromptEdit)
    model = wrapped(tiny_base(key).model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    model.prompt_encoder.default.embedding.weight.data.copy_(edit.prompt_NH)
    inputs = tiny_inputs(base)
    real = inputs["attention_mask"].bool()
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)[real]
    assert apart(found, model(**inputs).logits[:, 4:][real]) < 1e-5


def test_a_random_start_is_uniform() -> None:
    prompt = start(base_of("gpt2"), SoftPrompt(length=100))
    assert prompt.abs().max() <= 0.5
    assert abs(float(prompt.std()) - 12**-0.5) < 0.01


@pytest.mark.parametrize("key", ["bert", "gpt2", "t5", "marian"])
def test_a_start_from_the_vocabulary_is_of_common_words(key: str) -> None:
    base = base_of(key)
    prompt, table = start(base, SoftPrompt(length=20, init="vocab")), table_of(base)
    ids = [int((table == row).all(1).nonzero()[0]) for row in prompt]
    assert len(set(ids)) == 20
    assert not set(ids) & set(base.tokenizer.all_special_ids)
    assert not torch.equal(prompt, start(base, SoftPrompt(length=20, init="vocab"), seed=1))


def test_a_start_from_labels_averages_their_pieces() -> None:
    base = base_of("bert")
    words = Words(labels=("good", "xq", "bad"))
    prompt, table = start(base, SoftPrompt(length=2, init="class_labels"), words), table_of(base)
    pieces = base.tokenizer("xq", add_special_tokens=False)["input_ids"]
    assert len(pieces) == 2
    assert torch.equal(prompt[0], table[base.tokenizer.convert_tokens_to_ids("good")])
    assert torch.allclose(prompt[1], table[pieces].mean(0))
    longer = start(base, SoftPrompt(length=5, init="class_labels"), words)
    assert torch.equal(longer[:2], prompt)
    assert all((table == row).all(1).any() for row in longer[3:])


@pytest.mark.parametrize(("length", "places"), [(2, [0, 1]), (5, [0, 1, 2, 0, 1])])
def test_a_start_from_a_text_is_cut_or_repeated(length: int, places: list[int]) -> None:
    base = base_of("bert")
    ids = base.tokenizer("a good movie", add_special_tokens=False)["input_ids"]
    prompt = start(base, SoftPrompt(length=length, init="text", text="a good movie"))
    assert torch.equal(prompt, table_of(base)[[ids[place] for place in places]])


@pytest.mark.parametrize("key", ["llama", "gemma3_text"])
def test_a_prompt_that_starts_from_a_text_is_that_text(key: str) -> None:
    """The embeddings are as the stack takes them, scaled where it scales."""
    base = base_of(key)
    method = SoftPrompt(length=3, init="text", text="a good movie")
    edits = method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))
    inputs = tiny_inputs(base)
    real = inputs["attention_mask"].bool()
    ids = torch.tensor(base.tokenizer("a good movie", add_special_tokens=False)["input_ids"][:3])
    longer = {
        "input_ids": torch.cat([ids.expand(3, -1), inputs["input_ids"]], 1),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1),
    }
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)[real]
    assert apart(found, logits(base, longer)[:, 3:][real]) < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length is 0; a prompt needs at least 1"),
        ({"init": "text"}, "init='text' needs `text`"),
        ({"text": "good"}, "`text` needs init='text'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SoftPrompt(**settings)


def test_starts_that_cannot_be() -> None:
    base = base_of("bert")
    with pytest.raises(InputError, match="needs a task with labels"):
        start(base, SoftPrompt(length=2, init="class_labels"))
    with pytest.raises(InputError, match=r"1000 tokens cannot start from \d+ words"):
        start(base, SoftPrompt(length=1000, init="vocab"))
    with pytest.raises(InputError, match="The start text ' ' has no tokens"):
        start(base, SoftPrompt(length=2, init="text", text=" "))


@pytest.mark.parametrize("key", ["t5", "marian"])
def test_a_prompt_before_both_stacks_starts_in_each_one_s_words(key: str) -> None:
    base = base_of(key)
    method = SoftPrompt(length=2, init="text", text="good movie", at="both")
    edits = method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))
    assert [edit.site for edit in edits] == ["encoder.embed", "decoder.embed"]
    ids = base.tokenizer("good movie", add_special_tokens=False)["input_ids"][:2]
    for edit, stack in zip(edits, base.stacks, strict=True):
        table = base.module(stack.embedding).weight
        assert isinstance(table, torch.Tensor)
        assert torch.equal(edit.trained()["prompt_NH"], table[ids] * stack.embedding_scale)


@pytest.mark.parametrize("at", ["decoder", "both"])
def test_one_stack_has_no_decoder_beside_it(at: Any) -> None:
    with pytest.raises(UnsupportedError, match="gpt2 has one stack"):
        SoftPrompt(at=at).edits(base_of("gpt2").sites, None)


@pytest.mark.parametrize(
    ("key", "place", "message"),
    [
        ("bert", "infix", "bert is an encoder. Take place='before_gap'"),
        ("t5", "infix", "t5 is an encoder-decoder. Take at='decoder'"),
        ("gpt2", "after_gap", "gpt2 is a causal decoder. Take place='infix'"),
        ("bart", "before_gap", "bart is an encoder-decoder. Take place='front'"),
    ],
)
def test_places_that_a_model_has_not(key: str, place: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        SoftPrompt(place=place).edits(base_of(key).sites, None)
