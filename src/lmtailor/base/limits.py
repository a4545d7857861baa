"""How long an input may be."""

from collections.abc import Iterable

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lmtailor.base.family import Family
from lmtailor.base.stack import Stack

_INSANE = 10**6
"""Tokenizers without a limit say 10**30."""


def max_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, family: Family, stacks: Iterable[Stack]) -> int:
    """The longest input in tokens: the least of what the tokenizer says and what the positions allow.

    Models without a table of positions (rotary, relative) are limited by the length that they were trained for:
    the configuration's `max_position_embeddings`, or the family's own.
    """
    limits = [stack.max_positions for stack in stacks if stack.max_positions is not None]
    if not limits:
        trained = config.to_dict().get("max_position_embeddings") or family.trained_length
        limits = [] if trained is None else [int(trained)]
    if tokenizer.model_max_length <= _INSANE:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=_INSANE)
