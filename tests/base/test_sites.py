import re

import pytest

from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import SiteError
from tests.tiny import tiny_base

LLAMA = tiny_base("llama").sites
BART = tiny_base("bart").sites


def names(sites: Sites, pattern: str, *kinds: str) -> list[str]:
    return [site.name for site in sites.select(pattern, *kinds)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("block.0.attn.q", ["block.0.attn.q"]),
        ("block.*.attn.q", [f"block.{i}.attn.q" for i in range(4)]),
        ("block.*", [f"block.{i}" for i in range(4)]),
        ("block.[1].attn.{q,v}", ["block.1.attn.q", "block.1.attn.v"]),
        ("block.[-1]", ["block.3"]),
        ("block.[-2:]", ["block.2", "block.3"]),
        ("block.[:2].ffn", ["block.0.ffn", "block.1.ffn"]),
        ("block.[::2]", ["block.0", "block.2"]),
        ("block.[0,-1]", ["block.0", "block.3"]),
        ("block.[0, 2:]", ["block.0", "block.2", "block.3"]),
        ("block.0.attn.*", [f"block.0.attn.{part}" for part in "qkvo"]),
        ("final_norm, embed", ["embed", "final_norm"]),
        ("{embed,lm_head}", ["embed", "lm_head"]),
        ("block.0.attn.q,block.0.attn.{q,k}", ["block.0.attn.q", "block.0.attn.k"]),
    ],
)
def test_patterns_select_in_the_order_of_the_forward(pattern: str, expected: list[str]) -> None:
    assert names(LLAMA, pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("block.0.attn.q", ["encoder.block.0.attn.q", "decoder.block.0.attn.q"]),
        ("encoder.block.0.attn.q", ["encoder.block.0.attn.q"]),
        ("decoder.block.[-1].cross", ["decoder.block.3.cross"]),
        ("block.*.cross.q", [f"decoder.block.{i}.cross.q" for i in range(4)]),
        ("embed", ["encoder.embed", "decoder.embed"]),
    ],
)
def test_a_pattern_without_prefix_selects_in_both_stacks(pattern: str, expected: list[str]) -> None:
    assert names(BART, pattern) == expected


def test_kinds_filter() -> None:
    assert names(LLAMA, "block.0.*", "norm") == ["block.0.norm1", "block.0.norm2"]
    with pytest.raises(SiteError, match=r"selects no site of kind norm in llama, only projection sites"):
        LLAMA.select("block.0.attn.q", "norm")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("block.*.atn.q", r"Did you mean block\.\*\.attn\.q"),
        ("block.[9].attn.q", "selects no site in llama"),
        ("block.9.attn.q", "selects no site in llama"),
        ("encoder.block.0", "selects no site in llama"),
        ("block.*.cross", "selects no site in llama"),
        ("block.[x]", r"\[x\] in the site pattern .* is no index"),
        ("block.[]", "is no index"),
        ("embed,", "has an empty part"),
        ("", "has an empty part"),
        ("embed,block.*.nothing", r"'block\.\*\.nothing' selects no site"),
    ],
)
def test_a_pattern_that_selects_nothing_says_what_there_is(pattern: str, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        LLAMA.select(pattern)


def test_an_unknown_name_has_near_matches() -> None:
    with pytest.raises(SiteError, match=re.escape("llama has no site 'block.0.attn.w'. Did you mean block.0.attn.")):
        LLAMA["block.0.attn.w"]
    assert "block.0.attn.w" not in LLAMA
    assert "block.0.attn.q" in LLAMA


def test_blocks_and_stacks() -> None:
    assert (LLAMA.stacks, LLAMA.blocks()) == (("",), 4)
    assert (BART.stacks, BART.blocks("encoder"), BART.blocks()) == (("encoder", "decoder"), 4, 0)


def test_sites_are_frozen() -> None:
    site = LLAMA["embed"]
    assert isinstance(site, Site)
    with pytest.raises(AttributeError):
        site.width = 3  # type: ignore[misc]
