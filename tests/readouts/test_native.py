"""The families' own heads, against transformers' own models on the same weights."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.readouts.head import Head, HeadReading
from lmtailor.readouts.labels import LabelSet
from tests.readouts.examples import PAIRS, SCALE, SENTIMENT, pairs, sentences
from tests.tiny import FAMILIES, tiny_base

NATIVE = [family for family in FAMILIES if family != "marian"]


def reference(base: Base, reading: HeadReading) -> torch.nn.Module:
    """transformers' own model with the base's trunk and the reading's tensors."""
    config = type(base.model.config).from_dict(base.model.config.to_dict())
    config.num_labels = reading.label_set.num_outputs
    model = AutoModelForSequenceClassification.from_config(config).eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)  # as the base: torch chooses another attention kernel where a position bias needs gradients
    model.base_model.load_state_dict(base.trunk.state_dict(), strict=False)
    result = model.load_state_dict(dict(reading.parameters()), strict=False)
    trunk = model.base_model_prefix
    assert not result.unexpected_keys  # the names are the family's own
    assert all(name.startswith(f"{trunk}.") for name in result.missing_keys)  # and all of them
    assert isinstance(model, torch.nn.Module)
    return model


@pytest.mark.parametrize("key", NATIVE)
@pytest.mark.parametrize("labels", [SENTIMENT, PAIRS, SCALE], ids=["one text", "a pair", "regression"])
def test_native_heads_give_the_logits_of_the_family_itself(key: str, labels: LabelSet) -> None:
    base = tiny_base(key)
    bound = Head(pooling="native").bind(base, labels, generator(0, key))
    moved = {name: value + 0.1 * torch.randn_like(value) for name, value in bound.parameters().items()}  # no bias is zero
    reading = bound.with_parameters(moved)
    batch = reading.collate([reading.encode(example) for example in (sentences() if labels is SENTIMENT else pairs())])
    scores = reading.scores(base, base.hidden(batch.inputs), batch)
    given = {name: value for name, value in batch.inputs.items() if name != "decoder_input_ids"}  # the family shifts them itself
    if labels is not SENTIMENT and base.kind == "encoder-decoder":
        assert (batch.inputs["input_ids"] == base.tokenizer.eos_token_id).sum() == 8  # two a pair; the last one is read
    torch.testing.assert_close(scores, reference(base, reading)(**given).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_pools_as_its_configuration_says(pooling: str) -> None:
    base = tiny_base("modernbert", classifier_pooling=pooling, classifier_bias=True, norm_bias=True)
    reading = Head(pooling="native").bind(base, SENTIMENT, generator(0))
    assert reading.pooled == pooling
    assert {"head.dense.bias", "head.norm.bias"} <= set(reading.parameters())
    batch = reading.collate([reading.encode(example) for example in sentences()])
    torch.testing.assert_close(
        reading.scores(base, base.hidden(batch.inputs), batch),
        reference(base, reading)(**batch.inputs).logits,
        rtol=1e-6,
        atol=1e-6,
    )


def test_opt_with_a_projection_after_its_blocks() -> None:
    base = tiny_base("opt", word_embed_proj_dim=32)
    reading = Head(pooling="native").bind(base, SENTIMENT, generator(0))
    assert reading.parameters()["score.weight"].shape == (2, 32)
    batch = reading.collate([reading.encode(example) for example in sentences()])
    torch.testing.assert_close(
        reading.scores(base, base.hidden(batch.inputs), batch), reference(base, reading)(**batch.inputs).logits
    )
    at_block = Head(layer=-1).bind(base, SENTIMENT, generator(0))
    assert at_block.parameters()["head.weight"].shape == (2, 48)
    assert at_block.scores(base, base.hidden(batch.inputs, at_block.layers), batch).shape == (4, 2)


@pytest.mark.parametrize(
    ("key", "name", "own"),
    [("bert", "bert.pooler.dense.weight", "dense.weight"), ("albert", "albert.pooler.bias", "bias")],
)
def test_the_checkpoints_pooler_is_the_start(key: str, name: str, own: str) -> None:
    base = tiny_base(key, head=False)
    assert base.pooler is not None
    tensors = Head(pooling="native").bind(base, SENTIMENT, generator(0)).parameters()
    held = base.pooler.get_parameter(own)
    assert torch.equal(tensors[name], held)
    assert tensors[name].data_ptr() != held.data_ptr()
    assert tensors[name].requires_grad
    assert not held.requires_grad


def test_the_layer_before_modernberts_lm_head_is_the_start() -> None:
    base = tiny_base("modernbert")
    tensors = Head(pooling="native").bind(base, SENTIMENT, generator(0)).parameters()
    assert torch.equal(tensors["head.dense.weight"], base.model.get_parameter("head.dense.weight"))


@pytest.mark.parametrize(
    ("key", "name", "std"), [("roberta", "classifier.dense.weight", 0.02), ("t5", "classification_head.dense.weight", 48**-0.5)]
)
def test_the_start_is_the_familys(key: str, name: str, std: float) -> None:
    tensors = Head(pooling="native").bind(tiny_base(key), SENTIMENT, generator(0)).parameters()
    assert tensors[name].std().item() == pytest.approx(std, rel=0.1)
    assert all(not value.any() for key, value in tensors.items() if key.endswith("bias"))


def test_modernbert_starts_from_cut_off_normals() -> None:
    many = LabelSet(kind="classification", labels=tuple(map(str, range(60))), texts=("sentence",))
    tensors = Head(pooling="native").bind(tiny_base("modernbert", head=False), many, generator(0)).parameters()
    for name, std in {"head.dense.weight": 0.02 / 8**0.5, "classifier.weight": 48**-0.5}.items():
        assert tensors[name].abs().max().item() <= 2 * std  # its initializer_cutoff_factor
        assert tensors[name].std().item() == pytest.approx(0.88 * std, rel=0.04)  # that of a normal cut off at two


def test_the_familys_dropout_is_the_default() -> None:
    base = tiny_base("roberta", hidden_dropout_prob=0.3)
    assert Head(pooling="native").bind(base, SENTIMENT, generator(0)).drop == 0.3
    assert Head(pooling="native", dropout=0.0).bind(base, SENTIMENT, generator(0)).drop == 0.0
    assert Head(pooling="native").bind(tiny_base("roberta", classifier_dropout=0.2), SENTIMENT, generator(0)).drop == 0.2
    assert Head().bind(base, SENTIMENT, generator(0)).drop == 0.0


def test_a_family_without_a_head_says_so() -> None:
    with pytest.raises(UnsupportedError, match="marian has no sequence-classification head"):
        Head(pooling="native").bind(tiny_base("marian"), SENTIMENT, generator(0))
    assert Head().bind(tiny_base("marian"), SENTIMENT, generator(0)).pooled == "last"


def test_a_tokenizer_that_ends_no_text_is_refused_where_the_end_is_read() -> None:
    base = tiny_base("bart")
    base.tokenizer._tokenizer.post_processor = None
    with pytest.raises(InputError, match="puts none after the text"):
        Head(pooling="native").bind(base, SENTIMENT, generator(0)).encode(sentences()[0])
