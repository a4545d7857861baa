"""Saving and loading: what comes back is what went in, and a crash loses nothing."""

import errno
import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.full import Full
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.select import Select
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.methods.top_layers import TopLayers
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.store import folder as folder_module
from lmtailor.store import whole_folder as whole_folder_module
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.whole_folder import whole_folder
from lmtailor.tasks.metrics import Score, Scores
from tests.readouts.examples import sentiment_task
from tests.store.adapters import WORDS, assert_same_state, moved_adapter, saved, scores
from tests.tiny import tiny_base

PEFT_FILES = {"adapter.json", "README.md", "adapter_config.json", "adapter_model.safetensors"}
NATIVE_FILES = {"adapter.json", "README.md", "adapter.safetensors"}

METHODS: list[tuple[Method, set[str]]] = [
    (Frozen(), NATIVE_FILES),
    (Full(), NATIVE_FILES),
    (TopLayers(n=1), NATIVE_FILES),
    (Select(at="block.0.ffn"), NATIVE_FILES),
    (BitFit(), NATIVE_FILES),
    (Houlsby(bottleneck=4), NATIVE_FILES),
    (Prefix(length=3, reparam="mlp", hidden=5), NATIVE_FILES),
    (Prefix(length=3, at="block.[1:3].attn"), NATIVE_FILES),
    (Prefix(length=3, shift=False), NATIVE_FILES),
    (Prefix(length=3), PEFT_FILES),
    (SoftPrompt(length=3), PEFT_FILES),
    (LoRA(rank=2, alpha=3.5, dropout=0.1), PEFT_FILES),
]


@pytest.mark.parametrize(
    ("method", "files"), METHODS, ids=lambda value: type(value).__name__ if isinstance(value, Method) else ""
)
@pytest.mark.parametrize("readout", [None, Head(), WORDS], ids=["none", "head", "verbalizer"])
def test_every_method_and_readout_comes_back_bit_for_bit(
    tmp_path: Path, method: Method, files: set[str], readout: Head | None
) -> None:
    base = tiny_base("bert")
    adapter = moved_adapter(base, method, readout)
    save_adapter(adapter, tmp_path / "a")
    apart = {"readout.safetensors"} if isinstance(readout, Head) and files == PEFT_FILES else set()
    assert saved(tmp_path / "a") == files | apart
    loaded = load_adapter(tmp_path / "a", base)
    assert_same_state(loaded, adapter)
    assert (loaded.method, loaded.readout, loaded.labels) == (method, readout, adapter.labels)
    assert (loaded.base_fingerprint, loaded.base_source) == (base.fingerprint, "tiny-bert")
    if readout is not None:
        assert torch.equal(scores(base, loaded)[0], scores(base, adapter)[0])


@pytest.mark.parametrize("key", ["gpt2", "gpt_neox", "phi3", "modernbert", "llama", "t5", "bart", "albert"])
def test_fused_and_shared_projections_come_back_bit_for_bit(tmp_path: Path, key: str) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, LoRA(rank=3, at="block.*.attn.{q,v}, block.[-1].ffn.*"))
    save_adapter(adapter, tmp_path)
    assert ("adapter_model.safetensors" in saved(tmp_path)) == (key != "albert")
    assert_same_state(load_adapter(tmp_path, base), adapter)


def test_a_native_head_is_in_the_peft_file(tmp_path: Path) -> None:
    base = tiny_base("bert")
    adapter = moved_adapter(base, LoRA(rank=2), Head(pooling="native"))
    save_adapter(adapter, tmp_path)
    assert saved(tmp_path) == PEFT_FILES
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    loaded = load_adapter(tmp_path, base)
    assert_same_state(loaded, adapter)
    assert torch.equal(scores(base, loaded)[0], scores(base, adapter)[0])


def test_demonstrations_come_back_without_the_task(tmp_path: Path) -> None:
    base = tiny_base("llama")
    adapter = new_adapter(
        base, method=Frozen(), readout=replace(WORDS, demonstrations=Demonstrations(k=2, seed=1)), task=sentiment_task()
    )
    save_adapter(adapter, tmp_path)
    loaded = load_adapter(tmp_path, base)
    assert adapter.reading is not None
    assert loaded.reading is not None
    assert len(adapter.reading.prompt()) > 0
    assert loaded.reading.prompt() == adapter.reading.prompt()
    assert torch.equal(scores(base, loaded)[0], scores(base, adapter)[0])


def test_scores_and_provenance_come_back(tmp_path: Path) -> None:
    base = tiny_base("bert")
    score = Score(metric="accuracy", value=0.75, n=40, low=0.6, high=0.85)
    provenance = {"seed": 3, "training": {"lr": 1e-3, "epochs": 2}, "data": "sha256:00ff", "note": "naïve | ```"}
    adapter = replace(moved_adapter(base, LoRA(rank=2)), scores={"dev": Scores([score])}, provenance=provenance)
    save_adapter(adapter, tmp_path)
    loaded = load_adapter(tmp_path, base)
    assert loaded.scores["dev"]["accuracy"] == score
    assert loaded.provenance == provenance
    card = (tmp_path / "README.md").read_text("utf-8")
    for part in ("0.7500", "0.6000 to 0.8500", "40", "LoRA", base.fingerprint, "PeftModel.from_pretrained", "load_adapter"):
        assert part in card


def test_the_card_names_the_base_as_transformers_wants_it(tmp_path: Path) -> None:
    adapter = moved_adapter(tiny_base("llama"), LoRA(rank=2))
    for source, wanted in {
        "org/name": '\nbase_model: "org/name"\n',
        "/models/x.gguf": 'from_pretrained("/models", gguf_file="x.gguf")',
        'a"b<c>`d`\n# e | f': "| Base | a\"b&lt;c>'d' # e &#124; f (llama) |",
    }.items():
        save_adapter(replace(adapter, base_source=source), tmp_path)
        assert wanted in (tmp_path / "README.md").read_text("utf-8")


def test_the_card_says_why_peft_cannot_load(tmp_path: Path) -> None:
    base = tiny_base("distilbert")
    save_adapter(moved_adapter(base, Prefix(length=2)), tmp_path / "prefix")
    assert "PEFT cannot load this folder: PEFT gives prefixes as cached" in (tmp_path / "prefix" / "README.md").read_text()
    save_adapter(moved_adapter(base, LoRA(rank=2), Head()), tmp_path / "head")
    assert "The readout is not part of what PEFT loads." in (tmp_path / "head" / "README.md").read_text()


def test_provenance_that_is_no_json_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    adapter = replace(moved_adapter(tiny_base("bert"), LoRA(rank=2)), provenance={"model": object()})
    with pytest.raises(InputError, match=r"provenance"):
        save_adapter(adapter, tmp_path / "a")
    assert saved(tmp_path) == set()


def test_a_tensor_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    adapter = moved_adapter(tiny_base("bert"), LoRA(rank=2))
    state = {name: value.clone() for name, value in adapter.state.items()}
    state["block.0.attn.q.a_KI"][0, 0] = torch.inf
    with pytest.raises(InputError, match=r"not finite"):
        save_adapter(adapter.with_state(state), tmp_path / "a")
    assert saved(tmp_path) == set()


def test_saving_again_replaces_the_adapter_and_keeps_the_rest(tmp_path: Path) -> None:
    base, place = tiny_base("bert"), tmp_path / "a"
    save_adapter(moved_adapter(base, Houlsby(bottleneck=2)), place)
    (place / "checkpoints").mkdir()
    (place / "checkpoints" / "step.json").write_text("{}")
    second = moved_adapter(base, LoRA(rank=2), Head(), seed=1)
    save_adapter(second, place)
    assert saved(place) == PEFT_FILES | {"readout.safetensors", "checkpoints"}
    assert (place / "checkpoints" / "step.json").read_text() == "{}"
    assert_same_state(load_adapter(place, base), second)
    assert saved(tmp_path) == {"a"}


def test_a_folder_for_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"for something else"):
        save_adapter(moved_adapter(tiny_base("bert"), LoRA(rank=2)), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is a file"):
        save_adapter(moved_adapter(tiny_base("bert"), LoRA(rank=2)), tmp_path / "file")


@pytest.mark.parametrize("at", ["write", "sync"])
def test_a_full_disk_leaves_the_old_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    base, place = tiny_base("bert"), tmp_path / "a"
    first = moved_adapter(base, LoRA(rank=2))
    save_adapter(first, place)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    module, name = (folder_module, "write_json") if at == "write" else (whole_folder_module, "_sync")
    monkeypatch.setattr(module, name, full)
    with pytest.raises(InputError, match=r"No space left"):
        save_adapter(moved_adapter(base, LoRA(rank=2), seed=1), place)
    assert saved(tmp_path) == {"a"}
    assert_same_state(load_adapter(place, base), first)


class _Killed(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_crash_between_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int) -> None:
    base, place = tiny_base("bert"), tmp_path / "a"
    first, second = moved_adapter(base, LoRA(rank=2)), moved_adapter(base, LoRA(rank=2), seed=1)
    save_adapter(first, place)
    (place / "log.txt").write_text("kept")
    count = 0
    real = Path.rename

    def killed(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == rename:
            raise _Killed
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        patched.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(_Killed):
            save_adapter(second, place)
    if rename == 2:  # the old one stands aside, the new one is not there yet
        with pytest.raises(AdapterFileError, match=r"a save was interrupted.*rename it"):
            load_adapter(place, base)
    else:
        assert_same_state(load_adapter(place, base), first if rename == 1 else second)
    with whole_folder(place, own=()) as part:
        (part / "new.txt").write_text("")
    assert (place / "log.txt").read_text() == "kept"
    assert not list(tmp_path.glob(".a.*.old"))


def test_a_leftover_of_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.b.01234567.old").mkdir()
    with whole_folder(tmp_path / "a", own=()):
        pass
    assert (tmp_path / ".a.b.01234567.old").is_dir()


def test_the_folder_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    save_adapter(moved_adapter(tiny_base("bert"), LoRA(rank=2)), tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_linked_folder_is_written_through_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    base = tiny_base("bert")
    adapter = moved_adapter(base, LoRA(rank=2))
    save_adapter(adapter, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_same_state(load_adapter(tmp_path / "link", base), adapter)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
@pytest.mark.parametrize("method", [LoRA(rank=2), Houlsby(bottleneck=4)], ids=["as PEFT's", "as our own"])
def test_all_files_have_the_mode_of_any_new_file(method: Method, tmp_path: Path) -> None:
    """safetensors makes its files for their owner alone."""
    before = os.umask(0o022)
    try:
        save_adapter(moved_adapter(tiny_base("bert"), method), tmp_path / "adapter")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "adapter").iterdir()} == {0o644}
