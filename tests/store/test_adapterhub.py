"""Folders of AdapterHub that are hostile, damaged, or ask for what has no equal here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lmtailor.core.errors import AdapterFileError
from lmtailor.methods.lora import LoRA
from lmtailor.methods.pfeiffer import Pfeiffer
from lmtailor.store.folder import load_adapter
from tests.parity.adapterhub import stored


def refused(folder: Path, match: str, key: str = "bert") -> None:
    with pytest.raises(AdapterFileError, match=match):
        load_adapter(folder, stored(key).base)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("pfeiffer", {"made_up": 1}, "'made_up' is no setting of AdapterHub's"),
        ("pfeiffer", {"use_gating": True}, r"It uses use_gating \(True\)"),
        ("pfeiffer", {"ln_after": True}, "It uses ln_after"),
        ("pfeiffer", {"inv_adapter": "nice"}, "It uses inv_adapter"),
        ("pfeiffer", {"residual_before_ln": "post_add"}, "It uses residual_before_ln"),
        ("pfeiffer", {"scaling": 2.0}, r"It uses scaling 2\.0"),
        ("pfeiffer", {"scaling": "channel"}, "It uses scaling 'channel'"),
        ("parallel", {"scaling": "channel"}, "scaling is 'channel'; a number or 'learned' is read"),
        ("pfeiffer", {"non_linearity": "leakyrelu"}, "non_linearity is 'leakyrelu'; gelu, relu"),
        ("pfeiffer", {"reduction_factor": {"1": 4, "default": 2}}, "reduction_factor is .*; one number"),
        ("pfeiffer", {"reduction_factor": 0}, "reduction_factor is 0"),
        ("pfeiffer", {"reduction_factor": 2}, "has the shape"),
        ("pfeiffer", {"mh_adapter": True}, r"has 0 tensors of the name 'encoder\.layer\.0\.attention\.output"),
        ("pfeiffer", {"mh_adapter": "yes"}, "mh_adapter must be true or false"),
        ("pfeiffer", {"output_adapter": False}, "adapt nothing"),
        ("pfeiffer", {"leave_out": [0]}, "which this method and base do not have"),
        ("pfeiffer", {"leave_out": "0"}, "leave_out is '0'; a list of blocks is read"),
        (
            "pfeiffer",
            {"architecture": "prompt_tuning"},
            "architecture 'prompt_tuning', which is not read\\. Those read are bottleneck",
        ),
        ("compacter", {"shared_phm_rule": False}, "It uses shared_phm_rule"),
        ("compacter", {"phm_dim": "4"}, "phm_dim must be an integer of at least 1"),
        ("compacter", {"is_parallel": True}, "is_parallel True, phm_layer True"),
        ("loreft", {"layers": "some"}, "layers is 'some'; 'all' or a list of blocks is read"),
        ("loreft", {"layers": [1]}, "which this method and base do not have"),
        ("loreft", {"suffix_positions": -1}, "suffix_positions must be an integer of at least 0"),
        ("loreft", {"non_linearity": "relu"}, "It uses non_linearity"),
        ("loreft", {"dropout": "much"}, "dropout must be a number"),
        ("loreft", {"orthogonality": False}, "has 0 tensors of the name|lacks"),
        ("lora", {"use_dora": True}, "It uses use_dora"),
        ("lora", {"composition_mode": "scale"}, "It is an IA3 .*with r 3"),
        ("lora", {"attn_matrices": "qv"}, "attn_matrices is 'qv'; a list"),
        ("lora", {"alpha": None}, "alpha must be a number"),
        ("lora", {"r": 10**6}, "rank 1000000 is above"),
    ],
)
def test_what_has_no_equal_raises(tmp_path: Path, case: str, changes: dict[str, Any], message: str) -> None:
    stored("bert").write(case, tmp_path, **changes)
    refused(tmp_path, message)


def test_tensors_must_be_those_of_the_settings(tmp_path: Path) -> None:
    one = stored("bert")
    one.write("compacter", tmp_path)
    tensors = one.of("compacter/adapter")
    rule = next(name for name in tensors if name.endswith("phm_rule"))
    save_file({name: value for name, value in tensors.items() if name != rule}, tmp_path / "adapter.safetensors")
    refused(tmp_path, r"lacks 'bert\.shared_parameters\.it\.phm_rule'")
    save_file(tensors | {"bert.more": torch.zeros(2)}, tmp_path / "adapter.safetensors")
    refused(tmp_path, r"holds 'bert\.more'")
    save_file(tensors | {rule: tensors[rule] * float("nan")}, tmp_path / "adapter.safetensors")
    refused(tmp_path, "not finite")
    save_file({"x": torch.zeros(2)}, tmp_path / "adapter.safetensors")
    refused(tmp_path, "has 0 tensors of the name")


def test_the_base_must_be_the_same(tmp_path: Path) -> None:
    config = stored("bert").write("pfeiffer", tmp_path)
    refused(tmp_path, "It is for a 'bert' of width 16; this base is a gpt2 of width 16", key="gpt2")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"hidden_size": 17}))
    refused(tmp_path, "width 17")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"surprise": 17}))
    refused(tmp_path, "'surprise' is no key of AdapterHub's")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"name": 3}))
    refused(tmp_path, "has no name")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    stored("bert").write("pfeiffer", tmp_path)
    (tmp_path / "adapter.safetensors").rename(tmp_path / "pytorch_adapter.bin")
    refused(tmp_path, r"Its tensors are a pickle \(pytorch_adapter\.bin\), which can run code")
    (tmp_path / "pytorch_adapter.bin").unlink()
    refused(tmp_path, r"adapter\.safetensors is missing")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    stored("bert").write("pfeiffer", inner)
    (inner / "adapter.safetensors").rename(tmp_path / "adapter.safetensors")
    (inner / "adapter.safetensors").symlink_to(tmp_path / "adapter.safetensors")
    refused(inner, "a link that leads out of")


def test_blocks_that_are_left_out(tmp_path: Path) -> None:
    """They count through both stacks."""
    one = stored("t5")
    config = one.write("pfeiffer", tmp_path, leave_out=[0, 3])
    kept = {
        name: value
        for name, value in one.of("pfeiffer/adapter").items()
        if not name.startswith(("encoder.block.0", "decoder.block.1"))
    }
    save_file(kept, tmp_path / "adapter.safetensors")
    adapter = load_adapter(tmp_path, one.base)
    assert adapter.method == Pfeiffer(bottleneck=4, at="encoder.block.[1].ffn, decoder.block.[0].ffn")
    assert adapter.provenance["read_from"]["version"] == config["version"]


def test_a_model_without_head_has_other_names(tmp_path: Path) -> None:
    one = stored("bert")
    one.write("lora", tmp_path)
    tensors = {name.removeprefix("bert."): value for name, value in one.of("lora/adapter").items()}
    save_file(tensors, tmp_path / "adapter.safetensors")
    adapter = load_adapter(tmp_path, one.base)
    assert isinstance(adapter.method, LoRA)
    first = tensors["encoder.layer.0.attention.self.query.loras.it.lora_A"]
    assert torch.equal(adapter.state["block.0.attn.q.a_KI"], first)
