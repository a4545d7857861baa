"""A projected prompt: the soft prompt of another base, brought to this one by a trained network.  Su et al. 2022,
arXiv:2111.06719, section 5 (cross-model transfer).

    P_t = LayerNorm(W₂ LeakyReLU(W₁ p + b₁) + b₂),    p all virtual tokens of the source as one vector, the result cut into
                                                     tokens again, each with a LayerNorm

The source's prompt is stored and not trained; the network is trained through this base, which stays as it is, and thrown away
after training: what is kept is a soft prompt. `lmtailor.strategies.PromptProjection` takes the prompt from an adapter; alone, a
prompt N(0, 1) is projected, which is one more reparameterisation of a soft prompt.

Shapes: N virtual tokens of the source and of this base, S features of the source's embeddings, H of this one's, K hidden.
Start: linear maps of I inputs U[-1/√I, 1/√I], biases too (torch's); the LayerNorm's shift 0, and its gain the standard deviation
of the base's word embeddings. (Its usual gain of 1 makes tokens as long as √H, many times as long as words, in models that do not
normalise embeddings.)
Trained parameters: N · S · K + K + K · N · H + N · H + 2 · H.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import fixed, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PromptEdit
from lmtailor.methods._prompts import front_sites, word_embeddings
from lmtailor.methods.method import Finishes, Method, Recipe, Starts, Words, normal, uniform, zeros
from lmtailor.methods.p_tuning import plain_prompts
from lmtailor.methods.soft_prompt import SoftPrompt


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectedPromptEdit(PromptEdit):
    """Virtual tokens computed from another base's."""

    source_NS: Tensor = fixed()
    """The source's virtual tokens."""
    first_KI: Tensor = trained()
    """I = N · S."""
    first_bias_K: Tensor = trained()
    second_OK: Tensor = trained()
    """O = N · H."""
    second_bias_O: Tensor = trained()
    gain_H: Tensor = trained()
    shift_H: Tensor = trained()

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """LayerNorm(W₂ LeakyReLU(W₁ p + b₁) + b₂), token by token."""
        inner_K = F.leaky_relu(F.linear(self.source_NS.flatten(), self.first_KI, self.first_bias_K))
        out_NH = F.linear(inner_K, self.second_OK, self.second_bias_O).view(self.length, -1)
        return F.layer_norm(out_NH, self.gain_H.shape, self.gain_H, self.shift_H)


@dataclass(frozen=True, kw_only=True)
class ProjectedPrompt(Method, Starts, Finishes):
    """A soft prompt that a network computes from another base's."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "Su et al. 2022, section 5"
    formula: ClassVar[str] = "length · source_width · hidden + hidden · length · H + …; kept: length · H"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"length": 3, "source_width": 7, "hidden": 5},)

    length: int = 100
    """Virtual tokens, of the source and of this base."""
    source_width: int = 768
    """Features of a virtual token of the source."""
    hidden: int = 768

    def __post_init__(self) -> None:
        for name in ("length", "source_width", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One prompt before the input."""
        (site,) = front_sites(sites)
        flat, out = self.length * self.source_width, self.length * site.width
        edit = ProjectedPromptEdit(
            site=site.name,
            length=self.length,
            source_NS=normal((self.length, self.source_width), rng, std=1.0),
            first_KI=uniform((self.hidden, flat), rng, bound=flat**-0.5),
            first_bias_K=uniform((self.hidden,), rng, bound=flat**-0.5),
            second_OK=uniform((out, self.hidden), rng, bound=self.hidden**-0.5),
            second_bias_O=uniform((out,), rng, bound=self.hidden**-0.5),
            gain_H=zeros((site.width,), rng),
            shift_H=zeros((site.width,), rng),
        )
        return Edits((edit,))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """With tokens as long as the base's words."""
        (edit,) = edits
        assert isinstance(edit, ProjectedPromptEdit)
        spread = float(word_embeddings(base, edit.site, range(base.vocab_size)).float().std())
        return Edits((replace(edit, gain_H=torch.full_like(edit.gain_H, spread)),))

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The soft prompt that the network computes, without it."""
        return SoftPrompt(length=self.length), plain_prompts(edits)
