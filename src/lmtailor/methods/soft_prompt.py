"""Prompt tuning: k trained embeddings before the input, nothing else.  Lester et al. 2021, arXiv:2104.08691, section 2.

Shapes: N virtual tokens, H features, V words.
Start, by `init` (section 3.2): "random" U[-0.5, 0.5]; "vocab" embeddings of N of the first 5,000 words that are no special
tokens (vocabularies are ordered by frequency, so these stand for the most common); "class_labels" embeddings of the
labels' names, averaged over the pieces of a name, and vocab for the rest; "text" embeddings of a text's pieces,
repeated or cut to N (PEFT's way).
Trained parameters: N · H for each stack that `at` names. In causal decoders the prompt is run once and attached as keys and
values; before an encoder, and before the decoder of an encoder-decoder, its tokens stand in every row, and so
do those of place="infix".
The paper puts the prompt before the encoder alone. PEFT stores one for the decoder too, and never uses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import Place
from lmtailor.methods._prompts import Front, SoftPromptEdit, common_words, front_sites, text_ids, word_embeddings
from lmtailor.methods.method import Method, Recipe, Starts, Words, uniform


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
        {"length": 2, "at": "both"},
        {"length": 2, "place": "before_gap"},
        {"length": 3, "place": "infix"},
    )

    length: int = 100
    """Virtual tokens."""
    init: Literal["random", "vocab", "class_labels", "text"] = "random"
    text: str | None = None
    """With init="text": the words to start from."""
    at: Front = "input"
    """Before what they stand: the input; the decoder of an encoder-decoder; or both, `length` tokens each."""
    place: Place = "front"
    """In encoders also "before_gap" or "after_gap": beside the mask token, or behind a text that has none. In causal decoders
    also "infix": between the text and its answer, whose first token the last virtual token then predicts."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length is {self.length}; a prompt needs at least 1 virtual token.")
        if (self.init == "text") != bool(self.text):
            raise InputError("init='text' needs `text`, and `text` needs init='text'.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One prompt before each stack that `at` names."""
        return Edits(
            tuple(
                SoftPromptEdit(
                    site=site.name,
                    length=self.length,
                    place=self.place,
                    prompt_NH=uniform((self.length, site.width), rng, bound=0.5),
                )
                for site in front_sites(sites, self.at, self.place)
            )
        )

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The prompts at the embeddings of words, unless the start is random."""
        if self.init == "random":
            return edits
        starts = [self._rows(base, edit.site, words, rng).detach().float().cpu().clone() for edit in edits]
        return Edits(tuple(edit.with_tensors({"prompt_NH": start}) for edit, start in zip(edits, starts, strict=True)))

    def _rows(self, base: Base, site: str, words: Words, rng: Generator) -> Tensor:
        if self.init == "text":
            return word_embeddings(base, site, text_ids(base, self.text or "", self.length))
        rows = word_embeddings(base, site, common_words(base, self.length, rng))
        if self.init == "class_labels":
            if not words.labels:
                raise InputError("init='class_labels' needs a task with labels; this one has none. Take init='vocab'.")
            for i, label in enumerate(words.labels[: self.length]):
                rows[i] = word_embeddings(base, site, text_ids(base, label)).mean(0)
        return rows
