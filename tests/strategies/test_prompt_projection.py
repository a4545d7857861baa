"""A prompt of one base becomes a prompt of another."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmtailor.core.errors import AdapterFileError, InputError, TrainingError, UnsupportedError
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.methods.lora import LoRA
from lmtailor.methods.projected_prompt import ProjectedPromptEdit
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.strategies._prompt_source import read_foreign_prompt
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.prompt_projection import PromptProjection
from tests.edits.worn import base_of
from tests.fit.tasks import sentiment
from tests.fit.test_fit import Recorder, same
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

TASK = sentiment(24, 8)
WORDS = Verbalizer(pattern="{sentence} it was {mask}", words={"pos": ("great",), "neg": ("bad",)})
SHORT = Training(max_steps=4, batch_size=8, lr=0.01, checkpoint_every=1)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A prompt of a model of another width."""
    base = tiny_base("electra")
    save_adapter(moved_adapter(base, SoftPrompt(length=3), by=0.5), tmp_path / "source")
    return str(tmp_path / "source")


def run(strategy: PromptProjection, key: str = "gpt2", **more: Any) -> Adapter:
    return adapt(base_of(key), TASK, strategy=strategy, readout=WORDS, training=SHORT, **more)


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "t5"])
def test_it_ends_in_a_soft_prompt_of_the_target(source: str, key: str, tmp_path: Path) -> None:
    base = base_of(key)
    adapter = run(PromptProjection(source=source, hidden=6), key, out=tmp_path / "out")
    assert adapter.method == SoftPrompt(length=3)
    (prompt,) = adapter.state.values()
    assert prompt.shape == (3, 48)
    assert same(load_adapter(tmp_path / "out", base), adapter)
    found = adapter.provenance["search"]
    assert (found["source"], found["source_base"]) == (source, "tiny-electra")


def test_the_projector_sees_the_source_and_is_trained(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its input is the source's prompt, bit for bit; what comes out depends on it, and on the training."""
    rows = load_file(Path(source) / "adapter_model.safetensors")["prompt_embeddings"]
    assert torch.equal(read_foreign_prompt(source).rows_NS, rows)
    starts: list[Any] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        starts.append(kwargs["start"])
        return fit(*args, **kwargs)

    monkeypatch.setattr("lmtailor.strategies.prompt_projection.fit", watched)
    adapter = run(PromptProjection(source=source, hidden=6))
    (edit,) = starts[0]
    assert isinstance(edit, ProjectedPromptEdit)
    assert torch.equal(edit.source_NS, rows)
    before = edit.embeddings(torch.nn.Identity())
    assert not torch.allclose(adapter.state["embed.prompt_NH"], before, atol=1e-3)


def test_tuning_goes_on_from_what_was_projected(source: str) -> None:
    plain, tuned = run(PromptProjection(source=source, hidden=6)), run(PromptProjection(source=source, hidden=6, tune=True))
    assert tuned.method == plain.method
    assert not same(plain, tuned)
    assert (tuned.state["embed.prompt_NH"] - plain.state["embed.prompt_NH"]).abs().max() < 0.1
    assert set(tuned.provenance["search"]["projected"]) == {"dev"}


@pytest.mark.parametrize("tune", [False, True])
def test_it_goes_on_to_the_same_bits(source: str, tune: bool, tmp_path: Path) -> None:
    strategy = PromptProjection(source=source, hidden=6, tune=tune)
    whole = run(strategy)
    with pytest.raises(KeyboardInterrupt):
        run(strategy, out=tmp_path / "out", callbacks=[Recorder(2)])
    assert same(run(strategy, out=tmp_path / "out"), whole)


def test_a_prompt_with_a_head_is_read(tmp_path: Path) -> None:
    """Whose folder may have tensors of a readout too."""
    base = tiny_base("bert")
    for number, method in enumerate((SoftPrompt(length=3), SoftPrompt(length=3, place="before_gap"))):
        save_adapter(moved_adapter(base, method, Head()), tmp_path / str(number))
    assert read_foreign_prompt(str(tmp_path / "0")).rows_NS.shape == (3, 48)
    with pytest.raises(InputError, match="stands at input and before_gap; what can be projected stands before the input"):
        read_foreign_prompt(str(tmp_path / "1"))


def test_what_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="ends in a soft prompt; LoRA was asked for"):
        run(PromptProjection(source=source), method=LoRA())
    save_adapter(moved_adapter(base_of("gpt2"), LoRA(rank=2)), tmp_path / "lora")
    with pytest.raises(InputError, match="an adapter of lora; what can be projected is a soft prompt"):
        run(PromptProjection(source=str(tmp_path / "lora")))
    with pytest.raises(AdapterFileError, match="no folder"):
        run(PromptProjection(source=str(tmp_path / "none")))
    with pytest.raises(InputError, match="needs a source"):
        PromptProjection(source="")
    with pytest.raises(InputError, match="hidden is 0"):
        PromptProjection(source="a", hidden=0)


def test_a_source_that_was_changed(source: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(PromptProjection(source=source, hidden=6), out=tmp_path / "out", callbacks=[Recorder(1)])
    save_adapter(moved_adapter(tiny_base("electra"), SoftPrompt(length=3), by=0.5, seed=7), Path(source))
    with pytest.raises(TrainingError, match="not the adapter that this work began with"):
        run(PromptProjection(source=source, hidden=6), out=tmp_path / "out")
    file = Path(source) / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: value + 1 for name, value in tensors.items()}, file, metadata={"format": "pt"})
    with pytest.raises(AdapterFileError, match="SHA-256"):
        read_foreign_prompt(source)
    (Path(source) / "adapter.json").write_text(json.dumps({}), "utf-8")
    with pytest.raises(AdapterFileError):
        read_foreign_prompt(source)
