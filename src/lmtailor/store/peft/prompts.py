"""Prefixes and soft prompts as PEFT stores them: one matrix, `prompt_embeddings`.

Prefix: (N, 2 · layers · token_dim), viewed as (N, 2 · layers, heads, head_dim); layer l takes its keys from slot 2l and its
values from slot 2l + 1. In encoder-decoders PEFT cuts the slots, joined to themselves, into one quadruple a layer for
keys and values of self- and cross-attention, and throws the latter away: decoder layer i takes the slots 4i and 4i + 1 modulo
2 · layers. With as many layers as the decoder has, layers would share slots. So the file says twice as many layers; each
layer then has slots of its own, and those for cross-attention are zero.

Soft prompt: (N, width of the word embeddings).

Shapes: N virtual tokens, L layers, K key/value heads, D features of a head, H features of an embedding.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Edit
from lmtailor.edits.edits import Edits
from lmtailor.methods._prompts import SoftPromptEdit
from lmtailor.methods.prefix import PlainPrefix
from lmtailor.store.outline import Outline
from lmtailor.store.peft.task import TaskType

NAME = "prompt_embeddings"
CACHED_ENCODERS = ("bert", "roberta", "xlm-roberta", "electra")
"""Encoders whose forward takes keys and values from outside, which PEFT needs for a prefix."""


def attention_sites(outline: Outline) -> list[Site]:
    """The attention layers that PEFT gives a prefix: self-attention of the only stack, or of the decoder."""
    stack = outline.stacks[-1].name
    return [
        site for site in outline.sites.values() if site.attention is not None and site.stack == stack and not site.attention.cross
    ]


def check_prefix(outline: Outline, task: TaskType) -> None:
    """See that PEFT can put a prefix before this base.

    Raises:
        UnsupportedError: it cannot.
    """
    if outline.kind == "encoder" and outline.family not in CACHED_ENCODERS:
        raise UnsupportedError(
            f"PEFT gives prefixes as cached keys and values, which {outline.family} in transformers does not take."
        )
    if outline.kind == "encoder-decoder" and task != "SEQ_2_SEQ_LM":
        raise UnsupportedError("PEFT puts prefixes before an encoder-decoder only if it generates (task type SEQ_2_SEQ_LM).")


def prefix_config(edits: Edits, outline: Outline, task: TaskType) -> dict[str, Any]:
    """The keys of `adapter_config.json` that are the prefix's own.

    Raises:
        UnsupportedError: PEFT has no such prefix.
    """
    edit = _only(edits)
    check_prefix(outline, task)
    if not isinstance(edit, PlainPrefix):
        raise UnsupportedError("The prefix is still computed by a network (reparam='mlp'). It is thrown away when training ends.")
    wanted = attention_sites(outline)
    if edit.sites != tuple(site.name for site in wanted):
        where = "the decoder's self-attention" if outline.kind == "encoder-decoder" else "the attention"
        raise UnsupportedError(f"PEFT puts a prefix in every layer of {where}, and nowhere else; this one is at {edit.site!r}.")
    if edit.place != "front":
        raise UnsupportedError("PEFT puts prefixes before the input alone; this one stands behind the text (place='infix').")
    if not edit.shift:
        raise UnsupportedError(
            "PEFT moves the input's positions on by the length of the prefix; this one leaves them (shift=false)."
        )
    layers, _, heads, length, width = edit.prefix_L2KND.shape
    twice = outline.kind == "encoder-decoder"
    return {
        **_common(length, heads * width, heads, 2 * layers if twice else layers, 2 if twice else 1),
        "prefix_projection": False,
        "encoder_hidden_size": heads * width,
    }


def prefix_tensors(edits: Edits, outline: Outline) -> dict[str, Tensor]:
    """The prefix as PEFT's matrix."""
    edit = _only(edits)
    assert isinstance(edit, PlainPrefix)
    slots_NL2KD = edit.prefix_L2KND.detach().permute(3, 0, 1, 2, 4)
    if outline.kind == "encoder-decoder":
        slots_NL2KD = torch.stack([slots_NL2KD, torch.zeros_like(slots_NL2KD)], 2)
    return {NAME: slots_NL2KD.reshape(slots_NL2KD.shape[0], -1)}


def prefix_from(tensor: Tensor, like: PlainPrefix, *, twice: bool) -> PlainPrefix:
    """The edit with the values of PEFT's matrix.

    Args:
        tensor: (N, 2 · layers · token_dim).
        like: the edit, for its shape.
        twice: whether the slots are an encoder-decoder's. Its layers then are as many as the file has, or twice as many.
    """
    layers, _, heads, length, width = like.prefix_L2KND.shape
    slots_NSKD = tensor.reshape(length, -1, heads, width)
    step = 4 if twice else 2
    chosen = [(step * layer + part) % slots_NSKD.shape[1] for layer in range(layers) for part in (0, 1)]
    values_N2L = slots_NSKD[:, chosen].reshape(length, layers, 2, heads, width)
    return like.with_tensors({"prefix_L2KND": values_N2L.permute(1, 2, 3, 0, 4).contiguous()})


def check_prompt(outline: Outline, task: TaskType) -> None:
    """See that PEFT can put a soft prompt before this base.

    Raises:
        UnsupportedError: it cannot.
    """
    if outline.stacks[0].embedding_scale != 1.0:
        raise UnsupportedError(
            f"{outline.family} scales its word embeddings outside their module, which PEFT forgets with a prompt."
        )
    if outline.kind == "encoder-decoder" and task != "SEQ_2_SEQ_LM":
        raise UnsupportedError("PEFT puts prompts before an encoder-decoder only if it generates (task type SEQ_2_SEQ_LM).")


def prompt_config(edits: Edits, outline: Outline, task: TaskType) -> dict[str, Any]:
    """The keys of `adapter_config.json` that are the soft prompt's own.

    Raises:
        UnsupportedError: PEFT has no such prompt.
    """
    if any(outline.sites[edit.site].stack == "decoder" for edit in edits):
        raise UnsupportedError(
            "PEFT stores a prompt for the decoder of an encoder-decoder, but never uses it; this adapter has one. Fit it with "
            "at='input'."
        )
    edit = _only(edits)
    assert isinstance(edit, SoftPromptEdit)
    if edit.place != "front":
        raise UnsupportedError(f"PEFT puts prompts before the input alone; this one stands elsewhere (place={edit.place!r}).")
    check_prompt(outline, task)
    layers = attention_sites(outline)
    attention = layers[0].attention
    assert attention is not None
    length, width = edit.prompt_NH.shape
    return {**_common(length, width, attention.heads, len(layers), 1), "prompt_tuning_init": "RANDOM"}


def prompt_tensors(edits: Edits) -> dict[str, Tensor]:
    """The soft prompt as PEFT's matrix."""
    edit = _only(edits)
    assert isinstance(edit, SoftPromptEdit)
    return {NAME: edit.prompt_NH.detach()}


def prompt_edits(edits: Edits, outline: Outline, tensors: Mapping[str, Tensor]) -> Edits:
    """A prefix or a soft prompt with the values that `prefix_tensors` or `prompt_tensors` made a matrix of."""
    edit = _only(edits)
    if isinstance(edit, PlainPrefix):
        return Edits((prefix_from(tensors[NAME], edit, twice=outline.kind == "encoder-decoder"),))
    return Edits((edit.with_tensors({"prompt_NH": tensors[NAME]}),))


def _only(edits: Edits) -> Edit:
    if len(edits) != 1:
        raise UnsupportedError(
            f"PEFT has one prefix, before one stack; this adapter has {len(edits)}, at {', '.join(edit.site for edit in edits)}. "
            "Fit it with at='decoder.block.*.attn'."
        )
    return edits[0]


def _common(length: int, token_dim: int, heads: int, layers: int, submodules: int) -> dict[str, Any]:
    return {
        "num_virtual_tokens": length,
        "token_dim": token_dim,
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": submodules,
    }
