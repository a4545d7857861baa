"""PEFT as the other side of a comparison. Importing this module skips the tests where PEFT is not installed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from lmtailor.base.base import Base

peft = pytest.importorskip("peft")

QUIET = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*"),  # PEFT asks transformers in a way that it will drop
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),  # PEFT's own generate passes them, and warns of them
]
"""For `pytestmark`: warnings that PEFT's own calls give."""


def in_peft(base: Base, folder: Path, *, labels: int | None = None) -> Any:
    """The base's plain transformers model with a folder loaded by PEFT; with `labels`, its model for classification."""
    model = copy.deepcopy(base.model) if labels is None else classifier(base, labels)
    return peft.PeftModel.from_pretrained(model, str(folder)).eval()


def made_by_peft(base: Base, config: Any, folder: Path, *, labels: int | None = None, by: float = 0.1) -> Any:
    """An adapter of PEFT's own making with random weights, stored in a folder."""
    model = copy.deepcopy(base.model) if labels is None else classifier(base, labels)
    adapted = peft.get_peft_model(model, copy.deepcopy(config)).eval()  # PEFT fills the configuration in
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(by * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return adapted


def classifier(base: Base, labels: int) -> PreTrainedModel:
    """The family's model for sequence classification, with the base's trunk and a random head."""
    config = copy.deepcopy(base.model.config)
    config.num_labels = labels
    config.pad_token_id = base.tokenizer.pad_token_id
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    model.base_model.load_state_dict(base.trunk.state_dict(), strict=False)
    return model


def peft_logits(model: Any, inputs: dict[str, Tensor], like: Tensor) -> Tensor:
    """Logits under PEFT at the input's own positions; PEFT keeps those of virtual tokens, before the others."""
    with torch.no_grad():
        out: Tensor = model(**inputs).logits
    return out[:, -like.shape[1] :] if out.ndim == 3 else out


def real(values: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """The values at positions that are not padding; of encoder-decoders all, since those are the decoder's."""
    return values if "decoder_input_ids" in inputs else values[inputs["attention_mask"].bool()]
