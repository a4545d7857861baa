"""How close two prompts of one base are: by their embeddings, and by the neurons that they make the base use.

average_tokens   cos(mean_i a_i, mean_j b_j)                                Vu et al. 2022, arXiv:2110.07904, section 3.2
per_token        the mean over all i, j of cos(a_i, b_j)                    the same
neurons          the cosine of the two 0/1 vectors of active neurons        Su et al. 2022, arXiv:2111.06719, section 6

A neuron is a feature between the two linear maps of a feed-forward network; it is active where what goes into the activation
function is positive. (This is the sign of what comes out, for ReLU, GELU and SiLU alike.) The base runs on an input without
content: its tokenizer's special tokens alone, with a mask token where there is one. What is read is the state at the mask token,
at the last token in causal decoders, and at the decoder's first token in encoder-decoders. The paper finds the last layers to say
the most; its code has the cosine too.

Of prefixes, a virtual token's vector is that of all its keys and values. Hard prompts have the vectors of their words.

Shapes: N, M virtual tokens, H features of a token, F neurons of a layer.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from lmtailor.core.errors import InputError
from lmtailor.edits.attach import attach
from lmtailor.edits.kinds import PrefixEdit, PromptEdit
from lmtailor.methods._prompts import word_embeddings
from lmtailor.readouts.prompts import first_tokens
from lmtailor.readouts.readout import input_form
from lmtailor.store.adapter import Adapter, check_base

Measure = Literal["average_tokens", "per_token", "neurons"]


@dataclass(frozen=True, kw_only=True)
class PromptCloseness:
    """How close two prompts are. All numbers are cosines: 1 for equal prompts; those of neurons are never below 0."""

    average_tokens: float
    per_token: float
    neurons: float
    """Over the neurons of all layers."""
    by_layer: Mapping[str, float]
    """Site of a feed-forward network → over its neurons alone."""

    def of(self, measure: Measure) -> float:
        """One of the three measures."""
        return {"average_tokens": self.average_tokens, "per_token": self.per_token, "neurons": self.neurons}[measure]


def prompt_closeness(base: Base, one: Adapter, other: Adapter) -> PromptCloseness:
    """Compare the prompts of two adapters of one base.

    Args:
        base: what both were made for; nothing may be attached to it.
        one: an adapter with a soft prompt, a hard prompt or a prefix.
        other: another, of any length, with prompts of the same kind.

    Raises:
        AdapterFileError: an adapter was made for another base.
        InputError: an adapter has no prompt, or their tokens are no vectors of the same features.
    """
    for adapter in (one, other):
        check_base(adapter, base)
    rows = [prompt_rows(base, adapter) for adapter in (one, other)]
    if rows[0].shape[1] != rows[1].shape[1]:
        raise InputError(
            f"The virtual tokens of the two adapters have {rows[0].shape[1]} and {rows[1].shape[1]} features: one is a prompt "
            "and the other a prefix, or they stand in other layers. Compare adapters of one method."
        )
    active = [active_neurons(base, adapter) for adapter in (one, other)]
    layers = {name: cosine(active[0][name].float(), active[1][name].float()) for name in active[0]}
    return PromptCloseness(
        average_tokens=average_tokens(*rows),
        per_token=per_token(*rows),
        neurons=cosine(*(torch.cat(list(states.values())).float() for states in active)),
        by_layer=layers,
    )


def average_tokens(one_NH: Tensor, other_MH: Tensor) -> float:
    """The cosine of the mean tokens."""
    return cosine(one_NH.mean(0), other_MH.mean(0))


def per_token(one_NH: Tensor, other_MH: Tensor) -> float:
    """The mean of the cosines of all pairs of tokens."""
    return float((F.normalize(one_NH, dim=1) @ F.normalize(other_MH, dim=1).T).mean())


def cosine(one_H: Tensor, other_H: Tensor) -> float:
    """The cosine of two vectors; 0 if one of them is 0."""
    return float(F.cosine_similarity(one_H, other_H, dim=0))


def prompt_rows(base: Base, adapter: Adapter) -> Tensor:
    """The virtual tokens of an adapter as vectors (N, H), float32 on the CPU.

    Raises:
        InputError: it has none.
    """
    prompts, prefixes = [], []
    for edit in adapter.edits:
        if isinstance(edit, PromptEdit):
            prompts.append(edit.embeddings(functools.partial(_words, base, edit.site)))
        elif isinstance(edit, PrefixEdit):
            prefixes.append(edit.key_values().permute(3, 0, 1, 2, 4).flatten(1))
    if not prompts and not prefixes:
        raise InputError("The adapter has no virtual tokens, so it has no prompt to compare. Give one with a prompt or a prefix.")
    rows = prompts if prompts else [torch.cat(prefixes, 1)]
    return torch.cat([row.detach().float().cpu() for row in rows])


def _words(base: Base, site: str, ids: Tensor) -> Tensor:
    return word_embeddings(base, site, ids.tolist())


def active_neurons(base: Base, adapter: Adapter) -> dict[str, Tensor]:
    """Which neurons are active (F,) at the token that is read, by the site of each feed-forward network.

    In an encoder-decoder, those of the decoder.
    """
    chosen = _neuron_sites(base)
    inputs, place = _bare_input(base)
    front = _virtual(adapter, "front") + _virtual(adapter, "before_gap") if base.kind == "encoder" else 0
    read = place + front if base.kind == "encoder" else -1
    with torch.no_grad(), attach(base, adapter, fast=True), _outputs(base, chosen) as calls:
        base.hidden(inputs)
        out = {}
        for site in chosen:
            output = calls[site.module][site.call - site.calls]
            own = output if site.part is None else site.part.take(output)
            out[site.name.rpartition(".")[0]] = (own[0, read] > 0).cpu()
    return out


def _neuron_sites(base: Base) -> list[Site]:
    """What goes into the activation function in each block: the gate's projection where there is one."""
    names = {name for name, site in base.sites.items() if site.kind == "projection" and site.stack == base.read.name}
    gates = [name for name in names if name.endswith(".ffn.gate")]
    chosen = set(gates or [name for name in names if name.endswith(".ffn.up")])
    if not chosen:
        raise InputError(f"{base.family.name} has no feed-forward networks whose neurons could be looked at.")
    return [site for name, site in base.sites.items() if name in chosen]


def _bare_input(base: Base) -> tuple[dict[str, Tensor], int]:
    """An input without content, and the token that is read."""
    tokenizer = base.tokenizer
    ids: list[int] = list(tokenizer("")["input_ids"])
    place = 0
    if base.kind == "encoder":
        mask = tokenizer.mask_token_id
        place = len(first_tokens(tokenizer))
        ids = ids[:place] + ([] if mask is None else [mask]) + ids[place:]
        place = place if mask is not None else 0
    ids = ids or [next(i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if i is not None)]
    row = torch.tensor([ids], device=base.device)
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if base.kind == "encoder-decoder":
        start = input_form(base).decoder_start
        inputs["decoder_input_ids"] = torch.tensor([[ids[-1] if start is None else start]], device=base.device)
    return inputs, place


def _virtual(adapter: Adapter, place: str) -> int:
    return sum(edit.length for edit in adapter.edits if isinstance(edit, PromptEdit) and edit.place == place)


@contextmanager
def _outputs(base: Base, sites: Iterable[Site]) -> Iterator[dict[str, list[Tensor]]]:
    """What modules give, call by call, while the block runs."""
    calls: dict[str, list[Tensor]] = {site.module: [] for site in sites}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[path].append(output)

        return hook

    handles = [base.module(path).register_forward_hook(keep(path)) for path in calls]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
