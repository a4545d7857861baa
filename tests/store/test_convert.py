"""Converting to LoRA: exact where the change is of that rank, else the best of it, with the error told."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, StateError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.full import Full
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.ia3 import IA3
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.oft import OFT
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.select import Select
from lmtailor.methods.vera import VeRA
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.store.convert import convert
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter, save_adapter
from tests.store.adapters import assert_close, assert_same_state, logits, moved_adapter
from tests.tiny import tiny_base, tiny_inputs

EXACT: list[tuple[str, Method, int]] = [
    ("llama", LoRA(rank=3, alpha=5.0, rslora=True), 3),
    ("gpt2", LoRA(rank=3, at="block.*.attn.{q,qkv}, block.*.ffn.down"), 6),
    ("bert", LoRA(rank=2, init="pissa", bias=True), 4),
    ("t5", LoRA(rank=2, rank_pattern={"encoder.block.0.attn.q": 3}), 3),
    ("albert", LoRA(rank=2), 2),
    ("llama", LoRA(rank=3, dora=True), 48),
    ("llama", LoRA(rank=2) + Select(at="block.*.ffn.down"), 48),
    ("gpt2", LoRA(rank=2) + BitFit(which="query_and_mlp"), 2),
    ("bert", Select(at="block.*.attn.q"), 48),
    ("albert", Select(at="block.0.attn.q"), 48),
    ("llama", IA3(), 64),
    ("bert", IA3(), 64),
    ("t5", VeRA(rank=4), 4),
    ("bert", OFT(block_size=8) + IA3(at="block.*.attn.q", at_inputs="block.*.attn.q"), 48),
    ("llama", LoRA(rank=2, at="block.*.attn.q") + Select(at="block.*.attn.q"), 48),
    ("gpt2", LoRA(rank=2) + IA3(at="block.*.attn.qkv"), 48),
]


def both(base: Base, adapter: Adapter, rank: int) -> tuple[Tensor, Tensor]:
    """Logits under the LoRA and under the adapter itself."""
    inputs = tiny_inputs(base)
    return logits(base, convert(adapter, base, rank)[0], inputs), logits(base, adapter, inputs)


@pytest.mark.parametrize(("key", "method", "rank"), EXACT, ids=lambda value: value if isinstance(value, str) else "")
def test_a_change_of_that_rank_is_kept(key: str, method: Method, rank: int) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, method)
    assert_close(*both(base, adapter, rank))
    _, report = convert(adapter, base, rank)
    assert max(one.error for one in report) < 1e-6
    assert all(one.norm > 0 for one in report if one.site.endswith((".q", ".k", ".v")))


def test_the_error_is_that_of_the_best_approximation() -> None:
    """Eckart and Young: the singular values that are left out, and no less."""
    base = tiny_base("llama")
    adapter = moved_adapter(base, Select(at="block.*.attn.{q,v}"))
    _, report = convert(adapter, base, 5)
    assert [one.site for one in report] == [f"block.{n}.attn.{part}" for n in range(4) for part in "qv"]
    for one in report:
        site = base.sites[one.site]
        change = adapter.state[f"{site.module}.weight.value"] - base.linear(site).weight_OI
        values = torch.linalg.svdvals(change.double())
        assert one.norm == pytest.approx(float(values.norm()), rel=1e-6)
        assert one.error == pytest.approx(float(values[5:].norm() / values.norm()), rel=1e-5)
        assert 0.1 < one.error < 1


def test_more_rank_is_nearer() -> None:
    base = tiny_base("llama")
    adapter = moved_adapter(base, LoRA(rank=6, dora=True))
    inputs = tiny_inputs(base)
    wanted = logits(base, adapter, inputs)
    apart = [float((logits(base, convert(adapter, base, rank)[0], inputs) - wanted).abs().max()) for rank in (1, 6, 16, 48)]
    assert apart[0] > apart[1] > apart[2] > apart[3]
    assert apart[3] < 1e-5 * float(wanted.abs().max())


def test_the_rank_is_no_larger_than_a_matrix_s(tmp_path: Path) -> None:
    base = tiny_base("llama")
    converted, report = convert(moved_adapter(base, Select(at="block.*.attn.{q,v}")), base, 20)
    assert {one.site[-1]: one.rank for one in report} == {"q": 20, "v": 16}
    assert isinstance(converted.method, LoRA)
    assert dict(converted.method.rank_pattern) == {"block.*.attn.v": 16}
    save_adapter(converted, tmp_path)
    assert_same_state(load_adapter(tmp_path, base), converted)


def test_a_head_stays_and_scores_do_not(tmp_path: Path) -> None:
    base = tiny_base("llama")
    adapter = moved_adapter(base, LoRA(rank=2, dora=True), Head(hidden=3))
    converted, _ = convert(adapter, base, 8)
    assert converted.reading is adapter.reading
    assert not converted.scores
    assert converted.provenance["converted_from"]["method"] == "lora"
    export(converted, tmp_path / "x", format="vllm", without_head=True)  # DoRA itself has no form there


@pytest.mark.parametrize(
    ("key", "method", "message"),
    [
        ("llama", Houlsby(bottleneck=2), r"houlsby cannot be converted: at block\.0\.attn it acts on more"),
        ("llama", Prefix(length=2, reparam=None), r"prefix cannot be converted"),
        ("bert", BitFit(), r"bitfit cannot be converted: at embed_norm"),
        ("llama", Full(), r"full cannot be converted: it has changed model\.embed_tokens\.weight, which is no projection's"),
        ("gpt2", Select(at="lm_head"), r"transformer\.wte\.weight, which is no projection's"),
    ],
)
def test_what_is_no_change_of_projections_is_named(key: str, method: Method, message: str) -> None:
    base = tiny_base(key)
    with pytest.raises(UnsupportedError, match=message):
        convert(moved_adapter(base, method), base, 4)


def test_bad_input() -> None:
    base = tiny_base("llama")
    adapter = moved_adapter(base, LoRA(rank=2))
    with pytest.raises(InputError, match="rank is 0"):
        convert(adapter, base, 0)
    with pytest.raises(InputError, match="nothing to convert"):
        convert(new_adapter(base, method=Select(at="block.0.attn.q")), base, 2)
    with pytest.raises(AdapterFileError, match="made for"):
        convert(adapter, tiny_base("llama", hidden_size=24), 2)
    with attach(base, adapter), pytest.raises(StateError, match="attached"):
        convert(adapter, base, 2)
