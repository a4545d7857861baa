"""Tables of the decoders: GPT-2, GPT-NeoX, OPT, and Llama with its kin."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from transformers import PreTrainedConfig

from lmtailor.base.family import Family, Fused, LMHead, Norm, StackTable, Sublayer

_HEAD = LMHead(output="lm_head")

GPT2 = Family(
    name="gpt2",
    kind="decoder",
    stacks=(
        StackTable(
            embed="wte",
            blocks="h",
            sublayers={
                "attn": Sublayer(
                    output="attn",
                    entry="ln_1",
                    normed=True,
                    attention="attn",
                    projections={"o": "attn.c_proj"},
                    fused=("qkv", Fused(module="attn.c_attn", parts=("q", "k", "v"))),
                    norms=("ln_1",),
                ),
                "ffn": Sublayer(
                    output="mlp",
                    entry="ln_2",
                    normed=True,
                    projections={"up": "mlp.c_fc", "down": "mlp.c_proj"},
                    norms=("ln_2",),
                ),
            },
            final_norm="ln_f",
            causal=True,
            positions="argument",
            position_embedding="wpe",
        ),
    ),
    norm=Norm(kind="layer"),
    lm_head=_HEAD,
)

GPT_NEOX = Family(
    name="gpt_neox",
    kind="decoder",
    stacks=(
        StackTable(
            embed="embed_in",
            blocks="layers",
            sublayers={
                "attn": Sublayer(
                    output="post_attention_dropout",
                    entry="input_layernorm",
                    normed=True,
                    attention="attention",
                    projections={"o": "attention.dense"},
                    fused=("qkv", Fused(module="attention.query_key_value", parts=("q", "k", "v"), per_head=True)),
                    norms=("input_layernorm",),
                ),
                "ffn": Sublayer(
                    output="post_mlp_dropout",
                    entry="post_attention_layernorm",
                    normed=True,
                    projections={"up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
                    norms=("post_attention_layernorm",),
                ),
            },
            final_norm="final_layer_norm",
            causal=True,
            positions="argument",
        ),
    ),
    norm=Norm(kind="layer"),
    lm_head=_HEAD,
)


def opt(config: PreTrainedConfig) -> Family:
    """OPT: pre-norm, but post-norm in the 350M model, which also projects its embeddings in and its states out."""
    pre = bool(config.do_layer_norm_before)
    attention_norm, ffn_norm = "self_attn_layer_norm", "final_layer_norm"
    projects = config.word_embed_proj_dim != config.hidden_size
    stack = StackTable(
        root="decoder",
        embed="decoder.embed_tokens",
        blocks="decoder.layers",
        sublayers={
            "attn": Sublayer(
                output="self_attn",
                entry=attention_norm if pre else "self_attn",
                normed=pre,
                attention="self_attn",
                projections={
                    "q": "self_attn.q_proj",
                    "k": "self_attn.k_proj",
                    "v": "self_attn.v_proj",
                    "o": "self_attn.out_proj",
                },
                norms=(attention_norm,),
                next_norm=None if pre else attention_norm,
            ),
            "ffn": Sublayer(
                output="fc2",
                entry=ffn_norm if pre else "fc1",
                normed=pre,
                projections={"up": "fc1", "down": "fc2"},
                norms=(ffn_norm,),
                next_norm=None if pre else ffn_norm,
            ),
        },
        final_norm="decoder.final_layer_norm" if pre and not config._remove_final_layer_norm else None,
        project_in="decoder.project_in" if projects else None,
        project_out="decoder.project_out" if projects else None,
        causal=True,
        positions="mask",
        position_embedding="decoder.embed_positions",
        position_offset=2,
    )
    return Family(name="opt", kind="decoder", stacks=(stack,), norm=Norm(kind="layer"), lm_head=_HEAD)


def sliding_window(config: PreTrainedConfig, block: int) -> int | None:
    """All blocks share the configuration's window."""
    window: int | None = config.sliding_window
    return window


def window_by_layer_type(config: PreTrainedConfig, block: int) -> int | None:
    """The configuration's window in the blocks whose type is `sliding_attention`."""
    return sliding_window(config, block) if config.layer_types[block] == "sliding_attention" else None


_LLAMA_ATTENTION = Sublayer(
    output="self_attn",
    entry="input_layernorm",
    normed=True,
    attention="self_attn",
    projections={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
    },
    norms=("input_layernorm",),
)
_LLAMA_FFN = Sublayer(
    output="mlp",
    entry="post_attention_layernorm",
    normed=True,
    projections={"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"},
    norms=("post_attention_layernorm",),
)
_LLAMA_STACK = StackTable(
    embed="embed_tokens",
    blocks="layers",
    sublayers={"attn": _LLAMA_ATTENTION, "ffn": _LLAMA_FFN},
    final_norm="norm",
    causal=True,
    positions="argument",
)
LLAMA = Family(
    name="llama",
    kind="decoder",
    stacks=(_LLAMA_STACK,),
    norm=Norm(kind="rms", eps="variance_epsilon"),
    lm_head=_HEAD,
)

_HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}

MISTRAL = replace(LLAMA, name="mistral", stacks=(replace(_LLAMA_STACK, window=sliding_window),))
QWEN2 = replace(LLAMA, name="qwen2", stacks=(replace(_LLAMA_STACK, window=window_by_layer_type),))
SMOLLM3 = replace(QWEN2, name="smollm3")
QWEN3 = replace(
    LLAMA,
    name="qwen3",
    stacks=(
        replace(
            _LLAMA_STACK,
            sublayers={"attn": replace(_LLAMA_ATTENTION, head_norms=_HEAD_NORMS), "ffn": _LLAMA_FFN},
            window=window_by_layer_type,
        ),
    ),
)
PHI3 = replace(
    LLAMA,
    name="phi3",
    stacks=(
        replace(
            _LLAMA_STACK,
            sublayers={
                "attn": replace(
                    _LLAMA_ATTENTION,
                    output="resid_attn_dropout",
                    projections={"o": "self_attn.o_proj"},
                    fused=("qkv", Fused(module="self_attn.qkv_proj", parts=("q", "k", "v"))),
                ),
                "ffn": replace(
                    _LLAMA_FFN,
                    output="resid_mlp_dropout",
                    projections={"down": "mlp.down_proj"},
                    fused=("gate_up", Fused(module="mlp.gate_up_proj", parts=("gate", "up"))),
                ),
            },
            window=sliding_window,
        ),
    ),
)

_GEMMA_ATTENTION = replace(
    _LLAMA_ATTENTION,
    output="post_attention_layernorm",
    norms=("input_layernorm", "post_attention_layernorm"),
)
_GEMMA_FFN = replace(
    _LLAMA_FFN,
    output="post_feedforward_layernorm",
    entry="pre_feedforward_layernorm",
    norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
_GEMMA_STACK = replace(
    _LLAMA_STACK,
    sublayers={"attn": _GEMMA_ATTENTION, "ffn": _GEMMA_FFN},
    window=window_by_layer_type,
)
GEMMA2 = Family(
    name="gemma2",
    kind="decoder",
    stacks=(_GEMMA_STACK,),
    norm=Norm(kind="rms", unit=1.0),
    lm_head=LMHead(output="lm_head", softcap="final_logit_softcapping"),
)
GEMMA3 = replace(
    GEMMA2,
    name="gemma3_text",
    stacks=(
        replace(
            _GEMMA_STACK,
            sublayers={"attn": replace(_GEMMA_ATTENTION, head_norms=_HEAD_NORMS), "ffn": _GEMMA_FFN},
        ),
    ),
)

DECODERS: Mapping[str, Family | Callable[[PreTrainedConfig], Family]] = {
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "opt": opt,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "phi3": PHI3,
    "smollm3": SMOLLM3,
}
