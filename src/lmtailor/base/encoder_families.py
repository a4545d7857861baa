"""Tables of the encoders: BERT and its kin, ALBERT, ModernBERT."""

from collections.abc import Mapping
from dataclasses import replace

from torch.nn.functional import gelu
from transformers import PreTrainedConfig

from lmtailor.base.family import Family, Fused, LMHead, Norm, StackTable, Sublayer

_BERT_STACK = StackTable(
    embed="embeddings.word_embeddings",
    embed_norm="embeddings.LayerNorm",
    blocks="encoder.layer",
    sublayers={
        "attn": Sublayer(
            output="attention.output.dropout",
            entry="attention",
            normed=False,
            attention="attention.self",
            projections={
                "q": "attention.self.query",
                "k": "attention.self.key",
                "v": "attention.self.value",
                "o": "attention.output.dense",
            },
            norms=("attention.output.LayerNorm",),
            next_norm="attention.output.LayerNorm",
        ),
        "ffn": Sublayer(
            output="output.dropout",
            entry="intermediate",
            normed=False,
            projections={"up": "intermediate.dense", "down": "output.dense"},
            norms=("output.LayerNorm",),
            next_norm="output.LayerNorm",
        ),
    },
    causal=False,
    positions="argument",
    position_embedding="embeddings.position_embeddings",
)

BERT = Family(
    name="bert",
    kind="encoder",
    stacks=(_BERT_STACK,),
    norm=Norm(kind="layer"),
    lm_head=LMHead(before=("cls.predictions.transform",), output="cls.predictions.decoder"),
    pooler="pooler",
)


def after_padding(config: PreTrainedConfig) -> int:
    """RoBERTa's first position: one after the padding token's id."""
    pad: int = config.pad_token_id
    return pad + 1


ROBERTA = replace(
    BERT,
    name="roberta",
    stacks=(replace(_BERT_STACK, positions="ids", position_offset=after_padding),),
    lm_head=LMHead(before=("lm_head.dense", gelu, "lm_head.layer_norm"), output="lm_head.decoder"),
)

ELECTRA = replace(
    BERT,
    name="electra",
    stacks=(replace(_BERT_STACK, project_in="embeddings_project"),),
    lm_head=LMHead(before=("generator_predictions",), output="generator_lm_head"),
    pooler=None,
)

DISTILBERT = Family(
    name="distilbert",
    kind="encoder",
    stacks=(
        replace(
            _BERT_STACK,
            blocks="transformer.layer",
            sublayers={
                "attn": Sublayer(
                    output="attention.out_lin",
                    entry="attention",
                    normed=False,
                    attention="attention",
                    projections={
                        "q": "attention.q_lin",
                        "k": "attention.k_lin",
                        "v": "attention.v_lin",
                        "o": "attention.out_lin",
                    },
                    norms=("sa_layer_norm",),
                    next_norm="sa_layer_norm",
                ),
                "ffn": Sublayer(
                    output="ffn",
                    entry="ffn",
                    normed=False,
                    projections={"up": "ffn.lin1", "down": "ffn.lin2"},
                    norms=("output_layer_norm",),
                    next_norm="output_layer_norm",
                ),
            },
        ),
    ),
    norm=Norm(kind="layer"),
    lm_head=LMHead(before=("vocab_transform", "activation", "vocab_layer_norm"), output="vocab_projector"),
)


def albert_calls(config: PreTrainedConfig) -> tuple[str, ...]:
    """ALBERT's layers in the order in which one forward calls them; layers of a group share their weights."""
    layers, groups, inner = config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num
    return tuple(
        f"encoder.albert_layer_groups.{int(i / (layers / groups))}.albert_layers.{j}" for i in range(layers) for j in range(inner)
    )


ALBERT = Family(
    name="albert",
    kind="encoder",
    stacks=(
        replace(
            _BERT_STACK,
            blocks=albert_calls,
            project_in="encoder.embedding_hidden_mapping_in",
            sublayers={
                "attn": Sublayer(
                    output="attention.output_dropout",
                    entry="attention",
                    normed=False,
                    attention="attention",
                    projections={
                        "q": "attention.query",
                        "k": "attention.key",
                        "v": "attention.value",
                        "o": "attention.dense",
                    },
                    norms=("attention.LayerNorm",),
                    next_norm="attention.LayerNorm",
                ),
                "ffn": Sublayer(
                    output="ffn_output",
                    entry="ffn",
                    normed=False,
                    projections={"up": "ffn", "down": "ffn_output"},
                    norms=("full_layer_layer_norm",),
                    next_norm="full_layer_layer_norm",
                ),
            },
        ),
    ),
    norm=Norm(kind="layer"),
    lm_head=LMHead(
        before=("predictions.dense", "predictions.activation", "predictions.LayerNorm"),
        output="predictions.decoder",
    ),
    pooler="pooler",
)


def modernbert_window(config: PreTrainedConfig, block: int) -> int | None:
    """Local layers see |p - j| <= local_attention // 2, global ones everything."""
    half: int = config.local_attention // 2
    return half + 1 if config.layer_types[block] == "sliding_attention" else None


MODERNBERT = Family(
    name="modernbert",
    kind="encoder",
    stacks=(
        StackTable(
            embed="embeddings.tok_embeddings",
            embed_norm="embeddings.norm",
            blocks="layers",
            sublayers={
                "attn": Sublayer(
                    output="attn",
                    entry="attn_norm",
                    normed=True,
                    attention="attn",
                    projections={"o": "attn.Wo"},
                    fused=("qkv", Fused(module="attn.Wqkv", parts=("q", "k", "v"))),
                    norms=("attn_norm",),
                ),
                "ffn": Sublayer(
                    output="mlp",
                    entry="mlp_norm",
                    normed=True,
                    projections={"down": "mlp.Wo"},
                    # ModernBERT calls the activated half "input" and the plain one "gate".
                    fused=("gate_up", Fused(module="mlp.Wi", parts=("gate", "up"))),
                    norms=("mlp_norm",),
                ),
            },
            final_norm="final_norm",
            causal=False,
            positions="argument",
            window=modernbert_window,
        ),
    ),
    norm=Norm(kind="layer"),
    lm_head=LMHead(before=("head",), output="decoder"),
)

ENCODERS: Mapping[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": replace(ROBERTA, name="xlm-roberta"),
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "albert": ALBERT,
    "modernbert": MODERNBERT,
}
