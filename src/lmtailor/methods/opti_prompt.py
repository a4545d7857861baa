"""OptiPrompt: a relation's words as trained vectors between the subject and the gap, "[X] [V]₁ … [V]₅ [MASK].".
Zhong et al. 2021, arXiv:2104.05240, section 4.1.

The vectors stand before the mask token of a `Verbalizer` whose pattern has no words of its own there: "{subject} {mask} .".
Start: "random" N(0, 0.02²), as the embeddings of words that are added to BERT; "manual" the embeddings of the words of `text`, a
manual template, cut or repeated to `length` (the paper takes as many vectors as the template has tokens).
Trained parameters: N · H, of N vectors and H features. The paper trains 10 epochs in batches of 16 with AdamW without decay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edits import Edits
from lmtailor.methods._prompts import SoftPromptEdit, front_sites, text_ids, word_embeddings
from lmtailor.methods.method import Method, Recipe, Starts, Words, normal


@dataclass(frozen=True, kw_only=True)
class OptiPrompt(Method, Starts):
    """Trained vectors before the gap of a masked model."""

    recipe: ClassVar[Recipe] = Recipe(lr=3e-3, warmup=0.1)
    paper: ClassVar[str] = "Zhong et al. 2021, section 4.1"
    formula: ClassVar[str] = "length · H"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": 3},
        {"length": 4, "init": "manual", "text": "a good movie"},
    )

    length: int = 5
    """Vectors."""
    init: Literal["random", "manual"] = "random"
    text: str | None = None
    """With init="manual": the template's words between the subject and the gap."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length is {self.length}; a prompt needs at least 1 vector.")
        if (self.init == "manual") != bool(self.text):
            raise InputError("init='manual' needs `text`, and `text` needs init='manual'.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One prompt before the gap."""
        (site,) = front_sites(sites, place="before_gap")
        prompt = normal((self.length, site.width), rng, std=0.02)
        return Edits((SoftPromptEdit(site=site.name, length=self.length, place="before_gap", prompt_NH=prompt),))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The vectors at the template's words, if asked for."""
        if self.init == "random":
            return edits
        (edit,) = edits
        start = word_embeddings(base, edit.site, text_ids(base, self.text or "", self.length))
        return Edits((edit.with_tensors({"prompt_NH": start.float().cpu().clone()}),))
