"""Tables of the encoder-decoders: T5 and umT5, BART, mBART and Marian.

Each stack has its own word-embedding module (`encoder.embed`, `decoder.embed`), although the weights of the two are
usually one tensor: an edit of one site's output leaves the other stack alone, an edit of the weight reaches both.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from transformers import PreTrainedConfig

from lmtailor.base.family import Family, LMHead, Norm, StackTable, Sublayer


def _t5_attention(layer: str, attention: str) -> Sublayer:
    return Sublayer(
        output=f"{layer}.dropout",
        entry=f"{layer}.layer_norm",
        normed=True,
        attention=f"{layer}.{attention}",
        projections={part: f"{layer}.{attention}.{part}" for part in "qkvo"},
        norms=(f"{layer}.layer_norm",),
    )


def _t5_ffn(layer: str, *, gated: bool) -> Sublayer:
    inner = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
    return Sublayer(
        output=f"{layer}.dropout",
        entry=f"{layer}.layer_norm",
        normed=True,
        projections={part: f"{layer}.DenseReluDense.{module}" for part, module in inner.items()},
        norms=(f"{layer}.layer_norm",),
    )


def _t5_scale(config: PreTrainedConfig) -> float:
    width: int = config.d_model
    return width**-0.5 if config.scale_decoder_outputs else 1.0


def _umt5_scale(config: PreTrainedConfig) -> float:
    width: int = config.d_model
    return width**-0.5 if config.tie_word_embeddings else 1.0


def t5(config: PreTrainedConfig) -> Family:
    """T5: its feed-forward network has a gate since version 1.1."""
    gated = bool(config.is_gated_act)
    encoder = StackTable(
        name="encoder",
        root="encoder",
        embed="encoder.embed_tokens",
        blocks="encoder.block",
        sublayers={"attn": _t5_attention("layer.0", "SelfAttention"), "ffn": _t5_ffn("layer.1", gated=gated)},
        final_norm="encoder.final_layer_norm",
        causal=False,
        positions="relative",
    )
    decoder = replace(
        encoder,
        name="decoder",
        root="decoder",
        embed="decoder.embed_tokens",
        blocks="decoder.block",
        sublayers={
            "attn": _t5_attention("layer.0", "SelfAttention"),
            "cross": _t5_attention("layer.1", "EncDecAttention"),
            "ffn": _t5_ffn("layer.2", gated=gated),
        },
        final_norm="decoder.final_layer_norm",
        causal=True,
    )
    return Family(
        name="t5",
        kind="encoder-decoder",
        stacks=(encoder, decoder),
        norm=Norm(kind="rms", eps="variance_epsilon"),
        lm_head=LMHead(output="lm_head", scale=_t5_scale),
        trained_length=512,
    )


def umt5(config: PreTrainedConfig) -> Family:
    """umT5: T5 with a relative position bias of its own in every block."""
    return replace(t5(config), name="umt5", lm_head=LMHead(output="lm_head", scale=_umt5_scale))


def _bart_sublayers(*, pre: bool, cross: bool) -> Mapping[str, Sublayer]:
    def attention(module: str, norm: str) -> Sublayer:
        return Sublayer(
            output=module,
            entry=norm if pre else module,
            normed=pre,
            attention=module,
            projections={part: f"{module}.{part}_proj" for part in "qkv"} | {"o": f"{module}.out_proj"},
            norms=(norm,),
            next_norm=None if pre else norm,
        )

    ffn = Sublayer(
        output="fc2",
        entry="final_layer_norm" if pre else "fc1",
        normed=pre,
        projections={"up": "fc1", "down": "fc2"},
        norms=("final_layer_norm",),
        next_norm=None if pre else "final_layer_norm",
    )
    attn = attention("self_attn", "self_attn_layer_norm")
    if not cross:
        return {"attn": attn, "ffn": ffn}
    return {"attn": attn, "cross": attention("encoder_attn", "encoder_attn_layer_norm"), "ffn": ffn}


def _bart_stack(name: str, *, pre: bool, offset: int, embed_norm: bool) -> StackTable:
    return StackTable(
        name=name,
        root=name,
        embed=f"{name}.embed_tokens",
        embed_norm=f"{name}.layernorm_embedding" if embed_norm else None,
        blocks=f"{name}.layers",
        sublayers=_bart_sublayers(pre=pre, cross=name == "decoder"),
        final_norm=f"{name}.layer_norm" if pre else None,
        causal=name == "decoder",
        positions="embedding",
        position_embedding=f"{name}.embed_positions",
        position_offset=offset,
        heads=f"{name}_attention_heads",
    )


def _bart(name: str, *, pre: bool, offset: int, embed_norm: bool) -> Family:
    stacks = tuple(_bart_stack(stack, pre=pre, offset=offset, embed_norm=embed_norm) for stack in ("encoder", "decoder"))
    return Family(
        name=name,
        kind="encoder-decoder",
        stacks=stacks,
        norm=Norm(kind="layer"),
        lm_head=LMHead(output="lm_head", bias="final_logits_bias"),
    )


BART = _bart("bart", pre=False, offset=2, embed_norm=True)
MBART = _bart("mbart", pre=True, offset=2, embed_norm=True)


def _marian_scale(config: PreTrainedConfig) -> float:
    return float(config.d_model**0.5) if config.scale_embedding else 1.0


_MARIAN = _bart("marian", pre=False, offset=0, embed_norm=False)
MARIAN = replace(
    _MARIAN,
    computed=("encoder.embed_positions", "decoder.embed_positions"),
    stacks=(replace(_MARIAN.stacks[0], embed_scale=_marian_scale), _MARIAN.stacks[1]),
)

ENCODER_DECODERS: Mapping[str, Family | Callable[[PreTrainedConfig], Family]] = {
    "t5": t5,
    "umt5": umt5,
    "bart": BART,
    "mbart": MBART,
    "marian": MARIAN,
}
