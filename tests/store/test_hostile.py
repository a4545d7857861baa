"""Adapter folders that are damaged, changed by hand, or not adapters: one clear line, and no memory taken."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError
from lmtailor.core.files import sha256
from lmtailor.methods.full import Full
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.tensors import write_tensors
from tests.store.adapters import assert_same_state, moved_adapter
from tests.tiny import tiny_base, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def base() -> Base:
    """One base for all."""
    return tiny_base("bert")


class NoLargeTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails when a tensor with memory is larger than any that these tests need."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, list | tuple) else [out]:
            if isinstance(one, torch.Tensor) and one.device.type != "meta":
                assert one.numel() < 1_000_000, f"{func} made a tensor of {one.numel()} numbers"
        return out


def stored(tmp_path: Path, base: Base, method: Method | None = None, readout: Head | None = None) -> Path:
    """A good folder."""
    folder = tmp_path / "adapter"
    save_adapter(moved_adapter(base, method or LoRA(rank=2), readout), folder)
    return folder


def edited(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "adapter.json") -> None:
    """Change a JSON file by hand."""
    values = json.loads((folder / name).read_text("utf-8"))
    change(values)
    (folder / name).write_text(json.dumps(values), "utf-8")


def refused(folder: Path, base: Base, message: str) -> None:
    """Loading raises one line that names the folder and says this."""
    with NoLargeTensors(), pytest.raises(AdapterFileError, match=message) as caught:  # type: ignore[no-untyped-call]
        load_adapter(folder, base)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


LABELS = {"kind": "classification", "labels": ["a", "b"], "texts": ["text"], "extra": []}

EDITS: list[tuple[str, Method, Callable[[dict[str, Any]], object], str]] = [
    ("rank", LoRA(rank=2), lambda m: m["method"]["settings"].update(rank=10**9), "rank 1000000000 is above"),
    ("smaller rank", LoRA(rank=2), lambda m: m["method"]["settings"].update(rank=1), "has the shape|has .* bytes"),
    ("length", Prefix(length=2), lambda m: m["method"]["settings"].update(length=10**9), "virtual tokens before the input"),
    ("absurd length", Prefix(length=2), lambda m: m["method"]["settings"].update(length=10**18), "larger than any can be"),
    (
        "beyond integers",
        Prefix(length=2),
        lambda m: m["method"]["settings"].update(length=10**30),
        "larger than any that means something",
    ),
    ("prompt", SoftPrompt(length=2), lambda m: m["method"]["settings"].update(length=10**7), "virtual tokens before the input"),
    ("bottleneck", Houlsby(bottleneck=2), lambda m: m["method"]["settings"].update(bottleneck=10**7), "has the shape"),
    ("type", LoRA(rank=2), lambda m: m["method"]["settings"].update(rank="2"), "method.settings.rank must be an integer"),
    ("negative", LoRA(rank=2), lambda m: m["method"]["settings"].update(rank=-1), "LoRA needs at least 1"),
    (
        "unknown setting",
        LoRA(rank=2),
        lambda m: m["method"]["settings"].update(ranks=1),
        "ranks is not a setting of LoRA. Did you mean rank",
    ),
    ("unknown method", LoRA(rank=2), lambda m: m["method"].update(name="lorra"), "There is no method 'lorra'. Did you mean lora"),
    ("no method", LoRA(rank=2), lambda m: m.pop("method"), "'method' is missing"),
    ("method as text", LoRA(rank=2), lambda m: m.update(method="lora"), "method must be a table"),
    ("a module's name", LoRA(rank=2), lambda m: m["method"].update(name="os.system"), "There is no method"),
    (
        "unknown readout",
        LoRA(rank=2),
        lambda m: m.update(readout={"name": "heed", "settings": {}}, labels=LABELS),
        "Did you mean head",
    ),
    ("readout without labels", LoRA(rank=2), lambda m: m.update(readout={"name": "head", "settings": {}}), "no labels"),
    (
        "another readout",
        LoRA(rank=2),
        lambda m: m.update(readout={"name": "head", "settings": {}}, labels=LABELS),
        "changed by hand",
    ),
    ("unknown key", LoRA(rank=2), lambda m: m.update(site=[]), "'site' is no key of a manifest. Did you mean sites"),
    ("other sites", LoRA(rank=2), lambda m: m.update(sites=["block.0.attn.q"]), "Its sites are not those"),
    ("other pattern", LoRA(rank=2), lambda m: m["method"]["settings"].update(at="block.*.attn.x"), "selects no site"),
    ("newer", LoRA(rank=2), lambda m: m.update(format=2), "newer version"),
    ("no format", LoRA(rank=2), lambda m: m.pop("format"), "format is None"),
    ("a file outside", LoRA(rank=2), lambda m: m["tensors"].update(sha256={"../../x": "00"}), "changed by hand"),
    ("a file too many", LoRA(rank=2), lambda m: m["tensors"]["sha256"].update(x="00"), "changed by hand"),
    ("layout", LoRA(rank=2), lambda m: m["tensors"].update(layout="pickle"), "tensors.layout must be one of native, peft"),
    ("task", LoRA(rank=2), lambda m: m["tensors"].update(task_type="X"), "tensors.task_type must be one of"),
    ("digest", LoRA(rank=2), lambda m: m["tensors"]["sha256"].update({"adapter_model.safetensors": "00"}), "SHA-256 is another"),
    ("scores", LoRA(rank=2), lambda m: m.update(scores={"dev": {"accuracy": 1.0}}), "scores.dev.accuracy must be a table"),
]


@pytest.mark.parametrize(("method", "change", "message"), [one[1:] for one in EDITS], ids=[one[0] for one in EDITS])
def test_a_manifest_changed_by_hand(
    tmp_path: Path, base: Base, method: Method, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = stored(tmp_path, base, method)
    edited(folder, change)
    refused(folder, base, message)


def test_a_head_of_absurd_width(tmp_path: Path, base: Base) -> None:
    folder = stored(tmp_path, base, LoRA(rank=2), Head(hidden=4))
    edited(folder, lambda m: m["readout"]["settings"].update(hidden=10**8))
    refused(folder, base, "has the shape")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not the JSON"),
        ("{", "not the JSON"),
        ("[]", "it is no object"),
        ('{"format": 1, "format": 1}', "the key 'format' stands twice"),
        ('{"format": NaN}', "NaN is no number of JSON"),
        ('{"format": 1e400}', r"the number 1e400 is larger than any that can be held"),
        ('{"a":' * 100_000, "not the JSON"),
        ('{"format": ' + "1" * 5000 + "}", "not the JSON"),
    ],
    ids=["empty", "cut", "list", "twice", "nan", "infinite", "nested", "digits"],
)
def test_a_manifest_that_is_no_manifest(tmp_path: Path, base: Base, text: str, message: str) -> None:
    folder = stored(tmp_path, base)
    (folder / "adapter.json").write_text(text)
    refused(folder, base, message)


def test_a_manifest_of_absurd_size(tmp_path: Path, base: Base) -> None:
    folder = stored(tmp_path, base)
    with (folder / "adapter.json").open("r+b") as stream:
        stream.truncate(1 << 40)
    refused(folder, base, "bytes; a description has")


@pytest.mark.parametrize("method", [LoRA(rank=2), Full()], ids=["peft", "native"])
@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file(tmp_path: Path, base: Base, method: Method, keep: int) -> None:
    folder = stored(tmp_path, base, method)
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, base, "no whole safetensors file|damaged")


def test_a_bit_that_changed(tmp_path: Path, base: Base) -> None:
    folder = stored(tmp_path, base)
    path = folder / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    refused(folder, base, "SHA-256 is another")


def test_a_file_that_is_missing(tmp_path: Path, base: Base) -> None:
    folder = stored(tmp_path, base)
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, base, "There is no file .*adapter_model.safetensors")


def test_numbers_where_peft_would_see_them_and_we_would_not(tmp_path: Path) -> None:
    base = tiny_base("gpt2")
    folder = stored(tmp_path, base)
    path = folder / "adapter_model.safetensors"
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"
    from_file = {key: value.clone() for key, value in load_file(path).items()}
    assert from_file[name].shape == (144, 4)
    assert not from_file[name][48:96].any()  # the keys' rows
    from_file[name][50, 0] = 1.0
    write_tensors(path, from_file)
    edited(folder, lambda m: m["tensors"]["sha256"].update({path.name: sha256(path)}))
    refused(folder, base, "has numbers where this adapter has zeros")


def test_a_wrong_base_is_refused_and_can_be_forced(tmp_path: Path, base: Base) -> None:
    adapter = moved_adapter(base, LoRA(rank=2), Head())
    save_adapter(adapter, tmp_path)
    model = tiny_model("bert")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    other = Base.from_model(model, tiny_tokenizer("encoder"), "other-bert")
    refused(tmp_path, other, r"made for tiny-bert \(fingerprint .*but the base is other-bert .*any_base=True \(--any-base\)")
    loaded = load_adapter(tmp_path, other, any_base=True)
    assert_same_state(loaded, adapter)
    assert (loaded.base_fingerprint, loaded.base_source) == (other.fingerprint, "other-bert")


def test_a_base_of_another_shape_cannot_be_forced(tmp_path: Path, base: Base) -> None:
    save_adapter(moved_adapter(base, LoRA(rank=2)), tmp_path)
    with pytest.raises(AdapterFileError, match="has the shape"):
        load_adapter(tmp_path, tiny_base("bert", hidden_size=24), any_base=True)
    with pytest.raises(AdapterFileError, match="lacks"):
        load_adapter(tmp_path, tiny_base("gpt2"), any_base=True)


def test_places_without_an_adapter(tmp_path: Path, base: Base) -> None:
    refused(tmp_path, base, "neither adapter.json nor adapter_config.json. It holds nothing")
    refused(tmp_path / "nothing", base, "There is no folder")
    for name in ("first", "second"):
        save_adapter(moved_adapter(base, LoRA(rank=2)), tmp_path / "many" / name)
    refused(tmp_path / "many", base, "but 2 in folders in it: first, second. Name one")
    refused(tmp_path / "many" / "frist", base, "Did you mean .*first")
    save_adapter(moved_adapter(base, LoRA(rank=2)), tmp_path / "one" / "default")
    refused(tmp_path / "one", base, "one in the folder 'default'")
    refused(tmp_path / "one" / "default" / "adapter.json", base, "is a file. Name the folder")
    base.model.save_pretrained(tmp_path / "model")
    refused(tmp_path / "model", base, "It is a model, not an adapter")


def test_pickles_are_never_opened(tmp_path: Path, base: Base) -> None:
    folder = stored(tmp_path, base)
    (folder / "adapter.json").unlink()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(folder, base, "adapter_model.bin.* can run code")
    refused(folder / "adapter_model.bin", base, "can run code")


def test_links_that_lead_out_of_the_folder(tmp_path: Path, base: Base) -> None:
    folder = stored(tmp_path, base)
    for name in ("adapter_model.safetensors", "adapter.json"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        refused(folder, base, f"{name} is a link that leads out")
        (folder / name).unlink()
        (tmp_path / name).rename(folder / name)
    os.mkfifo(folder / "pipe")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to(folder / "pipe")
    refused(folder, base, "There is no file")


def test_the_cache_of_a_model_hub_links_to_its_blobs(tmp_path: Path, base: Base) -> None:
    folder = tmp_path / "models--x" / "snapshots" / "0a1b"
    adapter = moved_adapter(base, LoRA(rank=2))
    save_adapter(adapter, folder)
    (tmp_path / "models--x" / "blobs").mkdir()
    for path in list(folder.iterdir()):
        blob = tmp_path / "models--x" / "blobs" / path.name
        path.rename(blob)
        path.symlink_to(Path("../../blobs") / path.name)
    assert_same_state(load_adapter(folder, base), adapter)
