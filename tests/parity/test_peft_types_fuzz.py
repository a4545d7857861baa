"""IA3, norms, VeRA, AdaLoRA, OFT: whatever a configuration or a header says, a folder is read or refused with a reason."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lmtailor.base.base import Base
from lmtailor.store.folder import load_adapter
from tests.parity.loading import QUIET, made_by_peft, peft
from tests.parity.test_peft_fuzz import VALUES, tried
from tests.tiny import tiny_base

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),
    pytest.mark.filterwarnings("ignore:Specified to not save vera_A"),
]

CONFIGS: dict[str, Any] = {
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "norms": peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "vera": peft.VeraConfig(r=3, target_modules=["q_proj"]),
    "oft": peft.OFTConfig(oft_block_size=8, target_modules=["q_proj"]),
    "adalora": peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10, target_modules=["q_proj"]),
}


@functools.cache
def llama() -> Base:
    """One base for all."""
    return tiny_base("llama")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    root = tmp_path_factory.mktemp("types")
    for name, config in CONFIGS.items():
        made_by_peft(llama(), config, root / name)
    bare = peft.VeraConfig(r=3, target_modules=["q_proj"], save_projection=False)
    made_by_peft(llama(), bare, root / "vera-bare")
    return {path.name: path for path in root.iterdir()}


NAMES = st.sampled_from([*sorted(CONFIGS), "vera-bare"])
LARGE = st.sampled_from([10**5, 10**9, 2**62, 10**30, -(10**30), 1e308])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, data=st.data())
def test_any_value_of_a_configuration(folders: dict[str, Path], name: str, data: st.DataObject) -> None:
    path = folders[name] / "adapter_config.json"
    before = path.read_text("utf-8")
    config = json.loads(before)
    try:
        for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
            config[key] = data.draw(VALUES | LARGE)
        path.write_text(json.dumps(config), "utf-8")
        tried(folders[name])
    finally:
        path.write_text(before, "utf-8")


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 6, 16, 28, 48, 64, 120]), min_size=0, max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, data=st.data())
def test_any_shape_of_a_tensor(folders: dict[str, Path], name: str, data: st.DataObject) -> None:
    """Or a tensor that is gone, or under another name."""
    path = folders[name] / "adapter_model.safetensors"
    before = path.read_bytes()
    tensors = load_file(path)
    try:
        key = data.draw(st.sampled_from(sorted(tensors)))
        value = tensors.pop(key)
        shape = data.draw(st.none() | SHAPES)
        other = data.draw(
            st.sampled_from([key, key.replace("layers.0", "layers.9"), f"{key}.x", "base_model.model.lm_head.ia3_l"])
        )
        if shape is not None:
            tensors[other] = torch.zeros(shape) if math.prod(shape) < 10**6 else value
        save_file(tensors, path)
        tried(folders[name])
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", [*CONFIGS, "vera-bare"])
def test_the_folders_are_good_as_they_are(folders: dict[str, Path], name: str) -> None:
    """So that what the fuzz refuses, it refuses for what it changed."""
    assert len(load_adapter(folders[name], llama()).edits) >= 4
