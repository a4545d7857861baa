"""What cannot be is refused with what to do instead."""

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, SiteError
from lmtailor.core.files import sha256
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods import catalogue
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.store.folder import load_adapter, save_adapter
from tests.edits.worn import Worn, base_of, logits
from tests.store.adapters import moved_adapter
from tests.tiny import FAMILIES, tiny_inputs

RANK: dict[str, Any] = {"rank": 1000}
LENGTH: dict[str, Any] = {"length": 200}
AT: dict[str, Any] = {"at": "block.*.attention"}
ANY_RANK = {"vera"}
"""Methods whose rank is of random matrices, which may be wider than the projection."""
RANKED = [name for name, method in catalogue().items() if "rank" in method.__dataclass_fields__ and name not in ANY_RANK]
LONG = [name for name, method in catalogue().items() if "length" in method.__dataclass_fields__ and name != "unipelt"]
"""Methods with virtual tokens; UniPELT's do not move the input's positions."""

SELECTING = [name for name, method in catalogue().items() if get_type_hints(method).get("at") is str]
"""Methods with a site pattern."""


def run(base: Base, method: Method) -> None:
    """A forward under the method's start."""
    edits = method.edits(base.sites, generator(0))
    with torch.no_grad(), attach(base, Worn(edits)):
        logits(base, tiny_inputs(base))


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("name", RANKED)
def test_a_rank_above_the_matrix_s(name: str, key: str) -> None:
    base = base_of(key)
    with pytest.raises(InputError, match=r"rank 1000 is above .*block\.0.*Take a smaller rank"):
        catalogue()[name](**RANK).edits(base.sites, None)


@pytest.mark.parametrize("key", ["bert", "roberta", "gpt2", "opt", "bart"])
@pytest.mark.parametrize("name", LONG)
def test_a_prefix_longer_than_the_position_table(name: str, key: str) -> None:
    """200 virtual tokens, and 128 positions."""
    base, method = base_of(key), catalogue()[name](**LENGTH)
    try:
        method.edits(base.sites, None)
    except InputError:
        return  # it has no meaning on this model, however short
    with pytest.raises(InputError, match=r"positions.*(shorter|Cut)"):
        run(base, method)


@pytest.mark.parametrize("method", [LoRA(rank=2), Houlsby(bottleneck=3)], ids=["as PEFT's", "as our own"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_is_neither_saved_nor_read(tmp_path: Path, method: Method, bad: float) -> None:
    base = base_of("bert")
    adapter = moved_adapter(base, method)
    save_adapter(adapter, tmp_path / "good")
    next(iter(adapter.state.values())).view(-1)[1] = bad
    with pytest.raises(InputError, match=r"not finite, so the adapter is not saved. Train it again at a lower rate"):
        save_adapter(adapter, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    (path,) = (tmp_path / "good").glob("*.safetensors")
    tensors: dict[str, Any] = load_file(path)
    next(iter(tensors.values())).view(-1)[1] = bad
    save_file(tensors, path, metadata={"format": "pt"})
    manifest = json.loads((tmp_path / "good" / "adapter.json").read_text("utf-8"))
    manifest["tensors"]["sha256"][path.name] = sha256(path)
    (tmp_path / "good" / "adapter.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(
        AdapterFileError, match=r"holds numbers that are not finite in float32. The adapter is broken; get another"
    ):
        load_adapter(tmp_path / "good", base)


@pytest.mark.parametrize("key", FAMILIES)
@pytest.mark.parametrize("name", SELECTING)
def test_a_method_without_its_sites(name: str, key: str) -> None:
    """The pattern is named, the model, and the sites that there are."""
    base = base_of(key)
    with pytest.raises(
        SiteError, match=rf"'block\.\*\.attention' selects no site.* in {base.sites.model_type}.*(Did you mean|Known)"
    ):
        catalogue()[name](**AT).edits(base.sites, None)
