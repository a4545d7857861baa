"""The state of one `attach`: adapters, rows, and the hooks on the modules where edits act."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.base.sites import Site, SiteKind
from lmtailor.base.stack import Stack
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Context, Edit
from lmtailor.edits.edits import Edits
from lmtailor.edits.groups import Rows, SitePlan, plan_site
from lmtailor.edits.kinds import HiddenEdit, NormEdit, PrefixEdit, ProjectionEdit, PromptEdit

_KINDS: dict[type[Edit], tuple[SiteKind, ...]] = {
    ProjectionEdit: ("projection",),
    HiddenEdit: ("sublayer", "block", "embedding"),
    NormEdit: ("norm",),
}
"""Where edits of states may act."""

KindT = TypeVar("KindT", bound=Edit)


@dataclass
class Engine:
    """Plans for the rows of the batch, and what the current pass has left for its edits."""

    base: Base
    adapters: tuple[Edits, ...]
    rows: Rows
    phase: str = "prefill"
    draw: int | None = None
    """What edits that choose by chance draw from in this pass; None outside of training."""
    recording: bool = False
    """A pass that only leaves keys and values; nothing but edits of states and static prefixes acts."""
    alive: bool = True
    entries: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Sublayer site → its input and residual in this pass."""
    _plans: dict[tuple[Rows, str], SitePlan | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_site: list[dict[str, list[Edit]]] = []
        for edits in self.adapters:
            at: dict[str, list[Edit]] = {}
            for edit in edits:
                if isinstance(edit, ProjectionEdit | HiddenEdit | NormEdit):
                    self._check_state(edit)
                    at.setdefault(edit.site, []).append(edit)
                if isinstance(edit, PrefixEdit | PromptEdit):
                    self._check_front(edit)
            self._by_site.append(at)

    def _check_state(self, edit: Edit) -> None:
        site = self.base.sites[edit.site]
        allowed = _KINDS[next(kind for kind in _KINDS if isinstance(edit, kind))]
        if site.kind not in allowed:
            raise UnsupportedError(f"{type(edit).__name__} acts on {' or '.join(allowed)} sites; {site.name} is a {site.kind}.")
        if isinstance(edit, ProjectionEdit) and edit.changes_input and site.part is not None:
            raise UnsupportedError(
                f"{type(edit).__name__} changes a projection's input, but {site.name} is part of the fused {site.fused}, "
                f"whose parts share one input. Use {site.fused}."
            )

    def _check_front(self, edit: PrefixEdit | PromptEdit) -> None:
        for name in edit.sites if isinstance(edit, PrefixEdit) else (edit.site,):
            site = self.base.sites[name]
            if isinstance(edit, PrefixEdit) and site.attention is None:
                raise UnsupportedError(f"{type(edit).__name__} acts on attentions; {name} is none.")
            if isinstance(edit, PromptEdit) and site.kind != "embedding":
                raise UnsupportedError(f"{type(edit).__name__} acts on embedding sites; {name} is a {site.kind}.")

    @property
    def sites(self) -> list[Site]:
        """The sites where some adapter acts on states, in the order of the forward."""
        names = {name for at in self._by_site for name in at}
        return [site for site in self.base.sites.values() if site.name in names]

    def plan(self, site: str) -> SitePlan | None:
        """What happens at a site for the rows of now."""
        key = (self.rows, site)
        if key not in self._plans:
            self._plans[key] = plan_site([at.get(site, []) for at in self._by_site], self.rows)
        return self._plans[key]

    def of_kind(self, slot: int, kind: type[KindT]) -> list[KindT]:
        """The edits of one kind of one adapter, in order."""
        return [edit for edit in self.adapters[slot] if isinstance(edit, kind)]

    def prompts(self, slot: int, stack: Stack) -> list[PromptEdit]:
        """The prompts of one adapter before one stack, in order."""
        return [edit for edit in self.of_kind(slot, PromptEdit) if self.base.sites[edit.site].stack == stack.name]

    def embed(self, stack: Stack) -> Callable[[Tensor], Tensor]:
        """From token ids to a stack's embeddings of words, under the edits of the rows of now."""
        module = self.base.module(stack.embedding)

        def words(ids: Tensor) -> Tensor:
            out: Tensor = module(ids.to(self.base.device))
            return out * stack.embedding_scale if stack.embedding_scale != 1.0 else out

        return words

    @contextlib.contextmanager
    def narrowed(self, slots: Sequence[int | None]) -> Iterator[None]:
        """For a while, the batch is these rows."""
        before = self.rows
        self.rows = Rows(tuple(slots))
        try:
            yield
        finally:
            self.rows = before

    def context(self, module: nn.Module) -> Context:
        """What edits at a module may know of the pass."""
        return Context(training=module.training, phase="decode" if self.phase == "decode" else "prefill", draw=self.draw)


class Station:
    """One hooked module: the sites that it carries and the sublayers that begin at it."""

    def __init__(self, engine: Engine, module: nn.Module, sites: Sequence[Site], begins: Sequence[Site]) -> None:
        self.engine = engine
        self.module = module
        self.sites = list(sites)
        self.begins = list(begins)
        self.calls = max((site.calls for site in (*sites, *begins)), default=1)
        self.call = 0

    def register(self) -> list[Any]:
        """Put the hooks in front of all others, so that transformers' own capture hooks see edited states."""
        return [
            self.module.register_forward_pre_hook(self._before, with_kwargs=True),
            self.module.register_forward_hook(self._after, with_kwargs=True, prepend=True),
        ]

    def reset(self) -> None:
        """A new pass begins."""
        self.call = 0

    def _here(self, sites: Sequence[Site]) -> list[Site]:
        return [site for site in sites if site.call == self.call] if self.calls > 1 else list(sites)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        x: Tensor = args[0] if args else kwargs["hidden_states"]
        for site in self._here(self.begins):
            self.engine.entries[site.name] = (x, x)
        changed = x
        for site in self._here(self.sites):
            plan = self.engine.plan(site.name) if site.kind == "projection" else None
            if plan is not None and any(isinstance(edit, ProjectionEdit) and edit.changes_input for edit in plan.edits):
                changed = plan.run(
                    [changed],
                    lambda edit, v: edit.input(v[0], self.engine.context(module)),  # type: ignore[attr-defined]
                    dtype=self.engine.base.dtype,
                    wanted=lambda edit: isinstance(edit, ProjectionEdit) and edit.changes_input,
                )
        if changed is x:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        x: Tensor = args[0] if args else kwargs["hidden_states"]
        state = output[0] if isinstance(output, tuple) else output
        edited = state
        for site in self._here(self.sites):
            plan = self.engine.plan(site.name)
            if plan is not None:
                edited = self._run(site, plan, x, edited)
        for site in self._here(self.begins):
            if site.entry is not None and site.entry.normed:
                self.engine.entries[site.name] = (edited, self.engine.entries[site.name][1])
        self.call = (self.call + 1) % self.calls
        if edited is state:
            return output
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def _run(self, site: Site, plan: SitePlan, x: Tensor, y: Tensor) -> Tensor:
        base, ctx = self.engine.base, self.engine.context(self.module)
        if site.kind == "projection":
            lin = base.linear(site)
            part = y if site.part is None else site.part.take(y)
            new = plan.run([part, x], lambda edit, v: edit.output(v[1], v[0], lin, ctx), dtype=base.dtype)  # type: ignore[attr-defined]
            new = new.to(y.dtype)
            return new if site.part is None else site.part.put(y, new)
        if site.kind == "norm":
            norm = base.norm(site)
            return plan.run([y, x], lambda edit, v: edit.normed(v[1], v[0], norm, ctx), dtype=base.dtype).to(y.dtype)  # type: ignore[attr-defined]
        return self._run_hidden(site, plan, y, ctx)

    def _run_hidden(self, site: Site, plan: SitePlan, h: Tensor, ctx: Context) -> Tensor:
        base = self.engine.base
        norm = base.norm(base.sites[site.next_norm]) if site.next_norm is not None else None
        values = [h]
        if any(isinstance(edit, HiddenEdit) and edit.needs_entry for edit in plan.edits):
            values += [value.reshape(h.shape) for value in self.engine.entries[site.name]]

        def call(edit: Edit, v: Sequence[Tensor]) -> Tensor:
            assert isinstance(edit, HiddenEdit)
            entry, residual = (v[1], v[2]) if edit.needs_entry else (None, None)
            return edit.hidden(entry, v[0], residual, norm, ctx)

        return plan.run(values, call, dtype=base.dtype).to(h.dtype)


def stations(engine: Engine) -> list[Station]:
    """One station for every module that edits of states touch."""
    sites = engine.sites
    by_module: dict[str, tuple[list[Site], list[Site]]] = {}
    for site in sites:
        by_module.setdefault(site.module, ([], []))[0].append(site)
        needs = any(isinstance(e, HiddenEdit) and e.needs_entry for at in engine._by_site for e in at.get(site.name, []))
        if needs:
            if site.entry is None:
                raise UnsupportedError(f"{site.name} has no input and residual to read; only sublayer sites have.")
            by_module.setdefault(site.entry.module, ([], []))[1].append(site)
    return [Station(engine, engine.base.module(path), *pair) for path, pair in by_module.items()]
