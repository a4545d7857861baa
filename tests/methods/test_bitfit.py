"""BitFit: which biases, by the names of the model's own parameters."""

import copy

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.bitfit import BitFit
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.tiny import FAMILIES, tiny_inputs

NO_SITES = ("pooler",)
"""Parts of names of the trunk's projections that are no sites: what only a pooled answer needs."""
NO_PROJECTIONS = (
    "word_embeddings",
    "position_embeddings",
    "token_type_embeddings",
    "embed_",
    "shared",
    "wte",
    "wpe",
    "relative_attention_bias",
)


def biases(base: Base) -> dict[str, torch.Tensor]:
    """The trunk's bias terms by their own names."""
    named = base.trunk.named_parameters()
    return {name: value for name, value in named if name.endswith("bias") and not any(part in name for part in NO_SITES)}


def count(method: BitFit, base: Base) -> int:
    """Numbers in the trunk's biases; of its projections without one, the outputs."""
    if method.which == "query_and_mlp":
        config = base.model.config.to_dict()
        if base.kind == "encoder-decoder":
            return sum(
                config[f"{side}_layers"] * (config["d_model"] + config[f"{side}_ffn_dim"]) for side in ("encoder", "decoder")
            )
        inner = config.get("intermediate_size") or 4 * base.hidden_size
        return int(len(base.read.blocks) * (base.hidden_size + inner))
    own = biases(base)
    missing = [
        value.shape[0]
        for name, value in base.trunk.named_parameters()
        if name.endswith(".weight") and value.ndim == 2 and name.replace("weight", "bias") not in own
        if not any(part in name for part in (*NO_SITES, *NO_PROJECTIONS))
    ]
    return sum(value.numel() for value in own.values()) + (sum(missing) if method.add_missing else 0)


def test_the_count_by_hand() -> None:
    """BERT: a norm of the embeddings; in each of 4 blocks q, k, v, o, up to 64, down, and two norms."""
    assert BitFit().edits(base_of("bert").sites, None).num_parameters == 48 + 4 * (4 * 48 + 64 + 48 + 2 * 48)
    assert BitFit(which="query_and_mlp").edits(base_of("bert").sites, None).num_parameters == 4 * (48 + 64)
    assert BitFit(add_missing=True).edits(base_of("llama").sites, None).num_parameters == 4 * (48 + 16 + 16 + 48 + 64 + 64 + 48)


@pytest.mark.parametrize("key", FAMILIES)
def test_it_is_a_change_of_every_bias(key: str) -> None:
    """The same numbers added to a copy of the model's own biases."""
    base = base_of(key)
    if not biases(base):
        with pytest.raises(UnsupportedError, match=f"{base.sites.model_type} has no bias terms to train. Set add_missing=true"):
            BitFit().edits(base.sites, None)
        return
    edits = perturbed(BitFit().edits(base.sites, generator(0)))
    if key == "albert":  # a shared block has one bias, and a change of it for each call
        assert edits.num_parameters > count(BitFit(), base)
        return
    assert edits.num_parameters == count(BitFit(), base)
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for edit in edits:
            (delta,) = edit.trained().values()
            model.get_submodule(base.sites[edit.site].module).get_parameter("bias").add_(delta)
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


def test_the_small_variant_has_the_query_and_the_first_bias_of_the_network() -> None:
    base = base_of("bert")
    paths = [base.sites[edit.site].module for edit in BitFit(which="query_and_mlp").edits(base.sites, None)]
    block = "bert.encoder.layer.{}"
    assert paths == [
        path
        for number in range(4)
        for path in (f"{block.format(number)}.attention.self.query", f"{block.format(number)}.intermediate.dense")
    ]
