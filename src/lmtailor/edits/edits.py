"""All edits of one adapter, and the names of their tensors."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.edit import Edit
from lmtailor.edits.kinds import WeightEdit


@dataclass(frozen=True)
class Edits(Sequence[Edit]):
    """Edits in the order in which they act at a site."""

    items: tuple[Edit, ...] = ()
    sizes: tuple[int, ...] = ()
    """Where the edits are those of several methods: how many belong to each."""
    mixed: bool = False
    """Whether the parts do not act one after the other, but are the members of a mixture: each runs in rows of its own."""

    @classmethod
    def joined(cls, parts: Sequence["Edits"], *, mixed: bool = False) -> "Edits":
        """The edits of several methods, or of the members of a mixture, as one."""
        return cls(tuple(edit for part in parts for edit in part), tuple(map(len, parts)), mixed)

    def split(self) -> tuple["Edits", ...]:
        """Undo `joined`."""
        ends = list(itertools.accumulate(self.sizes))
        return tuple(Edits(self.items[end - size : end]) for size, end in zip(self.sizes, ends, strict=True))

    def shared(self) -> tuple[str, ...]:
        """Names under which edits share tensors."""
        return tuple(
            name for edit in self.items for field in (*edit.trained(), *edit.fixed()) if (name := edit.shared_name(field))
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Edit:  # type: ignore[override]
        return self.items[index]

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.items)

    def state(self) -> dict[str, Tensor]:
        """The trained tensors by name, `site.field`; a second edit of one name is told apart by `#1`, `#2`, …

        A tensor that all edits share has the name `shared.field`, and stands once.
        """
        return {name: tensor for _, name, _, tensor in self._named(Edit.trained)}

    def fixed(self) -> dict[str, Tensor]:
        """The tensors that are stored but not trained, likewise."""
        return {name: tensor for _, name, _, tensor in self._named(Edit.fixed)}

    @property
    def num_parameters(self) -> int:
        """Trained scalars."""
        return sum(tensor.numel() for tensor in self.state().values())

    @property
    def shares_batch(self) -> bool:
        """Whether rows under these edits can stand in one batch with rows of others: no weight is replaced."""
        return not any(isinstance(edit, WeightEdit) for edit in self.items)

    def with_state(self, state: Mapping[str, Tensor]) -> "Edits":
        """These edits with other trained tensors.

        Raises:
            AdapterFileError: a tensor is missing, left over, or of another shape or sort of number.
        """
        return self._with(state, Edit.trained)

    def with_fixed(self, fixed: Mapping[str, Tensor]) -> "Edits":
        """These edits with other tensors in place of those that are not trained; raises like `with_state`."""
        return self._with(fixed, Edit.fixed)

    def _with(self, given: Mapping[str, Tensor], sort: Callable[[Edit], dict[str, Tensor]]) -> "Edits":
        expected = {name: tensor for _, name, _, tensor in self._named(sort)}
        if missing := sorted(expected.keys() - given.keys()):
            raise AdapterFileError(f"{len(missing)} tensors are missing, the first is {missing[0]!r}.")
        if extra := sorted(given.keys() - expected.keys()):
            raise AdapterFileError(f"{len(extra)} tensors do not belong to this method, the first is {extra[0]!r}.")
        for name, tensor in expected.items():
            if given[name].shape != tensor.shape:
                raise AdapterFileError(
                    f"{name} has shape {tuple(given[name].shape)}; this base and method need {tuple(tensor.shape)}."
                )
            if given[name].is_floating_point() != tensor.is_floating_point():
                raise AdapterFileError(f"{name} is of type {given[name].dtype}; this method needs {tensor.dtype}.")
        parts: dict[int, dict[str, Tensor]] = {}
        for index, name, field, _ in self._named(sort):
            parts.setdefault(index, {})[field] = given[name]
        items = tuple(edit.with_tensors(parts[i]) if i in parts else edit for i, edit in enumerate(self.items))
        return replace(self, items=items)

    def _named(self, sort: Callable[[Edit], dict[str, Tensor]]) -> Iterable[tuple[int, str, str, Tensor]]:
        seen: dict[str, int] = {}
        for index, edit in enumerate(self.items):
            for field, tensor in sort(edit).items():
                if shared := edit.shared_name(field):
                    yield index, f"{shared}.{field}", field, tensor
                    continue
                name = f"{edit.site}.{field}"
                count = seen[name] = seen.get(name, -1) + 1
                yield index, f"{name}#{count}" if count else name, field, tensor
