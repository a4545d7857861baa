"""A pretrained language model as the rest of the package sees it.

Shapes: N rows, T tokens, H features, V words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmtailor.base.build import build
from lmtailor.base.families import FamilyTable, family_of
from lmtailor.base.family import Family, Kind
from lmtailor.base.fingerprint import fingerprint
from lmtailor.base.head import lm_features, lm_logits
from lmtailor.base.limits import max_length
from lmtailor.base.sites import Site, Sites
from lmtailor.base.stack import Stack
from lmtailor.base.states import States, captured
from lmtailor.base.trunk import trunk_of
from lmtailor.base.views import LinearView, NormView
from lmtailor.base.weights import Weights
from lmtailor.core.errors import InputError, UnsupportedError

__all__ = ["Base", "States"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Base:
    """A frozen model, its tokenizer, and the names of its places. Built by `load_base`, or by `Base.from_model`."""

    model: PreTrainedModel
    """The plain transformers model, with LM head where there is one."""
    trunk: PreTrainedModel
    """The model without LM head; it shares the model's modules."""
    tokenizer: PreTrainedTokenizerBase
    family: Family
    sites: Sites
    stacks: tuple[Stack, ...]
    """In the order of the forward: one, or the encoder and the decoder."""
    source: str
    """Where it was loaded from: a hub id, a folder or a file; "" if it was not."""
    fingerprint: str
    """What the weights are, whatever their dtype: see `lmtailor.base.fingerprint`."""
    max_length: int
    """The longest input (tokens)."""
    plain_products: bool = False
    """Whether matrix products under adapters stay with the library that torch takes by itself, as they are without adapters;
    see `lmtailor.edits.products`."""

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        source: str = "",
        *,
        family: FamilyTable | None = None,
    ) -> Self:
        """Take a transformers model as it is; it is set to eval mode and its parameters are frozen.

        A tokenizer without a padding token pads with its end-of-text token; the attention mask hides it.

        Args:
            model: an LM, or the model without head (another head is not used).
            tokenizer: its tokenizer.
            source: where it came from.
            family: a table for an architecture that is not known.

        Raises:
            UnsupportedError: the architecture is not known.
            SiteError: the family's table does not fit the model.
            InputError: the tokenizer has no token to pad with.
        """
        table = family_of(model.config, family)
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise InputError("The tokenizer has neither a padding nor an end-of-text token. Set tokenizer.pad_token first.")
            tokenizer.pad_token = tokenizer.eos_token
        model.train(False)
        model.requires_grad_(False)
        trunk, prefix = trunk_of(model, table)
        sites, stacks = build(Weights(model, trunk, table), prefix)
        return cls(
            model=model,
            trunk=trunk,
            tokenizer=tokenizer,
            family=table,
            sites=sites,
            stacks=stacks,
            source=source,
            fingerprint=fingerprint(trunk),
            max_length=max_length(tokenizer, model.config, table, stacks),
        )

    def __repr__(self) -> str:
        return f"Base({self.source or type(self.model).__name__!r}, {self.family.name}, {self.num_parameters:,} parameters)"

    @property
    def kind(self) -> Kind:
        """encoder, decoder or encoder-decoder."""
        return self.family.kind

    @property
    def has_lm_head(self) -> bool:
        """Whether the model can give logits over the vocabulary."""
        return "lm_head" in self.sites

    @property
    def hidden_size(self) -> int:
        """Features of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def output_size(self) -> int:
        """Features of `States.last_NTH`; other than `hidden_size` only where the trunk ends in a projection (OPT-350m)."""
        path = self.family.stacks[-1].project_out
        return self.hidden_size if path is None else int(self.trunk.get_submodule(path).out_features)  # type: ignore[arg-type]

    @property
    def vocab_size(self) -> int:
        """Number of words of the LM head, or of the word embeddings where there is none."""
        if self.has_lm_head:
            return self.sites["lm_head"].width
        embedding = self.module(self.read.embedding)
        return int(embedding.num_embeddings)  # type: ignore[arg-type]

    @property
    def read(self) -> Stack:
        """The stack whose states are read: the only one, or the decoder."""
        return self.stacks[-1]

    @property
    def pooler(self) -> nn.Module | None:
        """The trunk's own pooler, or None: (N, T, H) states to (N, H)."""
        return None if self.family.pooler is None else self.trunk._modules.get(self.family.pooler)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.dtype

    @property
    def num_parameters(self) -> int:
        """Numbers in all parameters; shared ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def module(self, path: str) -> nn.Module:
        """The module at a path of `model`."""
        try:
            return self.model.get_submodule(path)
        except AttributeError:
            raise InputError(f"{type(self.model).__name__} has no module {path!r}.") from None

    def linear(self, site: Site) -> LinearView:
        """The weights of a projection site as (out, in).

        Raises:
            InputError: the site is no projection.
        """
        if site.kind != "projection":
            raise InputError(
                f"{site.name} is a {site.kind} site and has no weight of its own; name a projection, such as block.0.attn.q."
            )
        return self.sites.linear(site)

    def norm(self, site: Site) -> NormView:
        """Gain and shift of a norm site.

        Raises:
            InputError: the site is no norm.
        """
        if site.kind != "norm":
            raise InputError(f"{site.name} is a {site.kind} site, not a norm; name one such as block.0.norm1 or final_norm.")
        return self.sites.norm(site)

    def hidden(self, inputs: Mapping[str, Tensor], layers: Sequence[int] = ()) -> States:
        """Run the trunk.

        Args:
            inputs: what the trunk's forward takes: input_ids, attention_mask, …; encoder-decoders also decoder_input_ids.
            layers: numbers of the blocks whose outputs are kept, as Python indexes lists.

        Raises:
            InputError: there is no such block.
        """
        caching = {} if self.kind == "encoder" else {"use_cache": False}
        with captured(self.model, self.read, layers) as kept:
            out = self.trunk(**inputs, **caching)
        return States(last_NTH=out[0], layers=kept)

    def lm_logits(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """The LM head on the trunk's last states.

        Args:
            hidden: (…, H) states, at whatever positions.
            words: (W,) token ids; only their logits are computed. A hooked LM head is called whole, so that edits act.

        Returns:
            (…, V) logits, or (…, W).

        Raises:
            UnsupportedError: the model has no LM head.
        """
        self._check_lm_head()
        return lm_logits(self.model, self.family.lm_head, hidden, words)

    def lm_features(self, hidden: Tensor) -> Tensor:
        """What the LM head multiplies with each word's output embedding: (…, H) states through its own transform.

        Raises:
            UnsupportedError: the model has no LM head.
        """
        self._check_lm_head()
        return lm_features(self.model, self.family.lm_head, hidden)

    def _check_lm_head(self) -> None:
        if not self.has_lm_head:
            raise UnsupportedError(
                f"{self.source or type(self.model).__name__} has no LM head, so it gives no logits over words. Use a model "
                "with one, or a readout that needs none, such as Head."
            )
