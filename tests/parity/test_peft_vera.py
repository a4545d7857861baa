"""VeRA here and VeRA in PEFT 0.21 give the same logits, whoever wrote the folder, with the projections stored or not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.methods.vera import VeRA
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter
from tests.parity.exchange import ours_in_peft, refused, theirs_here, with_a_head
from tests.parity.loading import QUIET, made_by_peft, peft
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

# PEFT warns of what the tests ask for.
pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore:Specified to not save vera_A")]

OURS: list[tuple[str, VeRA]] = [
    *((key, VeRA(rank=6)) for key in ("llama", "bert", "t5", "bart", "opt")),
    ("llama", VeRA(rank=6, at="block.*.attn.{q,v}, block.[1:].ffn.{up,down}", projection_seed=5)),
    ("gpt2", VeRA(rank=6, at="block.*.attn.qkv")),
]


@pytest.mark.parametrize(("key", "method"), OURS, ids=lambda value: value if isinstance(value, str) else f"{value.at}")
def test_ours_in_peft(tmp_path: Path, key: str, method: VeRA) -> None:
    config = ours_in_peft(tiny_base(key), method, tmp_path, peft.VeraConfig, by=0.3)
    assert (config["projection_prng_key"], config["save_projection"]) == (method.projection_seed, True)


@pytest.mark.parametrize("key", ["bert", "llama"])
def test_ours_with_a_head(tmp_path: Path, key: str) -> None:
    with_a_head(tiny_base(key), VeRA(rank=6), tmp_path)


THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", dict(target_modules=["q_proj", "v_proj"])),
    ("llama", dict(target_modules=["q_proj", "v_proj"], save_projection=False, projection_prng_key=7)),
    ("llama", dict(target_modules="all-linear", projection_prng_key=7)),
    ("llama", dict(target_modules=["down_proj"], layers_to_transform=[1, 3], d_initial=0.5, vera_dropout=0.1)),
    ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True, save_projection=False)),
    ("bert", dict(target_modules=["query", "output.dense"])),
    ("t5", dict(target_modules=["q", "v"])),
]


@pytest.mark.parametrize(("key", "settings"), THEIRS, ids=lambda value: value if isinstance(value, str) else str(value)[:60])
def test_theirs_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    adapter = theirs_here(tiny_base(key), peft.VeraConfig(r=6, **settings), tmp_path, by=0.5)
    assert isinstance(adapter.method, VeRA)
    assert adapter.method.projection_seed == settings.get("projection_prng_key", 0)


def test_stored_projections_need_not_be_those_of_the_seed(tmp_path: Path) -> None:
    """A file's own are taken, as PEFT takes them."""
    base = tiny_base("llama")
    made_by_peft(base, peft.VeraConfig(r=6, target_modules=["q_proj"]), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors["base_model.vera_A"] = tensors["base_model.vera_A"] * 2
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert torch.equal(load_adapter(tmp_path, base).fixed["vera.a_KJ"], tensors["base_model.vera_A"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(bias="all"), "bias"),
    (dict(a_new_key=1), "'a_new_key' is no key of PEFT's VERA"),
    (dict(r=7), "has the shape"),
    (dict(save_projection=False), "save_projection is false, but 'base_model.vera_A' is in"),
    (dict(save_projection="no"), "save_projection must be true or false"),
    (dict(projection_prng_key="x"), "projection_prng_key must be an integer"),
    (dict(target_modules=["k_proj"]), "which target_modules does not name"),
    (dict(layers_to_transform=[0]), "layers_to_transform leaves out"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_represented_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    refused(tiny_base("llama"), peft.VeraConfig(r=6, target_modules=["q_proj"]), tmp_path, change, message)


def test_a_small_file_does_not_ask_for_large_projections(tmp_path: Path) -> None:
    base = tiny_base("llama")
    config = peft.VeraConfig(r=40_000, target_modules=["q_proj"], save_projection=False)
    made_by_peft(base, config, tmp_path)
    with pytest.raises(AdapterFileError, match=r"which are not in the file, have 3840000 numbers; the whole base has"):
        load_adapter(tmp_path, base)


def test_parts_of_fused_projections_are_stored_by_us_alone(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"adapts the fused block\.0\.attn\.qkv whole"):
        export(moved_adapter(tiny_base("gpt2"), VeRA(rank=4)), tmp_path / "x", format="peft")
