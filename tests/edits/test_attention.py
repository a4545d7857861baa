"""Attention over shared prefixes apart, joined by log-sum-exp."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lmtailor.core.rng import generator
from lmtailor.edits import attention
from lmtailor.edits.attach import attach
from lmtailor.edits.attention import Call, Layer, Pass
from lmtailor.edits.prefix_slots import Prefixes
from lmtailor.methods.prefix import Prefix
from lmtailor.store.adapter import new_adapter
from tests.edits.worn import BEAMS, apart, base_of, generated, left_padded, logits, noise, wear
from tests.tiny import FAMILIES, tiny_base, tiny_inputs

WITHOUT_BIAS = [key for key in FAMILIES if key not in ("t5", "umt5", "gemma2")]
"""Families whose attention has neither a position bias nor a softcap: they are joined by log-sum-exp."""


def dense(call: Call, prefixes: Prefixes, window: int | None, positions_BQ: Tensor | None) -> Tensor:
    """Row by row and head by head in float64: softmax over prefix and own keys in one; 0 where nothing is seen."""
    batch, heads, queries, width = call.query.shape
    per_row, groups = batch // len(prefixes.slot_of_row), heads // call.key.shape[1]
    out = torch.zeros(batch, queries, heads, width, dtype=torch.float64)
    for b in range(batch):
        slot = prefixes.slot_of_row[b // per_row]
        length = prefixes.lengths[slot] if slot >= 0 else 0
        for h in range(heads):
            before_k, before_v = (
                x[max(slot, 0), h // groups, x.shape[2] - length :] for x in (prefixes.keys_SKND, prefixes.values_SKND)
            )
            keys = torch.cat([before_k, call.key[b, h // groups]]).double()
            values = torch.cat([before_v, call.value[b, h // groups]]).double()
            seen = torch.ones(queries, len(keys), dtype=torch.bool)
            if window is not None and positions_BQ is not None:
                seen[:, :length] = positions_BQ[b][:, None] - torch.arange(length)[None] < window
            seen[:, length:] = torch.ones(queries, call.key.shape[2]).tril() > 0 if call.mask is None else call.mask[b, 0]
            scores = call.query[b, h].double() @ keys.T * call.options["scaling"]
            out[b, :, h] = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0) @ values
    return out


def call_of(*, heads: int, kv: int, batch: int, queries: int, mask: Tensor | None) -> Call:
    rng = generator(0, heads, kv, batch)
    query, key, value = (torch.randn(batch, n, queries, 8, generator=rng) for n in (heads, kv, kv))
    module = nn.Module()
    module.num_key_value_groups = heads // kv  # type: ignore[assignment]
    return Call(
        implementation="sdpa",
        module=module,
        query=query,
        key=key,
        value=value,
        mask=mask,
        options={"scaling": 0.4, "is_causal": True},
    )


def some_masked(batch: int, queries: int) -> Tensor:
    """Causal; the first tokens of each row are padding, which sees nothing and is not seen; one row is padding alone."""
    mask = torch.ones(queries, queries, dtype=torch.bool).tril().expand(batch, 1, -1, -1).clone()
    for b in range(batch):
        mask[b, :, :, : b % queries] = False
    mask[-1] = False
    return mask


PREFIXES = {
    "one for all": ((5,), (0, 0, 0)),
    "one for some": ((5,), (-1, 0, -1)),
    "of several lengths": ((2, 5), (1, 0, 1)),
    "unworn": ((2, 5), (-1, 1, -1)),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "kv"), [(2, 2), (6, 2)])
def test_parts_join_to_one_softmax(prefix: str, window: int | None, masked: bool, heads: int, kv: int) -> None:
    """Two sequences a row, as with beams."""
    lengths, slots = PREFIXES[prefix]
    call = call_of(heads=heads, kv=kv, batch=6, queries=4, mask=some_masked(6, 4) if masked else None)
    keys, values = (noise(len(lengths), kv, max(lengths), 8, seed=seed, scale=1.0) for seed in (1, 2))
    prefixes = Prefixes(keys_SKND=keys, values_SKND=values, lengths=lengths, slot_of_row=slots)
    positions = torch.tensor([lengths[s] if s >= 0 else 0 for s in slots]).repeat_interleave(2)[:, None] + torch.arange(4)
    layer = Layer(causal=True, cross=False, window=window, now=Pass(prefixes=prefixes, positions_BQ=positions))
    wanted = dense(call, prefixes, window, positions)
    seen = wanted.abs().sum((-1, -2)) > 0
    merged = attention._merged(call, layer, prefixes)
    joined, _ = attention._concatenated(call, layer, prefixes)
    assert not merged.isnan().any()
    assert apart(merged, wanted) < 1e-5
    assert apart(joined[seen], wanted[seen]) < 1e-5


def test_one_query_sees_all_its_keys() -> None:
    """A decoding step has no mask where nothing is padded."""
    call = call_of(heads=6, kv=2, batch=4, queries=1, mask=None)
    keys, values = (noise(1, 2, 5, 8, seed=seed, scale=1.0) for seed in (1, 2))
    prefixes = Prefixes(keys_SKND=keys, values_SKND=values, lengths=(5,), slot_of_row=(0, -1, 0, 0))
    layer = Layer(causal=True, cross=False, now=Pass(prefixes=prefixes))
    assert apart(attention._merged(call, layer, prefixes), dense(call, prefixes, None, None)) < 1e-5


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(sequences, batch size of the prefix's keys) of each attention over a prefix; concatenating one fails."""
    calls: list[tuple[int, int]] = []
    shared = attention._shared

    def spied(query: Tensor, key_1KND: Tensor, *rest: Any) -> Any:
        calls.append((len(query), len(key_1KND)))
        return shared(query, key_1KND, *rest)

    def refuse(*args: object) -> None:
        raise AssertionError("a prefix was expanded to its rows")

    monkeypatch.setattr(attention, "_shared", spied)
    monkeypatch.setattr(attention, "_per_sequence", refuse)
    return calls


@pytest.mark.parametrize("key", WITHOUT_BIAS)
def test_a_shared_prefix_is_never_expanded(key: str, shapes: list[tuple[int, int]]) -> None:
    base = base_of(key)
    with torch.no_grad(), attach(base, wear(base, "prefix", length=3), fast=True):
        logits(base, tiny_inputs(base, rows=5))
    layers = sum(site.attention is not None and not site.attention.cross for site in base.sites.values())
    assert shapes == [(5, 1)] * layers


@pytest.mark.parametrize("key", ["gpt2", "llama", "mistral", "bart"])
def test_nor_in_generate_with_beams_and_mixed_rows(key: str, shapes: list[tuple[int, int]]) -> None:
    base = base_of(key)
    adapters = [wear(base, "prefix", seed, length=length) for seed, length in enumerate([2, 8])]
    inputs = left_padded(base, [4, 7, 2, 5])
    with torch.no_grad(), attach(base, adapters, [1, 0, None, 1], fast=True):
        generated(base, inputs, tokens=3, **BEAMS)
    assert {keys for _, keys in shapes} == {1}
    assert {sequences for sequences, _ in shapes} >= {3, 6}, "beams of one row, and of two"


def test_unasked_texts_are_read_by_the_implementation_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit what a cache that begins with the prefix gives."""
    base, calls = base_of("llama"), []
    adapter = new_adapter(base, method=Prefix(length=3))
    ids = tiny_inputs(base, rows=5)["input_ids"]
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(adapter.state["block.*.attn.prefix_L2KND"]):
        cache.update(keys.expand(5, -1, -1, -1), values.expand(5, -1, -1, -1), layer)
    with torch.no_grad():
        wanted = base.model(ids, past_key_values=cache).logits
    monkeypatch.setattr(attention, "_merged", lambda *args: calls.append(args))
    with torch.no_grad(), attach(base, adapter):
        assert torch.equal(base.model(ids).logits, wanted)
    assert not calls


@pytest.mark.parametrize("key", ["gpt2", "llama", "gemma3_text", "bert", "bart"])
def test_autocast_computes_attention_as_sdpa_does(key: str) -> None:
    """Rotations leave queries in float32 beside values in bfloat16."""
    base, inputs = base_of(key), tiny_inputs(base_of(key))
    with torch.no_grad(), attach(base, wear(base, "prefix", length=3)):
        wanted = base.hidden(inputs).last_NTH
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = base.hidden(inputs).last_NTH
    assert apart(found, wanted) < 0.05
    assert apart(found, wanted) > 0


def test_rows_of_padding_alone_do_not_spoil_the_others() -> None:
    base = tiny_base("llama")
    inputs = tiny_inputs(base)
    inputs["attention_mask"][2] = 0
    adapter = wear(base, "prefix", length=3)
    with torch.no_grad(), attach(base, [adapter], [0, None, None]):
        found = logits(base, inputs)
    assert not found.isnan().any()
    with torch.no_grad(), attach(base, adapter):
        assert apart(found[0], logits(base, inputs)[0]) < 1e-5
