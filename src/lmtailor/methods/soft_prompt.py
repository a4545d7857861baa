"""Prompt tuning: k trained embeddings before the input, nothing else.  Lester et al. 2021, arXiv:2104.08691, section 2.

Shapes: N virtual tokens, H features, V words.
Start, by `init` (section 3.2): "random" U[-0.5, 0.5]; "vocab" embeddings of N of the first 5,000 words that are no special
tokens (vocabularies are ordered by frequency, so these stand for the most common); "class_labels" embeddings of the
labels' names, averaged over the pieces of a name, and vocab for the rest; "text" embeddings of a text's pieces,
repeated or cut to N (PEFT's way).
Trained parameters: N · H. In causal decoders the prompt is run once and attached as keys and values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PromptEdit
from lmtailor.methods.method import Method, Recipe, Starts, Words, uniform

COMMON = 5000
"""How many words count as common."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftPromptEdit(PromptEdit):
    """Trained embeddings."""

    prompt_NH: Tensor = trained()

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """The embeddings themselves."""
        return self.prompt_NH


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(Method, Starts):
    """Trained virtual tokens before the input."""

    recipe: ClassVar[Recipe] = Recipe(lr=0.3, optimizer="adafactor", weight_decay=1e-5, schedule="constant", warmup=0.0)
    paper: ClassVar[str] = "Lester et al. 2021, section 2"
    formula: ClassVar[str] = "length · H"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": 3},
        {"length": 4, "init": "vocab"},
        {"length": 4, "init": "class_labels"},
        {"length": 4, "init": "text", "text": "a good movie"},
    )

    length: int = 100
    """Virtual tokens."""
    init: Literal["random", "vocab", "class_labels", "text"] = "random"
    text: str | None = None
    """With init="text": the words to start from."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length is {self.length}; a prompt needs at least 1 virtual token.")
        if (self.init == "text") != bool(self.text):
            raise InputError("init='text' needs `text`, and `text` needs init='text'.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One prompt before the input: of the encoder, where there is one."""
        site = next(site for site in sites.values() if site.kind == "embedding" and site.stack != "decoder")
        prompt = uniform((self.length, site.width), rng, bound=0.5)
        return Edits((SoftPromptEdit(site=site.name, length=self.length, prompt_NH=prompt),))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The prompt at the embeddings of words, unless the start is random."""
        if self.init == "random":
            return edits
        (edit,) = edits
        assert isinstance(edit, SoftPromptEdit)
        stack = next(stack for stack in base.stacks if stack.name != "decoder")
        module = base.module(stack.embedding)

        def embed(ids: list[int]) -> Tensor:
            with torch.no_grad():
                out: Tensor = module(torch.tensor(ids, device=base.device)) * stack.embedding_scale
            return out

        rows = self._rows(base, embed, words, rng)
        return Edits((replace(edit, prompt_NH=rows.detach().float().cpu().clone()),))

    def _rows(self, base: Base, embed: Callable[[list[int]], Tensor], words: Words, rng: Generator) -> Tensor:
        if self.init == "text":
            pieces = base.tokenizer(self.text or "", add_special_tokens=False)["input_ids"]
            if not pieces:
                raise InputError(f"The start text {self.text!r} has no tokens.")
            return embed([pieces[i % len(pieces)] for i in range(self.length)])
        special = set(base.tokenizer.all_special_ids)
        common = [i for i in range(min(base.vocab_size, COMMON + len(special))) if i not in special][:COMMON]
        if len(common) < self.length:
            raise InputError(
                f"A prompt of {self.length} tokens cannot start from {len(common)} words. Take init='random' or a shorter prompt."
            )
        order = torch.randperm(len(common), generator=rng)[: self.length]
        rows = embed([common[i] for i in order.tolist()])
        if self.init == "class_labels":
            if not words.labels:
                raise InputError("init='class_labels' needs a task with labels; this one has none. Take init='vocab'.")
            for i, label in enumerate(words.labels[: self.length]):
                rows[i] = embed(base.tokenizer(label, add_special_tokens=False)["input_ids"]).mean(0)
        return rows
