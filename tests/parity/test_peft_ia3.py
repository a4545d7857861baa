"""IA3 here and IA3 in PEFT 0.21 give the same logits, whoever wrote the folder."""

from pathlib import Path
from typing import Any

import pytest

from lmtailor.core.errors import UnsupportedError
from lmtailor.methods.ia3 import IA3
from lmtailor.store.export import export
from tests.parity.exchange import ours_in_peft, refused, theirs_here, with_a_head
from tests.parity.loading import QUIET, peft
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

pytestmark = QUIET

OURS: list[tuple[str, IA3]] = [
    *((key, IA3()) for key in ("gpt2", "llama", "bert", "t5", "phi3", "gpt_neox", "modernbert", "bart", "opt")),
    ("gpt2", IA3(at="block.*.attn.qkv")),
    ("llama", IA3(at="", at_inputs="block.*.ffn.down, block.0.attn.q")),
    ("llama", IA3(at="block.[1:].attn.v, lm_head", at_inputs="")),
]


@pytest.mark.parametrize(("key", "method"), OURS, ids=lambda value: value if isinstance(value, str) else f"{value.at}")
def test_ours_in_peft(tmp_path: Path, key: str, method: IA3) -> None:
    config = ours_in_peft(tiny_base(key), method, tmp_path, peft.IA3Config)
    assert set(config["feedforward_modules"]) <= set(config["target_modules"])


@pytest.mark.parametrize("key", ["bert", "llama", "gpt2", "t5"])
def test_ours_with_a_head(tmp_path: Path, key: str) -> None:
    with_a_head(tiny_base(key), IA3(), tmp_path)


THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
    ("llama", dict(target_modules=r".*\.(k_proj|down_proj)", feedforward_modules=r".*down_proj")),
    ("llama", {}),
    ("llama", dict(target_modules="all-linear", feedforward_modules=[])),
    ("llama", dict(target_modules=["o_proj"], feedforward_modules=["o_proj"], exclude_modules=["layers.1.self_attn.o_proj"])),
    ("gpt2", {}),
    ("bert", dict(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"])),
    ("t5", {}),
    ("bart", {}),
    ("phi3", dict(target_modules=["qkv_proj"], feedforward_modules=[])),
]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")  # PEFT corrects its own default for Conv1D
@pytest.mark.parametrize(("key", "settings"), THEIRS, ids=lambda value: value if isinstance(value, str) else str(value)[:60])
def test_theirs_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    adapter = theirs_here(tiny_base(key), peft.IA3Config(**settings), tmp_path)
    assert isinstance(adapter.method, IA3)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(a_new_key=1), "'a_new_key' is no key of PEFT's IA3"),
    (dict(feedforward_modules=[]), "feedforward_modules does not name"),
    (
        dict(feedforward_modules=["k_proj", "down_proj"]),
        r"feedforward_modules names 'model.*k_proj', but its vector",
    ),
    (dict(target_modules=["k_proj"]), "which target_modules does not name"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_represented_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    refused(tiny_base("llama"), config, tmp_path, change, message)


@pytest.mark.parametrize(
    ("key", "method", "message"),
    [
        ("llama", IA3(at="block.*.ffn.down"), "has factors of both"),
        ("gpt2", IA3(at="block.*.attn.{k,qkv}"), "scaled whole and in parts"),
        ("albert", IA3(), "calls 2 times in a forward"),
    ],
)
def test_what_peft_cannot_hold_raises(tmp_path: Path, key: str, method: IA3, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        export(moved_adapter(tiny_base(key), method), tmp_path / "x", format="peft")
