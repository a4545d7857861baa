"""Virtual tokens anywhere in a pattern: the slots of a `Verbalizer` hold tokens whose embeddings are trained.  Liu et al. 2021
(GPT understands, too), arXiv:2103.10385, section 3.2, without the network; Zhong et al. 2021, arXiv:2104.05240, section 4.1.

    Verbalizer("{premise} {trigger} {hypothesis} {trigger} {mask} .", words, trigger=("[unused1]", "[unused2]")) + SlotPrompt()

As in both papers' code, a virtual token is a token of the vocabulary that stands for it: wherever it occurs, its embedding is the
trained one. So take tokens that texts do not have, and each but once; the papers add new ones to the vocabulary. Before the
input, or beside the gap, `PTuning`, `OptiPrompt` and `SoftPrompt` need no such tokens.

Shapes: R rows, T tokens, N slots, H features of an embedding.
Start: the tokens' own embeddings, so that a trigger of words starts where these words are.
Trained parameters: N · H.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.base.views import NormView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import HiddenEdit
from lmtailor.methods._prompts import front_sites
from lmtailor.methods.method import Method, Recipe, Resolves, Start, Starts, Words, normal
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.slots import trigger_ids
from lmtailor.readouts.verbalizer import Verbalizer


@dataclass(frozen=True, kw_only=True, eq=False)
class SlotEdit(HiddenEdit):
    """Embeddings of some tokens in place of the table's."""

    needs_entry: ClassVar[bool] = True

    ids: tuple[int, ...]
    """The tokens, each once."""
    prompt_NH: Tensor = trained()

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """The trained embedding where a token is one of these."""
        assert x_RTH is not None
        here_RTN = x_RTH == torch.tensor(self.ids, device=x_RTH.device)
        return torch.where(here_RTN.any(2, keepdim=True), torch.bmm(here_RTN.to(h_RTH.dtype), self.prompt_NH), h_RTH)


@dataclass(frozen=True, kw_only=True)
class SlotPrompt(Method, Resolves, Starts):
    """Trained tokens in the slots of a verbalizer's pattern."""

    recipe: ClassVar[Recipe] = Recipe(lr=3e-3, warmup=0.1)
    paper: ClassVar[str] = "Liu et al. 2021 (GPT understands, too), section 3.2"
    formula: ClassVar[str] = "slots · H"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"ids": tuple(range(9, 109))},)

    ids: tuple[int, ...] = ()
    """The tokens that stand for virtual ones; none: those of the verbalizer's trigger."""

    def __post_init__(self) -> None:
        if len(set(self.ids)) < len(self.ids) or min(self.ids, default=0) < 0:
            raise InputError(f"ids are {list(self.ids)[:20]}; each slot needs a token of its own, numbered from 0.")

    def resolved(self, base: Base, readout: Readout | None) -> Self:
        """With the tokens of the verbalizer's trigger.

        Raises:
            InputError: it has none, or one twice.
        """
        if self.ids or not isinstance(readout, Verbalizer):
            return self
        if readout.trigger is None:
            raise InputError(
                f"SlotPrompt trains what stands in the slots {{trigger}} of a pattern; {readout.pattern!r} has no trigger. Give "
                "the verbalizer one, trigger=[…], with a token for each slot that texts do not have."
            )
        return replace(self, ids=trigger_ids(base.tokenizer, parse_pattern(readout.pattern), readout.trigger))

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One edit of the embeddings before the input's stack."""
        (site,) = front_sites(sites)
        table, *_ = sites.parameters(site.name).values()
        if not self.ids:
            raise InputError("SlotPrompt has no tokens to train: fit it with a Verbalizer that has a trigger, or give `ids`.")
        if max(self.ids) >= len(table):
            raise InputError(f"SlotPrompt has the token {max(self.ids)}, but {sites.model_type} has {len(table)} words here.")
        prompt = normal((len(self.ids), site.width), rng, std=0.02)
        return Edits((SlotEdit(site=site.name, ids=self.ids, prompt_NH=prompt),))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The tokens at their own embeddings, as the table gives them."""
        (edit,) = edits
        with torch.no_grad():
            own = base.module(base.sites[edit.site].module)(torch.tensor(self.ids, device=base.device))
        return Edits((edit.with_tensors({"prompt_NH": own.float().cpu().clone()}),))
