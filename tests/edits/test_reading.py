"""Reading a mixed batch: each row by its own readout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from tests.edits.worn import apart, base_of, row, wear
from tests.tiny import tiny_inputs


@dataclass(frozen=True)
class Batch:
    """Inputs alone."""

    inputs: Mapping[str, Tensor]
    answer_N: None = None

    @property
    def units(self) -> tuple[int, ...]:
        return (1,) * len(self.inputs["input_ids"])

    def rows(self, examples: Sequence[int]) -> "Batch":
        return Batch({name: value[list(examples)] for name, value in self.inputs.items()})


@dataclass(frozen=True)
class Sums:
    """Scores: sums of the last states over real tokens, of `outputs` features; of a block too, if there is one."""

    outputs: int
    layers: tuple[int, ...] = ()
    virtual: bool = False
    before: tuple[int, ...] = ()
    kind: str = "regression"

    def prompt(self) -> tuple[int, ...]:
        return self.before

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        mask = batch.inputs["attention_mask"]
        extra = states.last_NTH.shape[1] - mask.shape[1]
        assert extra == 0 or self.virtual
        mask = torch.nn.functional.pad(mask, (extra, 0), value=1)[..., None]
        out = (states.last_NTH * mask).sum(1)
        for layer in self.layers:
            out = out + 0.1 * (states.layers[layer] * mask).sum(1)
        return out[:, : self.outputs]


@dataclass(frozen=True)
class Reads:
    """An adapter with a readout."""

    edits: Edits
    reading: Sums


def adapters(base: Base) -> list[Reads]:
    """Readouts of several blocks and numbers of scores, with and without virtual tokens and prompts."""
    prompts = [wear(base, "soft_prompt", seed, length=length).edits for seed, length in enumerate([2, 5, 3])]
    return [
        Reads(prompts[0], Sums(2, layers=(1,))),
        Reads(prompts[1], Sums(4, virtual=True, layers=(-1, 0))),
        Reads(wear(base, "lora").edits, Sums(3, layers=(1,), before=(30, 41, 26))),
        Reads(prompts[2], Sums(3)),
    ]


@pytest.mark.parametrize("key", ["bert", "albert", "modernbert", "gpt2"])
@pytest.mark.parametrize("slots", [[3, 1, 0, 2, 1], [0, 2, 3, 3, 0]])
def test_rows_are_read_as_if_alone(key: str, slots: list[int]) -> None:
    base = base_of(key)
    worn, inputs = adapters(base), tiny_inputs(base, rows=5)
    with torch.no_grad(), attach(base, worn, slots) as attached:
        mixed = attached.read(Batch(inputs))
    for number, slot in enumerate(slots):
        with torch.no_grad(), attach(base, worn[slot]) as attached:
            (alone,) = attached.read(Batch(row(inputs, number)))
        assert mixed[number].shape == (worn[slot].reading.outputs,)
        assert apart(mixed[number], alone) < 1e-5


@pytest.mark.parametrize("key", ["bert", "gpt2"])
def test_a_readout_s_prompt_stands_before_every_input(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base, rows=2)
    reads = Reads(Edits(), Sums(4, before=(30, 41, 26)))
    with torch.no_grad(), attach(base, reads) as attached:
        found = attached.states(inputs).last_NTH
    longer = {
        "input_ids": torch.cat([torch.tensor(reads.reading.before).expand(2, -1), inputs["input_ids"]], 1),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1),
    }
    real = inputs["attention_mask"].bool()
    assert apart(found[real], base.hidden(longer).last_NTH[:, 3:][real]) < 1e-5


def test_a_row_may_have_several_sequences() -> None:
    base = base_of("bert")
    worn, inputs = adapters(base), tiny_inputs(base, rows=4)
    with torch.no_grad(), attach(base, worn[0]) as attached:
        assert torch.stack(attached.read(Batch(inputs))).shape == (4, 2)


def test_every_row_needs_a_readout() -> None:
    base = base_of("bert")
    with attach(base, [wear(base, "lora")], [None, 0]) as attached, pytest.raises(InputError, match="has no adapter"):
        attached.read(Batch(tiny_inputs(base, rows=2)))
    with attach(base, wear(base, "lora")) as attached, pytest.raises(InputError, match="adapter 0, which has no readout"):
        attached.read(Batch(tiny_inputs(base, rows=2)))
