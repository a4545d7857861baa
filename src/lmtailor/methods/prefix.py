"""Prefix tuning: [P_k; K] and [P_v; V] in every attention layer.  Li and Liang 2021, arXiv:2101.00190, section 4.

Shapes: L attention layers, N virtual tokens, W = kv_heads · head_dim features of a token's keys, D features of a head, M hidden.
With `reparam="mlp"` (section 4.3), P = W₂ tanh(W₁ E + b₁) + b₂ from embeddings E (N, W), one network for all layers; it is
run once a step and thrown away after training.
With place="infix" (section 7, infix-tuning), the row is [x; P; y]: the answer y attends to P, the text x does not. The state that
predicts y's first token must attend to P too; it is that of x's last token, so P stands just before this one.
Start: "random" N(0, std²) for P, or N(0, 1) for E; "text" the keys and values of real words (section 7.3, low-data settings).
Trained parameters: L · 2 · N · W; with the network N · W + W · M + M + M · 2 · L · W + 2 · L · W.
`shift`: the input's positions move on by N, as in PEFT and in the paper's code; AdapterHub leaves them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Attention, Site, Sites
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edit import Edit, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit
from lmtailor.edits.record import record_key_values
from lmtailor.methods.method import Finishes, Method, Recipe, Starts, Words, normal, uniform, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainPrefix(PrefixEdit):
    """Keys and values trained as they are."""

    prefix_L2KND: Tensor = trained()

    def key_values(self) -> Tensor:
        """The trained tensor itself."""
        return self.prefix_L2KND


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkPrefix(PrefixEdit):
    """Keys and values computed by a small network."""

    shape: tuple[int, int]
    """(kv_heads, head_dim)."""
    embedding_NW: Tensor = trained()
    hidden_MW: Tensor = trained()
    hidden_bias_M: Tensor = trained()
    output_OM: Tensor = trained()
    output_bias_O: Tensor = trained()

    def key_values(self) -> Tensor:
        """W₂ tanh(W₁ E + b₁) + b₂ as (L, 2, K, N, D)."""
        inner_NM = torch.tanh(self.embedding_NW @ self.hidden_MW.T + self.hidden_bias_M)
        flat_NO = inner_NM @ self.output_OM.T + self.output_bias_O
        return flat_NO.view(self.length, len(self.sites), 2, *self.shape).permute(1, 2, 3, 0, 4)


@dataclass(frozen=True, kw_only=True)
class Prefix(Method, Starts, Finishes):
    """Trained keys and values before the sequence's own."""

    recipe: ClassVar[Recipe] = Recipe(lr=5e-3)
    paper: ClassVar[str] = "Li and Liang 2021, section 4"
    formula: ClassVar[str] = "L · 2 · length · kv_heads · head_dim"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": 3},
        {"length": 2, "at": "block.*.{attn,cross}", "shift": False},
        {"length": 2, "reparam": "mlp", "hidden": 5},
        {"length": 4, "init": "text", "text": "a good movie"},
        {"length": 3, "place": "infix"},
    )

    length: int = 10
    """Virtual tokens."""
    at: str = "block.*.attn"
    reparam: Literal["mlp"] | None = None
    hidden: int = 512
    """Width of the network (800 in the paper's summarisation)."""
    init: Literal["random", "text"] = "random"
    text: str | None = None
    """With init="text": the words to start from, cut or repeated to `length` tokens."""
    std: float = 0.02
    """Standard deviation of the random start. PEFT starts at 1."""
    shift: bool = True
    """Move the input's positions on by `length`; with place="infix", those behind the prefix."""
    place: Literal["front", "infix"] = "front"
    """infix: between the text and the answer, in causal decoders."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length is {self.length}; a prefix needs at least 1 virtual token.")
        if (self.init == "text") != bool(self.text):
            raise InputError("init='text' needs `text`, and `text` needs init='text'.")
        if self.init == "text" and self.reparam is not None:
            raise InputError(
                "init='text' sets keys and values, which reparam='mlp' computes from a network. Choose one of the two."
            )

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One edit for the attention layers of each stack that `at` selects, and one for its cross-attention."""
        groups: dict[str, list[Site]] = {}
        for site in sites.select(self.at, "sublayer"):
            self._check_place(site, sites)
            kind = "cross" if _attention(site, sites).cross else "attn"
            groups.setdefault(f"{site.stack}.block.*.{kind}".removeprefix("."), []).append(site)
        return Edits(tuple(self._edit(name, group, sites, rng) for name, group in groups.items()))

    def _check_place(self, site: Site, sites: Sites) -> None:
        if self.place == "front":
            return
        if sites.kind != "decoder":
            raise UnsupportedError(
                "place='infix' puts keys and values between the text and the answer of a causal decoder; "
                f"{sites.model_type} is an {sites.kind}. Take place='front'."
            )
        if _attention(site, sites).window is not None:
            raise UnsupportedError(
                f"place='infix' needs attention that sees the whole text; {site.name} of {sites.model_type} has a window. "
                "Take place='front', or select other layers."
            )

    def _edit(self, name: str, group: list[Site], sites: Sites, rng: Generator | None) -> PrefixEdit:
        shapes = {(layer.kv_heads, layer.head_dim) for layer in (_attention(site, sites) for site in group)}
        if len(shapes) > 1:
            raise UnsupportedError(
                f"The layers of {name!r} differ in key/value heads or their width: {sorted(shapes)}. Select equal ones."
            )
        heads, width = shape = shapes.pop()
        names = tuple(site.name for site in group)
        common: dict[str, Any] = {"site": name, "sites": names, "length": self.length, "shift": self.shift, "place": self.place}
        if self.reparam is None:
            tensor = normal((len(names), 2, heads, self.length, width), rng, std=self.std)
            return PlainPrefix(**common, prefix_L2KND=tensor)
        token, out = heads * width, len(names) * 2 * heads * width
        return NetworkPrefix(
            **common,
            shape=shape,
            embedding_NW=normal((self.length, token), rng, std=1.0),
            hidden_MW=uniform((self.hidden, token), rng, bound=token**-0.5),
            hidden_bias_M=zeros((self.hidden,), rng),
            output_OM=uniform((out, self.hidden), rng, bound=self.hidden**-0.5),
            output_bias_O=zeros((out,), rng),
        )

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The prefix at the keys and values of `text`, if asked for."""
        if self.init != "text":
            return edits
        pieces = base.tokenizer(self.text or "", add_special_tokens=False)["input_ids"]
        if not pieces:
            raise InputError(f"The start text {self.text!r} has no tokens.")
        ids = [pieces[i % len(pieces)] for i in range(self.length)]
        out = []
        for edit in edits:
            assert isinstance(edit, PlainPrefix)
            out.append(replace(edit, prefix_L2KND=record_key_values(base, ids, edit.sites).float().cpu()))
        return Edits(tuple(out))

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The prefix that the network computes, without the network."""
        if self.reparam is None:
            return self, edits
        return replace(self, reparam=None), Edits(tuple(_plain(edit) for edit in edits))


def _plain(edit: Edit) -> PlainPrefix:
    assert isinstance(edit, NetworkPrefix)
    with torch.no_grad():
        tensor = edit.key_values().contiguous().clone()
    common: dict[str, Any] = {"site": edit.site, "sites": edit.sites, "length": edit.length, "shift": edit.shift}
    return PlainPrefix(**common, place=edit.place, prefix_L2KND=tensor)


def _attention(site: Site, sites: Sites) -> Attention:
    if site.attention is None:
        raise UnsupportedError(
            f"{site.name} of {sites.model_type} is no attention, so it takes no prefix. Select attn or cross sublayers."
        )
    return site.attention
