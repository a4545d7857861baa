"""Tiny random models of every family, and tokenizers for them, made in memory.

The weights are far from their initial values, so that no norm is an identity and no bias is zero. Every call gives
a model of its own: a test may change it.
"""

import copy
import functools
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lmtailor.base.base import Base
from lmtailor.base.families import BUILT_IN
from lmtailor.base.family import Family, Kind

FAMILIES: tuple[str, ...] = tuple(BUILT_IN)
"""Model types of all families."""

_ALIASES = {"xlm_roberta": "xlm-roberta", "gemma3": "gemma3_text"}
_ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "modernbert")
_ENCODER_DECODERS = ("t5", "umt5", "bart", "mbart", "marian")

SPECIALS = ("[PAD]", "<s>", "</s>", "[UNK]", "[MASK]", "[CLS]", "[SEP]", "<extra_id_0>", "<extra_id_1>")
"""Special tokens of every tokenizer, whose ids are their places here."""

_WORDS = (
    "a an and answer awful bad best book boring but cat dog entailment fun good gripping great happy i in is it "
    "like love maybe movie neutral no not of on positive negative sad sat sentiment review so terrible text that the this "
    "to very was worst yes you"
).split()

_TEXT = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=6, max_position_embeddings=128)
_GROUPED = dict(_TEXT, num_key_value_heads=2)
_SEQ2SEQ = dict(
    d_model=48,
    encoder_layers=4,
    decoder_layers=4,
    encoder_attention_heads=6,
    decoder_attention_heads=3,
    encoder_ffn_dim=64,
    decoder_ffn_dim=72,
    max_position_embeddings=128,
    decoder_start_token_id=2,
    forced_eos_token_id=None,
)
_T5 = dict(d_model=48, d_kv=8, d_ff=64, num_layers=4, num_heads=6, decoder_start_token_id=0)
_SHAPES: dict[str, dict[str, Any]] = {
    "bert": _TEXT,
    "roberta": _TEXT,
    "xlm-roberta": _TEXT,
    "distilbert": dict(dim=48, hidden_dim=64, n_layers=4, n_heads=6, max_position_embeddings=128),
    "electra": dict(_TEXT, embedding_size=32),
    "albert": dict(_TEXT, embedding_size=32, num_hidden_groups=2),
    "modernbert": dict(_TEXT, local_attention=8, global_attn_every_n_layers=2, cls_token_id=5, sep_token_id=6),
    "gpt2": dict(n_embd=48, n_layer=4, n_head=6, n_positions=128),
    "gpt_neox": _TEXT,
    "opt": dict(
        hidden_size=48,
        word_embed_proj_dim=48,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=128,
    ),
    "llama": _GROUPED,
    "mistral": dict(_GROUPED, sliding_window=6),
    "qwen2": _GROUPED,
    "qwen3": dict(_GROUPED, head_dim=16),
    "gemma2": dict(_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=6),
    "gemma3_text": dict(_GROUPED, head_dim=16, query_pre_attn_scalar=16, sliding_window=6, sliding_window_pattern=2),
    "phi3": _GROUPED,
    "smollm3": _GROUPED,
    "t5": _T5,
    "umt5": dict(_T5, d_kv=16),
    "bart": _SEQ2SEQ,
    "mbart": _SEQ2SEQ,
    "marian": dict(_SEQ2SEQ, scale_embedding=True),
}


def kind_of(key: str) -> Kind:
    """encoder, decoder or encoder-decoder."""
    key = _ALIASES.get(key, key)
    if key in _ENCODERS:
        return "encoder"
    return "encoder-decoder" if key in _ENCODER_DECODERS else "decoder"


def tiny_config(key: str, **overrides: Any) -> Any:
    """The configuration of a tiny model: hidden size 48, 4 blocks, 6 heads, 2 key heads where grouped, no dropout."""
    key = _ALIASES.get(key, key)
    tokenizer = tiny_tokenizer(kind_of(key))
    common = dict(vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = AutoConfig.for_model(key, **{**common, **_SHAPES[key], **overrides})
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float) and name not in overrides:
            setattr(config, name, 0.0)
    return config


def tiny_model(key: str, *, head: bool = True, **overrides: Any) -> Any:
    """A tiny random model in eval mode, with LM head or without; `overrides` go to its configuration."""
    return copy.deepcopy(_model(_ALIASES.get(key, key), head, tuple(sorted(overrides.items()))))


@functools.cache
def _model(key: str, head: bool, overrides: tuple[tuple[str, Any], ...]) -> PreTrainedModel:
    auto = {"encoder": AutoModelForMaskedLM, "decoder": AutoModelForCausalLM, "encoder-decoder": AutoModelForSeq2SeqLM}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(key.encode()))
        kind = auto[kind_of(key)] if head else AutoModel
        model: PreTrainedModel = kind.from_config(tiny_config(key, **dict(overrides)))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            for name, buffer in model.named_buffers():
                if name == "final_logits_bias":
                    buffer.add_(0.1 * torch.randn_like(buffer))
    model.train(False)
    return model


def tiny_tokenizer(kind: Kind = "encoder") -> PreTrainedTokenizerFast:
    """A tokenizer made in memory.

    Encoders: lower-case word pieces, in which some words are one token and all others fall into letters; [CLS] … [SEP].
    Decoders: byte-level pairs, in which some words with a space before them are one token; nothing is added.
    Encoder-decoders: likewise, with </s> at the end.
    """
    return copy.deepcopy(_tokenizer(kind))


@functools.cache
def _tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    inner = _word_pieces() if kind == "encoder" else _byte_pairs()
    names = dict(pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", eos_token="</s>")
    if kind == "encoder":
        template = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", SPECIALS.index("[CLS]")), ("[SEP]", SPECIALS.index("[SEP]"))],
        )
        names |= dict(mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]")
        inner.post_processor = template
    if kind == "encoder-decoder":
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", SPECIALS.index("</s>"))]
        )
        names |= dict(mask_token="[MASK]")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, model_max_length=128, padding_side="right", **names
    )


def _word_pieces() -> Tokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    entries = [*SPECIALS, *_WORDS, *letters.replace("a", "").replace("i", ""), *(f"##{c}" for c in letters), *".,:;!?'\"()-/"]
    tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def _byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" " + " ".join(_WORDS)] * 2, trainer)
    return tokenizer


def tiny_base(key: str, *, head: bool = True, **overrides: Any) -> Base:
    """A `Base` of a tiny model of a family."""
    return Base.from_model(tiny_model(key, head=head, **overrides), tiny_tokenizer(kind_of(key)), source=f"tiny-{key}")


def tiny_inputs(base: Base, *, rows: int = 3, tokens: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of random ids; the second row is padded on the right by two tokens; encoder-decoders get decoder ids."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(SPECIALS), base.vocab_size, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if rows > 1 and tokens > 2:
        ids[1, -2:] = 0
        mask[1, -2:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if base.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.randint(len(SPECIALS), base.vocab_size, (rows, tokens - 2), generator=generator)
    return inputs


__all__ = ["FAMILIES", "SPECIALS", "Family", "kind_of", "tiny_base", "tiny_config", "tiny_inputs", "tiny_model", "tiny_tokenizer"]
