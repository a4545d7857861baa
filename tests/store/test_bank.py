"""The bank: adapters on disk, of which those in use are in memory."""

from pathlib import Path

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.edits.attach import attach
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.lora import LoRA
from lmtailor.store.adapter import Adapter
from lmtailor.store.bank import Bank
from lmtailor.store.folder import save_adapter
from lmtailor.store.manifest import Manifest
from lmtailor.store.native import Blueprint
from lmtailor.store.outline import Outline
from tests.edits.worn import apart, base_of
from tests.store.adapters import logits, moved_adapter
from tests.tiny import tiny_inputs

BASE = base_of("llama")
SIZE = sum(t.nbytes for t in moved_adapter(BASE, LoRA(rank=2)).state.values())


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Six LoRA adapters and two of another method."""
    out = []
    for number in range(8):
        adapter = moved_adapter(BASE, LoRA(rank=2) if number < 6 else Houlsby(bottleneck=2), seed=number)
        out.append(tmp_path / f"adapter-{number}")
        save_adapter(adapter, out[-1])
    return out


def equal(one: Adapter, other: Adapter) -> bool:
    return one.state.keys() == other.state.keys() and all(
        torch.equal(value, other.state[key]) for key, value in one.state.items()
    )


def filled(folders: list[Path], memory: int) -> Bank:
    bank = Bank(BASE, memory=memory)
    for folder in folders:
        bank.register(folder.name, folder)
    return bank


def test_registering_reads_no_tensor_and_finds_shapes_once(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Manifest] = []
    plain = Blueprint.of

    def of(manifest: Manifest, base: Base, outline: Outline) -> Blueprint:
        made.append(manifest)
        return plain(manifest, base, outline)

    monkeypatch.setattr(Blueprint, "of", of)
    monkeypatch.setattr("lmtailor.store.native.read_tensors", lambda *_: pytest.fail("a tensor was read"))
    bank = filled(folders, 1 << 30)
    assert len(bank) == 8
    assert list(bank) == [folder.name for folder in folders]
    assert bank.resident == 0
    assert len(made) == 2, "one for each method with its settings"


def test_an_entry_is_the_adapter_and_is_loaded_once(folders: list[Path]) -> None:
    bank = filled(folders, 1 << 30)
    for number in (3, 7):
        adapter = bank[f"adapter-{number}"]
        assert equal(adapter, moved_adapter(BASE, LoRA(rank=2) if number < 6 else Houlsby(bottleneck=2), seed=number))
        assert bank[f"adapter-{number}"] is adapter


def test_the_one_used_longest_ago_goes_first(folders: list[Path]) -> None:
    bank = filled(folders[:6], 3 * SIZE)
    first = bank["adapter-0"]
    for number in (1, 2):
        _ = bank[f"adapter-{number}"]
    assert bank["adapter-0"] is first
    _ = bank["adapter-3"]  # 1 goes
    assert bank.resident == 3 * SIZE
    assert bank["adapter-0"] is first
    again = bank["adapter-1"]  # 2 goes
    assert equal(again, moved_adapter(BASE, LoRA(rank=2), seed=1))
    assert bank.resident == 3 * SIZE


def test_a_batch_beyond_the_bound_is_refused(folders: list[Path]) -> None:
    bank = filled(folders[:6], 3 * SIZE)
    taken = bank.take(["adapter-1", "adapter-0", "adapter-1"])
    assert taken[0] is taken[2]
    assert taken[0] is not taken[1]
    with pytest.raises(InputError, match=r"4 adapters of one batch do not fit .* Use smaller batches"):
        bank.take([f"adapter-{number}" for number in range(4)])
    small = filled(folders[:1], SIZE - 1)
    with pytest.raises(InputError, match=r"more than the bank's .* Give the bank more memory"):
        _ = small["adapter-0"]
    assert small.resident == 0
    with pytest.raises(InputError, match="needs room"):
        Bank(BASE, memory=0)


def test_names_are_replaced_forgotten_and_missed(folders: list[Path]) -> None:
    bank = filled(folders[:2], 1 << 30)
    _ = bank["adapter-0"]
    bank.register("adapter-0", folders[1])
    assert equal(bank["adapter-0"], bank["adapter-1"])
    bank.forget("adapter-0")
    assert "adapter-0" not in bank
    assert bank.resident == 2 * SIZE, "it lay beside the other one, and goes with it"
    bank.forget("adapter-1")
    assert bank.resident == 0
    bank.register("adapter-1", folders[1])
    with pytest.raises(InputError, match=r"no adapter 'adapter-0' in the bank. Did you mean adapter-1"):
        _ = bank["adapter-0"]


def test_what_is_wrong_is_told_when_it_is_registered(folders: list[Path]) -> None:
    bank = Bank(BASE)
    with pytest.raises(AdapterFileError, match="There is no folder"):
        bank.register("none", folders[0] / "none")
    tensors = next(folders[0].glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(AdapterFileError, match="damaged"):
        bank.register("damaged", folders[0])
    with pytest.raises(AdapterFileError, match="was made for"):
        Bank(base_of("gpt2")).register("other", folders[1])
    assert not bank


def test_a_file_that_changed_after_it_was_registered_is_refused(folders: list[Path]) -> None:
    bank = filled(folders[:1], 1 << 30)
    tensors = next(folders[0].glob("*.safetensors"))
    data = bytearray(tensors.read_bytes())
    data[-4:] = b"\x00\x00\x80\x3f"
    tensors.write_bytes(bytes(data))
    with pytest.raises(AdapterFileError, match="SHA-256"):
        _ = bank["adapter-0"]


def test_adapters_read_one_after_the_other_are_stacked_without_a_copy(folders: list[Path]) -> None:
    bank = filled(folders, 64 * SIZE)
    adapters = bank.take([f"adapter-{number}" for number in (2, 0, 1, 3)])
    inputs = tiny_inputs(BASE, rows=5)
    with torch.no_grad(), attach(BASE, adapters, [3, 0, None, 2, 1]) as attached:
        mixed = BASE.model(**inputs).logits
        for site in attached.engine.sites:
            (stage,) = attached.engine.plan(site.name).stages  # type: ignore[union-attr]
            for name, tensor in stage[0].stacked(BASE.dtype).trained().items():
                sources = {one.edits.state()[f"{site.name}.{name}"].untyped_storage().data_ptr() for one in adapters}
                assert {tensor.untyped_storage().data_ptr()} == sources
                assert tensor.shape[0] == 4
    for row, slot in enumerate((3, 0, None, 2, 1)):
        own = {key: value[row : row + 1] for key, value in inputs.items()}
        wanted = BASE.model(**own).logits if slot is None else logits(BASE, adapters[slot], own)
        assert apart(mixed[row : row + 1], wanted) < 1e-5


def test_an_adapter_that_somebody_holds_stays_as_it_was(folders: list[Path]) -> None:
    bank = filled(folders[:6], 8 * SIZE)  # shelves of two
    held = bank["adapter-0"]
    before = {name: value.clone() for name, value in held.state.items()}
    bank.memory = 2 * SIZE
    for number in range(1, 6):
        _ = bank[f"adapter-{number}"]
    assert bank.resident <= 2 * SIZE
    assert all(torch.equal(value, held.state[name]) for name, value in before.items())
    assert equal(bank["adapter-0"], held)
