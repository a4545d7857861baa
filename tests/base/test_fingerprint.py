import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.base.fingerprint import SAMPLE, fingerprint
from tests.tiny import FAMILIES, kind_of, tiny_base, tiny_inputs, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("key", FAMILIES)
def test_rounding_does_not_change_it(key: str) -> None:
    exact = tiny_base(key).fingerprint
    for dtype in (torch.bfloat16, torch.float16):
        rounded = tiny_model(key).to(dtype)
        assert Base.from_model(rounded, tiny_tokenizer(kind_of(key))).fingerprint == exact


def test_numbers_that_vanish_keep_their_sign() -> None:
    model = tiny_model("llama", head=False)
    weight = model.layers[0].mlp.up_proj.weight.data
    weight *= 1e-12
    before = fingerprint(model)
    model.to(torch.float16)
    assert (model.layers[0].mlp.up_proj.weight == 0).all()
    assert fingerprint(model) == before


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "t5", "bart"])
def test_the_head_does_not_change_it(key: str) -> None:
    whole, bare = tiny_model(key), tiny_model(key, head=False)
    bare.load_state_dict(Base.from_model(whole, tiny_tokenizer(kind_of(key))).trunk.state_dict(), strict=False)
    headless = Base.from_model(bare, tiny_tokenizer(kind_of(key)))
    assert whole is not bare
    assert headless.fingerprint == Base.from_model(whole, tiny_tokenizer(kind_of(key))).fingerprint


def test_it_does_not_depend_on_the_pooler() -> None:
    model = tiny_model("bert", head=False)
    before = fingerprint(model)
    model.pooler.dense.weight.data.neg_()
    assert fingerprint(model) == before


def test_other_weights_shapes_and_families_differ() -> None:
    seen = {tiny_base(key).fingerprint for key in FAMILIES}
    assert len(seen) == len(FAMILIES)
    model = tiny_model("bert")
    torch.nn.init.normal_(model.bert.encoder.layer[0].attention.self.query.weight)
    assert fingerprint(model.bert) not in seen
    assert tiny_base("bert", intermediate_size=72).fingerprint not in seen


def test_one_step_of_training_changes_it() -> None:
    base = tiny_base("bert")
    model = tiny_model("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(**tiny_inputs(base), labels=tiny_inputs(base)["input_ids"]).loss.backward()
    optimizer.step()
    assert fingerprint(model.bert) != base.fingerprint


def test_large_tensors_are_sampled_all_over() -> None:
    model = tiny_model("llama", head=False, vocab_size=3 * SAMPLE // 48 + 1)
    before = fingerprint(model)
    weight = model.get_input_embeddings().weight.data
    assert weight.numel() > 2 * SAMPLE
    for half in (weight[:, :24], weight[:, 24:], weight[: len(weight) // 2], weight[len(weight) // 2 :]):
        half.neg_()
        assert fingerprint(model) != before
        half.neg_()
    assert fingerprint(model) == before
