"""The sites of one block, measured on its modules."""

from collections.abc import Iterator
from functools import partial

from lmtailor.base.family import Fused, StackTable, Sublayer
from lmtailor.base.lookup import Lookup, join
from lmtailor.base.sites import Attention, Entry, Site
from lmtailor.base.slices import Slice
from lmtailor.core.errors import UnsupportedError


class BlockSites:
    """One block of a stack: its paths and numbers, and the sites that follow from them."""

    def __init__(self, look: Lookup, table: StackTable, path: str, number: int, call: int, calls: int) -> None:
        self.look = look
        self.table = table
        self.path = path
        self.name = join(table.name, f"block.{number}")
        self.window = table.window(look.model.config, number)
        self.site = partial(Site, stack=table.name, block=number, call=call, calls=calls)
        config = look.model.config
        self.hidden = int(config.hidden_size)
        self.heads = int(getattr(config, table.heads))
        # Models without grouped heads have no such setting.
        self.kv_heads = int(config.to_dict().get("num_key_value_heads") or self.heads)

    def sites(self) -> Iterator[Site]:
        """The sites in the order of the forward; the block itself comes last."""
        first = 1
        for key, sublayer in self.table.sublayers.items():
            yield from self._sublayer(key, sublayer, first)
            first += len(sublayer.norms)
        self.look.find(self.name, self.path)
        yield self.site(name=self.name, kind="block", module=self.path, width=self.hidden)

    def _sublayer(self, key: str, sublayer: Sublayer, first: int) -> Iterator[Site]:
        """A sublayer's norms before it, its projections, itself, its norms after it."""
        name = f"{self.name}.{key}"
        for number, module in enumerate(sublayer.norms, first):
            if module == sublayer.entry:
                yield from self._norm(f"{self.name}.norm{number}", module, self.hidden)
        projections = {site.name: site for site in self._projections(name, sublayer)}
        yield from projections.values()
        attention = None if sublayer.attention is None else self._attention(name, sublayer, sublayer.attention, projections)
        if attention is not None:
            for part, module in sublayer.head_norms.items():
                yield from self._norm(f"{name}.{part}", module, attention.head_dim)
        else:
            self._check_ffn(name, projections)
        for path in (sublayer.output, sublayer.entry):
            self.look.find(name, self._path(path))
        yield self.site(
            name=name,
            kind="sublayer",
            module=self._path(sublayer.output),
            width=self.hidden,
            attention=attention,
            entry=Entry(module=self._path(sublayer.entry), normed=sublayer.normed),
            next_norm=self._next_norm(sublayer, first),
        )
        for number, module in enumerate(sublayer.norms, first):
            if module != sublayer.entry:
                yield from self._norm(f"{self.name}.norm{number}", module, self.hidden)

    def _check_ffn(self, name: str, projections: dict[str, Site]) -> None:
        down = projections[f"{name}.down"]
        self.look.expect(down.name, down.module, "features", down.width, self.hidden)
        for part in ("gate", "up"):
            site = projections.get(f"{name}.{part}")
            if site is not None:
                self.look.expect(site.name, site.module, "features", site.width, down.in_width or 0)
                self.look.expect(site.name, site.module, "inputs", site.in_width or 0, self.hidden)

    def _next_norm(self, sublayer: Sublayer, first: int) -> str | None:
        if sublayer.next_norm is None:
            return None
        name = f"{self.name}.norm{first + sublayer.norms.index(sublayer.next_norm)}"
        if self.look.gain(name, self._path(sublayer.next_norm)) is None:
            raise UnsupportedError(
                f"{name} of this {self.look.family} model has no weights, which is not known after a residual add."
            )
        return name

    def _norm(self, name: str, module: str, width: int) -> Iterator[Site]:
        path = self._path(module)
        gains = self.look.gain(name, path)
        if gains is not None:
            self.look.expect(name, path, "gains", gains, width)
            yield self.site(name=name, kind="norm", module=path, width=gains)

    def _projections(self, name: str, sublayer: Sublayer) -> Iterator[Site]:
        if sublayer.fused is not None:
            yield from self._fused(name, *sublayer.fused)
        for part, module in sublayer.projections.items():
            path = self._path(module)
            out, width = self.look.projection(f"{name}.{part}", path)
            yield self.site(name=f"{name}.{part}", kind="projection", module=path, width=out, in_width=width)

    def _fused(self, name: str, key: str, fused: Fused) -> Iterator[Site]:
        whole, path = f"{name}.{key}", self._path(fused.module)
        out, width = self.look.projection(whole, path)
        # Shares of the features: heads for queries, keys and values; halves for gate and up.
        shares = [{"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}.get(part, 1) for part in fused.parts]
        one, rest = divmod(out, sum(shares))
        self.look.expect(whole, path, "features beyond whole heads", rest, 0)
        yield self.site(name=whole, kind="projection", module=path, width=out, in_width=width)
        start = 0
        for number, (part, share) in enumerate(zip(fused.parts, shares, strict=True)):
            if fused.per_head:
                piece = Slice(offset=number * one, length=one, stride=len(shares) * one, count=share)
            else:
                piece = Slice(offset=start, length=share * one, stride=out)
            start += share * one
            yield self.site(
                name=f"{name}.{part}",
                kind="projection",
                module=path,
                width=piece.width,
                in_width=width,
                part=piece,
                fused=whole,
            )

    def _attention(self, name: str, sublayer: Sublayer, module: str, projections: dict[str, Site]) -> Attention:
        """The attention's shape from its projections, which must agree with the configuration."""
        q, k, v, o = (projections[f"{name}.{part}"] for part in "qkvo")
        head_dim, rest = divmod(q.width, self.heads)
        self.look.expect(q.name, q.module, "features beyond whole heads", rest, 0)
        for site in (k, v):
            self.look.expect(site.name, site.module, "features", site.width, self.kv_heads * head_dim)
        self.look.expect(o.name, o.module, "features", o.width, self.hidden)
        self.look.expect(o.name, o.module, "inputs", o.in_width or 0, q.width)
        self.look.find(name, self._path(module))
        return Attention(
            module=self._path(module),
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=head_dim,
            cross=name.endswith(".cross"),
            window=self.window,
        )

    def _path(self, module: str) -> str:
        return join(self.path, module)
