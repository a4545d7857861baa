"""From a transformers model and its family's table to sites and stacks; every module is looked up and measured."""

from collections import Counter
from collections.abc import Iterator

from torch import nn

from lmtailor.base.block_sites import BlockSites
from lmtailor.base.family import StackTable
from lmtailor.base.lookup import Lookup, join
from lmtailor.base.sites import Site, Sites
from lmtailor.base.stack import Stack
from lmtailor.base.weights import Weights
from lmtailor.core.errors import UnsupportedError


def build(weights: Weights, prefix: str) -> tuple[Sites, tuple[Stack, ...]]:
    """All sites and stacks of a model.

    Args:
        weights: the model, its trunk and the table of its architecture.
        prefix: path of the trunk in the model; "" if the model is a trunk, or holds the trunk's parts itself.

    Raises:
        SiteError: a module of the table is missing, is of another kind, or has another width.
        UnsupportedError: two stacks share one word-embedding module.
    """
    family = weights.family
    look = Lookup(weights.model, family.name)
    sites: dict[str, Site] = {}
    stacks: list[Stack] = []
    for table in family.stacks:
        blocks = _block_paths(look, table, prefix)
        stacks.append(_stack(look, table, prefix, blocks))
        sites |= {site.name: site for site in _stack_sites(look, table, prefix, blocks)}
    head = family.lm_head.output
    if head in look:
        out, width = look.projection("lm_head", head)
        sites["lm_head"] = Site(name="lm_head", kind="projection", module=head, width=out, in_width=width)
    _check_embeddings(look, [site for site in sites.values() if site.kind == "embedding"])
    return Sites(sites, model_type=family.name, kind=family.kind, weights=weights), tuple(stacks)


def _check_embeddings(look: Lookup, sites: list[Site]) -> None:
    modules = {id(look.find(site.name, site.module)) for site in sites}
    if len(modules) < len(sites):
        raise UnsupportedError(
            f"{' and '.join(site.name for site in sites)} of this {look.family} model are one module (as after resizing its "
            "embeddings), so an edit of one would act on both. Save the model and load it from its folder: each stack then "
            "has a module of its own with tied weights."
        )


def _block_paths(look: Lookup, table: StackTable, prefix: str) -> tuple[str, ...]:
    if callable(table.blocks):
        return tuple(join(prefix, path) for path in table.blocks(look.model.config))
    path = join(prefix, table.blocks)
    return tuple(f"{path}.{i}" for i in range(len(look.typed("block", path, nn.ModuleList))))


def _stack(look: Lookup, table: StackTable, prefix: str, blocks: tuple[str, ...]) -> Stack:
    offset = table.position_offset(look.model.config) if callable(table.position_offset) else table.position_offset
    positions = None if table.position_embedding is None else join(prefix, table.position_embedding)
    rows = None if positions is None else look.typed("the table of positions", positions, nn.Embedding).num_embeddings
    root = join(prefix, table.root)
    look.find("a stack's root", root)
    return Stack(
        name=table.name,
        root=root,
        blocks=blocks,
        causal=table.causal,
        positions=table.positions,
        position_embedding=positions,
        position_offset=offset,
        max_positions=None if rows is None else rows - offset,
        embedding=join(prefix, table.embed),
        embedding_scale=1.0 if table.embed_scale is None else table.embed_scale(look.model.config),
    )


def _stack_sites(look: Lookup, table: StackTable, prefix: str, blocks: tuple[str, ...]) -> Iterator[Site]:
    """The sites of a stack in the order of the forward."""
    name, path = join(table.name, "embed"), join(prefix, table.embed)
    width = look.typed(name, path, nn.Embedding).embedding_dim
    yield Site(name=name, kind="embedding", module=path, width=width, stack=table.name)
    yield from _norm(look, table, prefix, "embed_norm", table.embed_norm)
    yield from _projection(look, table, prefix, "project_in", table.project_in)
    calls, seen = Counter(blocks), Counter[str]()
    for number, path in enumerate(blocks):
        yield from BlockSites(look, table, path, number, seen[path], calls[path]).sites()
        seen[path] += 1
    yield from _norm(look, table, prefix, "final_norm", table.final_norm)
    yield from _projection(look, table, prefix, "project_out", table.project_out)


def _norm(look: Lookup, table: StackTable, prefix: str, name: str, module: str | None) -> Iterator[Site]:
    if module is None:
        return
    name, path = join(table.name, name), join(prefix, module)
    gains = look.gain(name, path)
    if gains is not None:
        yield Site(name=name, kind="norm", module=path, width=gains, stack=table.name)


def _projection(look: Lookup, table: StackTable, prefix: str, name: str, module: str | None) -> Iterator[Site]:
    """A projection between the word embeddings' width and the blocks', which models with one width lack."""
    if module is None or (path := join(prefix, module)) not in look:
        return
    name = join(table.name, name)
    out, width = look.projection(name, path)
    yield Site(name=name, kind="projection", module=path, width=out, in_width=width, stack=table.name)
