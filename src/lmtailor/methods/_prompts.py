"""What methods with virtual tokens before the input share.

Shapes: N tokens, H features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edit import trained
from lmtailor.edits.kinds import Place, PromptEdit

Front = Literal["input", "decoder", "both"]
"""Before what virtual tokens stand: the input, which in encoder-decoders is the encoder's; its decoder; or each of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftPromptEdit(PromptEdit):
    """Trained embeddings."""

    prompt_NH: Tensor = trained()

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """The embeddings themselves."""
        return self.prompt_NH


def front_sites(sites: Sites, at: Front = "input", place: Place = "front") -> list[Site]:
    """The word embeddings of the stacks among which the virtual tokens stand.

    Raises:
        UnsupportedError: the model has no decoder beside an encoder, or fills no gaps.
    """
    if place == "infix" and sites.kind != "decoder":
        instead = {"encoder": "Take place='before_gap'.", "encoder-decoder": "Take at='decoder': there the answer begins."}
        raise UnsupportedError(
            f"place='infix' puts virtual tokens between the text and the answer of a causal decoder; {sites.model_type} is an "
            f"{sites.kind}. {instead[sites.kind]}"
        )
    if place in ("before_gap", "after_gap") and sites.kind != "encoder":
        what = "a causal decoder" if sites.kind == "decoder" else "an encoder-decoder"
        raise UnsupportedError(
            f"place={place!r} puts virtual tokens beside the gap that a masked model fills; {sites.model_type} is {what}. "
            f"Take place={'infix' if sites.kind == 'decoder' else 'front'!r}, which SoftPrompt and PTuning have."
        )
    embeddings = [site for site in sites.values() if site.kind == "embedding"]
    own = [site for site in embeddings if site.stack != "decoder"]
    decoders = [site for site in embeddings if site.stack == "decoder"]
    if at != "input" and not decoders:
        raise UnsupportedError(
            f"at={at!r} puts virtual tokens before the decoder of an encoder-decoder; {sites.model_type} has one stack. "
            "Take at='input'."
        )
    return {"input": own, "decoder": decoders, "both": own + decoders}[at]


def word_embeddings(base: Base, site: str, ids: Sequence[int]) -> Tensor:
    """Embeddings (N, H) of words as the stack of an embedding site takes them, without gradient."""
    stack = next(stack for stack in base.stacks if stack.name == base.sites[site].stack)
    with torch.no_grad():
        out: Tensor = base.module(stack.embedding)(torch.tensor(list(ids), device=base.device))
        return out * stack.embedding_scale


def text_ids(base: Base, text: str, length: int | None = None) -> list[int]:
    """The token ids of a text, cut or repeated to `length`.

    Raises:
        InputError: it has none.
    """
    ids: list[int] = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(f"The start text {text!r} has no tokens.")
    return ids if length is None else [ids[i % len(ids)] for i in range(length)]


def common_words(base: Base, count: int, rng: Generator, *, most: int = 5000) -> list[int]:
    """Ids of `count` words of the first `most` that are no special tokens: vocabularies are ordered by frequency.

    Raises:
        InputError: there are not so many.
    """
    special = set(base.tokenizer.all_special_ids)
    common = [i for i in range(min(base.vocab_size, most + len(special))) if i not in special][:most]
    if len(common) < count:
        raise InputError(
            f"A prompt of {count} tokens cannot start from {len(common)} words. Take init='random' or a shorter prompt."
        )
    return [common[i] for i in torch.randperm(len(common), generator=rng)[:count].tolist()]
