"""What must hold of every type of PEFT folder whose tensors are named by modules, whoever wrote it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError
from lmtailor.methods.method import Method
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import Adapter
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter, save_adapter
from tests.parity.loading import in_peft, made_by_peft, peft, peft_logits, real
from tests.store.adapters import assert_close, assert_same_state, logits, moved_adapter, scores
from tests.tiny import tiny_inputs


def assert_same(one: Adapter, other: Adapter) -> None:
    """All tensors bit for bit, those that are not trained too."""
    assert_same_state(one, other)
    assert list(one.fixed) == list(other.fixed)
    assert all(torch.equal(tensor, other.fixed[name]) for name, tensor in one.fixed.items())


def ours_in_peft(base: Base, method: Method, folder: Path, config: type, *, by: float = 0.1) -> dict[str, Any]:
    """Save one of ours: PEFT computes the same with it, and we read the same bits. Returns the configuration."""
    adapter = moved_adapter(base, method, by=by)
    save_adapter(adapter, folder / "ours")
    written: dict[str, Any] = json.loads((folder / "ours" / "adapter_config.json").read_text())
    assert set(written) <= set(config(**_needed(config)).to_dict())  # PEFT warns of a key that it does not know, and drops it
    inputs = tiny_inputs(base)
    own = logits(base, adapter, inputs)
    with torch.no_grad():  # the adapter does something
        assert (base.model(**inputs).logits - own).abs().max() > 1e-3
    assert_close(real(peft_logits(in_peft(base, folder / "ours"), inputs, own), inputs), real(own, inputs))
    assert_same(load_adapter(folder / "ours", base), adapter)
    export(adapter, folder / "export", format="peft")
    assert_close(logits(base, load_adapter(folder / "export", base), inputs), own)
    return written


def _needed(config: type) -> Mapping[str, Any]:
    return {"total_step": 10} if config is peft.AdaLoraConfig else {}


def theirs_here(base: Base, config: Any, folder: Path, *, by: float = 0.1) -> Adapter:
    """Read one of PEFT's making: we compute the same with it, and write what we read again."""
    adapter = read_here(base, made_by_peft(base, config, folder / "theirs", by=by), folder / "theirs")
    assert (folder / "theirs" / "again" / "adapter_config.json").exists()
    return adapter


def read_here(base: Base, adapted: Any, folder: Path) -> Adapter:
    """Read what PEFT has stored of a model: we compute the same with it, and can store it."""
    adapter = load_adapter(folder, base)
    inputs = tiny_inputs(base)
    own = logits(base, adapter, inputs)
    with torch.no_grad():
        assert (base.model(**inputs).logits - own).abs().max() > 1e-3
    assert_close(real(own, inputs), real(peft_logits(adapted, inputs, own), inputs))
    save_adapter(adapter, folder / "again")
    assert_same(load_adapter(folder / "again", base), adapter)
    return adapter


def with_a_head(base: Base, method: Method, folder: Path) -> None:
    """With the family's own head it is a classifier of PEFT's."""
    adapter = moved_adapter(base, method, Head(pooling="native"))
    save_adapter(adapter, folder)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    wanted, inputs = scores(base, adapter)
    assert_close(peft_logits(in_peft(base, folder, labels=2), inputs, wanted), wanted)
    assert_same(load_adapter(folder, base), adapter)


def refused(base: Base, config: Any, folder: Path, change: Mapping[str, Any], message: str) -> None:
    """One of PEFT's making whose configuration was changed is refused in one line."""
    made_by_peft(base, config, folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**written, **change}))
    with pytest.raises(AdapterFileError, match=message) as caught:
        load_adapter(folder, base)
    assert "\n" not in str(caught.value)
