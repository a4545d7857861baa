"""The sites of a base, those of equal shape in one row."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmtailor.base.base import Base
from lmtailor.base.sites import Site


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """Sites that differ in their block alone."""

    sites: str
    """A pattern that selects them, such as block.[0:6].attn.q."""
    kind: str
    shape: str
    """Features: of the output, and for projections of the input."""
    module: str
    """Path in the model with * for the block's number; and what is special: heads, a window, the whole that it is a part of."""


def site_rows(base: Base) -> list[SiteRow]:
    """All sites, in the order of the first of each row."""
    groups: dict[tuple[str, ...], list[Site]] = {}
    for site in base.sites.values():
        key = (site.stack, _end(site), site.kind, _shape(site), _module(site))
        groups.setdefault(key, []).append(site)
    rows = []
    for (start, end, kind, shape, module), sites in groups.items():
        numbers = [site.block for site in sites if site.block is not None]
        blocks = f"block.{_range(numbers)}" if numbers else ""
        name = ".".join(part for part in (start, blocks, end) if part)
        rows.append(SiteRow(sites=name, kind=kind, shape=shape, module=module))
    return rows


def _end(site: Site) -> str:
    """What follows the block's number, or all that follows the stack's name."""
    return re.sub(r"^block\.\d+\.?", "", site.name.removeprefix(f"{site.stack}.") if site.stack else site.name)


def _shape(site: Site) -> str:
    return f"{site.width}" if site.in_width is None else f"{site.width} × {site.in_width}"


def _note(site: Site) -> str:
    notes = []
    if site.attention is not None:
        heads, shared, window = site.attention.heads, site.attention.kv_heads, site.attention.window
        notes.append(f"{heads} heads of {site.attention.head_dim}" + (f", {shared} of keys" if shared != heads else ""))
        notes += [] if window is None else [f"window {window}"]
    if site.fused is not None:
        notes.append(f"part of {site.fused.rpartition('.')[2]}")
    if site.calls > 1:
        notes.append(f"shared by {site.calls} calls")
    return ", ".join(notes)


def _module(site: Site) -> str:
    path = site.module if site.block is None else re.sub(r"\.\d+(?=\.|$)", ".*", site.module, count=1)
    note = _note(site)
    return f"{path} ({note})" if note else path


def _range(numbers: Sequence[int]) -> str:
    """Block numbers as a pattern takes them: [3], [0:6], [0:6:2], or [0,1,5]."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return f"[{first}]"
    step = numbers[1] - first
    if list(numbers) == list(range(first, last + 1, step)):
        return f"[{first}:{last + 1}]" if step == 1 else f"[{first}:{last + 1}:{step}]"
    return f"[{','.join(map(str, numbers))}]"
