"""What an edit is: a frozen dataclass of tensors and settings that acts at a site.

Fields are of three sorts, declared by `trained`, `per_row` and plain settings:

trained    a tensor that a method trains; a padded axis may be filled with zeros without changing the result
fixed      a tensor that is stored with the adapter, but not trained: a frozen projection, indices
per_row    a number that may differ from row to row (a scale); stacked to (R, 1, 1)
settings   anything else; edits are computed in one batched call only if their settings are equal

A *solo* edit has tensors without a row dimension. `stack` joins solo edits of one `stack_key` into an edit
whose tensors start with R, and that is the form in which edits are computed: R rows, or R = 1 for one
adapter on a whole batch.
"""

from abc import ABC
from collections.abc import Hashable, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Sites


def trained(*, pad: tuple[int, ...] = (), shared: str = "", optional: bool = False) -> Any:
    """A field for a trained tensor.

    Args:
        pad: axes of the solo tensor along which zeros may be appended.
        shared: the name under which all edits of an adapter hold one tensor, such as "phm"; it is stored and counted once.
        optional: whether it may be None, its default.
    """
    return _tensor("trained", pad, shared, optional)


def fixed(*, pad: tuple[int, ...] = (), shared: str = "", optional: bool = False) -> Any:
    """A field for a tensor that is stored but not trained; the arguments are those of `trained`."""
    return _tensor("fixed", pad, shared, optional)


def _tensor(sort: str, pad: tuple[int, ...], shared: str, optional: bool) -> Any:
    metadata = {"sort": sort, "pad": pad, "shared": shared}
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


def per_row(default: float | None = None) -> Any:
    """A field for a number of each row, as a factor of (R, T, features)."""
    metadata = {"sort": "per_row"}
    return field(metadata=metadata) if default is None else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an edit may know of the pass that it acts in."""

    training: bool
    """Whether dropout is active at this site."""
    phase: Literal["prefill", "decode"] = "prefill"
    """decode: keys and values of earlier tokens are in a cache."""
    draw: int | None = None
    """A number of this pass of training, for edits that choose by chance; None where nothing is drawn."""
    shares_RT1: Tensor | None = None
    """Each token's share in the mean over its sequence, 0 at padding; only for edits with `needs_shares`."""
    length: int = 0
    """Tokens of each sequence, of which T may hold several one after the other; only with `shares_RT1`."""

    def mean(self, x_RTF: Tensor) -> Tensor:
        """The mean over each token's sequence, in the place of every token."""
        assert self.shares_RT1 is not None
        sums_S1F = (x_RTF * self.shares_RT1).reshape(-1, self.length, x_RTF.shape[-1]).sum(1, keepdim=True)
        return sums_S1F.expand(-1, self.length, -1).reshape(x_RTF.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit(ABC):
    """Base of the six kinds; see `lmtailor.edits.kinds`."""

    site: str
    """Name of the site where it acts."""

    @classmethod
    @cache
    def _of_sort(cls, *sorts: str) -> tuple[Field[Any], ...]:
        return tuple(f for f in fields(cls) if f.metadata.get("sort") in sorts)

    @classmethod
    @cache
    def _settings(cls) -> tuple[str, ...]:
        return tuple(f.name for f in fields(cls) if "sort" not in f.metadata and f.name != "site")

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors by field name; fields that are None are left out."""
        return dict(self._trained)

    @cached_property
    def _trained(self) -> dict[str, Tensor]:
        return self._tensors("trained")

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The trained tensors."""
        return tuple(self._trained.values())

    def fixed(self) -> dict[str, Tensor]:
        """The tensors that are stored but not trained, likewise."""
        return self._tensors("fixed")

    def _tensors(self, sort: str) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in self._of_sort(sort)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    @cache
    def shared_name(cls, field_name: str) -> str:
        """The name under which a tensor is shared by all edits of an adapter, or ""."""
        return next(str(f.metadata["shared"]) for f in fields(cls) if f.name == field_name)

    def with_tensors(self, tensors: dict[str, Tensor]) -> Self:
        """This edit with other tensors."""
        return replace(self, **cast(dict[str, Any], tensors))

    def check(self, sites: Sites) -> None:  # noqa: B027 - most edits have nothing to check
        """See that fixed tensors of a stranger's file mean something on this base.

        Raises:
            AdapterFileError: they do not.
        """

    def stack_key(self) -> Hashable:
        """Solo edits with equal keys are computed in one batched call."""
        return self._stack_key

    @cached_property
    def _stack_key(self) -> Hashable:
        shapes = []
        for f in self._of_sort("trained", "fixed"):
            tensor: Tensor | None = getattr(self, f.name)
            pads = f.metadata["pad"]
            shapes.append(
                None if tensor is None else tuple(-1 if axis in pads else size for axis, size in enumerate(tensor.shape))
            )
        return type(self), tuple(shapes), tuple(getattr(self, name) for name in self._settings())

    @classmethod
    def stack(cls, edits: Sequence[Self], *, dtype: torch.dtype) -> Self:
        """Join solo edits of one key along a new leading axis, padded with zeros, in a floating dtype.

        One edit is only viewed with a leading axis of 1, so that gradients and later updates reach it. Tensors that lie at equal
        distances in one storage, as a bank puts them, are viewed too.
        """
        joined: dict[str, Any] = {}
        for f in cls._of_sort("trained", "fixed"):
            tensors = [getattr(edit, f.name) for edit in edits]
            joined[f.name] = None if tensors[0] is None else _join(tensors, f.metadata["pad"], dtype)
        device = next((value.device for value in joined.values() if value is not None), None)
        for f in cls._of_sort("per_row"):
            values = [float(getattr(edit, f.name)) for edit in edits]
            joined[f.name] = torch.tensor(values, dtype=dtype, device=device)[:, None, None]
        return replace(edits[0], **joined)

    def take(self, slots: Tensor) -> Self:
        """A stacked edit with one entry a row, (len(slots), …)."""
        names = [f.name for f in self._of_sort("trained", "fixed", "per_row")]
        return replace(self, **{n: getattr(self, n).index_select(0, slots) for n in names if getattr(self, n) is not None})


def freshness(tensors: Sequence[Tensor], counters: Sequence[Tensor] | None = None) -> tuple[Hashable, bool]:
    """A key that changes when what was made from trained tensors is out of date, and whether a gradient must flow to one.

    Besides the tensors' versions and whether they are being trained, the key has inference mode, whose tensors autograd refuses.

    Args:
        tensors: the trained ones.
        counters: what `counters_of` gave for them, where it was asked once for many passes.
    """
    live = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    counted = tensors if counters is None else counters
    return (tuple([tensor._version for tensor in counted]), live, torch.is_inference_mode_enabled()), live


def counters_of(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Tensors whose versions are all that there are among these: views have the version of what they are views of.

    Adapters that a bank has put side by side are views of a few tensors. To look at every one of them in every pass of a
    large batch would take longer than some of the batch's products.
    """
    owners = (tensor if tensor._base is None else tensor._base for tensor in tensors)
    return tuple({id(tensor): tensor for tensor in owners}.values())


def _join(tensors: Sequence[Tensor], pads: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    dtype = dtype if tensors[0].is_floating_point() else tensors[0].dtype
    if len(tensors) == 1:
        return tensors[0].unsqueeze(0).to(dtype)
    lying = _lying_apart(tensors)
    if lying is not None:
        return lying.to(dtype)
    shape = [max(tensor.shape[axis] for tensor in tensors) for axis in range(tensors[0].ndim)]
    padded = []
    for tensor in tensors:
        missing = [shape[axis] - tensor.shape[axis] for axis in range(tensor.ndim)]
        widths = [width for amount in reversed(missing) for width in (0, amount)]
        padded.append(F.pad(tensor, widths) if any(missing) else tensor)
    return torch.stack(padded).to(dtype)


def _lying_apart(tensors: Sequence[Tensor]) -> Tensor | None:
    """Tensors of one shape as one, without a copy, if they lie at equal distances in one storage and none is trained."""
    first, second = tensors[0], tensors[1]
    step = second.data_ptr() - first.data_ptr()
    if step <= 0 or step % first.element_size():
        return None
    storage = first.untyped_storage().data_ptr()
    for number, tensor in enumerate(tensors):
        if (
            tensor.data_ptr() != first.data_ptr() + number * step
            or tensor.untyped_storage().data_ptr() != storage
            or tensor.shape != first.shape
            or tensor.stride() != first.stride()
            or tensor.dtype != first.dtype
            or tensor.requires_grad
        ):
            return None
    return first.as_strided((len(tensors), *first.shape), (step // first.element_size(), *first.stride()))
