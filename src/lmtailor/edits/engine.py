"""The state of one `attach`: adapters, rows, and the hooks on the modules where edits act."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

from torch import Tensor, nn

from lmtailor.base.base import Base
from lmtailor.base.sites import Site, SiteKind
from lmtailor.base.stack import Stack
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Context, Edit
from lmtailor.edits.edits import Edits
from lmtailor.edits.groups import Rows, SitePlan, plan_site
from lmtailor.edits.kinds import HiddenEdit, NormEdit, PlacedEdit, PrefixEdit, ProjectionEdit, PromptEdit

_KINDS: dict[type[Edit], tuple[SiteKind, ...]] = {
    ProjectionEdit: ("projection",),
    HiddenEdit: ("sublayer", "block", "embedding"),
    NormEdit: ("norm",),
}
"""Where edits of states may act."""

KindT = TypeVar("KindT", bound=Edit)


ROW_SETS = 8
"""How many sets of rows an engine keeps its plans for, with the stacked tensors in them."""


class Engine:
    """Plans for the rows of the batch, and what the current pass has left for its edits."""

    def __init__(self, base: Base, adapters: Sequence[Edits], rows: Rows, *, fast: bool = False) -> None:
        """Sort the edits by site.

        Args:
            base: the model.
            adapters: the edits of each adapter.
            rows: the adapter of each row.
            fast: whether texts that are read may be computed in another order than the base's own.

        Raises:
            UnsupportedError: an edit that cannot act where it is put.
        """
        self.base = base
        self.dtype = base.dtype
        """Of the base's weights, and so of stacked tensors."""
        self.adapters = tuple(adapters)
        self.fast = fast
        self.phase = "prefill"
        self.draw: int | None = None
        """What edits that choose by chance draw from in this pass; None outside of training."""
        self.answer: Tensor | int | None = None
        """Where answers begin, as `infix.gaps_of` takes it."""
        self.recording = False
        """A pass that only leaves keys and values; nothing but edits of states and static prefixes acts."""
        self.alive = True
        self.shares_BT1: Tensor | None = None
        """Each token's share in the mean over its sequence, in stacks that are not causal, where some edit asks for it."""
        self.entries: dict[str, tuple[Tensor, Tensor]] = {}
        """Sublayer site → its input and residual in this pass."""
        self.places: Tensor | None = None
        """Where each token of this pass stands (B, T, 3), where some edit asks; None behind a cache."""
        self._of_kind: dict[tuple[int, type[Edit]], list[Any]] = {}
        self._plans: dict[Rows, dict[str, SitePlan | None]] = {}
        self._contexts: dict[tuple[bool, str, int | None], Context] = {}
        self.rows = rows
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
            kind = "decoder" if edit.place == "infix" else "encoder"
            if edit.place != "front" and self.base.kind != kind:
                where = "between text and answer of a causal decoder" if kind == "decoder" else "beside a masked model's gap"
                raise UnsupportedError(f"{type(edit).__name__} stands {where}; {self.base.family.name} is a {self.base.kind}.")

    @property
    def sites(self) -> list[Site]:
        """The sites where some adapter acts on states, in the order of the forward."""
        names = {name for at in self._by_site for name in at}
        return [site for site in self.base.sites.values() if site.name in names]

    @functools.cached_property
    def pools(self) -> bool:
        """Whether some edit asks for means over sequences."""
        pooled = any(edit.pooled for slot in range(len(self.adapters)) for edit in self.of_kind(slot, PrefixEdit))
        return pooled or any(self.has_at(name, _needs_shares) for at in self._by_site for name in at)

    @property
    def rows(self) -> Rows:
        """The rows of now."""
        return self._rows

    @rows.setter
    def rows(self, rows: Rows) -> None:
        self._rows = rows
        # Asked for last, it is thrown away last.
        self._now = self._plans.pop(rows, {})
        self._plans[rows] = self._now
        while len(self._plans) > ROW_SETS:
            del self._plans[next(iter(self._plans))]

    def plan(self, site: str) -> SitePlan | None:
        """What happens at a site for the rows of now."""
        try:
            return self._now[site]
        except KeyError:
            made = self._now[site] = plan_site([at.get(site, []) for at in self._by_site], self._rows)
            return made

    @property
    def asks_places(self) -> bool:
        """Whether some adapter has an edit that depends on where a token stands."""
        return any(_needs_places(edit) for edits in self.adapters for edit in edits)

    def has_at(self, site: str, wanted: Callable[[Edit], bool]) -> bool:
        """Whether some adapter has such an edit at a site."""
        return any(wanted(edit) for at in self._by_site for edit in at.get(site, ()))

    def of_kind(self, slot: int, kind: type[KindT]) -> list[KindT]:
        """The edits of one kind of one adapter, in order."""
        key = (slot, kind)
        if key not in self._of_kind:
            self._of_kind[key] = [edit for edit in self.adapters[slot] if isinstance(edit, kind)]
        return cast(list[KindT], self._of_kind[key])

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
    def narrowed(self, rows: Rows) -> Iterator[None]:
        """For a while, the batch is these rows."""
        before = self.rows
        self.rows = rows
        try:
            yield
        finally:
            self.rows = before

    def context(self, module: nn.Module) -> Context:
        """What edits at a module may know of the pass."""
        key = (module.training, self.phase, self.draw)
        found = self._contexts.get(key)
        if found is None:
            phase: Literal["prefill", "decode"] = "decode" if self.phase == "decode" else "prefill"
            # Draws never come back, so only one of them is worth keeping.
            self._contexts = {} if self.draw is not None else self._contexts
            found = self._contexts[key] = Context(training=module.training, phase=phase, draw=self.draw)
        return found


def _changes_input(edit: Edit) -> bool:
    return isinstance(edit, ProjectionEdit) and edit.changes_input


def _changes_output(edit: Edit) -> bool:
    return isinstance(edit, ProjectionEdit) and edit.changes_output


def _needs_entry(edit: Edit) -> bool:
    return isinstance(edit, HiddenEdit) and edit.needs_entry


def _needs_places(edit: Edit) -> bool:
    return isinstance(edit, PlacedEdit)


def _needs_shares(edit: Edit) -> bool:
    return isinstance(edit, HiddenEdit | ProjectionEdit) and edit.needs_shares


class Station:
    """One hooked module: the sites that it carries and the sublayers that begin at it."""

    def __init__(self, engine: Engine, module: nn.Module, sites: Sequence[Site], begins: Sequence[Site]) -> None:
        self.engine = engine
        self.module = module
        self.sites = tuple(sites)
        self.begins = tuple(begins)
        self.inputs = tuple(site for site in sites if engine.has_at(site.name, _changes_input))
        """Sites of projections whose input some edit changes."""
        self.pooled = frozenset(site.name for site in sites if engine.has_at(site.name, _needs_shares))
        """Sites where some edit asks for means over sequences."""
        self.placed = frozenset(site.name for site in sites if engine.has_at(site.name, _needs_places))
        """Sites where some edit asks where a token stands."""
        self.calls = max((site.calls for site in (*sites, *begins)), default=1)
        self.call = 0
        base = engine.base
        self._linear = {site.name: base.linear(site) for site in sites if site.kind == "projection"}
        norms = {site.name: site if site.kind == "norm" else base.sites[site.next_norm or site.name] for site in sites}
        self._norm = {name: base.norm(norm) for name, norm in norms.items() if norm.kind == "norm"}

    def register(self) -> list[Any]:
        """Put the hooks in front of all others, so that transformers' own capture hooks see edited states."""
        handles: list[Any] = []
        if self.begins or self.inputs:
            handles.append(self.module.register_forward_pre_hook(self._before, with_kwargs=True))
        handles.append(self.module.register_forward_hook(self._after, with_kwargs=True, prepend=True))
        return handles

    def reset(self) -> None:
        """A new pass begins."""
        self.call = 0

    def _here(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return sites if self.calls == 1 else tuple(site for site in sites if site.call == self.call)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        x: Tensor = args[0] if args else kwargs["hidden_states"]
        for site in self._here(self.begins):
            self.engine.entries[site.name] = (x, x)
        changed = x
        for site in self._here(self.inputs):
            plan = self.engine.plan(site.name)
            if plan is not None:
                ctx = self.engine.context(module)
                changed = plan.run(
                    (changed,),
                    lambda edit, v: edit.input(v[0], ctx),  # type: ignore[attr-defined]  # noqa: B023 - called at once
                    dtype=self.engine.dtype,
                    wanted=_changes_input,
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
        if self.calls > 1:
            self.call = (self.call + 1) % self.calls
        if edited is state:
            return output
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def _run(self, site: Site, plan: SitePlan, x: Tensor, y: Tensor) -> Tensor:
        ctx, dtype = self.engine.context(self.module), self.engine.dtype
        if site.kind == "projection":
            lin = self._linear[site.name]
            part = y if site.part is None else site.part.take(y)
            shares = self._shares(site)
            new = plan.run(
                (part, x, *shares),
                lambda edit, v: edit.output(v[1], v[0], lin, self._pooling(ctx, v[-1]) if shares else ctx),  # type: ignore[attr-defined]
                dtype=dtype,
                wanted=_changes_output,
            )
            new = new.to(y.dtype)
            return new if site.part is None else site.part.put(y, new)
        if site.kind == "norm":
            norm = self._norm[site.name]
            return plan.run((y, x), lambda edit, v: edit.normed(v[1], v[0], norm, ctx), dtype=dtype).to(y.dtype)  # type: ignore[attr-defined]
        return self._run_hidden(site, plan, x, y, ctx)

    def _run_hidden(self, site: Site, plan: SitePlan, x: Tensor, h: Tensor, ctx: Context) -> Tensor:
        norm = self._norm.get(site.name)
        values = [h]
        if self.engine.has_at(site.name, _needs_entry):
            if site.kind == "embedding":
                values.append(x[..., None])  # token ids
            else:
                values += [value.reshape(h.shape) for value in self.engine.entries[site.name]]

        count, shares, places = len(values), self._shares(site), self._places(site)

        def call(edit: Edit, v: Sequence[Tensor]) -> Tensor:
            assert isinstance(edit, HiddenEdit)
            if places and isinstance(edit, PlacedEdit):
                return edit.placed(v[0], v[-1], ctx)
            entry = v[1] if edit.needs_entry else None
            residual = v[2] if edit.needs_entry and count > 2 else None
            return edit.hidden(entry, v[0], residual, norm, self._pooling(ctx, v[count]) if shares else ctx)

        return plan.run([*values, *shares, *places], call, dtype=self.engine.dtype).to(h.dtype)

    def _shares(self, site: Site) -> tuple[Tensor, ...]:
        """The tokens' shares as one more value that goes with the states, where an edit asks for them."""
        shares = self.engine.shares_BT1 if site.name in self.pooled else None
        return () if shares is None else (shares,)

    def _places(self, site: Site) -> tuple[Tensor, ...]:
        """The tokens' places likewise."""
        places = self.engine.places if site.name in self.placed else None
        return () if places is None else (places,)

    def _pooling(self, ctx: Context, shares_RT1: Tensor) -> Context:
        assert self.engine.shares_BT1 is not None
        return replace(ctx, shares_RT1=shares_RT1, length=self.engine.shares_BT1.shape[1])


def stations(engine: Engine) -> list[Station]:
    """One station for every module that edits of states touch."""
    by_module: dict[str, tuple[list[Site], list[Site]]] = {}
    for site in engine.sites:
        by_module.setdefault(site.module, ([], []))[0].append(site)
        if site.kind != "embedding" and engine.has_at(site.name, _needs_entry):
            if site.entry is None:
                raise UnsupportedError(f"{site.name} has no input and residual to read; only sublayer sites have.")
            by_module.setdefault(site.entry.module, ([], []))[1].append(site)
    return [Station(engine, engine.base.module(path), *pair) for path, pair in by_module.items()]
