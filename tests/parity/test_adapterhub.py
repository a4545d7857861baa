"""Folders of AdapterHub give the logits that its library computed with them."""

from pathlib import Path

import pytest
import torch

from lmtailor.edits.attach import attach
from lmtailor.methods import method_name
from lmtailor.store.folder import load_adapter, save_adapter
from tests.edits.worn import apart, logits
from tests.parity.adapterhub import FOLDER, MODELS, stored

CASES = {
    "houlsby": "houlsby",
    "pfeiffer": "pfeiffer",
    "parallel": "parallel_adapter",
    "scaled_parallel": "parallel_adapter",
    "compacter": "compacter",
    "compacter_plus_plus": "compacter_plus_plus",
    "lora": "lora",
}
"""What was stored → our method."""


@pytest.mark.parametrize("key", MODELS)
def test_the_models_are_the_same(key: str) -> None:
    one = stored(key)
    with torch.no_grad():
        assert apart(logits(one.base, one.inputs), one.tensors["plain/logits"]) < 1e-5
    assert (FOLDER / f"adapterhub_{key}.safetensors").stat().st_size < 200_000


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", MODELS)
def test_a_folder_computes_what_it_did_there(tmp_path: Path, key: str, case: str) -> None:
    one = stored(key)
    one.write(case, tmp_path)
    adapter = load_adapter(tmp_path, one.base)
    assert method_name(adapter.method) == CASES[case]
    wanted = one.tensors[f"{case}/logits"]
    with torch.no_grad():
        assert apart(wanted, logits(one.base, one.inputs)) > 0.05, "the adapter does nothing"
        with attach(one.base, adapter):
            found = logits(one.base, one.inputs)
    assert apart(found, wanted) < 1e-5
    save_adapter(adapter, tmp_path / "ours")
    again = load_adapter(tmp_path / "ours", one.base)
    with torch.no_grad(), attach(one.base, again):
        assert torch.equal(logits(one.base, one.inputs), found)
