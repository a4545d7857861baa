"""PreLayer, prefix-layer tuning: N virtual tokens before the input whose states are trained after every layer: what the layers
below made of them is replaced.  Hu et al. 2021, arXiv:2106.09685, section 5.1.

So the tokens act on the input through keys and values that each layer's own projections compute from trained states: those after
the embeddings and after each block but the last, on which nothing depends. The paper's infix tokens are not built.
In causal decoders the tokens are run once and attached as keys and values; before an encoder they stand in every row, and each
pass puts their states back. Behind a cache, where nothing virtual is left to run, nothing is replaced. In encoder-decoders
they stand before the encoder.

Shapes: R rows, T tokens, N virtual tokens, H features, L blocks of the stack.
Start, by `init`: "random" N(0, std²); "text" the states that real words have in the plain model, alone: in a causal decoder the
adapter then starts as that text before the input.
Trained parameters: L · N · H; where the embeddings are narrower than the states (ELECTRA, ALBERT), N times the difference less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.base.states import captured
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, Edit, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PlacedEdit
from lmtailor.methods._prompts import SoftPromptEdit, front_sites, text_ids, word_embeddings
from lmtailor.methods.method import Method, Recipe, Start, Starts, Words, normal


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplacedStates(PlacedEdit):
    """Trained states in place of those of the first virtual tokens."""

    states_NH: Tensor = trained()

    def placed(self, h_RTH: Tensor, places_RT3: Tensor, ctx: Context) -> Tensor:
        """The trained state where a virtual token stands, h elsewhere."""
        place_RT1, count = places_RT3[..., 2:], self.states_NH.shape[1]
        chosen_RT1 = (place_RT1 >= 0) & (place_RT1 < count)
        states_RTH = self.states_NH.gather(1, place_RT1.clamp(0, count - 1).expand(-1, -1, h_RTH.shape[-1]))
        return torch.where(chosen_RT1, states_RTH.to(h_RTH.dtype), h_RTH)


@dataclass(frozen=True, kw_only=True)
class PreLayer(Method, Starts):
    """Virtual tokens with trained states after every layer."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "Hu et al. 2021, section 5.1"
    formula: ClassVar[str] = "L · length · H"
    start: ClassVar[Start] = "elsewhere"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": 3, "std": 0.3},
        {"length": 4, "init": "text", "text": "a good movie"},
    )

    length: int = 32
    """Virtual tokens."""
    init: Literal["random", "text"] = "random"
    text: str | None = None
    """With init="text": the words to start from, repeated or cut to `length` tokens."""
    std: float = 0.02
    """Standard deviation of the random start."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length is {self.length}; a prefix needs at least 1 virtual token.")
        if (self.init == "text") != bool(self.text):
            raise InputError("init='text' needs `text`, and `text` needs init='text'.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """The tokens, and their states after each block but the last."""
        (front,) = front_sites(sites)
        start = f"{front.stack}." if front.stack else ""
        blocks = [f"{start}block.{number}" for number in range(sites.blocks(front.stack) - 1)]
        widths = (front.width, *(sites[block].width for block in blocks))
        tokens, *states = (normal((self.length, width), rng, std=self.std) for width in widths)
        prompt: Edit = SoftPromptEdit(site=front.name, length=self.length, prompt_NH=tokens)
        return Edits((prompt, *(ReplacedStates(site=site, states_NH=own) for site, own in zip(blocks, states, strict=True))))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The states of `text`, if asked for."""
        if self.init == "random":
            return edits
        ids, stack = text_ids(base, self.text or "", self.length), base.stacks[0]
        with torch.no_grad(), captured(base.model, stack, range(len(stack.blocks) - 1)) as kept:
            base.module(stack.root)(input_ids=torch.tensor([ids], device=base.device))
        starts = {edits[0].site: word_embeddings(base, edits[0].site, ids)}
        starts |= {edit.site: kept[number][0] for number, edit in enumerate(edits.items[1:])}
        return edits.with_state({name: starts[name.rpartition(".")[0]].float().cpu().clone() for name in edits.state()})
