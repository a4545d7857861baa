"""Rows of any mixture in `generate`, with padding, a cache and beams: each is what it is alone."""

from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.edits.kinds import TokenPrompt
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from tests.edits.worn import BEAMS, Scale, Worn, apart, base_of, generated, left_padded, logits, noise, row, wear, worn
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_inputs

KEYS = ("gpt2", "llama", "mistral", "gemma2", "opt", "gpt_neox", "t5", "bart", "marian")
SLOTS = (2, None, 0, 4, 3, 1, 2, 5)
LENGTHS = (4, 7, 3, 9, 5, 8, 6, 2)


def adapters(base: Base) -> list[Worn]:
    """Edits of each kind, prefixes of several lengths (one longer than the windows), and a union."""
    embed = "encoder.embed" if base.kind == "encoder-decoder" else "embed"
    down = next(site for site in base.sites.values() if site.name.endswith("block.1.ffn.down"))
    assert down.in_width is not None
    return [
        wear(base, "lora", 0, rank=3, at="block.*.attn.{q,v}, block.*.ffn.up"),
        wear(base, "prefix", 1, length=8),
        wear(base, "soft_prompt", 2, length=3),
        worn(*wear(base, "houlsby", 3, bottleneck=4).edits, Scale(site=down.name, gain_I=1 + noise(down.in_width))),
        worn(
            *wear(base, "prefix", 4, length=2).edits,
            *wear(base, "lora", 4, rank=2).edits,
            TokenPrompt(site=embed, length=2, ids=(30, 41)),
        ),
        wear(base, "bitfit", 5, add_missing=True),
    ]


@pytest.mark.parametrize("options", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("key", KEYS)
def test_rows_of_a_mixture_are_what_they_are_alone(key: str, options: dict[str, Any]) -> None:
    base = base_of(key)
    worn_, inputs = adapters(base), left_padded(base, LENGTHS)
    with torch.no_grad(), attach(base, worn_, SLOTS):
        mixed = generated(base, inputs, **options)
    per_row = len(mixed) // len(SLOTS)
    for number, slot in enumerate(SLOTS):
        with torch.no_grad(), attach(base, worn_, [slot]):
            alone = generated(base, row(inputs, number), **options)
        assert torch.equal(mixed[number * per_row : (number + 1) * per_row], alone), (number, slot)


@pytest.mark.parametrize("key", KEYS)
def test_adapters_change_what_is_generated(key: str) -> None:
    """Else the test above would hold of adapters that do nothing."""
    base = base_of(key)
    inputs = left_padded(base, LENGTHS)
    plain = generated(base, inputs)
    for adapter in adapters(base):
        with torch.no_grad(), attach(base, adapter):
            assert not torch.equal(generated(base, inputs), plain)


@pytest.mark.parametrize("key", ["gpt2", "llama", "gemma3_text", "t5"])
def test_the_cache_changes_nothing(key: str) -> None:
    base = base_of(key)
    worn_, inputs = adapters(base), left_padded(base, LENGTHS)
    with torch.no_grad(), attach(base, worn_, SLOTS):
        assert torch.equal(generated(base, inputs, use_cache=True), generated(base, inputs, use_cache=False))


@pytest.mark.parametrize("key", ["gpt2", "llama", "mistral", "gemma2", "t5", "umt5", "bart"])
def test_tokens_behind_a_cache_are_as_in_one_pass(key: str) -> None:
    """One token, then several, behind those before: as in decoding, and in a second turn of a conversation."""
    base = base_of(key)
    worn_ = adapters(base)[:3]
    inputs = tiny_inputs(base, rows=3, tokens=12)
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    name = "decoder_input_ids" if base.kind == "encoder-decoder" else "input_ids"
    ids = inputs[name].clamp_min(9)
    with torch.no_grad(), attach(base, worn_, [0, 1, 2]):
        whole = logits(base, {**inputs, name: ids})
        out = base.model(**{**inputs, name: ids[:, :4]}, use_cache=True)
        for part in (slice(4, 5), slice(5, 10)):
            behind: dict[str, Any] = {name: ids[:, part], "past_key_values": out.past_key_values, "use_cache": True}
            if base.kind == "encoder-decoder":
                behind |= {"encoder_outputs": (out.encoder_last_hidden_state,), "attention_mask": inputs["attention_mask"]}
            out = base.model(**behind)
            out.encoder_last_hidden_state = behind.get("encoder_outputs", [None])[0]
            assert apart(out.logits, whole[:, part]) < 1e-5


@pytest.mark.parametrize("key", ["gpt2", "llama", "t5"])
def test_two_lm_heads_in_one_batch_raise_and_two_changes_of_the_head_do_not(key: str) -> None:
    base = base_of(key)
    inputs = left_padded(base, (4, 7))
    heads = [wear(base, "select", seed, at="lm_head") for seed in (0, 1)]
    for rows in ([0, 1], [0, None]):
        with pytest.raises(UnsupportedError, match=r"Adapter 0 replaces .*weight.*batch of their own.*LoRA\(at='lm_head'\)"):
            attach(base, heads, rows)
    changes = [wear(base, "lora", seed, rank=3, alpha=300.0, at="lm_head") for seed in (0, 1)]
    with torch.no_grad(), attach(base, changes, [0, 1]):
        mixed = generated(base, inputs)
    for number, change in enumerate(changes):
        with torch.no_grad(), attach(base, change):
            assert torch.equal(mixed[number : number + 1], generated(base, row(inputs, number)))
    assert not torch.equal(mixed, generated(base, inputs))


@pytest.mark.parametrize("key", ["gpt2", "t5"])
def test_heads_of_readouts_have_no_part_in_generation(key: str) -> None:
    """Each row is written by the base's LM head under its adapter's edits, whatever the adapter's own head would answer."""
    base = base_of(key)
    inputs = left_padded(base, (4, 7))
    readouts = [Head(), Head(pooling="mean", hidden=5)]
    headed = [moved_adapter(base, LoRA(rank=3), readout, seed=seed, by=0.3) for seed, readout in enumerate(readouts)]
    bare = [Worn(adapter.edits) for adapter in headed]
    with torch.no_grad():
        with attach(base, headed, [0, 1]):
            found = generated(base, inputs)
        with attach(base, bare, [0, 1]):
            assert torch.equal(found, generated(base, inputs))
    assert not torch.equal(found, generated(base, inputs))
