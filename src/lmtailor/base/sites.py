"""Sites: the places in a model where an adaptation may act, under the same names for every architecture.

    embed                 the word embeddings' output, before positions       kind "embedding"
    block.N               the residual stream after block N                   kind "block"
    block.N.attn  .ffn    a sublayer's output before the residual add         kind "sublayer"
    block.N.cross         likewise, the decoder's attention over the encoder  kind "sublayer"
    block.N.attn.{q,k,v,o}  block.N.cross.{q,k,v,o}  block.N.ffn.{gate,up,down}  kind "projection"
    block.N.attn.qkv  block.N.ffn.gate_up   a fused projection as a whole     kind "projection"
    block.N.norm1, norm2, …   embed_norm   final_norm                         kind "norm"
    block.N.attn.q_norm  .k_norm   over the features of each head             kind "norm"
    project_in   project_out   between the embeddings' width and the blocks'  kind "projection"
    lm_head                                                                   kind "projection"

In feed-forward networks `gate` is the projection that goes through the activation, where there are two; `up` is the
one before the activation where there is no gate. `attn.qkv` and `attn.q`, where both exist, are one module. A norm
without weights is no site, and the LM head has sites for its last projection alone.

In encoder-decoders every name of a stack starts with `encoder.` or `decoder.`; a pattern without that start
selects in both. In models whose blocks share their weights (ALBERT), block N is the Nth call in a forward.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lmtailor.base.family import Kind
from lmtailor.base.slices import Slice
from lmtailor.base.views import LinearView, NormView
from lmtailor.base.weights import Weights
from lmtailor.core.errors import SiteError, near

SiteKind = Literal["embedding", "block", "sublayer", "projection", "norm"]
_LONGEST = 4000
"""Characters of a pattern. Those of a stranger's adapter are read too, and splitting takes the square of the length."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The attention of a sublayer: the module that calls the attention interface, and its shape."""

    module: str
    """Path of the module in the model."""
    heads: int
    kv_heads: int
    head_dim: int
    cross: bool = False
    """Whether it attends over the encoder's output."""
    window: int | None = None
    """A query at position p sees position j only if |p - j| < window; None: no limit (tokens)."""

    @property
    def kv_width(self) -> int:
        """Features of one token's keys: kv_heads · head_dim."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a sublayer begins: the residual stream is the first input of `module`.

    The sublayer's own input is that too (`normed` false, post-norm models), or the module's output (`normed` true,
    pre-norm models, where the module is the norm before the sublayer).
    """

    module: str
    normed: bool


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place. Paths are of modules in `base.model`; widths are numbers of features."""

    name: str
    kind: SiteKind
    module: str
    width: int
    """Features of the output."""
    in_width: int | None = None
    """Projections: features of the input."""
    part: Slice | None = None
    """Projections that are part of a fused one: which features of its output."""
    fused: str | None = None
    """Name of the fused site that this is a part of."""
    stack: str = ""
    """"encoder", "decoder", or "" in models with one stack."""
    block: int | None = None
    call: int = 0
    """Which call of the module in one forward this is, and of how many (more than 1 only where blocks share weights)."""
    calls: int = 1
    attention: Attention | None = None
    """Sublayers `attn` and `cross`."""
    entry: Entry | None = None
    """Sublayers: where their input and residual are read."""
    next_norm: str | None = None
    """Sublayers of post-norm models: the name of the norm's site that follows the residual add."""


class Sites(Mapping[str, Site]):
    """All sites of a model by name, in the order of the forward."""

    def __init__(self, sites: Mapping[str, Site], *, model_type: str, kind: Kind, weights: Weights) -> None:
        self._sites = dict(sites)
        self._weights = weights
        self.model_type = model_type
        self.kind = kind

    def __getitem__(self, name: str) -> Site:
        try:
            return self._sites[name]
        except KeyError:
            known = [*self._shapes(), *self._sites]
            raise SiteError(f"{self.model_type} has no site {name!r}. {near(name, known)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._sites

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def blocks(self, stack: str = "") -> int:
        """How many blocks a stack has."""
        return sum(site.kind == "block" and site.stack == stack for site in self._sites.values())

    @property
    def stacks(self) -> tuple[str, ...]:
        """Names of the stacks in the order of the forward: ("",) or ("encoder", "decoder")."""
        return tuple(dict.fromkeys(site.stack for site in self._sites.values() if site.kind == "block"))

    def select(self, pattern: str, *kinds: SiteKind) -> tuple[Site, ...]:
        """Sites whose name matches, in the order of the forward.

        Args:
            pattern: names joined by commas, in which `*` stands for one dotted part, `{a,b}` for alternatives, and
                `[i]`, `[i:j]`, `[i,j]` for block numbers as Python indexes lists: `block.*.attn.{q,v}`, `block.[-2:]`.
                A pattern that starts with neither `encoder.` nor `decoder.` selects in every stack.
            kinds: keep only these kinds; none given keeps all.

        Raises:
            SiteError: a part of the pattern selects nothing.
        """
        chosen: set[str] = set()
        for one in split_pattern(pattern):
            names = self._matching(one)
            found = [name for name in names if not kinds or self._sites[name].kind in kinds]
            if not found:
                wanted = f" of kind {' or '.join(kinds)}" if kinds else ""
                if names:
                    have = sorted({self._sites[name].kind for name in names})
                    raise SiteError(
                        f"The pattern {one!r} selects no site{wanted} in {self.model_type}, only {', '.join(have)} sites."
                    )
                raise SiteError(f"The pattern {one!r} selects no site{wanted} in {self.model_type}. {near(one, self._shapes())}")
            chosen.update(found)
        return tuple(site for name, site in self._sites.items() if name in chosen)

    def without_head(self) -> "Sites":
        """The sites that a readout of hidden states depends on: all but the LM head."""
        return Sites(
            {name: site for name, site in self._sites.items() if name != "lm_head"},
            model_type=self.model_type,
            kind=self.kind,
            weights=self._weights,
        )

    def linear(self, site: Site) -> LinearView:
        """The weight and bias of a projection site as (out, in)."""
        whole = self._weights.linear(site.module)
        return LinearView(whole.module, whole.transposed, site.part)

    def norm(self, site: Site) -> NormView:
        """Gain and shift of a norm site."""
        return self._weights.norm(site.module)

    def parameters(self, name: str | None = None) -> dict[str, Tensor]:
        """Parameters of the base by path, each once: those of one site and of all sites below it, or of all sites.

        `block.3` has everything in the block; `block.3.attn` the projections and norms whose names start so; `lm_head`
        the whole head, with the word embeddings if they are tied to it.
        """
        if name is None:
            return self._weights.of_model(head="lm_head" in self._sites)
        site = self[name]
        if site.kind == "block":
            return self._weights.of_modules((site.module,), deep=True)
        if name == "lm_head":
            trunk = self._weights.of_model(head=False)
            head = {path: value for path, value in self._weights.of_model(head=True).items() if path not in trunk}
            return head | self._weights.of_modules((site.module,), deep=False)
        below = tuple(own.module for key, own in self._sites.items() if key == name or key.startswith(f"{name}."))
        return self._weights.of_modules(below, deep=False)

    def _matching(self, pattern: str) -> list[str]:
        regexes = {stack: _regex(pattern, self.blocks(stack)) for stack in {site.stack for site in self._sites.values()}}
        first = pattern.split(".", 1)[0]
        out = []
        for name, site in self._sites.items():
            own = name if not site.stack or first == site.stack else name.removeprefix(f"{site.stack}.")
            if regexes[site.stack].fullmatch(own):
                out.append(name)
        return out

    def _shapes(self) -> list[str]:
        """The patterns that exist: names with `*` for the block number."""
        return list(dict.fromkeys(re.sub(r"block\.\d+", "block.*", name) for name in self._sites))


def split_pattern(pattern: str) -> list[str]:
    """Split at commas outside braces and brackets.

    Raises:
        SiteError: a part is empty, or the pattern is longer than any that is meant.
    """
    if len(pattern) > _LONGEST:
        raise SiteError(f"The site pattern {pattern[:60]!r}… has {len(pattern)} characters; {_LONGEST} are the most.")
    parts = [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", pattern)]
    if not all(parts):
        raise SiteError(f"The site pattern {pattern[:200]!r} has an empty part. Write for example block.*.attn.{{q,v}}.")
    return parts


def _regex(pattern: str, blocks: int) -> re.Pattern[str]:
    out = ""
    for token in re.findall(r"\{[^}]*\}|\[[^\]]*\]|\*|[^{\[*]+", pattern):
        if token == "*":
            out += r"[^.]+"
        elif token[0] == "{" and token[-1] == "}":
            # Each alternative once: of equal ones, a search would try all combinations.
            out += "(?:" + "|".join(dict.fromkeys(re.escape(part.strip()) for part in token[1:-1].split(","))) + ")"
        elif token[0] == "[" and token[-1] == "]":
            numbers = _indices(token, blocks, pattern)
            out += "(?:" + "|".join(map(str, numbers)) + ")" if numbers else r"(?!)"
        else:
            out += re.escape(token)
    return re.compile(out)


def _indices(token: str, blocks: int, pattern: str) -> list[int]:
    numbers = range(blocks)
    chosen: list[int] = []
    for part in token[1:-1].split(","):
        bounds = part.split(":")
        try:
            values = [int(bound) if bound.strip() else None for bound in bounds]
        except ValueError:
            values = []
        if not 1 <= len(values) <= 3 or (len(values) == 1 and values[0] is None) or values[2:] == [0]:
            raise SiteError(f"{token} in the site pattern {pattern!r} is no index. Write [3], [-1], [0,2] or [-2:].")
        if len(values) > 1:
            chosen.extend(numbers[slice(*values)])
        elif values[0] is not None and -blocks <= values[0] < blocks:
            chosen.append(numbers[values[0]])
    return chosen
