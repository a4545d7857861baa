"""A hard prompt: real words before the input, or demonstrations; nothing is trained.  Brown et al. 2020, arXiv:2005.14165,
section 2 (demonstrations in the context).

What is stored are the words' token ids, as the base's tokenizer read them, and no tensor. In causal decoders the words are run
once, when the adapter is attached, and act as the keys and values that they leave; in encoders, and before the stacks of an
encoder-decoder, their embeddings stand in every row. So rows with a hard prompt share a batch with trained adapters, and with
the plain base.

The words stand before all that the tokenizer puts at the beginning of an input (Llama's <s>, BERT's [CLS]), as virtual
tokens do. Where the input continues the prompt and has none of these, `special` puts them before the words:
`lmtailor.strategies.prompted` makes an adapter of a verbalizer's demonstrations that way.
Trained parameters: none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Generator

from lmtailor.base.base import Base
from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import Place, TokenPrompt
from lmtailor.methods._prompts import Front, front_sites
from lmtailor.methods.method import Method, Recipe, Resolves
from lmtailor.readouts.prompts import first_tokens
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.words import plain_ids


@dataclass(frozen=True, kw_only=True)
class HardPrompt(Method, Resolves):
    """Real words before the input; nothing is trained but the readout."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-2, warmup=0.0)
    paper: ClassVar[str] = "Brown et al. 2020, section 2"
    formula: ClassVar[str] = "0"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"ids": (4, 6, 5)},
        {"ids": (20, 21), "at": "both"},
        {"ids": (30, 11, 25, 17), "place": "after_gap"},
        {"ids": (15, 33), "place": "infix"},
    )

    text: str = ""
    """The words, as they were given."""
    ids: tuple[int, ...] = ()
    """Their token ids, which are what acts; none: the base's tokenizer reads `text` when the adapter is made."""
    special: bool = False
    """Whether the special tokens that the tokenizer begins a text with stand before the words."""
    at: Front = "input"
    """Before what they stand: the input; the decoder of an encoder-decoder; or both."""
    place: Place = "front"
    """In encoders also "before_gap" or "after_gap": beside the mask token, or behind a text that has none. In causal decoders
    also "infix": between the text and its answer."""

    def __post_init__(self) -> None:
        if not self.text and not self.ids:
            raise InputError("A hard prompt needs words: give `text`, or token ids as `ids`.")
        if self.ids and min(self.ids) < 0:
            raise InputError(f"ids has {min(self.ids)}; token ids count from 0.")

    @classmethod
    def of(cls, base: Base, text: str, *, special: bool = False, at: Front = "input", place: Place = "front") -> Self:
        """The hard prompt of a text as a base reads it.

        Args:
            base: its tokenizer reads the text.
            text: the words. Nothing is added: a space or line break before the input belongs at their end or to the input.
            special: whether the tokenizer's first special tokens stand before them.
            at: before what they stand.
            place: where they stand.

        Raises:
            InputError: the text has no tokens.
        """
        return cls(text=text, special=special, at=at, place=place).resolved(base, None)

    def resolved(self, base: Base, readout: Readout | None) -> Self:
        """With the token ids of the text; ids that are there already stay."""
        if self.ids:
            return self
        ids = plain_ids(base.tokenizer, self.text)
        if not ids:
            raise InputError(f"The hard prompt {self.text!r} has no tokens.")
        return replace(self, ids=(*(first_tokens(base.tokenizer) if self.special else ()), *ids))

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """The words before each stack that `at` names."""
        if not self.ids:
            raise InputError(
                f"The hard prompt {self.text!r} has no token ids yet, for these are a tokenizer's. Use "
                "HardPrompt.of(base, text), or make an adapter of it."
            )
        return Edits(tuple(self._edit(site, sites) for site in front_sites(sites, self.at, self.place)))

    def _edit(self, site: Site, sites: Sites) -> TokenPrompt:
        table, *_ = sites.parameters(site.name).values()
        words = len(table)
        if max(self.ids) >= words:
            raise InputError(
                f"The hard prompt has the token id {max(self.ids)}, but {sites.model_type} has {words} words here. It was made "
                "for another base; make it anew from its text."
            )
        return TokenPrompt(site=site.name, length=len(self.ids), place=self.place, ids=self.ids)
