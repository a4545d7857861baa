"""Folders of AdapterHub give the logits that its library computed with them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods import method_name
from lmtailor.methods.loreft import LoReFT
from lmtailor.store.folder import load_adapter, save_adapter
from tests.edits.worn import Worn, apart, logits
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


ONE_STACK = {"loreft": "loreft", "noreft": "loreft"}
"""Likewise, of models with one stack."""


@pytest.mark.parametrize(
    ("key", "case"), [(key, case) for key in MODELS for case in (CASES if key in ("t5", "bart") else CASES | ONE_STACK)]
)
def test_a_folder_computes_what_it_did_there(tmp_path: Path, key: str, case: str) -> None:
    one = stored(key)
    one.write(case, tmp_path)
    adapter = load_adapter(tmp_path, one.base)
    assert method_name(adapter.method) == (CASES | ONE_STACK)[case]
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


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama"])
def test_direft(tmp_path: Path, key: str) -> None:
    """The library's file does not tell it from NoReFT, so that its tensors are put into the method by hand."""
    one = stored(key)
    one.write("direft", tmp_path)
    read = load_adapter(tmp_path, one.base)
    assert read.method == LoReFT(rank=2, first=3, last=0, orthogonal=False, dropout=0.05, at="block.*")
    edits = replace(read.method, subtract=False).edits(one.base.sites, None).with_state(read.state)
    with torch.no_grad(), attach(one.base, Worn(edits)):
        assert apart(logits(one.base, one.inputs), one.tensors["direft/logits"]) < 1e-5


@pytest.mark.parametrize("key", ["t5", "bart"])
def test_interventions_in_a_decoder_behind_an_encoder_are_refused(tmp_path: Path, key: str) -> None:
    stored(key).write("direft", tmp_path)
    with pytest.raises(UnsupportedError, match=f"the decoder of {key}, which has no prompt"):
        load_adapter(tmp_path, stored(key).base)
