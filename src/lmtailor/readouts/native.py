"""The sequence-classification heads that families of models come with, as a table.

Parameters have the names that they have in the family's own `…ForSequenceClassification`, so that exchange with
other libraries needs no translation.

Shapes: N sequences, H features of a state, C labels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import dropout, gelu, layer_norm, linear, relu
from transformers.activations import ACT2FN

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.readouts.pooling import Pooled

Activation = Callable[[Tensor], Tensor]
Config = Mapping[str, Any]
"""A model's configuration as a dictionary."""
Std = Callable[[Config], float]


@dataclass(frozen=True, kw_only=True)
class NativeHead:
    """y = out(drop(norm(activation(dense(drop_in(x)))))); parts that a family lacks are None. `config` is the model's."""

    pooling: Pooled | None = "cls"
    """What is pooled; None: as the configuration's `classifier_pooling` says."""
    dense: str | None = None
    activation: Activation | None = torch.tanh
    """Of the dense layer; None: as the configuration's `classifier_activation` says."""
    norm: str | None = None
    eps: float = 0.0
    """Of the norm; taken from the configuration's `norm_eps`."""
    out: str
    out_bias: bool = True
    dropout: tuple[str, ...] = ()
    """The configuration's attributes with the dropout; the first that is set counts."""
    drop_input: bool = False
    """Whether dropout acts on the pooled state too."""
    dense_bias: str | None = None
    """The configuration's attribute that says whether the dense layer has a bias; None: it has one."""
    pooler: str | None = None
    """Path of the trunk's pooler, which the head starts from where the checkpoint has it."""
    lm_module: str | None = None
    """Path of a module that the model with LM head has under the same name, and that the head starts from."""
    dense_std: Std | None = None
    """Standard deviation of the dense layer at the start; None: the configuration's own."""
    out_std: Std | None = None
    truncated: bool = False
    """Whether the start is cut off at the configuration's `initializer_cutoff_factor` standard deviations."""


def _t5_std(config: Config) -> float:
    return float(config["initializer_factor"] * config["d_model"] ** -0.5)


def _depth_std(config: Config) -> float:
    return float(config["initializer_range"] / math.sqrt(2.0 * config["num_hidden_layers"]))


def _width_std(config: Config) -> float:
    return float(config["hidden_size"] ** -0.5)


_HIDDEN = ("classifier_dropout", "hidden_dropout_prob")
_ROBERTA = NativeHead(dense="classifier.dense", out="classifier.out_proj", dropout=_HIDDEN, drop_input=True)
_SCORE = NativeHead(pooling="last", out="score", out_bias=False)
_BART = NativeHead(
    pooling="eos",
    dense="classification_head.dense",
    out="classification_head.out_proj",
    dropout=("classifier_dropout",),
    drop_input=True,
)
_T5 = NativeHead(
    pooling="eos",
    dense="classification_head.dense",
    out="classification_head.out_proj",
    dropout=("classifier_dropout",),
    drop_input=True,
    dense_std=_t5_std,
    out_std=_t5_std,
)
_DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3")

NATIVE_HEADS: Mapping[str, NativeHead] = {
    "bert": NativeHead(dense="bert.pooler.dense", out="classifier", dropout=_HIDDEN, pooler="bert.pooler"),
    "albert": NativeHead(dense="albert.pooler", out="classifier", dropout=("classifier_dropout_prob",), pooler="albert.pooler"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": NativeHead(dense="classifier.dense", activation=gelu, out="classifier.out_proj", dropout=_HIDDEN, drop_input=True),
    "distilbert": NativeHead(dense="pre_classifier", activation=relu, out="classifier", dropout=("seq_classif_dropout",)),
    "modernbert": NativeHead(
        pooling=None,
        dense="head.dense",
        activation=None,
        norm="head.norm",
        out="classifier",
        dropout=("classifier_dropout",),
        dense_std=_depth_std,
        out_std=_width_std,
        truncated=True,
        dense_bias="classifier_bias",
        lm_module="head",
    ),
    **dict.fromkeys(_DECODERS, _SCORE),
    "bart": _BART,
    "mbart": _BART,
    "t5": _T5,
    "umt5": _T5,
}


def native_head(base: Base) -> NativeHead:
    """The head of a base's family, with all that its configuration says filled in.

    Raises:
        UnsupportedError: the family has none.
    """
    head = NATIVE_HEADS.get(base.family.name)
    if head is None:
        raise UnsupportedError(
            f"The family {base.family.name} has no sequence-classification head of its own. Use pooling=auto, last or mean."
        )
    config = base.trunk.config.to_dict()
    return replace(
        head,
        pooling=head.pooling or config["classifier_pooling"],
        activation=head.activation or ACT2FN[config["classifier_activation"]],
        eps=float(config["norm_eps"]) if head.norm is not None else 0.0,
    )


def native_dropout(head: NativeHead, base: Base) -> float:
    """The dropout that the configuration asks for."""
    config = base.trunk.config.to_dict()
    return float(next((config[name] for name in head.dropout if config.get(name) is not None), 0.0))


def native_tensors(head: NativeHead, base: Base, outputs: int, rng: Generator | None) -> dict[str, Tensor]:
    """The head's tensors as the family starts them; those that the checkpoint has are copied from it.

    Args:
        head: the family's table.
        base: the model.
        outputs: C.
        rng: where random numbers come from; None gives meta tensors.
    """
    config = base.trunk.config.to_dict()
    width = base.output_size
    tensors: dict[str, Tensor] = {}
    if head.dense is not None:
        biased = head.dense_bias is None or bool(config[head.dense_bias])
        tensors |= _linear(head, head.dense, (width, width), biased, head.dense_std, config, rng)
    if head.norm is not None:
        tensors[f"{head.norm}.weight"] = torch.ones(width, device="cpu" if rng else "meta")
        if config["norm_bias"]:
            tensors[f"{head.norm}.bias"] = torch.zeros(width, device="cpu" if rng else "meta")
    tensors |= _linear(head, head.out, (outputs, width), head.out_bias, head.out_std, config, rng)
    return tensors if rng is None else tensors | _from_checkpoint(head, base, tensors)


def native_scores(head: NativeHead, tensors: Mapping[str, Tensor], x_NH: Tensor, drop: float, training: bool) -> Tensor:
    """Scores (N, C) of pooled states."""
    x = x_NH
    if head.drop_input:
        x = dropout(x, drop, training)
    if head.dense is not None and head.activation is not None:
        x = head.activation(linear(x, tensors[f"{head.dense}.weight"], tensors.get(f"{head.dense}.bias")))
    if head.norm is not None:
        x = layer_norm(x, (x.shape[-1],), tensors[f"{head.norm}.weight"], tensors.get(f"{head.norm}.bias"), head.eps)
    x = dropout(x, drop, training)
    return linear(x, tensors[f"{head.out}.weight"], tensors.get(f"{head.out}.bias"))


def initial_std(config: Config) -> float:
    """Standard deviation of a new linear layer in this family: `initializer_range`, or `init_std` (BART), else 0.02."""
    for name in ("initializer_range", "init_std"):
        if isinstance(value := config.get(name), int | float):
            return float(value)
    return 0.02


def _linear(
    head: NativeHead,
    name: str,
    shape: tuple[int, int],
    biased: bool,
    std: Std | None,
    config: Config,
    rng: Generator | None,
) -> dict[str, Tensor]:
    weight = torch.empty(shape, device="cpu" if rng else "meta")
    if rng is not None:
        sigma = initial_std(config) if std is None else std(config)
        if head.truncated:
            cut = float(config.get("initializer_cutoff_factor") or 3) * sigma
            torch.nn.init.trunc_normal_(weight, std=sigma, a=-cut, b=cut, generator=rng)
        else:
            weight.normal_(std=sigma, generator=rng)
    bias = {f"{name}.bias": torch.zeros(shape[0], device=weight.device)} if biased else {}
    return {f"{name}.weight": weight, **bias}


def _from_checkpoint(head: NativeHead, base: Base, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tensors that the base itself holds."""
    held: dict[str, Tensor] = {}
    if head.pooler is not None and base.pooler is not None:
        held = {f"{head.pooler}.{name}": value for name, value in base.pooler.named_parameters()}
    if head.lm_module is not None:
        held |= {name: value for name, value in base.model.named_parameters() if name.startswith(f"{head.lm_module}.")}
    return {name: held[name].detach().float().cpu().clone() for name in tensors if name in held}
