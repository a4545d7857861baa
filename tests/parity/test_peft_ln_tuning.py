"""Norm tuning here and LN_TUNING in PEFT 0.21 give the same logits, whoever wrote the folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmtailor.core.errors import AdapterFileError
from lmtailor.methods.layer_norm_tuning import LayerNormTuning
from lmtailor.store.folder import load_adapter, save_adapter
from tests.parity.exchange import ours_in_peft, refused, theirs_here, with_a_head
from tests.parity.loading import QUIET, in_peft, made_by_peft, peft
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

# PEFT counts features of RMS norms, which have none of that name, and warns that it cannot.
pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore:Unsupported layer type")]


@pytest.mark.parametrize("key", ["gpt2", "llama", "bert", "t5", "gemma2", "qwen3", "bart", "opt", "modernbert"])
def test_ours_in_peft(tmp_path: Path, key: str) -> None:
    ours_in_peft(tiny_base(key), LayerNormTuning(), tmp_path, peft.LNTuningConfig)


def test_a_file_holds_the_norms_parameters_whole(tmp_path: Path) -> None:
    """And no change of them; Gemma's stored gain is one less than the factor in both programs."""
    base = tiny_base("gemma2")
    ours_in_peft(base, LayerNormTuning(at="block.0.norm1"), tmp_path, peft.LNTuningConfig)
    tensors = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert list(tensors) == ["base_model.model.model.layers.0.input_layernorm.ln_tuning_layers.weight"]
    own = base.model.get_parameter("model.layers.0.input_layernorm.weight")
    (stored,) = tensors.values()
    assert 0 < float((stored - own).abs().max()) < 0.5


@pytest.mark.parametrize("key", ["bert", "llama", "t5"])
def test_ours_with_a_head(tmp_path: Path, key: str) -> None:
    with_a_head(tiny_base(key), LayerNormTuning(), tmp_path)


THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("t5", {}),
    ("bart", {}),
    ("gpt2", {}),
    ("llama", dict(target_modules=r".*\.[12]\.input_layernorm")),
    ("bert", dict(target_modules=["LayerNorm"], exclude_modules=["embeddings.LayerNorm", "transform.LayerNorm"])),
    ("gemma2", {}),
]


@pytest.mark.parametrize(("key", "settings"), THEIRS, ids=lambda value: value if isinstance(value, str) else str(value)[:60])
def test_theirs_here(tmp_path: Path, key: str, settings: dict[str, Any]) -> None:
    adapter = theirs_here(tiny_base(key), peft.LNTuningConfig(**settings), tmp_path)
    assert isinstance(adapter.method, LayerNormTuning)


def test_a_half_precision_base(tmp_path: Path) -> None:
    """PEFT stores norms in the base's own precision; they are read as float32, and PEFT reads ours back as the base's."""
    base = tiny_base("llama")
    base.model.to(torch.bfloat16)  # type: ignore[arg-type]
    made_by_peft(base, peft.LNTuningConfig(), tmp_path)
    adapter = load_adapter(tmp_path, base)
    assert all(tensor.dtype == torch.float32 for tensor in adapter.state.values())
    model = in_peft(base, tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    theirs = model.base_model.model.model.layers[2].input_layernorm.ln_tuning_layers["default"].weight
    assert torch.equal(adapter.state["block.2.norm1.gain_H"], theirs.float())


def test_a_linear_map_is_no_norm(tmp_path: Path) -> None:
    base = tiny_base("llama")
    made_by_peft(base, peft.LNTuningConfig(target_modules=["q_proj"]), tmp_path)
    with pytest.raises(AdapterFileError, match=r"self_attn\.q_proj' is no norm of this base"):
        load_adapter(tmp_path, base)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(r=8), "'r' is no key of PEFT's LN_TUNING"),
    (dict(target_modules=["norm"]), "which target_modules does not name"),
    (dict(target_modules=None), "target_modules names no modules"),
    (dict(exclude_modules=["input_layernorm"]), "exclude_modules leaves out"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_represented_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    refused(tiny_base("llama"), peft.LNTuningConfig(target_modules=["input_layernorm"]), tmp_path, change, message)


def test_two_calls_of_a_norm_are_stored_by_us_alone(tmp_path: Path) -> None:
    adapter = moved_adapter(tiny_base("albert"), LayerNormTuning())
    save_adapter(adapter, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert json.loads((tmp_path / "adapter.json").read_text())["tensors"]["layout"] == "native"
