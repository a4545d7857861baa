"""OptiPrompt against the plain model with the vectors as new words of its vocabulary, which is how its paper's code has them."""

from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.method import Words
from lmtailor.methods.opti_prompt import OptiPrompt
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.tiny import tiny_base


def count(method: OptiPrompt, base: Base) -> int:
    """N · H."""
    table = base.module(base.stacks[0].embedding).weight
    assert isinstance(table, torch.Tensor)
    return method.length * table.shape[1]


@pytest.mark.parametrize("key", ["bert", "roberta", "albert"])
def test_new_words_of_the_vocabulary_do_the_same(key: str) -> None:
    base, longer = base_of(key), tiny_base(key)
    edits = perturbed(OptiPrompt(length=3).edits(base.sites, generator(0)), scale=0.5)
    old = base.vocab_size
    longer.model.resize_token_embeddings(old + 3)
    table = longer.model.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    with torch.no_grad():
        (prompt,) = edits.state().values()
        table[old:] = prompt
    mask = int(base.tokenizer.mask_token_id)
    ids = torch.tensor([[5, 20, 21, mask, 22, 6], [5, 30, 31, 32, mask, 6]])
    new = torch.arange(old, old + 3)
    rows = [torch.cat([one[:gap], new, one[gap:]]) for one, gap in zip(ids, (3, 4), strict=True)]
    with torch.no_grad():
        theirs = logits(longer, {"input_ids": torch.stack(rows)})
        with attach(base, Worn(edits)):
            found = logits(base, {"input_ids": ids})
    for number, gap in enumerate((3, 4)):
        assert apart(found[number, gap], theirs[number, gap + 3, :old]) < 1e-5


def test_a_manual_start_is_the_template_s_words() -> None:
    base, method = base_of("bert"), OptiPrompt(length=4, init="manual", text="is a very good movie")
    (edit,) = method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))
    table = base.module(base.stacks[0].embedding).weight
    assert isinstance(table, torch.Tensor)
    ids = base.tokenizer.convert_tokens_to_ids(["is", "a", "very", "good"])
    assert torch.equal(edit.trained()["prompt_NH"], table[ids])


def test_a_random_start_is_that_of_added_words() -> None:
    (edit,) = OptiPrompt(length=200).edits(base_of("bert").sites, generator(0))
    assert abs(float(edit.trained()["prompt_NH"].std()) - 0.02) < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length is 0; a prompt needs at least 1"),
        ({"init": "manual"}, "init='manual' needs `text`"),
        ({"text": "good"}, "`text` needs init='manual'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OptiPrompt(**settings)


@pytest.mark.parametrize(("key", "what"), [("gpt2", "gpt2 is a causal decoder"), ("t5", "t5 is an encoder-decoder")])
def test_a_model_without_a_gap_is_refused(key: str, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        OptiPrompt().edits(base_of(key).sites, None)
