"""The states at every depth of a model, of one forward.

Shapes: N rows, T tokens, H features.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.base.states import captured


def depths(base: Base, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """States (N, T, H) before the first block, after it, …, after the last.

    The first are the embeddings as they enter the blocks, with positions and their norm where the model has them. The last
    are the trunk's output, after the final norm (where that ends in a projection to another width, the last block's output).
    Of encoder-decoders the encoder is run, and nothing else.

    Args:
        base: the model; edits that are attached act.
        inputs: input_ids, attention_mask, and token_type_ids where the model takes them.
    """
    stack = base.stacks[0]
    count = len(stack.blocks)
    entered: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if not entered:  # where blocks share weights, the first call counts
            entered.append(args[0] if args else options["hidden_states"])

    hook = base.module(stack.blocks[0]).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        if len(base.stacks) == 1:
            states = base.hidden(inputs, range(count))
            last, blocks = states.last_NTH, states.layers
        else:
            with captured(base.model, stack, range(count)) as blocks:
                last = base.module(stack.root)(**inputs)[0]
    finally:
        hook.remove()
    end = last if last.shape == blocks[count - 1].shape else blocks[count - 1]
    return (entered[0], *(blocks[number] for number in range(count - 1)), end)
