"""What a family of models looks like inside: a plain table of module paths, one a `model_type`.

All paths are relative, so that one table serves the model with and without LM head: those of a stack start at the
trunk, those of a block start at the block. Numbers of heads, widths and the number of blocks come from the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor
from transformers import PreTrainedConfig

from lmtailor.base.stack import PositionRule

Kind = Literal["encoder", "decoder", "encoder-decoder"]
Window = Callable[[PreTrainedConfig, int], int | None]
"""From the configuration and a block's number to the window of its attention (tokens), or None."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """One projection module that computes several projections at once."""

    module: str
    parts: tuple[str, ...]
    """Names of the projections in the order of the features."""
    per_head: bool = False
    """Whether the parts alternate head by head (GPT-NeoX) instead of standing one after the other."""


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """An attention or a feed-forward network in a block. Paths are relative to the block."""

    output: str
    """The module whose output (the first item, if it is a tuple) is added to the residual stream."""
    entry: str
    """The module that first receives the residual stream: a norm in pre-norm models, else the sublayer itself."""
    normed: bool
    """Whether `entry` is the norm before the sublayer."""
    projections: Mapping[str, str]
    """q, k, v, o of attentions; gate (through the activation), up and down of feed-forward networks."""
    fused: tuple[str, Fused] | None = None
    """Name (qkv, gate_up) and layout of a fused projection; its parts are then not in `projections`."""
    norms: tuple[str, ...] = ()
    """The block's norms that belong to this sublayer, in the order of the forward."""
    next_norm: str | None = None
    """Post-norm models: the norm that follows the residual add."""
    head_norms: Mapping[str, str] = field(default_factory=dict)
    """Norms over each head's queries and keys (Qwen3, Gemma 3): q_norm, k_norm."""
    attention: str | None = None
    """Attentions: the module that calls the attention interface."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """The norms of a family."""

    kind: Literal["layer", "rms"]
    eps: str = "eps"
    """The module's attribute that holds epsilon."""
    unit: float = 0.0
    """Added to the stored gain before it is applied (1 in Gemma)."""


def no_window(config: PreTrainedConfig, block: int) -> int | None:
    """Every position sees every other that the mask allows."""
    return None


@dataclass(frozen=True, kw_only=True)
class StackTable:
    """One tower of blocks. Paths are relative to the trunk, those in sublayers relative to the block."""

    name: str = ""
    root: str = ""
    """The module whose forward is one pass through the stack; "" is the trunk itself."""
    embed: str
    """The word-embedding module."""
    blocks: str | Callable[[PreTrainedConfig], tuple[str, ...]]
    """The list of blocks; or, where blocks share weights, a function to their paths in call order."""
    sublayers: Mapping[str, Sublayer]
    """attn, cross (decoders of encoder-decoders) and ffn, in the order of the forward."""
    causal: bool
    positions: PositionRule
    position_embedding: str | None = None
    position_offset: int | Callable[[PreTrainedConfig], int] = 0
    embed_scale: Callable[[PreTrainedConfig], float] | None = None
    """The root's factor on embeddings of ids that it does not apply to embeddings that are given."""
    embed_norm: str | None = None
    project_in: str | None = None
    """A projection of the embeddings to the residual stream's width; there is none where the widths are equal."""
    final_norm: str | None = None
    project_out: str | None = None
    """A projection of the residual stream after the last norm to the width that the LM head reads (OPT-350m)."""
    heads: str = "num_attention_heads"
    """The configuration's attribute with the number of query heads."""
    window: Window = no_window


Step = str | Callable[[Tensor], Tensor]
"""The path of a module, or a function without weights."""


@dataclass(frozen=True, kw_only=True)
class LMHead:
    """From the trunk's last states to logits: softcap(output(before(scale · h)) + bias). Paths are relative to the model."""

    output: str
    """The projection to the vocabulary."""
    before: tuple[Step, ...] = ()
    bias: str | None = None
    """A buffer that is added to the logits (final_logits_bias)."""
    scale: Callable[[PreTrainedConfig], float] | None = None
    """Factor on the states (T5 with tied embeddings: d_model ** -0.5)."""
    softcap: str | None = None
    """The configuration's attribute c in c · tanh(logits / c)."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The table of one `model_type`."""

    name: str
    kind: Kind
    stacks: tuple[StackTable, ...]
    norm: Norm
    lm_head: LMHead
    pooler: str | None = None
    """The module that maps the last states to one vector a text, in the trunk (BERT's tanh pooler)."""
    computed: tuple[str, ...] = ()
    """Modules of the trunk whose weights are computed and not learned (Marian's sinusoids), so no method trains them."""
    trained_length: int | None = None
    """Tokens of a training example, for models without a table of positions whose configuration does not say."""
