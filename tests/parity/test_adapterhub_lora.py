"""AdapterHub's IA3, DoRA, VeRA and unions give the logits that its library computed with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.attach import attach
from lmtailor.methods.ia3 import IA3
from lmtailor.methods.lora import LoRA
from lmtailor.methods.parallel_adapter import ParallelAdapter
from lmtailor.methods.union import Union
from lmtailor.store.folder import load_adapter, save_adapter
from tests.edits.worn import apart, logits
from tests.parity.adapterhub import MODELS, stored, stored_lora

CASES = ("ia3", "ia3_everywhere", "union", "union_of_three")
UNBIASED = [("llama", "dora"), ("llama", "dora_scaled"), ("t5", "dora"), ("t5", "dora_scaled")]
BIASED = [("bert", "dora"), ("bart", "dora"), ("bart", "dora_scaled")]
VERA = [("bert", "vera"), ("t5", "vera"), ("bart", "vera")]


@pytest.mark.parametrize(("key", "case"), [(key, case) for key in MODELS for case in CASES] + UNBIASED + VERA)
def test_a_folder_computes_what_it_did_there(tmp_path: Path, key: str, case: str) -> None:
    one, inputs = stored_lora(key), stored(key).inputs
    one.write(case, tmp_path)
    adapter = load_adapter(tmp_path, one.base)
    wanted = one.tensors[f"{case}/logits"]
    with torch.no_grad():
        assert apart(wanted, logits(one.base, inputs)) > 0.05, "the adapter does nothing"
        with attach(one.base, adapter):
            found = logits(one.base, inputs)
    assert apart(found, wanted) < 1e-5
    save_adapter(adapter, tmp_path / "ours")
    again = load_adapter(tmp_path / "ours", one.base)
    with torch.no_grad(), attach(one.base, again):
        assert torch.equal(logits(one.base, inputs), found)


def test_what_they_are_here(tmp_path: Path) -> None:
    one = stored_lora("bert")
    read = {}
    for case in ("ia3", "vera", "union_of_three"):
        (tmp_path / case).mkdir()
        one.write(case, tmp_path / case)
        read[case] = load_adapter(tmp_path / case, one.base).method
    assert read["ia3"] == IA3(at="block.*.attn.k, block.*.attn.v, block.*.ffn.up", at_inputs="")
    assert read["vera"] == LoRA(rank=3, alpha=5.0, at="block.*.attn.q, block.*.attn.v")
    union = read["union_of_three"]
    assert isinstance(union, Union)
    assert len(union.parts) == 3
    assert union.parts[2] == ParallelAdapter(bottleneck=4, activation="relu", scale=4.0, reads="residual", at="block.*.ffn")


@pytest.mark.parametrize(("key", "case"), BIASED)
def test_magnitudes_that_multiply_a_bias_too_are_refused(tmp_path: Path, key: str, case: str) -> None:
    one = stored_lora(key)
    one.write(case, tmp_path)
    with pytest.raises(AdapterFileError, match=r"It uses use_dora \(True\) at .*block\.0\.attn\.q, which has a bias"):
        load_adapter(tmp_path, one.base)


def changed(folder: Path, case: str, part: int | None, **changes: Any) -> None:
    """A folder of bert's with other settings, of one part of a union."""
    one = stored_lora("bert")
    config = one.write(case, folder)
    (config["config"] if part is None else config["config"]["configs"][part]).update(changes)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("case", "part", "changes", "message"),
    [
        ("ia3", None, {"alpha": 2}, "an IA3 .* with r 1, alpha 2,"),
        ("ia3", None, {"r": 2}, "with r 2"),
        ("ia3", None, {"use_dora": True}, "use_dora True"),
        ("ia3", None, {"vera_d": 0.1}, r"vera_d 0\.1"),
        ("ia3", None, {"composition_mode": "multiply"}, "composition_mode is 'multiply'; 'add'"),
        ("ia3", None, {"use_gating": True}, r"It uses use_gating \(True\)"),
        ("vera", None, {"vera_d": "much"}, "vera_d must be a number or null"),
        ("vera", None, {"use_dora": True}, "use_dora .* together with vera_d"),
        ("vera", None, {"vera_d": None, "vera_b": None}, "has 0 tensors of the name"),
        ("union", None, {"configs": []}, r"configs is \[\]; a list"),
        ("union", None, {"configs": ["lora"]}, "configs is .*; a list"),
        ("union", None, {"r": 2}, "'r' is no setting"),
        ("union", 0, {"architecture": "union"}, "architecture 'union', which is not read. Those read are bottleneck"),
        ("union", 0, {"architecture": "prefix_tuning"}, "cannot store prefixes as safetensors"),
        ("union", 0, {"r": 1}, "has the shape"),
        ("union", 0, {"made_up": 1}, "'made_up' is no setting of AdapterHub's"),
        ("union_of_three", 1, {"mh_adapter": False, "output_adapter": True}, "Two configs of its union adapt the same place"),
    ],
)
def test_what_has_no_equal_raises(tmp_path: Path, case: str, part: int | None, changes: dict[str, Any], message: str) -> None:
    changed(tmp_path, case, part, **changes)
    with pytest.raises(AdapterFileError, match=message):
        load_adapter(tmp_path, stored("bert").base)


def test_a_union_lacks_nothing(tmp_path: Path) -> None:
    one = stored_lora("bert")
    one.write("union", tmp_path)
    tensors = one.of("union/adapter")
    name = next(name for name in tensors if "layer.1" in name and "adapter_up" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "adapter.safetensors")
    with pytest.raises(AdapterFileError, match=f"lacks '{name}'"):
        load_adapter(tmp_path, one.base)
