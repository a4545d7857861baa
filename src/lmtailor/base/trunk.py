"""The trunk of a model: what runs the blocks and stops before the LM head."""

import torch
from transformers import AutoModel, PreTrainedModel

from lmtailor.base.family import Family


def trunk_of(model: PreTrainedModel, family: Family) -> tuple[PreTrainedModel, str]:
    """The trunk, and its path in the model.

    The path is "" where the model is its own trunk, and where the model holds the trunk's parts itself, as T5 does.
    In the latter case the trunk is a shell: a model without LM head whose children are the model's own, so that it
    has no weights beside the model's and follows it to another device.
    """
    inner = model.base_model
    if isinstance(inner, PreTrainedModel) and inner is not model:
        return inner, str(model.base_model_prefix)
    if family.lm_head.output not in dict(model.named_modules()):
        return model, ""
    with torch.device("meta"):
        shell: PreTrainedModel = AutoModel.from_config(model.config)  # type: ignore[no-untyped-call]
    for name in shell._modules:
        shell._modules[name] = model.get_submodule(name)
    shell.train(False)
    return shell, ""
