"""OFT here and OFT in PEFT 0.21 give the same logits, whoever wrote the folder."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.core.errors import UnsupportedError
from lmtailor.methods.oft import OFT
from lmtailor.store.export import export
from tests.parity.exchange import ours_in_peft, refused, theirs_here, with_a_head
from tests.parity.loading import QUIET, peft
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

pytestmark = QUIET

OURS: list[tuple[str, OFT]] = [
    *((key, OFT(block_size=8)) for key in ("llama", "bert", "t5", "bart", "opt")),
    ("llama", OFT(block_size=8, cayley="neumann")),
    ("llama", OFT(block_size=8, cayley="neumann", order=3, shared=True)),
    ("llama", OFT(block_size=None, blocks=4, at="block.*.attn.{q,v}, block.[1:].ffn.{up,down}")),
    ("phi3", OFT(block_size=8, at="block.*.attn.{qkv,o}")),
]


@pytest.mark.parametrize(("key", "method"), OURS, ids=lambda value: value if isinstance(value, str) else f"{value.cayley}")
def test_ours_in_peft(tmp_path: Path, key: str, method: OFT) -> None:
    config = ours_in_peft(tiny_base(key), method, tmp_path, peft.OFTConfig)
    assert config["use_cayley_neumann"] == (method.cayley == "neumann")


@pytest.mark.parametrize("key", ["bert", "llama"])
def test_ours_with_a_head(tmp_path: Path, key: str) -> None:
    with_a_head(tiny_base(key), OFT(block_size=8), tmp_path)


SMALL: dict[str, Any] = dict(target_modules=["q_proj", "v_proj"], oft_block_size=8)
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", SMALL),
    ("llama", dict(SMALL, use_cayley_neumann=False)),
    ("llama", dict(SMALL, num_cayley_neumann_terms=3)),
    ("llama", dict(SMALL, num_cayley_neumann_terms=7, block_share=True)),
    ("llama", dict(SMALL, coft=True, eps=0.5)),
    ("llama", dict(target_modules=["q_proj", "down_proj"], oft_block_size=0, r=4)),
    ("llama", dict(target_modules="all-linear", oft_block_size=16, exclude_modules=["o_proj"])),
    ("llama", dict(target_modules=["q_proj"])),  # 32 does not divide 48: PEFT takes 24 and warns
    ("bert", dict(target_modules=["query"], oft_block_size=8, layers_to_transform=[1, 3])),
    ("t5", dict(target_modules=["q", "v"], oft_block_size=12)),
]


@pytest.mark.filterwarnings("ignore:Invalid `oft_block_size`")
@pytest.mark.parametrize(("key", "settings"), THEIRS, ids=lambda value: value if isinstance(value, str) else str(value)[:80])
def test_theirs_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    adapter = theirs_here(tiny_base(key), peft.OFTConfig(**settings), tmp_path)
    assert isinstance(adapter.method, OFT)
    assert adapter.method.epsilon == (0.5 if settings.get("coft") else None)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(bias="all"), "bias"),
    (dict(a_new_key=1), "'a_new_key' is no key of PEFT's OFT"),
    (dict(block_share=True), "which fits no blocks of 48 inputs"),
    (dict(num_cayley_neumann_terms=2), "num_cayley_neumann_terms is 2"),
    (dict(num_cayley_neumann_terms="x"), "num_cayley_neumann_terms must be a positive integer"),
    (dict(peft_version="0.17.1"), r"made by PEFT before 0\.18"),
    (dict(peft_version=None), r"made by PEFT before 0\.18"),
    (dict(coft="yes"), "coft must be true or false"),
    (dict(coft=True, eps=0.0), r"epsilon is 0\.0"),
    (dict(target_modules=["k_proj"]), "which target_modules does not name"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_represented_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    refused(tiny_base("llama"), peft.OFTConfig(**SMALL), tmp_path, change, message)


def test_sizes_that_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    """PEFT adjusts a size to each module's inputs: 22 becomes 24 of 48, and 16 of 64."""
    config = peft.OFTConfig(target_modules=["q_proj", "down_proj"], oft_block_size=22)
    with pytest.warns(UserWarning, match="Invalid `oft_block_size`"):
        peft.get_peft_model(tiny_base("llama").model, config)
    with pytest.warns(UserWarning, match="Invalid `oft_block_size`"):
        refused(tiny_base("llama"), config, tmp_path, {}, "blocks of different sizes and numbers")


@pytest.mark.parametrize(
    ("key", "at", "message"),
    [
        ("phi3", "block.*.attn.q", r"the fused block\.0\.attn\.qkv, which all its parts share"),
        ("gpt2", "block.*.attn.o", "does not adapt modules of the class Conv1D"),
    ],
)
def test_what_peft_cannot_hold_raises(tmp_path: Path, key: str, at: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        export(moved_adapter(tiny_base(key), OFT(block_size=8, at=at)), tmp_path / "x", format="peft")


def test_pefts_oft_refuses_conv1d_itself() -> None:
    with torch.no_grad(), pytest.raises(TypeError, match="is not supported"):
        peft.get_peft_model(tiny_base("gpt2").model, peft.OFTConfig(target_modules=["c_attn"], oft_block_size=8))
