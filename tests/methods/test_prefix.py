"""Prefix tuning against PEFT's, and its network against the paper's formula."""

from typing import Any

import numpy as np
import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.method import Words
from lmtailor.methods.prefix import NetworkPrefix, PlainPrefix, Prefix
from tests.edits.worn import Worn, apart, base_of, generated, left_padded, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import tiny_base, tiny_inputs


def count(method: Prefix, base: Base) -> int:
    """Σ over stacks of L · 2 · N · W, or of the network."""
    total = 0
    for stack in base.stacks:
        for kind in ("attn", "cross"):
            of_kind = [
                site.attention.kv_width
                for site in base.sites.select(method.at, "sublayer")
                if site.attention is not None and site.stack == stack.name and site.name.endswith(kind)
            ]
            if not of_kind:
                continue
            layers, width = len(of_kind), of_kind[0]
            out = layers * 2 * width
            inner = method.hidden
            plain = out * method.length
            network = method.length * width + width * inner + inner + inner * out + out
            total += network if method.reparam == "mlp" else plain
    return total


def test_the_count_by_hand() -> None:
    """Four layers; six heads of eight features, or two where they are grouped; BART's decoder has three of sixteen."""
    assert Prefix(length=5).edits(base_of("gpt2").sites, None).num_parameters == 4 * 2 * 5 * 48
    assert Prefix(length=5).edits(base_of("llama").sites, None).num_parameters == 4 * 2 * 5 * 16
    assert Prefix(length=5).edits(base_of("bart").sites, None).num_parameters == 2 * 4 * 2 * 5 * 48
    network = Prefix(length=5, reparam="mlp", hidden=7).edits(base_of("gpt2").sites, None)
    assert network.num_parameters == 5 * 48 + 48 * 7 + 7 + 7 * 384 + 384


@pytest.mark.parametrize("key", ["llama", "gpt2", "mistral"])
def test_peft_computes_the_same(key: str) -> None:
    overrides: dict[str, Any] = {"sliding_window": None} if key == "mistral" else {}  # PEFT's prefixes do not obey windows
    base = tiny_base(key, **overrides)
    edits = perturbed(Prefix(length=4).edits(base.sites, generator(0)), scale=0.5)
    (edit,) = edits
    assert isinstance(edit, PlainPrefix)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = wrapped(tiny_base(key, **overrides).model, config)
    weight = model.prompt_encoder.default.embedding.weight
    flat = edit.prefix_L2KND.permute(3, 0, 1, 2, 4).reshape(4, -1)
    assert weight.shape == flat.shape
    weight.data.copy_(flat)
    inputs = tiny_inputs(base)
    real = inputs["attention_mask"].bool()
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)[real]
        tokens = generated(base, left_padded(base, [4, 7, 3]))
    assert apart(found, model(**inputs).logits[real]) < 1e-5
    options = dict(min_new_tokens=5, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(tokens, model.generate(**left_padded(base, [4, 7, 3]), **options)[:, -5:])


def test_the_network_by_the_formula() -> None:
    base = base_of("llama")
    method = Prefix(length=3, reparam="mlp", hidden=5)
    (edit,) = perturbed(method.edits(base.sites, generator(0)))
    assert isinstance(edit, NetworkPrefix)
    e, w1, b1, w2, b2 = (tensor.double().numpy() for tensor in edit.trained().values())
    out = np.tanh(e @ w1.T + b1) @ w2.T + b2  # (N, layers · keys and values · heads · features)
    wanted = out.reshape(3, 4, 2, 2, 8).transpose(1, 2, 3, 0, 4)
    assert np.allclose(edit.key_values().numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", ["llama", "bart"])
def test_the_network_is_thrown_away_after_training(key: str) -> None:
    base = base_of(key)
    method = Prefix(length=3, reparam="mlp", hidden=5, shift=False, at="block.*.{attn}")
    edits = perturbed(method.edits(base.sites, generator(0)))
    plain, finished = method.finished(edits)
    assert plain == Prefix(length=3, hidden=5, shift=False, at="block.*.{attn}")
    assert [type(edit) for edit in finished] == [PlainPrefix] * len(edits)
    assert finished.state().keys() == plain.edits(base.sites, None).state().keys()
    inputs = tiny_inputs(base)
    with torch.no_grad():
        with attach(base, Worn(edits)):
            wanted = logits(base, inputs)
        with attach(base, Worn(finished)):
            assert apart(logits(base, inputs), wanted) < 1e-6
    assert method.finished(edits)[1].num_parameters == count(Prefix(length=3), base)
    assert plain.finished(finished) == (plain, finished)


def test_the_start_has_the_standard_deviation_asked_for() -> None:
    (edit,) = Prefix(length=50, std=0.3).edits(base_of("gpt2").sites, generator(0))
    assert abs(float(edit.trained()["prefix_L2KND"].std()) - 0.3) < 0.01


def test_texts_are_cut_or_repeated() -> None:
    """A text of two tokens fills five."""
    base = base_of("t5")
    texts = [" good movie", " good movie good movie good", " good movie good movie good cat"]
    states = []
    for text in texts:
        method = Prefix(length=5, init="text", text=text)
        states.append(method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0)).state())
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())


def test_a_start_from_words_needs_some() -> None:
    base, method = base_of("bert"), Prefix(init="text", text=" ")
    with pytest.raises(InputError, match="The start text ' ' has no tokens"):
        method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))


def test_cross_attention_cannot_start_from_words() -> None:
    base = base_of("bart")
    method = Prefix(init="text", text="good", at="block.*.cross")
    with pytest.raises(UnsupportedError, match=r"decoder\.block\.0\.cross has no keys of its own"):
        method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length is 0; a prefix needs at least 1"),
        ({"init": "text"}, "init='text' needs `text`"),
        ({"text": "good"}, "`text` needs init='text'"),
        ({"init": "text", "text": "good", "reparam": "mlp"}, "Choose one of the two"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prefix(**settings)


def test_other_sublayers_take_no_prefix() -> None:
    with pytest.raises(UnsupportedError, match=r"block\.0\.ffn of gpt2 is no attention"):
        Prefix(at="block.*.ffn").edits(base_of("gpt2").sites, None)


@pytest.mark.parametrize("key", ["gpt2", "llama", "opt", "qwen3"])
@pytest.mark.parametrize("shift", [True, False])
def test_an_infix_is_what_a_cache_holds_between_text_and_answer(key: str, shift: bool) -> None:
    """The text but its last token is run, the prefix is put into its cache, and the rest goes on from there."""
    base, start, length = base_of(key), 4, 3
    edits = perturbed(Prefix(length=length, place="infix", shift=shift).edits(base.sites, generator(0)), scale=0.5)
    (edit,) = edits
    assert isinstance(edit, PlainPrefix)
    ids = tiny_inputs(base)["input_ids"][:1]
    tokens = ids.shape[1]
    with torch.no_grad():
        out = base.model(input_ids=ids[:, : start - 1], use_cache=True)
        for layer, (keys, values) in enumerate(edit.prefix_L2KND):
            out.past_key_values.update(keys[None], values[None], layer)
        moved = length if shift else 0
        places = torch.arange(start - 1, tokens)[None] + moved
        mask = torch.ones(1, tokens + length, dtype=torch.long)
        rest = base.model(
            input_ids=ids[:, start - 1 :], past_key_values=out.past_key_values, position_ids=places, attention_mask=mask
        )
        with attach(base, Worn(edits)) as attached, attached.answering(start):
            found = logits(base, {"input_ids": ids})
    assert apart(found, torch.cat([out.logits, rest.logits], 1)) < 1e-5


@pytest.mark.parametrize("key", ["gpt2", "llama", "opt"])
def test_an_infix_generates_the_same_with_and_without_a_cache(key: str) -> None:
    base = base_of(key)
    worn = Worn(perturbed(Prefix(length=3, place="infix").edits(base.sites, generator(0)), scale=0.5))
    inputs = left_padded(base, [4, 7, 2])
    with torch.no_grad(), attach(base, worn):
        found = generated(base, inputs)
        assert torch.equal(found, generated(base, inputs, use_cache=False))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("bert", "bert is an encoder. Take place='front'"),
        ("t5", "t5 is an encoder-decoder. Take place='front'"),
        ("mistral", "of mistral has a window"),
    ],
)
def test_an_infix_has_its_place_in_causal_decoders_alone(key: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        Prefix(length=2, place="infix").edits(base_of(key).sites, None)


def test_layers_without_a_window_take_an_infix() -> None:
    sites = base_of("gemma2").sites
    free = [site.name for site in sites.select("block.*.attn", "sublayer") if site.attention and site.attention.window is None]
    (edit,) = Prefix(length=2, place="infix", at=", ".join(free)).edits(sites, None)
    assert isinstance(edit, PlainPrefix)
    assert edit.sites == tuple(free)


def test_a_network_s_infix_stays_one() -> None:
    base = base_of("gpt2")
    method = Prefix(length=2, place="infix", reparam="mlp", hidden=5)
    plain, edits = method.finished(method.edits(base.sites, generator(0)))
    (edit,) = edits
    assert isinstance(plain, Prefix)
    assert isinstance(edit, PlainPrefix)
    assert plain.place == edit.place == "infix"
