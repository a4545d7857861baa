"""From the trunk's last states to logits over the vocabulary, as each family's LM head does it.

Shapes: H features, V words, W chosen words.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from lmtailor.base.family import LMHead


def lm_logits(model: PreTrainedModel, head: LMHead, hidden: Tensor, words: Tensor | None) -> Tensor:
    """Logits (…, V) of states (…, H), or (…, W) of the given word ids (W,).

    With `words`, only their rows of the output projection are used, unless the projection carries hooks: then it is
    called whole, so that they act, and the words are selected after it.
    """
    x = lm_features(model, head, hidden)
    output = model.get_submodule(head.output)
    if words is None or _hooked(output):
        logits: Tensor = output(x)
        logits = logits if words is None else logits[..., words]
    else:
        bias = output._parameters.get("bias")
        logits = linear(x, output.weight[words], None if bias is None else bias[words])  # type: ignore[index]
    if head.bias is not None:
        extra = model.get_buffer(head.bias).flatten().to(logits.device)
        logits = logits + (extra if words is None else extra[words])
    cap = None if head.softcap is None else getattr(model.config, head.softcap)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def lm_features(model: PreTrainedModel, head: LMHead, hidden: Tensor) -> Tensor:
    """What the output projection is applied to (…, F), of states (…, H)."""
    x = hidden
    if head.scale is not None:
        x = x * head.scale(model.config)
    for step in head.before:
        x = model.get_submodule(step)(x) if isinstance(step, str) else step(x)
    return x


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
