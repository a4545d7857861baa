"""How long an input may be."""

from collections.abc import Iterable

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lmtailor.base.family import Family
from lmtailor.base.stack import Stack

_INSANE = 10**6
"""Tokenizers without a limit say 10**30."""


def max_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, family: Family, stacks: Iterable[Stack]) -> int:
    """The longest input in tokens: the least of what the tokenizer says and what the positions allow.

    Without a table of positions nothing breaks beyond a length, but models are poor there: rotary ones are held to the
    configuration's `max_position_embeddings`, relative ones (T5) to what the tokenizer says, or if it says nothing, to
    the length that they were trained for.
    """
    limits = [stack.max_positions for stack in stacks if stack.max_positions is not None]
    configured = config.to_dict().get("max_position_embeddings")
    if not limits and configured is not None:
        limits.append(int(configured))
    if tokenizer.model_max_length <= _INSANE:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=family.trained_length or _INSANE)
