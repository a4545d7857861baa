"""Mixture of soft prompts:  p(y | x) = Σ_t p(t) · p(y | t, x),  p(t) = softmax(w).
Qin & Eisner 2021, arXiv:2104.06599.

Each prompt t is N trained embeddings before the input. It is deeply perturbed: a trained Δ of its own is added to each of its
tokens' states after every block but the last, on whose states of the prompt nothing depends. The Δ of layer 0 is part of the
embeddings themselves. Prompts and shares are trained together, by the gradient of log p(y | x).

What is mixed is p: of a head over the labels, of a verbalizer over the whole vocabulary, a word of several tokens having their
product; in regression the answer is the mean. A forward of the model gives log p of each next word as logits, and `generate`
takes each token from the mixture, whose shares stay what they were. Every input runs once for each prompt.
The paper's prompts stand around the input and the gap, ours before it. Its shares that depend on the input,
p(t | x) ∝ p(t) · p(x | t)^(1/T), need the probability of the input itself, which a masked model does not give in one run;
they are not built.

Shapes: T prompts, N virtual tokens, H features, L blocks of the stack.
Start: w = 0, Δ = 0; embeddings by `init`: "normal" with the mean and the standard deviation of the words' embeddings, feature by
feature; "vocab" embeddings of words, others for each prompt; "random" U[-0.5, 0.5].
Trained parameters: T · (N · H + 1), with `deep` L · N · H in place of N · H; less where embeddings are narrower than states.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PlacedEdit
from lmtailor.edits.mixture import MemberPrompt
from lmtailor.methods._prompts import common_words, front_sites, word_embeddings
from lmtailor.methods.method import Method, Recipe, Start, Starts, Words, uniform, zeros

MOST = 1000
"""Prompts at most, so that a stranger's file cannot ask for edits without end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Perturbation(PlacedEdit):
    """What is added to the states of the first virtual tokens."""

    delta_NH: Tensor = trained()

    def placed(self, h_RTH: Tensor, places_RT3: Tensor, ctx: Context) -> Tensor:
        """h + Δ where a virtual token stands, h elsewhere."""
        place_RT1, count = places_RT3[..., 2:], self.delta_NH.shape[1]
        chosen_RT1 = (place_RT1 >= 0) & (place_RT1 < count)
        delta_RTH = self.delta_NH.gather(1, place_RT1.clamp(0, count - 1).expand(-1, -1, h_RTH.shape[-1]))
        return h_RTH + delta_RTH * chosen_RT1


@dataclass(frozen=True, kw_only=True)
class SoftPromptMixture(Method, Starts):
    """Several soft prompts whose answers are mixed by trained shares."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "Qin & Eisner 2021"
    formula: ClassVar[str] = "prompts · (L · length · H + 1)"
    start: ClassVar[Start] = "elsewhere"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompts": 3, "length": 2},
        {"prompts": 2, "length": 3, "deep": False, "init": "vocab"},
    )

    prompts: int = 5
    """Members of the mixture (T)."""
    length: int = 10
    """Virtual tokens of each."""
    deep: bool = True
    """Whether states after the blocks are perturbed too, and not the embeddings alone."""
    init: Literal["normal", "vocab", "random"] = "normal"

    def __post_init__(self) -> None:
        if self.prompts < 2:
            raise InputError(f"prompts is {self.prompts}; a mixture has at least 2. For one prompt take SoftPrompt.")
        if self.prompts > MOST:
            raise InputError(f"prompts is {self.prompts}; every input runs once for each, and {MOST} are the most.")
        if self.length < 1:
            raise InputError(f"length is {self.length}; a prompt needs at least 1 virtual token.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """For each member a prompt before the input, and its perturbations."""
        (front,) = front_sites(sites)
        start = f"{front.stack}." if front.stack else ""
        blocks = [sites[f"{start}block.{number}"] for number in range(sites.blocks(front.stack) - 1)] if self.deep else []
        return Edits.joined([self._member(front, blocks, rng) for _ in range(self.prompts)], mixed=True)

    def _member(self, front: Site, blocks: list[Site], rng: Generator | None) -> Edits:
        prompt = MemberPrompt(
            site=front.name,
            length=self.length,
            prompt_NH=uniform((self.length, front.width), rng, bound=0.5),
            weight_1=zeros((1,), rng),
        )
        deltas = [Perturbation(site=block.name, delta_NH=zeros((self.length, block.width), rng)) for block in blocks]
        return Edits((prompt, *deltas))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The prompts where `init` says."""
        if self.init == "random":
            return edits
        (site,) = {edit.site for edit in edits if isinstance(edit, MemberPrompt)}
        rows_TNH = (self._drawn if self.init == "normal" else self._of_words)(base, site, rng)
        names = [name for name in edits.state() if ".prompt_NH" in name]
        return edits.with_state(edits.state() | dict(zip(names, rows_TNH, strict=True)))

    def _drawn(self, base: Base, site: str, rng: Generator) -> Tensor:
        table_VH = word_embeddings(base, site, range(base.vocab_size)).float().cpu()
        noise_TNH = torch.randn(self.prompts, self.length, table_VH.shape[1], generator=rng)
        return table_VH.mean(0) + noise_TNH * table_VH.std(0)

    def _of_words(self, base: Base, site: str, rng: Generator) -> Tensor:
        rows_SH = word_embeddings(base, site, common_words(base, self.prompts * self.length, rng)).float().cpu()
        return rows_SH.view(self.prompts, self.length, -1).clone()
