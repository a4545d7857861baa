"""Edits of hidden states: where they act, and what they are given, in every family."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from lmtailor.base.views import NormView
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.edits.edit import Context
from lmtailor.edits.kinds import HiddenEdit
from tests.edits.worn import Replace, Shift, apart, base_of, generated, inputs_of, left_padded, logits, noise, outputs_of, worn
from tests.tiny import FAMILIES, tiny_base, tiny_inputs

POST_NORM = {
    "bert": "attention.output.LayerNorm",
    "roberta": "attention.output.LayerNorm",
    "xlm-roberta": "attention.output.LayerNorm",
    "electra": "attention.output.LayerNorm",
    "distilbert": "sa_layer_norm",
    "albert": "attention.LayerNorm",
    "bart": "self_attn_layer_norm",
    "marian": "self_attn_layer_norm",
}
"""Families that normalise after the residual add, and the norm after attention, seen from a block."""


def sublayers(base: Base) -> list[Site]:
    """The sublayers of block 1 of every stack."""
    return [site for site in base.sites.values() if site.kind == "sublayer" and site.block == 1]


def block_of(base: Base, site: Site) -> Site:
    start = f"{site.stack}." if site.stack else ""
    return base.sites[f"{start}block.{site.block}"]


def stream_after(base: Base, site: Site) -> AbstractContextManager[list[Tensor]]:
    """Catches the residual stream once a sublayer is added to it."""
    if site.next_norm is not None:
        return inputs_of(base.module(base.sites[site.next_norm].module))
    names = [other.name for other in sublayers(base) if other.stack == site.stack]
    parallel = getattr(base.model.config, "use_parallel_residual", False)
    following = names[names.index(site.name) + 1 :]
    if parallel or not following:
        return outputs_of(base.module(block_of(base, site).module))
    entry = base.sites[following[0]].entry
    assert entry is not None
    return inputs_of(base.module(entry.module))


@pytest.mark.parametrize("key", FAMILIES)
def test_a_sublayer_is_edited_before_the_residual_add(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    for site in sublayers(base):
        delta_H = noise(site.width)
        with stream_after(base, site) as plain:
            logits(base, inputs)
        with stream_after(base, site) as edited, attach(base, worn(Shift(site=site.name, delta_H=delta_H))):
            logits(base, inputs)
        wanted = plain[site.call] + delta_H
        assert apart(edited[site.call].reshape(wanted.shape), wanted) < 1e-5, site.name


@pytest.mark.parametrize("key", FAMILIES)
def test_an_edit_is_given_input_and_residual(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    for site in sublayers(base):
        reads = base.sites[f"{site.name}.{'up' if site.name.endswith('ffn') else 'q'}"]
        block = base.module(block_of(base, site).module)
        with (
            inputs_of(base.module(reads.module)) as entries,
            inputs_of(block) as into_block,
            outputs_of(base.module(site.module)) as states,
            stream_after(base, site) as streams,
        ):
            logits(base, inputs)
        x, h, stream = entries[site.call], states[site.call], streams[site.call]
        x, h = x.reshape(stream.shape), h.reshape(stream.shape)
        parallel = getattr(base.model.config, "use_parallel_residual", False)
        residual = into_block[site.call] if parallel else stream - h
        wanted = stream - h + 0.5 * x - 0.25 * residual
        edit = Replace(site=site.name, of_entry=0.5, of_residual=-0.25)
        with stream_after(base, site) as edited, attach(base, worn(edit)):
            logits(base, inputs)
        assert apart(edited[site.call].reshape(wanted.shape), wanted) < 1e-5, site.name


@dataclass
class Log:
    """What edits were given."""

    norms: list[NormView | None] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Watch(HiddenEdit):
    """Writes down what it is given."""

    log: Log

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        assert x_RTH is None
        assert residual_RTH is None
        self.log.norms.append(norm)
        self.log.contexts.append(ctx)
        return h_RTH


@pytest.mark.parametrize("key", FAMILIES)
def test_an_edit_is_given_the_norm_that_follows_in_post_norm_models(key: str) -> None:
    base, log = base_of(key), Log()
    site = next(site for site in sublayers(base) if site.attention is not None and not site.attention.cross)
    with attach(base, worn(Watch(site=site.name, log=log))):
        logits(base, tiny_inputs(base))
    (norm,) = log.norms
    if key in POST_NORM:
        assert norm is not None
        assert norm.module is base.module(f"{block_of(base, site).module}.{POST_NORM[key]}")
    else:
        assert norm is None


def test_an_edit_knows_the_phase_and_whether_dropout_acts() -> None:
    base, log = tiny_base("gpt2"), Log()
    with attach(base, worn(Watch(site="block.0.attn", log=log))):
        generated(base, left_padded(base, [4, 3]), tokens=3)
        base.module("transformer.h.0.attn").train()
        logits(base, tiny_inputs(base))
    assert [ctx.phase for ctx in log.contexts] == ["prefill", "decode", "decode", "prefill"]
    assert [ctx.training for ctx in log.contexts] == [False, False, False, True]


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "captured before"])
@pytest.mark.parametrize("key", FAMILIES)
def test_edited_blocks_appear_in_output_hidden_states(key: str, before: bool) -> None:
    """transformers installs capture hooks on the first request, and they stay."""
    base = tiny_base(key)
    inputs = tiny_inputs(base)
    name = "decoder_hidden_states" if base.kind == "encoder-decoder" else "hidden_states"
    site = f"{base.read.name}.block.1".removeprefix(".")
    delta_H = noise(base.hidden_size)
    reference = base if before else tiny_base(key)
    plain = reference.model(**inputs, output_hidden_states=True)
    with attach(base, worn(Shift(site=site, delta_H=delta_H))):
        edited = base.model(**inputs, output_hidden_states=True)
        kept = base.hidden(inputs, (1,)).layers[1]
    assert apart(edited[name][2], plain[name][2] + delta_H) < 1e-5
    assert torch.equal(edited[name][1], plain[name][1])
    assert torch.equal(kept, edited[name][2])


@pytest.mark.parametrize("key", FAMILIES)
def test_the_embeddings_are_edited_before_positions(key: str) -> None:
    """The reference gives the model the embeddings that it would have taken, moved."""
    base = base_of(key)
    inputs, stack = tiny_inputs(base), base.stacks[0]
    site = base.sites[f"{stack.name}.embed".removeprefix(".")]
    delta_H = noise(site.width)
    given = dict(inputs)
    ids = given.pop("input_ids")
    given["inputs_embeds"] = (base.module(stack.embedding)(ids) + delta_H) * stack.embedding_scale
    if stack.positions == "ids":
        given["position_ids"] = torch.where(ids == 0, 0, (ids != 0).cumsum(1))
    with attach(base, worn(Shift(site=site.name, delta_H=delta_H))):
        edited = logits(base, inputs)
    assert apart(edited, logits(base, given)) < 1e-5
    assert apart(edited, logits(base, inputs)) > 1e-3


def test_shared_blocks_are_edited_call_by_call() -> None:
    base = base_of("albert")
    inputs = tiny_inputs(base)
    site = base.sites["block.3"]
    assert (site.call, site.calls) == (1, 2)
    with outputs_of(base.module(site.module)) as plain:
        logits(base, inputs)
    delta_H = noise(site.width)
    with outputs_of(base.module(site.module)) as edited, attach(base, worn(Shift(site=site.name, delta_H=delta_H))):
        logits(base, inputs)
    assert len(edited) == site.calls
    for call, (one, other) in enumerate(zip(plain, edited, strict=True)):
        if call < site.call:
            assert torch.equal(one, other)
        if call == site.call:
            assert apart(other, one + delta_H) < 1e-6


def test_entries_exist_at_sublayers_alone() -> None:
    base = base_of("gpt2")
    with pytest.raises(UnsupportedError, match=r"block\.0 has no input and residual"):
        attach(base, worn(Replace(site="block.0", of_entry=1.0, of_residual=1.0)))
