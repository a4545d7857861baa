"""WARP: trained tokens around the mask token, and a trained vector for each class in place of the label words' rows of the LM
head.  Hambardzumyan et al. 2021, arXiv:2101.00121, section 3.

P(y | x) ∝ exp v_y · f(x), where f is what the LM head computes before its last projection, at the mask token. The label words
are those of the `Verbalizer` that is fitted with it, one token each: the logit of word y becomes v_y · f(x), with a bias b_y if
`bias` (the paper's code has one, its formula none). The base stays in eval mode, since nothing in its blocks is trained.

The paper has masked models alone. In causal decoders f is the state that predicts the word, and the tokens stand before the text,
or between the text and the word; in encoder-decoders it is the decoder's, and the tokens stand before the encoder's input. What
BART and Marian add to the logits behind the head (`final_logits_bias`) they add to the classes' too.

Shapes: R rows, T tokens, H features of an embedding, F features before the last projection, V words, C classes.
Start: "random", as in the paper's code: tokens N(m, s²) with mean and standard deviation of the word embeddings, classes
U[-1/√F, 1/√F]; "words": tokens at the mask token's embedding (at random where there is none), classes at the label words' own
rows and biases of the LM head.
Trained parameters: (front + before + after) · H + C · F, and C with `bias`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.base.views import LinearView
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.edits.edit import Context, Edit, fixed, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import Place, ProjectionEdit
from lmtailor.methods._prompts import SoftPromptEdit, front_sites, word_embeddings
from lmtailor.methods.method import Method, Recipe, Resolves, Starts, Words, normal, uniform, zeros
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.seq2seq import resolve_fill
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.readouts.words import label_words, plain_ids


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassEdit(ProjectionEdit):
    """Rows of the LM head in place of some words' own."""

    class_CF: Tensor = trained()
    bias_C: Tensor | None = trained(optional=True)
    index_C: Tensor = fixed()
    """The words' ids, int64, each once."""

    def check(self, sites: Sites) -> None:
        """Ids must be those of words, each once."""
        size, index = sites[self.site].width, self.index_C
        if int(index.min()) < 0 or int(index.max()) >= size or len(torch.unique(index)) < len(index):
            raise AdapterFileError(f"The class words of {self.site} are not {len(index)} different ids of its {size} words.")

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """The logits with v · x + b in the words' places."""
        new_RTC = torch.bmm(x_RTI, self.class_CF.transpose(1, 2))
        if self.bias_C is not None:
            new_RTC = new_RTC + self.bias_C[:, None]
        return y_RTO.scatter(2, self.index_C[:, None].expand(*new_RTC.shape), new_RTC.to(y_RTO.dtype))

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The rows put in."""
        weight_OI = weight_OI.index_copy(0, self.index_C, self.class_CF.to(weight_OI.dtype))
        if bias_O is None and self.bias_C is None:
            return weight_OI, None
        bias = weight_OI.new_zeros(len(weight_OI)) if bias_O is None else bias_O
        own = torch.zeros(len(self.index_C)) if self.bias_C is None else self.bias_C
        return weight_OI, bias.index_copy(0, self.index_C, own.to(bias))


@dataclass(frozen=True, kw_only=True)
class WARP(Method, Resolves, Starts):
    """Trained tokens around the gap and trained rows for the label words."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "Hambardzumyan et al. 2021, section 3"
    formula: ClassVar[str] = "(front + before + after) · H + classes · F"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"words": ("bad", "great")},
        {"words": ("bad", "good"), "before": 2, "after": 1},
        {"words": ("bad", "good", "movie"), "front": 2, "before": 0, "after": 1, "bias": True, "init": "words"},
    )

    words: tuple[str, ...] = ()
    """The verbalizer's words, one for each class, each one token; none: they are taken from it."""
    ids: tuple[int, ...] = ()
    """Their token ids in the verbalizer's gap; none: as after a space."""
    front: int | None = None
    """Tokens before the text; None: 0, in encoder-decoders 8."""
    before: int | None = None
    """Tokens before the mask token, in causal decoders between text and word; None: 4, in causal decoders 8, in encoder-decoders
    0."""
    after: int | None = None
    """Tokens after the mask token; None: 4, where there is one."""
    bias: bool = False
    """Whether each class has a bias."""
    init: Literal["random", "words"] = "random"

    def __post_init__(self) -> None:
        given = (self.front, self.before, self.after)
        if min(_given_or((0, 0, 0), *given)) < 0:
            raise InputError(f"front, before and after are {self.front}, {self.before} and {self.after}; none can be below 0.")
        if self.ids and len(self.ids) != len(self.words):
            raise InputError(f"There are {len(self.ids)} ids for {len(self.words)} words; each word has one.")

    def resolved(self, base: Base, readout: Readout | None) -> "WARP":
        """With the verbalizer's words, and the tokens that they are in its gap.

        Raises:
            InputError: a label has several words, a word several tokens, or the words given here are others.
        """
        if self.ids or not isinstance(readout, Verbalizer):
            return self
        if many := next((label for label, words in readout.words.items() if len(words) > 1), None):
            raise InputError(
                f"WARP trains one vector a class, and the label {many!r} has {len(readout.words[many])} words. Give each label "
                "one."
            )
        words = tuple(own[0] for own in readout.words.values())
        if self.words and set(self.words) != set(words):
            raise InputError(f"WARP's words are {list(self.words)}, and the verbalizer's {list(words)}. Leave WARP's out.")
        alone = resolve_fill(base, readout.fill) == "answer"
        found = label_words(base.tokenizer, parse_pattern(readout.pattern), readout.words, list(readout.words), alone=alone)
        ids = tuple(_only(base, word.word, word.pieces) for word in found)
        return replace(self, words=words, ids=ids)

    def _places(self, sites: Sites) -> dict[Place, int]:
        """How many tokens stand where.

        Raises:
            UnsupportedError: there is no such place in the model.
        """
        defaults = {"encoder": (0, 4, 4), "decoder": (0, 8, 0), "encoder-decoder": (8, 0, 0)}[sites.kind]
        front, before, after = _given_or(defaults, self.front, self.before, self.after)
        if (after and sites.kind != "encoder") or (before and sites.kind == "encoder-decoder"):
            what = "a causal decoder" if sites.kind == "decoder" else "an encoder-decoder"
            raise UnsupportedError(
                f"before={before} and after={after} put tokens around the gap of a masked model; {sites.model_type} is {what}. "
                + ("Set after=0: its words end the text." if sites.kind == "decoder" else "Set both to 0, and `front`.")
            )
        lengths: dict[Place, int] = {
            "front": front,
            "before_gap" if sites.kind == "encoder" else "infix": before,
            "after_gap": after,
        }
        if not any(lengths.values()):
            raise InputError(f"front, before and after are 0 in {sites.model_type}; WARP needs at least 1 token.")
        return {place: length for place, length in lengths.items() if length}

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """A prompt at each place, and the classes."""
        if len(self.words) < 2:
            raise InputError(
                f"WARP needs a verbalizer's words, one for each class; found {list(self.words)}. Fit it with a Verbalizer."
            )
        places = self._places(sites)
        (embed,) = front_sites(sites)
        if "lm_head" not in sites:
            raise UnsupportedError(
                f"WARP reads its classes where the LM head of {sites.model_type} reads words: fit it with a Verbalizer, on a "
                "base with an LM head."
            )
        head, count = sites["lm_head"], len(self.words)
        assert head.in_width is not None
        prompts: list[Edit] = [
            SoftPromptEdit(site=embed.name, length=length, place=place, prompt_NH=normal((length, embed.width), rng, std=0.02))
            for place, length in places.items()
        ]
        classes = ClassEdit(
            site=head.name,
            class_CF=uniform((count, head.in_width), rng, bound=head.in_width**-0.5),
            bias_C=zeros((count,), rng) if self.bias else None,
            index_C=torch.arange(count, device="meta" if rng is None else "cpu"),
        )
        return Edits((*prompts, classes))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The classes at their words, and the start from words or from the embeddings' distribution."""
        ids = torch.tensor(self.ids or [_only(base, word, plain_ids(base.tokenizer, f" {word}")) for word in self.words])
        if len(torch.unique(ids)) < len(ids):
            raise InputError(f"Two of the words {list(self.words)} are the same token. Each class needs a word of its own.")
        return Edits(tuple(self._started(edit, base, ids, rng) for edit in edits))

    def _started(self, edit: Edit, base: Base, ids: Tensor, rng: Generator) -> Edit:
        if isinstance(edit, ClassEdit):
            if self.init == "random":
                return replace(edit, index_C=ids)
            lin = base.linear(base.sites[edit.site])
            bias = torch.zeros(base.vocab_size) if lin.bias_O is None else lin.bias_O.detach().float().cpu()
            rows = lin.weight_OI.detach().float().cpu()[ids].clone()
            return replace(edit, index_C=ids, class_CF=rows, bias_C=bias[ids].clone() if self.bias else None)
        assert isinstance(edit, SoftPromptEdit)
        mask = base.tokenizer.mask_token_id if base.kind == "encoder" else None
        if self.init == "words" and mask is not None:
            start = word_embeddings(base, edit.site, [mask] * edit.length).float().cpu()
        else:
            table = word_embeddings(base, edit.site, range(base.vocab_size)).float().cpu()
            start = normal(edit.prompt_NH.shape, rng, std=float(table.std())) + float(table.mean())
        return replace(edit, prompt_NH=start)


def _given_or(defaults: tuple[int, ...], *given: int | None) -> list[int]:
    """Numbers with a default where there is none."""
    return [default if value is None else value for value, default in zip(given, defaults, strict=True)]


def _only(base: Base, word: str, pieces: tuple[int, ...]) -> int:
    """A word's only token.

    Raises:
        InputError: it has others, or is unknown.
    """
    if len(pieces) != 1 or pieces[0] == base.tokenizer.unk_token_id:
        shown = base.tokenizer.convert_ids_to_tokens(list(pieces))
        raise InputError(f"WARP's classes stand for words of one token; {word!r} is {shown}. Choose another word.")
    return pieces[0]
