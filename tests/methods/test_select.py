"""Whole parameters of selected sites."""

import pytest

from lmtailor.base.base import Base
from lmtailor.core.errors import SiteError, UnsupportedError
from lmtailor.methods.select import Select
from tests.edits.worn import base_of


def count(method: Select, base: Base) -> int:
    """Of the modules that hold the selected sites' parameters, each parameter once."""
    chosen = base.sites.select(method.at)
    paths = {site.module for site in chosen if site.kind == "projection"}
    for site in chosen:
        if site.kind == "sublayer":
            paths |= {other.module for name, other in base.sites.items() if name.startswith(f"{site.name}.")}
    own = {id(p): p.numel() for path in paths for p in base.module(path).parameters()}
    if any(site.name == "lm_head" for site in chosen):
        trunk = {id(p) for p in base.trunk.parameters()}
        own |= {id(p): p.numel() for p in base.model.parameters() if id(p) not in trunk}
    return sum(own.values())


def names(key: str, at: str) -> set[str]:
    return {edit.site for edit in Select(at=at).edits(base_of(key).sites, None)}


def test_what_is_selected() -> None:
    layer = "bert.encoder.layer.3"
    attention = {
        f"{layer}.attention.{part}.{kind}"
        for part in ("self.query", "self.key", "self.value", "output.dense")
        for kind in ("weight", "bias")
    }
    assert names("bert", "block.3.attn") == attention
    assert names("bert", "block.[-1].ffn.up, block.[-1].norm2") == {
        f"{layer}.{part}.{kind}" for part in ("intermediate.dense", "output.LayerNorm") for kind in ("weight", "bias")
    }
    assert names("gpt2", "block.0.attn.{qkv,q}") == {f"transformer.h.0.attn.c_attn.{kind}" for kind in ("weight", "bias")}
    whole = {name for name, _ in base_of("bert").model.named_parameters() if name.startswith(f"{layer}.")}
    assert names("bert", "block.3") == whole
    assert names("t5", "decoder.block.*.cross") == {
        f"decoder.block.{number}.layer.1.EncDecAttention.{part}.weight" for number in range(4) for part in "qkvo"
    }


def test_a_tied_head_is_the_word_embeddings_too() -> None:
    assert names("gpt2", "lm_head") == {"transformer.wte.weight"}
    assert names("llama", "lm_head") == {"lm_head.weight"}


def test_a_part_of_a_fused_weight_is_not_trained_alone() -> None:
    with pytest.raises(UnsupportedError, match=r"block\.0\.attn\.q is part of the fused weight block\.0\.attn\.qkv"):
        Select(at="block.*.attn.q").edits(base_of("gpt2").sites, None)
    with pytest.raises(SiteError, match="selects no site"):
        Select(at="block.*.attn.z").edits(base_of("gpt2").sites, None)
