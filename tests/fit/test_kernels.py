"""A fit in bfloat16: how attention is computed, and what stays float32."""

import pytest
import torch

from lmtailor.fit.fit import fit
from lmtailor.fit.kernels import SHORT, fast_kernels
from lmtailor.fit.training import Training
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.text import Text
from lmtailor.tasks.task import Task
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
        with fast_kernels(base, longest=longest, bfloat16=autocast):
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
    with pytest.raises(KeyboardInterrupt), fast_kernels(base, longest=20, bfloat16=True):
        raise KeyboardInterrupt
    assert base.trunk.config._attn_implementation == "sdpa"
