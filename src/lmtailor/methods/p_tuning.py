"""P-tuning: virtual tokens computed by a small network, so that they depend on each other.  Liu et al. 2021, arXiv:2103.10385,
section 3.2.

h_i = MLP([→LSTM(e_1 … e_i) : ←LSTM(e_i … e_N)]), a bidirectional LSTM of two layers, then W₂ relu(W₁ · + b₁) + b₂, from trained
embeddings e. With `network="mlp"`, as in PEFT, W₃ relu(W₂ relu(W₁ e + b₁) + b₂) + b₃ without the LSTM. The network is run once
a step and thrown away after training: what is kept is a soft prompt. The paper puts virtual tokens anywhere in a pattern: a union
of several with a `place` each does so before the text and around the gap, here with a network for each; in the midst of the text,
`SlotPrompt` does, without a network.

Shapes: N virtual tokens, H features, K = `hidden`, G = 4 · K gates of an LSTM; D = 2 directions, B = 2 biases.
Start: e N(0, 1), as the paper's code has it; the LSTM U[-1/√K, 1/√K]; a linear map of I inputs U[-1/√I, 1/√I], biases too.
Trained parameters: N · H and the network, for each stack that `at` names:
    lstm   2 · (G · H + G · K + 2 · G) + (layers - 1) · 2 · (G · 2K + G · K + 2 · G) + 2K · 2K + 2K + 2K · H + H
    mlp    H · K + K + K · K + K + K · H + H
The paper also trains the base; add `Full()` or another method for that. Its code runs Adam with decay 5e-4 and lr 1e-5.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import Place, PromptEdit
from lmtailor.methods._prompts import Front, SoftPromptEdit, front_sites
from lmtailor.methods.method import Finishes, Method, Recipe, normal, uniform
from lmtailor.methods.soft_prompt import SoftPrompt


@dataclass(frozen=True, kw_only=True, eq=False)
class RecurrentPrompt(PromptEdit):
    """Virtual tokens from a bidirectional LSTM and two linear maps. Layers after the first are stacked."""

    embedding_NH: Tensor = trained()
    first_input_DGH: Tensor = trained()
    first_state_DGK: Tensor = trained()
    first_bias_DBG: Tensor = trained()
    input_LDGI: Tensor | None = trained(optional=True)
    """Weights of the later layers on both directions of the layer before; None if there is one layer."""
    state_LDGK: Tensor | None = trained(optional=True)
    bias_LDBG: Tensor | None = trained(optional=True)
    inner_II: Tensor = trained()
    inner_bias_I: Tensor = trained()
    output_HI: Tensor = trained()
    output_bias_H: Tensor = trained()

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """W₂ relu(W₁ BiLSTM(e) + b₁) + b₂."""
        layers = [(self.first_input_DGH, self.first_state_DGK, self.first_bias_DBG)]
        if self.input_LDGI is not None and self.state_LDGK is not None and self.bias_LDBG is not None:
            layers += list(zip(self.input_LDGI, self.state_LDGK, self.bias_LDBG, strict=True))
        weights = [
            part
            for inputs, states, biases in layers
            for way in (0, 1)
            for part in (inputs[way], states[way], biases[way, 0], biases[way, 1])
        ]
        size = self.first_state_DGK.shape[2]
        zero = self.embedding_NH.new_zeros(2 * len(layers), 1, size)
        live = torch.is_grad_enabled()  # what CUDA needs to know to keep what the backward pass reads
        out_1NI, _, _ = torch.lstm(self.embedding_NH[None], (zero, zero), weights, True, len(layers), 0.0, live, True, True)
        inner_NI = F.relu(F.linear(out_1NI[0], self.inner_II, self.inner_bias_I))
        return F.linear(inner_NI, self.output_HI, self.output_bias_H)


@dataclass(frozen=True, kw_only=True, eq=False)
class PerceptronPrompt(PromptEdit):
    """Virtual tokens from three linear maps, each token for itself."""

    embedding_NH: Tensor = trained()
    first_KH: Tensor = trained()
    first_bias_K: Tensor = trained()
    second_KK: Tensor = trained()
    second_bias_K: Tensor = trained()
    output_HK: Tensor = trained()
    output_bias_H: Tensor = trained()

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """W₃ relu(W₂ relu(W₁ e + b₁) + b₂) + b₃."""
        first_NK = F.relu(F.linear(self.embedding_NH, self.first_KH, self.first_bias_K))
        second_NK = F.relu(F.linear(first_NK, self.second_KK, self.second_bias_K))
        return F.linear(second_NK, self.output_HK, self.output_bias_H)


@dataclass(frozen=True, kw_only=True)
class PTuning(Method, Finishes):
    """Virtual tokens before the input, computed by a network while training."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-5, weight_decay=5e-4)
    paper: ClassVar[str] = "Liu et al. 2021 (GPT understands, too), section 3.2"
    formula: ClassVar[str] = "length · H + the network; kept: length · H"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": 3, "hidden": 4},
        {"length": 2, "network": "mlp", "hidden": 5},
        {"length": 2, "hidden": 3, "place": "after_gap"},
    )

    length: int = 9
    """Virtual tokens."""
    network: Literal["lstm", "mlp"] = "lstm"
    hidden: int | None = None
    """K, the width of the network; None: H / 2 for the LSTM, so that both directions make H, and H for mlp."""
    layers: int = 2
    """Layers of the LSTM."""
    at: Front = "input"
    """Before what they stand: the input; the decoder of an encoder-decoder; or both, `length` tokens each."""
    place: Place = "front"
    """In encoders also "before_gap" or "after_gap": beside the mask token, or behind a text that has none."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length is {self.length}; a prompt needs at least 1 virtual token.")
        if self.hidden is not None and self.hidden < 1:
            raise InputError(f"hidden is {self.hidden}; a network needs at least 1 unit.")
        if self.layers < 1 or (self.network == "mlp" and self.layers != 2):
            raise InputError(f"layers is {self.layers}; an LSTM needs at least 1, and network='mlp' has no LSTM: leave it at 2.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One prompt with a network of its own before each stack that `at` names."""
        make = self._recurrent if self.network == "lstm" else self._perceptron
        return Edits(tuple(make(site.name, site.width, rng) for site in front_sites(sites, self.at, self.place)))

    def _recurrent(self, site: str, width: int, rng: Generator | None) -> RecurrentPrompt:
        size = self.hidden or max(1, width // 2)
        gates, both, more, bound = 4 * size, 2 * size, self.layers - 1, size**-0.5
        deep = more > 0
        return RecurrentPrompt(
            site=site,
            length=self.length,
            place=self.place,
            embedding_NH=normal((self.length, width), rng, std=1.0),
            first_input_DGH=uniform((2, gates, width), rng, bound=bound),
            first_state_DGK=uniform((2, gates, size), rng, bound=bound),
            first_bias_DBG=uniform((2, 2, gates), rng, bound=bound),
            input_LDGI=uniform((more, 2, gates, both), rng, bound=bound) if deep else None,
            state_LDGK=uniform((more, 2, gates, size), rng, bound=bound) if deep else None,
            bias_LDBG=uniform((more, 2, 2, gates), rng, bound=bound) if deep else None,
            inner_II=uniform((both, both), rng, bound=both**-0.5),
            inner_bias_I=uniform((both,), rng, bound=both**-0.5),
            output_HI=uniform((width, both), rng, bound=both**-0.5),
            output_bias_H=uniform((width,), rng, bound=both**-0.5),
        )

    def _perceptron(self, site: str, width: int, rng: Generator | None) -> PerceptronPrompt:
        size = self.hidden or width
        return PerceptronPrompt(
            site=site,
            length=self.length,
            place=self.place,
            embedding_NH=normal((self.length, width), rng, std=1.0),
            first_KH=uniform((size, width), rng, bound=width**-0.5),
            first_bias_K=uniform((size,), rng, bound=width**-0.5),
            second_KK=uniform((size, size), rng, bound=size**-0.5),
            second_bias_K=uniform((size,), rng, bound=size**-0.5),
            output_HK=uniform((width, size), rng, bound=size**-0.5),
            output_bias_H=uniform((width,), rng, bound=size**-0.5),
        )

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The soft prompt that the network computes, without the network."""
        return SoftPrompt(length=self.length, at=self.at, place=self.place), plain_prompts(edits)


def plain_prompts(edits: Edits) -> Edits:
    """Soft prompts with the embeddings that edits of prompts compute without asking for words."""
    return Edits(tuple(_plain(edit) for edit in edits if isinstance(edit, PromptEdit)))


def _plain(edit: PromptEdit) -> SoftPromptEdit:
    with torch.no_grad():
        prompt = edit.embeddings(_no_words).contiguous().clone()
    return SoftPromptEdit(site=edit.site, length=edit.length, place=edit.place, prompt_NH=prompt)


def _no_words(ids: Tensor) -> Tensor:
    raise AssertionError("a trained prompt is computed without words")
