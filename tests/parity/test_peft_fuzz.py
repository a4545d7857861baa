"""Whatever stands in a configuration, a folder is read or refused with a reason; nothing else is raised."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.tensors import write_tensors
from tests.parity.loading import QUIET, made_by_peft, peft
from tests.store.adapters import WORDS, moved_adapter
from tests.tiny import tiny_base

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:.*lora_bias=True"),
    pytest.mark.filterwarnings("ignore:.*have invalid shape.*lora_B.bias"),
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(["q_proj", "lora", "head", "native", "peft", "SEQ_CLS", "CAUSAL_LM", "(a+)+$", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@functools.cache
def llama() -> Base:
    """One base for all; no fixture, since hypothesis would print it whole."""
    return tiny_base("llama")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    root, base = tmp_path_factory.mktemp("fuzz"), llama()
    made_by_peft(base, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]), root / "lora")
    patterns: dict[str, Any] = dict(rank_pattern={"v_proj": 3}, alpha_pattern={r"layers\.1.*q_proj": 5}, use_dora=True)
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **patterns), root / "patterns")
    extras: dict[str, Any] = dict(modules_to_save=["norm"], lora_bias=True, bias="all")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"], **extras), root / "extras")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["embed_tokens"]), root / "table")
    made_by_peft(base, peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 2]), root / "tokens")
    made_by_peft(base, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]), root / "head", labels=2)
    made_by_peft(base, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), root / "prefix")
    made_by_peft(base, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), root / "prompt")
    save_adapter(moved_adapter(base, LoRA(rank=2), Head(hidden=3)), root / "own")
    save_adapter(moved_adapter(base, LoRA(rank=2), WORDS), root / "words")
    return {path.name: path for path in root.iterdir()}


def tried(folder: Path) -> None:
    """The only things that may happen."""
    reason = ""
    try:
        load_adapter(folder, llama())
    except (AdapterFileError, UnsupportedError) as error:
        reason = str(error)
    assert "\n" not in reason
    assert len(reason) < 2000


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_a_peft_configuration(folders: dict[str, Path], data: st.DataObject) -> None:
    folder = folders[data.draw(st.sampled_from(["lora", "patterns", "extras", "table", "tokens", "head", "prefix", "prompt"]))]
    path = folder / "adapter_config.json"
    before = path.read_text("utf-8")
    config = json.loads(before)
    try:
        for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
            config[key] = data.draw(VALUES)
        path.write_text(json.dumps(config), "utf-8")
        tried(folder)
    finally:
        path.write_text(before, "utf-8")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(["rank_pattern", "alpha_pattern"]),
    pattern=st.text(alphabet="q_proj.*+?()[]|^$\\\\{}0-9:=!", max_size=30),
    value=st.integers(-1, 4) | st.floats(allow_nan=False) | st.just(10**400),
)
def test_any_pattern(folders: dict[str, Path], key: str, pattern: str, value: float) -> None:
    path = folders["patterns"] / "adapter_config.json"
    before = path.read_text("utf-8")
    config = json.loads(before)
    try:
        path.write_text(json.dumps({**config, key: {pattern: value}}, allow_nan=True), "utf-8")
        tried(folders["patterns"])
    finally:
        path.write_text(before, "utf-8")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_name_of_a_tensor(folders: dict[str, Path], data: st.DataObject) -> None:
    folder = folders[data.draw(st.sampled_from(["patterns", "extras", "table", "tokens"]))]
    path = folder / "adapter_model.safetensors"
    before = path.read_bytes()
    tensors = load_file(path)
    old = data.draw(st.sampled_from(sorted(tensors)))
    words = old.split(".")
    place = data.draw(st.integers(0, len(words) - 1))
    word = data.draw(st.sampled_from(["", "base_layer", "modules_to_save", "weight", "bias", "norm", "q_proj", "1", "lora_A"]))
    new = ".".join(
        data.draw(st.sampled_from([[*words[:place], word, *words[place + 1 :]], [*words[:place], word, *words[place:]]]))
    )
    try:
        write_tensors(path, {new if name == old else name: value for name, value in tensors.items()})
        tried(folder)
    finally:
        path.write_bytes(before)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_a_manifest(folders: dict[str, Path], data: st.DataObject) -> None:
    folder = folders[data.draw(st.sampled_from(["own", "words"]))]
    path = folder / "adapter.json"
    before = path.read_text("utf-8")
    manifest: Any = json.loads(before)
    try:
        place = manifest
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(VALUES)
        path.write_text(json.dumps(manifest), "utf-8")
        tried(folder)
    finally:
        path.write_text(before, "utf-8")
