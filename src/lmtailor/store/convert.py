"""Converting: LoRA in place of any adapter that is a change of projections' weights, and how near it comes.

The change of each weight, W' − W, is replaced by its best approximation of a rank in the Frobenius norm (Eckart and Young
1936): the leading part of its singular value decomposition. A change of a bias is kept as it is.

Shapes: I inputs, O outputs of a projection, K rank.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.settings import to_mapping
from lmtailor.edits.attach import check_free
from lmtailor.edits.kinds import ProjectionEdit, WeightEdit
from lmtailor.methods import method_name
from lmtailor.methods.lora import LoRA
from lmtailor.store.adapter import Adapter, check_base
from lmtailor.store.merge import folding_order
from lmtailor.store.peft.targets import pattern_of


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What became of one site."""

    site: str
    rank: int
    norm: float
    """‖W' − W‖, the Frobenius norm of the change."""
    error: float
    """‖W' − W − B A‖ / ‖W' − W‖; 0 where the weight has not changed."""


@dataclass
class _Change:
    """The weight and bias of a site, (out, in), as the edits so far have left them, in float64."""

    weight_OI: Tensor
    bias_O: Tensor | None


def convert(adapter: Adapter, base: Base, rank: int) -> tuple[Adapter, tuple[Conversion, ...]]:
    """LoRA of a rank that does nearly what an adapter does, with the adapter's readout.

    Args:
        adapter: whose edits change weights and biases of projections, and nothing else.
        base: what it was made for.
        rank: of the LoRA; smaller where a matrix has not so much.

    Returns:
        The adapter, without scores, since none were measured of it; and the error of each site in the order of the forward.

    Raises:
        UnsupportedError: an edit acts on something other than projections; the message names it.
        InputError: the rank is below 1, or the adapter changes nothing.
        AdapterFileError: the adapter was made for another base.
        StateError: something is attached to the base.
    """
    if rank < 1:
        raise InputError(f"rank is {rank}; LoRA needs at least 1.")
    check_base(adapter, base)
    check_free(base)
    state: dict[str, Tensor] = {}
    report: list[Conversion] = []
    with torch.no_grad():
        changes = _changes(adapter, base)
        biased = any(_bias_change(base, site, change) is not None for site, change in changes.items())
        for site, change in changes.items():
            weight_OI = base.linear(base.sites[site]).weight_OI.double()
            a_KI, b_OK, one = _truncated(site, change.weight_OI - weight_OI, rank)
            state |= {f"{site}.a_KI": a_KI, f"{site}.b_OK": b_OK}
            report.append(one)
            if biased:
                bias_O = _bias_change(base, site, change)
                state[f"{site}.bias_O"] = a_KI.new_zeros(len(b_OK)) if bias_O is None else bias_O.float()
    method = _method(base, report, rank, biased)
    edits = method.edits(base.sites, None).with_state(state)
    origin = {"method": method_name(adapter.method), "settings": to_mapping(adapter.method)}
    provenance = {**adapter.provenance, "converted_from": origin}
    return replace(adapter, method=method, edits=edits, scores={}, provenance=provenance), tuple(report)


def _changes(adapter: Adapter, base: Base) -> dict[str, _Change]:
    """The sites whose weight or bias the adapter changes, in the order of the forward."""
    name = method_name(adapter.method)
    edited = {edit.site for edit in adapter.edits}
    out: dict[str, _Change] = {}

    def of(site: Site) -> _Change:
        if site.name not in out:
            lin = base.linear(site)
            bias_O = lin.bias_O
            out[site.name] = _Change(lin.weight_OI.double().clone(), None if bias_O is None else bias_O.double().clone())
        return out[site.name]

    for edit in folding_order(base, adapter.edits):
        if isinstance(edit, WeightEdit):
            _replace(edit, base, name, of)
        elif isinstance(edit, ProjectionEdit) and edit.foldable:
            site = base.sites[edit.site]
            # Where the whole of a fused projection is edited too, its parts are changed in it.
            fused = site.fused is not None and site.fused in edited
            _fold(edit, site, of(base.sites[str(site.fused)] if fused else site), fused)
        else:
            raise UnsupportedError(
                f"The method {name} cannot be converted: at {edit.site} it acts on more than the weights of a projection, and "
                "LoRA does not. Keep the adapter and attach it."
            )
    if not out:
        raise InputError(f"The adapter ({name}) changes no weight, so there is nothing to convert.")
    return {site: out[site] for site in base.sites if site in out}


def _fold(edit: ProjectionEdit, site: Site, change: _Change, fused: bool) -> None:
    if not fused or site.part is None:
        change.weight_OI, change.bias_O = edit.fold(change.weight_OI, change.bias_O)
        return
    rows = site.part.rows()
    bias_O = None if change.bias_O is None else change.bias_O[rows]
    change.weight_OI[rows], new_O = edit.fold(change.weight_OI[rows], bias_O)
    if new_O is not None:
        change.bias_O = torch.zeros(len(change.weight_OI), dtype=torch.float64) if change.bias_O is None else change.bias_O
        change.bias_O[rows] = new_O


def _replace(edit: WeightEdit, base: Base, method: str, of: Callable[[Site], _Change]) -> None:
    """Put a replaced parameter into the sites of its module: into more than one where blocks share it.

    Raises:
        UnsupportedError: it is no projection's, or others share it.
    """
    old = base.model.get_parameter(edit.site)
    new = edit.weight(old.double()).double()
    if torch.equal(new, old.double()):
        return
    module, _, field = edit.site.rpartition(".")
    sites = [site for site in base.sites.values() if site.kind == "projection" and site.module == module and site.part is None]
    owners = {path.rpartition(".")[0] for path, own in base.model.named_parameters(remove_duplicate=False) if own is old}
    if not sites or len(owners) > 1:
        why = "is no projection's" if not sites else f"is that of {' and '.join(sorted(owners))} at once"
        raise UnsupportedError(f"The method {method} cannot be converted: it has changed {edit.site}, which {why}.")
    for site in sites:
        change = of(site)
        if field == "bias":
            change.bias_O = new
        else:
            change.weight_OI = new.T if base.linear(site).transposed else new


def _bias_change(base: Base, site: str, change: _Change) -> Tensor | None:
    """The change of a bias, or None."""
    own_O = base.linear(base.sites[site]).bias_O
    if change.bias_O is None or (own_O is not None and torch.equal(change.bias_O, own_O.double())):
        return None
    return change.bias_O if own_O is None else change.bias_O - own_O.double()


def _truncated(site: str, delta_OI: Tensor, rank: int) -> tuple[Tensor, Tensor, Conversion]:
    """A (K, I) and B (O, K) in float32, of equal share in the singular values, and what they leave out.

    The singular vectors of the shorter side are the eigenvectors of its Gram matrix; the others follow from them. In float64
    this finds singular values to about 1e-8 of the largest, at a fraction of the time of a full decomposition.
    """
    rank = min(rank, *delta_OI.shape)
    wide = delta_OI.shape[0] <= delta_OI.shape[1]
    short = delta_OI if wide else delta_OI.T
    _, vectors = torch.linalg.eigh(short @ short.T)
    u = vectors[:, -rank:].flip(1)
    v = u.T @ short
    root = torch.linalg.vector_norm(v, dim=1).sqrt()
    left, right = u * root, v / root.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    b_OK, a_KI = (left, right) if wide else (right.T, left.T)
    a_KI, b_OK = a_KI.float().contiguous(), b_OK.float().contiguous()
    norm = float(torch.linalg.vector_norm(delta_OI))
    error = float(torch.linalg.vector_norm(delta_OI - b_OK.double() @ a_KI.double())) / norm if norm else 0.0
    return a_KI, b_OK, Conversion(site=site, rank=rank, norm=norm, error=error)


def _method(base: Base, report: Iterable[Conversion], rank: int, biased: bool) -> LoRA:
    """LoRA with scale 1 at these sites."""
    ranks = {one.site: one.rank for one in report}
    less: Mapping[int, list[Site]] = {
        own: [base.sites[site] for site, other in ranks.items() if other == own] for own in dict.fromkeys(ranks.values())
    }
    smaller = {own: pattern_of(base.sites, sites) for own, sites in less.items() if own != rank}
    return LoRA(
        rank=rank,
        alpha=float(rank),
        bias=biased,
        at=pattern_of(base.sites, [base.sites[site] for site in ranks]),
        rank_pattern={pattern: own for own, pattern in smaller.items()},
        alpha_pattern={pattern: float(own) for own, pattern in smaller.items()},
    )
