"""A fit in bfloat16: how attention is computed, and what stays float32."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.fit import kernels as own
from lmtailor.fit.callbacks.callback import Callback, Ended, Evaluated, Started, Stepped
from lmtailor.fit.fit import fit
from lmtailor.fit.kernels import SHORT, fast_kernels
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.text import Text
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from lmtailor.tasks.watched import Watched
from tests.tiny import tiny_base

TASK = Task.from_records(
    train=[{"about": "a good movie", "said": "it was very good"}, {"about": "a bad book that is so boring", "said": "no"}],
    kind="generation",
    text="about",
    label="said",
)


def test_short_sequences_in_bfloat16_are_attended_to_without_the_fused_kernel() -> None:
    base = tiny_base("llama")
    config = base.trunk.config
    for dtype, longest, autocast, expected in (
        (torch.float32, 20, False, "sdpa"),
        (torch.float32, 20, True, "eager"),
        (torch.bfloat16, SHORT, False, "eager"),
        (torch.bfloat16, SHORT + 1, False, "sdpa"),
    ):
        base.model.to(dtype)  # type: ignore[arg-type]
        with fast_kernels(base, lengths=[1, longest], bfloat16=autocast):
            assert config._attn_implementation == expected
        assert config._attn_implementation == "sdpa"


def test_a_base_of_bfloat16_stays_what_it_is_and_what_is_trained_is_float32() -> None:
    base = tiny_base("llama")
    base.model.to(torch.bfloat16)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    training = Training(max_steps=3, batch_size=2, lr=1e-2)
    adapter = fit(base, TASK, method=LoRA(rank=2), readout=Text("about {about}"), training=training)
    assert {value.dtype for value in adapter.state.values()} == {torch.float32}
    assert any(bool(value.any()) for name, value in adapter.state.items() if name.endswith("b_OK"))
    # A bfloat16 number has 8 bits; trained numbers have more, so they were never kept in it.
    assert any(not torch.equal(value, value.bfloat16().float()) for value in adapter.state.values())
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_attention_is_put_back_after_an_error() -> None:
    base = tiny_base("llama")
    with pytest.raises(KeyboardInterrupt), fast_kernels(base, lengths=[20], bfloat16=True):
        raise KeyboardInterrupt
    assert base.trunk.config._attn_implementation == "sdpa"


@dataclass
class Kernels(Callback):
    """Notes how attention is computed in each step."""

    base: Base
    seen: list[str] = field(default_factory=list)

    def started(self, event: Started) -> None: ...

    def stepped(self, event: Stepped) -> None:
        self.seen.append(self.base.trunk.config._attn_implementation)

    def evaluated(self, event: Evaluated) -> None: ...

    def ended(self, event: Ended) -> None: ...


def test_the_longest_sequence_of_a_fit_decides_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    monkeypatch.setattr(own, "SHORT", 20)
    words = Verbalizer("{about} it was {mask}", {"0": ("bad",), "1": ("good",)})
    rows = [{"about": "a good movie", "label": "1"}, {"about": "a bad book", "label": "0"}]

    def kernel(more: str, where: str) -> str:
        kernels = Kernels(base)
        asked = Example(id="x", fields={"about": more if where == "watched" else "a"}, references=("good",))
        told: dict[str, Any] = {"watched": [Watched(name="w", examples=(asked,))]}
        task, readout = TASK, cast(Readout, Text("about {about}"))
        if where == "unlabelled":
            texts = [{"about": "a"}, {"about": more}]
            task = Task.from_records(train=rows, unlabelled=texts, text="about", label="label")
            readout, told = words, {"unlabelled": Unlabelled(batch_size=1)}
        training = Training(max_steps=2, batch_size=2, lr=1e-2, precision="bfloat16")
        fit(base, task, method=LoRA(rank=2), readout=readout, training=training, callbacks=[kernels], **told)
        (only,) = set(kernels.seen)
        return only

    for where in ("watched", "unlabelled"):
        assert kernel("so good", where) == "eager"
        assert kernel("so good " * 12, where) == "sdpa"


def test_a_decoder_is_fed_with_sequences_too() -> None:
    item = Encoded(sequences=((1, 2),), decoder=((1, 2, 3, 4),), read=((0,),))
    assert (item.length, item.longest) == (2, 4)
