"""Adapters of tiny models, away from their start, that the tests of stores share."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.method import Method
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter, new_adapter
from tests.readouts.examples import sentences, sentiment_task

WORDS = Verbalizer("{sentence} it was {mask}", {"neg": ("bad",), "pos": ("good",)})


def moved_adapter(
    base: Base, method: Method, readout: Head | Verbalizer | None = None, *, by: float = 0.1, seed: int = 0
) -> Adapter:
    """An adapter whose tensors are all away from their start."""
    adapter = new_adapter(base, method=method, readout=readout, task=None if readout is None else sentiment_task())
    rng = generator(seed, "moved")
    return adapter.with_state(
        {name: value.detach() + by * torch.randn(value.shape, generator=rng) for name, value in adapter.state.items()}
    )


def saved(folder: Path) -> set[str]:
    """Names of the files in a folder."""
    return {path.name for path in folder.iterdir()}


def logits(base: Base, adapter: Adapter, inputs: dict[str, Any]) -> Tensor:
    """Logits under an adapter."""
    with torch.no_grad(), attach(base, adapter):
        out: Tensor = base.model(**inputs).logits
    return out


def scores(base: Base, adapter: Adapter, count: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    """An adapter's own scores of a few sentences, and the inputs of a model for classification."""
    assert adapter.reading is not None
    batch = adapter.reading.collate([adapter.reading.encode(example) for example in sentences()[:count]])
    with torch.no_grad(), attach(base, adapter) as attached:
        out = attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch)
    return out, {name: value for name, value in batch.inputs.items() if name != "decoder_input_ids"}


def assert_same_state(one: Adapter, other: Adapter) -> None:
    """Bit for bit."""
    assert list(one.state) == list(other.state)
    for name, tensor in one.state.items():
        assert tensor.dtype == other.state[name].dtype
        assert torch.equal(tensor, other.state[name]), name


def assert_close(found: Tensor, wanted: Tensor, *, to: float = 1e-5) -> None:
    """Equal, relative to the largest."""
    assert found.shape == wanted.shape
    assert wanted.abs().max() > 0
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= to
