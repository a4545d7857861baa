from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BertForSequenceClassification, PreTrainedModel

from lmtailor.base import families
from lmtailor.base.base import Base, States
from lmtailor.base.decoder_families import LLAMA
from lmtailor.base.families import family_of, known_families
from lmtailor.base.family import Family
from lmtailor.core.errors import InputError, SiteError, UnsupportedError
from tests.tiny import FAMILIES, kind_of, tiny_base, tiny_config, tiny_inputs, tiny_model, tiny_tokenizer

WORDS = torch.tensor([70, 12, 33])
everyone = pytest.mark.parametrize("key", FAMILIES)


@everyone
def test_lm_logits_are_the_model_s(key: str) -> None:
    base = tiny_base(key)
    inputs = tiny_inputs(base)
    with torch.no_grad():
        expected = base.model(**inputs).logits
        states = base.hidden(inputs)
        torch.testing.assert_close(base.lm_logits(states.last_NTH), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(base.lm_logits(states.last_NTH, WORDS), expected[..., WORDS], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(base.lm_logits(states.last_NTH[1, 2], WORDS), expected[1, 2, WORDS], rtol=1e-6, atol=1e-6)


@everyone
def test_lm_features_times_output_embeddings_are_the_logits(key: str) -> None:
    base = tiny_base(key)
    with torch.no_grad():
        states_NTH = base.hidden(tiny_inputs(base)).last_NTH
        logits_2V = base.lm_features(states_NTH[0, :2]) @ base.linear(base.sites["lm_head"]).weight_OI.T
        cap = getattr(base.model.config, base.family.lm_head.softcap or "", None)
        expected_2V = base.lm_logits(states_NTH[0, :2])
        expected_2V = expected_2V if cap is None else torch.atanh(expected_2V / cap) * cap
    biases_2V = expected_2V - logits_2V
    torch.testing.assert_close(biases_2V[0], biases_2V[1], rtol=1e-4, atol=1e-4)
    assert logits_2V.std() > 10 * (biases_2V[0] - biases_2V[1]).abs().max()


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("t5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("llama", {"tie_word_embeddings": True}),
        ("bert", {"tie_word_embeddings": False}),
    ],
)
def test_lm_logits_of_variants(key: str, overrides: dict[str, Any]) -> None:
    base = tiny_base(key, **overrides)
    inputs = tiny_inputs(base)
    with torch.no_grad():
        expected = base.model(**inputs).logits
        last = base.hidden(inputs).last_NTH
        torch.testing.assert_close(base.lm_logits(last), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(base.lm_logits(last, WORDS), expected[..., WORDS], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", ["bert", "llama", "bart", "t5"])
def test_few_words_do_not_need_the_whole_vocabulary(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(key)
    output = base.module(base.sites["lm_head"].module)
    last = base.hidden(tiny_inputs(base)).last_NTH
    expected = base.lm_logits(last)[..., WORDS]

    def fail(x: Tensor) -> Tensor:
        raise AssertionError("the whole vocabulary was computed")

    monkeypatch.setattr(output, "forward", fail)
    torch.testing.assert_close(base.lm_logits(last, WORDS), expected)


@pytest.mark.parametrize("pre", [False, True])
def test_hooks_on_the_lm_head_act_on_few_words_too(pre: bool) -> None:
    base = tiny_base("bert")
    output = base.module(base.sites["lm_head"].module)
    last = base.hidden(tiny_inputs(base)).last_NTH
    plain = base.lm_logits(last, WORDS)

    def double(module: nn.Module, args: Any) -> Any:
        return (2 * args[0],)

    def add(module: nn.Module, args: Any, y: Tensor) -> Tensor:
        return y + 3

    handle = output.register_forward_pre_hook(double) if pre else output.register_forward_hook(add)
    hooked, whole = base.lm_logits(last, WORDS), base.lm_logits(last)
    handle.remove()
    torch.testing.assert_close(hooked, whole[..., WORDS])
    assert not torch.allclose(hooked, plain)
    assert pre or torch.allclose(hooked, plain + 3)


def test_a_model_without_lm_head_says_so() -> None:
    base = tiny_base("bert", head=False)
    assert not base.has_lm_head
    assert base.vocab_size == len(tiny_tokenizer())
    with pytest.raises(UnsupportedError, match=r"tiny-bert has no LM head"):
        base.lm_logits(torch.zeros(1, 48))


@everyone
def test_hidden_gives_the_blocks_outputs(key: str) -> None:
    base = tiny_base(key)
    inputs = tiny_inputs(base)
    with torch.no_grad():
        states = base.hidden(inputs, layers=(0, 1, 2, 3, -1))
        reference = base.trunk(**inputs, output_hidden_states=True)
    hidden = reference.decoder_hidden_states if base.kind == "encoder-decoder" else reference.hidden_states
    torch.testing.assert_close(states.last_NTH, reference.last_hidden_state, rtol=0, atol=0)
    assert list(states.layers) == [0, 1, 2, 3, -1]
    for layer in (0, 1, 2):
        torch.testing.assert_close(states.layers[layer], hidden[layer + 1], rtol=0, atol=0)
    assert torch.equal(states.layers[3], states.layers[-1])
    if "final_norm" in base.sites or "decoder.final_norm" in base.sites:
        norm = base.sites["decoder.final_norm" if base.kind == "encoder-decoder" else "final_norm"]
        torch.testing.assert_close(base.module(norm.module)(states.layers[3]), states.last_NTH)
    else:
        assert torch.equal(states.layers[3], states.last_NTH)


def test_hidden_sees_what_hooks_made_of_a_block_s_output() -> None:
    base = tiny_base("albert")
    inputs = tiny_inputs(base)
    site = base.sites["block.1"]
    calls = []

    def second(module: nn.Module, args: Any, y: Tensor) -> Tensor | None:
        calls.append(1)
        return y + 5 if len(calls) == 2 else None

    plain = base.hidden(inputs, (0, 1))
    with base.module(site.module).register_forward_hook(second):
        edited = base.hidden(inputs, (0, 1))
    assert torch.equal(edited.layers[0], plain.layers[0])
    assert torch.equal(edited.layers[1], plain.layers[1] + 5)
    assert not any(module._forward_hooks for module in base.model.modules() if type(module).__name__ == "AlbertLayer")


@everyone
def test_hidden_calls_the_roots(key: str) -> None:
    base = tiny_base(key)
    called: list[str] = []
    for stack in base.stacks:
        base.module(stack.root).register_forward_hook(lambda m, a, y, name=stack.name: called.append(name))
    base.hidden(tiny_inputs(base))
    assert called == [stack.name for stack in base.stacks]


def test_a_block_that_is_not_there() -> None:
    base = tiny_base("bert")
    for layer in (4, -5):
        with pytest.raises(InputError, match=f"There is no block {layer}: the model has 4"):
            base.hidden(tiny_inputs(base), (layer,))


def test_states_of_some_rows() -> None:
    states = States(last_NTH=torch.arange(6.0)[:, None, None], layers={1: torch.arange(6.0)[:, None, None] * 2})
    chosen = states.select([2, 0], 3)
    assert chosen.last_NTH.flatten().tolist() == [4, 5, 0, 1]
    assert chosen.layers[1].flatten().tolist() == [8, 10, 0, 2]


@pytest.mark.parametrize("key", ["t5", "umt5"])
def test_the_trunk_of_t5_is_a_shell_around_the_model(key: str) -> None:
    model = tiny_model(key)
    base = Base.from_model(model, tiny_tokenizer("encoder-decoder"))
    ours = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in base.trunk.parameters()} <= ours
    assert not any(parameter.is_meta for parameter in base.trunk.parameters())
    model.to(torch.float64)
    assert base.trunk.dtype == torch.float64
    assert base.hidden(tiny_inputs(base)).last_NTH.dtype == torch.float64
    assert base.dtype == torch.float64
    assert base.device == torch.device("cpu")


@everyone
def test_a_base_is_frozen_and_in_eval_mode(key: str) -> None:
    model = tiny_model(key)
    model.train(True)
    base = Base.from_model(model, tiny_tokenizer(kind_of(key)))
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not any(module.training for module in (*base.model.modules(), *base.trunk.modules()))
    assert base.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert base.kind == kind_of(key)


def test_sizes() -> None:
    base = tiny_base("albert")
    assert (base.hidden_size, base.output_size, base.sites["embed"].width) == (48, 48, 32)
    assert base.vocab_size == len(base.tokenizer)
    marian = tiny_base("marian", share_encoder_decoder_embeddings=False, decoder_vocab_size=401)
    assert marian.vocab_size == 401


@pytest.mark.parametrize(
    ("key", "overrides", "tokenizer_limit", "expected"),
    [
        ("bert", {}, 64, 64),
        ("bert", {}, 10**30, 128),
        ("roberta", {}, 10**30, 127),
        ("opt", {}, 10**30, 128),
        ("bart", {}, 1000, 128),
        ("llama", {"max_position_embeddings": 4096}, 10**30, 4096),
        ("t5", {}, 10**30, 512),
        ("t5", {}, 1024, 1024),
    ],
)
def test_the_longest_input(key: str, overrides: dict[str, Any], tokenizer_limit: int, expected: int) -> None:
    tokenizer = tiny_tokenizer(kind_of(key))
    tokenizer.model_max_length = tokenizer_limit
    assert Base.from_model(tiny_model(key, **overrides), tokenizer).max_length == expected


def test_a_tokenizer_without_padding_pads_with_the_end() -> None:
    tokenizer = tiny_tokenizer("decoder")
    tokenizer.pad_token = None
    base = Base.from_model(tiny_model("gpt2"), tokenizer)
    assert base.tokenizer.pad_token == "</s>"
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(InputError, match="neither a padding nor an end-of-text token"):
        Base.from_model(tiny_model("gpt2"), tokenizer)


def test_poolers() -> None:
    assert tiny_base("bert").pooler is None
    pooler = tiny_base("bert", head=False).pooler
    assert pooler is not None
    assert pooler(torch.zeros(2, 3, 48)).shape == (2, 48)
    assert tiny_base("llama").pooler is None


def test_another_head_is_not_used() -> None:
    model = BertForSequenceClassification(tiny_config("bert"))
    base = Base.from_model(model, tiny_tokenizer())
    assert not base.has_lm_head
    assert base.trunk is model.bert
    assert base.pooler is model.bert.pooler
    assert base.sites["block.0"].module == "bert.encoder.layer.0"


def test_views_of_the_wrong_kind() -> None:
    base = tiny_base("bert")
    with pytest.raises(InputError, match=r"block\.0\.norm1 is a norm site"):
        base.linear(base.sites["block.0.norm1"])
    with pytest.raises(InputError, match=r"block\.0\.attn\.q is a projection site, not a norm"):
        base.norm(base.sites["block.0.attn.q"])
    with pytest.raises(InputError, match=r"BertForMaskedLM has no module 'bert\.nothing'"):
        base.module("bert.nothing")


def other_llama() -> PreTrainedModel:
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6}
    config = AutoConfig.for_model(
        "seed_oss", vocab_size=400, head_dim=8, num_key_value_heads=2, pad_token_id=0, attention_out_bias=False, **shape
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


def test_an_unknown_architecture_lists_the_known_and_how_to_add_one() -> None:
    with pytest.raises(UnsupportedError, match=r"'seed_oss' is not known.*bert, roberta.*marian.*family=.*lmtailor\.families"):
        Base.from_model(other_llama(), tiny_tokenizer("decoder"))


def test_a_table_can_be_given() -> None:
    base = Base.from_model(other_llama(), tiny_tokenizer("decoder"), family=replace(LLAMA, name="seed_oss"))
    assert base.sites["block.1.attn.q"].width == 48
    inputs = tiny_inputs(base)
    logits = base.lm_logits(base.hidden(inputs).last_NTH)
    torch.testing.assert_close(logits, base.model(**inputs).logits)


def test_a_table_can_be_announced_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "seed_oss"

        def load(self) -> Family:
            return replace(LLAMA, name="seed_oss")

    def points(*, group: str, name: str | None = None) -> list[Point]:
        assert group == "lmtailor.families"
        return [Point()] if name in (None, "seed_oss") else []

    monkeypatch.setattr(families, "entry_points", points)
    assert family_of(other_llama().config).name == "seed_oss"
    assert known_families()[-1] == "seed_oss"


def test_a_table_that_does_not_fit_names_family_site_and_path() -> None:
    stack = LLAMA.stacks[0]
    ffn = replace(stack.sublayers["ffn"], projections={"up": "mlp.nothing", "down": "mlp.down_proj"})
    broken = replace(LLAMA, name="seed_oss", stacks=(replace(stack, sublayers={**stack.sublayers, "ffn": ffn}),))
    with pytest.raises(
        SiteError, match=r"seed_oss puts block\.0\.ffn\.up at 'model\.layers\.0\.mlp\.nothing'.*SeedOssForCausalLM"
    ):
        Base.from_model(other_llama(), tiny_tokenizer("decoder"), family=broken)
    wrong = replace(LLAMA, stacks=(replace(stack, final_norm="layers"),))
    with pytest.raises(SiteError, match=r"embed at 'model\.norm', where it wants a Embedding.*SeedOssRMSNorm"):
        Base.from_model(other_llama(), tiny_tokenizer("decoder"), family=replace(wrong, stacks=(replace(stack, embed="norm"),)))
    model = other_llama()
    model.config.num_key_value_heads = 3
    with pytest.raises(SiteError, match=r"block\.0\.attn\.k of llama.*has 16 features, but the configuration makes it 24"):
        Base.from_model(model, tiny_tokenizer("decoder"), family=LLAMA)


@pytest.mark.parametrize(
    ("key", "overrides", "says"),
    [
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "attends in both directions"),
        ("gpt2", {"add_cross_attention": True}, "cross-attention added"),
    ],
)
def test_settings_that_the_tables_do_not_describe(key: str, overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        family_of(tiny_config(key, **overrides))


def test_the_multimodal_gemma_says_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match=r"multimodal Gemma 3.*gemma3_text"):
        family_of(AutoConfig.for_model("gemma3"))


def test_stacks_that_share_one_embedding_module_are_refused() -> None:
    model = tiny_model("bart")
    model.set_input_embeddings(model.get_input_embeddings())
    with pytest.raises(UnsupportedError, match=r"encoder\.embed and decoder\.embed of this bart model are one module"):
        Base.from_model(model, tiny_tokenizer("encoder-decoder"))
