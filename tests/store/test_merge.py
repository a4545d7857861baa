"""Merging: one plain model that does what base and adapter did, and still does when it was saved and loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, StateError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods import catalogue
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.full import Full
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.ia3 import IA3
from lmtailor.methods.layer_norm_tuning import LayerNormTuning
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.oft import OFT
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.select import Select
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.methods.top_layers import TopLayers
from lmtailor.methods.vera import VeRA
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import new_adapter
from lmtailor.store.merge import merge, save_merged
from tests.conformance.table import TRAINED
from tests.store.adapters import WORDS, assert_close, logits, moved_adapter, saved, scores
from tests.tiny import tiny_base, tiny_inputs

AUTO: dict[str, Any] = {
    "encoder": AutoModelForMaskedLM,
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}
EVERYWHERE = LoRA(rank=3, alpha=3.0, at="block.*.attn.{q,v}, block.*.ffn.*")


def reloaded(model: PreTrainedModel, base: Base, folder: Path, auto: Any) -> PreTrainedModel:
    """The model after a round through its folder."""
    save_merged(model, base.tokenizer, folder)
    again: PreTrainedModel = auto.from_pretrained(folder)
    again.train(False)
    return again


def run(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(**inputs).logits
    return out


@pytest.mark.parametrize(
    ("key", "method", "settings"),
    [
        *((key, EVERYWHERE, {}) for key in ("bert", "gpt2", "gpt_neox", "phi3", "modernbert", "llama", "t5", "bart", "opt")),
        *((key, BitFit(), {}) for key in ("bert", "gpt2", "bart", "qwen2")),
        ("llama", BitFit(add_missing=True), {}),
        ("smollm3", BitFit(add_missing=True), {}),
        ("gpt2", BitFit(which="query_and_mlp"), {}),
        *((key, Full(), {}) for key in ("bert", "gpt2", "llama", "t5", "albert")),
        ("llama", Full(), {"tie_word_embeddings": True}),
        ("llama", TopLayers(n=2), {}),
        ("gpt2", Select(at="block.*.attn.qkv, final_norm"), {}),
        ("llama", LoRA(rank=2, alpha=2.0, at="lm_head"), {"tie_word_embeddings": True}),
        ("llama", LoRA(rank=2, alpha=2.0, at="lm_head"), {"tie_word_embeddings": False}),
        ("bert", LoRA(rank=2, alpha=2.0, at="lm_head"), {"tie_word_embeddings": False}),
        ("bert", LoRA(rank=2, alpha=2.0, at="embed, block.*.attn.q"), {"tie_word_embeddings": False}),
        ("llama", LoRA(rank=2, alpha=2.0, at="embed"), {"tie_word_embeddings": True}),
        ("llama", LoRA(rank=2, alpha=2.0, at="embed, lm_head"), {"tie_word_embeddings": True}),
        ("gemma2", LoRA(rank=2, alpha=2.0, at="embed"), {"tie_word_embeddings": False}),
        ("opt", LoRA(rank=2, alpha=2.0, at="embed"), {}),
        ("llama", Frozen(), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__ if isinstance(value, Method) else "",
)
def test_merged_equals_attached_and_survives_its_folder(
    tmp_path: Path, key: str, method: Method, settings: dict[str, Any]
) -> None:
    base = tiny_base(key, **settings)
    adapter = moved_adapter(base, method, by=0.05)
    inputs = tiny_inputs(base)
    before, wanted = run(base.model, inputs), logits(base, adapter, inputs)
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    merged = merge(base, adapter)
    if adapter.num_parameters:
        assert (wanted - before).abs().max() > 1e-3
    assert_close(run(merged, inputs), wanted, to=1e-4)
    assert_close(run(reloaded(merged, base, tmp_path / "m", AUTO[base.kind]), inputs), wanted, to=1e-4)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "m")("a good movie")["input_ids"] == base.tokenizer("a good movie")["input_ids"]
    )
    # The base is what it was, and shares no memory with the merged model.
    assert all(torch.equal(value, weights[name]) for name, value in base.model.state_dict().items())
    assert torch.equal(run(base.model, inputs), before)
    assert not {p.data_ptr() for p in base.model.parameters()} & {p.data_ptr() for p in merged.parameters()}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A foldable method of the catalogue with one of its example settings."""

    name: str
    number: int

    @property
    def method(self) -> Method:
        cls = catalogue()[self.name]
        return cls(**cls.examples[self.number])

    def merges_on(self) -> list[str]:
        """Models of each kind on which the method is a change of weights."""
        cells = [cell for cell in TRAINED if (cell.name, cell.number) == (self.name, self.number) and cell.foldable]
        return [cell.base_key for cell in cells]

    def __str__(self) -> str:
        return f"{self.name}-{self.number}"


EVERY = [
    example
    for name, method in catalogue().items()
    for number in range(len(method.examples))
    if (example := Example(name=name, number=number)).merges_on()
]
NO_BIAS_SETTING = "No setting of T5ForConditionalGeneration's configuration"


def test_the_catalogue_has_foldable_methods() -> None:
    known = {"adalora", "bitfit", "full", "ia3", "layer_norm_tuning", "lora", "oft", "select", "top_layers", "vera"}
    assert known <= {example.name for example in EVERY}


@pytest.mark.parametrize("example", EVERY, ids=str)
def test_every_foldable_method_merges(tmp_path: Path, example: Example) -> None:
    """On every kind of model on which it is a change of weights, and through a folder on the first of them."""
    merged_on: list[str] = []
    for key in example.merges_on():
        base = tiny_base(key)
        adapter = moved_adapter(base, example.method, by=0.05)
        inputs = tiny_inputs(base)
        wanted = logits(base, adapter, inputs)
        assert (wanted - run(base.model, inputs)).abs().max() > 1e-3
        try:
            merged = merge(base, adapter)
        except UnsupportedError as error:
            # T5 has no biases, and its configuration cannot say that it has.
            assert key == "t5" and NO_BIAS_SETTING in str(error)  # noqa: PT017, PT018
            continue
        assert_close(run(merged, inputs), wanted, to=1e-4)
        if not merged_on:
            assert_close(run(reloaded(merged, base, tmp_path / "m", AUTO[base.kind]), inputs), wanted, to=1e-4)
        merged_on.append(key)
    assert set(merged_on) | {"t5"} == set(example.merges_on()) | {"t5"}
    assert merged_on


ROTATED = OFT(block_size=8, at="block.*.attn.{q,v}")
TWICE: list[tuple[str, Method]] = [
    ("llama", LoRA(rank=2) + ROTATED + IA3(at="block.*.attn.{q,v}")),
    ("llama", IA3(at="", at_inputs="block.*.attn.q") + ROTATED + OFT(block_size=16, at="block.*.attn.q")),
    ("llama", ROTATED + IA3(at="block.*.attn.q", at_inputs="block.*.attn.q") + LoRA(rank=2)),
    ("llama", LoRA(rank=2, at="block.*.attn.q") + Select(at="block.*.attn.q")),
    ("llama", LoRA(rank=2, dora=True) + LoRA(rank=2)),
    ("gpt2", LoRA(rank=2) + IA3(at="block.*.attn.qkv")),
    ("gpt2", IA3(at="block.*.attn.qkv") + BitFit() + VeRA(rank=4)),
    ("gpt2", ROTATED + LoRA(rank=2)),
    ("bert", LayerNormTuning() + BitFit()),
    ("bert", BitFit() + IA3(at="block.*.attn.{k,v}")),
]


@pytest.mark.parametrize(("key", "method"), TWICE, ids=lambda value: value if isinstance(value, str) else "")
def test_edits_that_meet_are_folded_as_they_act(key: str, method: Method) -> None:
    """The order of a union, of parts and wholes, and of inputs and outputs."""
    base = tiny_base(key)
    adapter = moved_adapter(base, method)
    inputs = tiny_inputs(base)
    wanted = logits(base, adapter, inputs)
    assert_close(run(merge(base, adapter), inputs), wanted, to=1e-4)


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("llama", LoRA(rank=2) + LoRA(rank=2, dora=True)),
        ("gpt2", LoRA(rank=2) + ROTATED),
        ("bert", BitFit() + LayerNormTuning()),
    ],
    ids=["dora", "oft-of-a-part", "norms"],
)
def test_edits_that_are_no_change_of_weights_together_are_refused(key: str, method: Method) -> None:
    base = tiny_base(key)
    with pytest.raises(UnsupportedError, match="several edits of union meet, and one of them depends on the base's own weight"):
        merge(base, moved_adapter(base, method))
    with attach(base, new_adapter(base, method=Frozen())):  # nothing is left attached
        pass


@pytest.mark.parametrize("key", ["bert", "roberta", "distilbert", "modernbert", "gpt2", "llama", "t5", "bart"])
def test_a_native_head_makes_a_classifier(tmp_path: Path, key: str) -> None:
    base = tiny_base(key)
    adapter = moved_adapter(base, LoRA(rank=2, alpha=2.0), Head(pooling="native"))
    wanted, inputs = scores(base, adapter)
    merged = merge(base, adapter)
    assert merged.config.id2label == {0: "neg", 1: "pos"}
    assert_close(run(merged, inputs), wanted, to=1e-4)
    again = reloaded(merged, base, tmp_path / "m", AutoModelForSequenceClassification)
    assert_close(run(again, inputs), wanted, to=1e-4)
    assert again.config.label2id == {"neg": 0, "pos": 1}


def test_a_tied_lm_head_is_parted_from_the_embeddings() -> None:
    base = tiny_base("llama", tie_word_embeddings=True)
    merged = merge(base, moved_adapter(base, LoRA(rank=2, at="lm_head")))
    assert merged.config.tie_word_embeddings is False  # other loaders tie by the setting alone
    assert base.model.config.tie_word_embeddings is True
    assert torch.equal(merged.get_parameter("model.embed_tokens.weight"), base.model.get_parameter("model.embed_tokens.weight"))
    assert not torch.equal(merged.get_parameter("lm_head.weight"), base.model.get_parameter("lm_head.weight"))


def test_merging_draws_no_random_numbers() -> None:
    base = tiny_base("bert")
    adapter = moved_adapter(base, LoRA(rank=2), Head(pooling="native"))
    state = torch.random.get_rng_state()
    merge(base, adapter)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_other_heads_are_not_dropped_silently() -> None:
    base = tiny_base("bert")
    adapter = moved_adapter(base, LoRA(rank=2, alpha=2.0), Head())
    with pytest.raises(UnsupportedError, match=r"The Head of this adapter .*without_head=True"):
        merge(base, adapter)
    inputs = tiny_inputs(base)
    assert_close(run(merge(base, adapter, without_head=True), inputs), logits(base, adapter, inputs), to=1e-4)
    worded = moved_adapter(base, LoRA(rank=2, alpha=2.0), WORDS)  # a verbalizer has nothing to drop
    assert_close(run(merge(base, worded), inputs), logits(base, worded, inputs), to=1e-4)


@pytest.mark.parametrize(
    ("key", "method", "message"),
    [
        ("bert", Houlsby(bottleneck=2), "The method houlsby cannot be merged: it acts on states at block.0.attn"),
        ("llama", Prefix(length=2), "The method prefix cannot be merged"),
        ("llama", SoftPrompt(length=2), "The method soft_prompt cannot be merged"),
        ("albert", LoRA(rank=2), "block.0.attn.q is one of 2 calls of a module"),
        ("albert", BitFit(), "is one of 2 calls of a module"),
        ("t5", BitFit(add_missing=True), "No setting of T5ForConditionalGeneration's configuration"),
        ("qwen2", BitFit(add_missing=True), "No setting of Qwen2ForCausalLM's configuration"),
        ("bert", LoRA(rank=2, at="lm_head"), "lm_head shares its weight with other modules"),
        ("t5", LoRA(rank=2, at="lm_head"), "lm_head shares its weight with other modules"),
        ("t5", LoRA(rank=2, at="encoder.embed"), r"encoder\.embed shares its weight with other modules .* \(the LM head\)"),
        ("bert", LoRA(rank=2, at="embed"), r"embed shares its weight with other modules"),
    ],
)
def test_what_cannot_be_merged_says_why(key: str, method: Method, message: str) -> None:
    base = tiny_base(key, tie_word_embeddings=True) if message.startswith("lm_head") else tiny_base(key)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    adapter = moved_adapter(base, method)
    with pytest.raises(UnsupportedError, match=message):
        merge(base, adapter)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_a_wrong_base_is_refused() -> None:
    base, other = tiny_base("llama"), tiny_base("llama", num_hidden_layers=2)
    with pytest.raises(AdapterFileError, match=r"made for tiny-llama"):
        merge(other, moved_adapter(base, LoRA(rank=2)))


def test_a_base_with_something_attached_is_refused() -> None:
    """Its weights may be another adapter's just then."""
    base = tiny_base("bert")
    full, lora = (new_adapter(base, method=method) for method in (Full(), LoRA()))
    with attach(base, full), pytest.raises(StateError, match="attached to this base already"):
        merge(base, lora)


def test_bfloat16_weights_stay_bfloat16() -> None:
    base = tiny_base("llama")
    base.model.to(torch.bfloat16)  # type: ignore[arg-type]
    adapter = moved_adapter(base, EVERYWHERE)
    merged = merge(base, adapter)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    exact = base.linear(base.sites["block.0.attn.q"]).weight_OI.double()
    edit = adapter.edits[0]
    delta = edit.trained()["b_OK"].double() @ edit.trained()["a_KI"].double()
    assert torch.equal(merged.get_parameter("model.layers.0.self_attn.q_proj.weight"), (exact + delta).bfloat16())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    base = tiny_base("bert")
    model = merge(base, new_adapter(base, method=Frozen()))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty"):
        save_merged(model, base.tokenizer, tmp_path)
    assert saved(tmp_path) == {"notes.txt"}
