"""Swapping parameters while attached, tied ones together."""

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from lmtailor.core.errors import SiteError, UnsupportedError, near
from lmtailor.edits.edit import freshness
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import WeightEdit


class WeightSwap:
    """Installs the weight edits of one adapter in a model, and takes them out again."""

    def __init__(self, model: nn.Module, edits: Edits) -> None:
        self.edits = [edit for edit in edits if isinstance(edit, WeightEdit)]
        known = dict(model.named_parameters(remove_duplicate=False)) if self.edits else {}
        self._places: list[tuple[WeightEdit, Tensor, list[tuple[nn.Module, str]]]] = []
        for edit in self.edits:
            if edit.site not in known:
                raise SiteError(f"The base has no parameter {edit.site!r}. {near(edit.site, known)}")
            base = known[edit.site]
            places = [(module, name) for module in model.modules() for name, own in module._parameters.items() if own is base]
            self._places.append((edit, base, places))
        self._tensors = list({id(tensor): tensor for edit in self.edits for tensor in edit.trained().values()}.values())
        self._made: list[Tensor] | None = None
        self._made_for: Hashable = None
        self._spent = False

    def install(self) -> None:
        """Put the replacements in. Called at every pass; they are computed anew only where that may change them."""
        key, _ = freshness(self._tensors)
        if self._made is None or self._spent or key != self._made_for:
            self._made, self._made_for, self._spent = [self._weight(edit, base) for edit, base, _ in self._places], key, False
        for weight, (_, _, places) in zip(self._made, self._places, strict=True):
            for module, name in places:
                module._parameters[name] = weight  # type: ignore[assignment]

    def _weight(self, edit: WeightEdit, base: Tensor) -> Tensor:
        weight = edit.weight(base)
        if weight.shape != base.shape:
            raise UnsupportedError(f"{edit.site} has shape {tuple(base.shape)}; its replacement has {tuple(weight.shape)}.")
        if weight.dtype != base.dtype:
            weight = weight.to(base.dtype)
        if weight.grad_fn is not None:
            weight.register_hook(self._spend)  # type: ignore[no-untyped-call]
        return weight

    def _spend(self, gradient: Tensor) -> None:
        """A backward has gone through the replacements, so the graph behind them is gone."""
        self._spent = True

    def remove(self) -> None:
        """Put the base's own parameters back."""
        for _, base, places in self._places:
            for module, name in places:
                module._parameters[name] = base  # type: ignore[assignment]
        self._made = None


def swaps(model: nn.Module, adapters: tuple[Edits, ...], slots: tuple[int | None, ...]) -> list[WeightSwap]:
    """The swap that a batch needs, if any.

    Raises:
        UnsupportedError: rows of one batch would need different weights.
    """
    replaced = {slot: edit.site for slot in slots if slot is not None for edit in adapters[slot] if isinstance(edit, WeightEdit)}
    if not replaced:
        return []
    if len(set(slots)) > 1:
        (slot, site), *_ = replaced.items()
        raise UnsupportedError(
            f"Adapter {slot} replaces whole weights ({site}), so it cannot share a batch with other rows: a weight is one for "
            "the whole batch. Run its rows in a batch of their own. Adapters whose rows are to share batches train projections, "
            "the LM head too, by a method such as LoRA(at='lm_head')."
        )
    with torch.no_grad():
        return [WeightSwap(model, adapters[slot]) for slot in replaced]
