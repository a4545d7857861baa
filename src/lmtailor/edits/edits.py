"""All edits of one adapter, and the names of their tensors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.edit import Edit
from lmtailor.edits.kinds import WeightEdit


@dataclass(frozen=True)
class Edits(Sequence[Edit]):
    """Edits in the order in which they act at a site."""

    items: tuple[Edit, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Edit:  # type: ignore[override]
        return self.items[index]

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.items)

    def state(self) -> dict[str, Tensor]:
        """The trained tensors by name, `site.field`; a second edit of one name is told apart by `#1`, `#2`, …"""
        return {name: tensor for _, name, _, tensor in self._named()}

    @property
    def num_parameters(self) -> int:
        """Trained scalars."""
        return sum(tensor.numel() for tensor in self.state().values())

    @property
    def shares_batch(self) -> bool:
        """Whether rows under these edits can stand in one batch with rows of others: no weight is replaced."""
        return not any(isinstance(edit, WeightEdit) for edit in self.items)

    def with_state(self, state: Mapping[str, Tensor]) -> "Edits":
        """These edits with other tensors.

        Raises:
            AdapterFileError: a tensor is missing, left over, or of another shape.
        """
        expected = self.state()
        if missing := sorted(expected.keys() - state.keys()):
            raise AdapterFileError(f"{len(missing)} tensors are missing, the first is {missing[0]!r}.")
        if extra := sorted(state.keys() - expected.keys()):
            raise AdapterFileError(f"{len(extra)} tensors do not belong to this method, the first is {extra[0]!r}.")
        for name, tensor in expected.items():
            if state[name].shape != tensor.shape:
                raise AdapterFileError(
                    f"{name} has shape {tuple(state[name].shape)}; this base and method need {tuple(tensor.shape)}."
                )
        parts: dict[int, dict[str, Tensor]] = {}
        for index, name, field, _ in self._named():
            parts.setdefault(index, {})[field] = state[name]
        return Edits(tuple(edit.with_tensors(parts.get(i, {})) for i, edit in enumerate(self.items)))

    def _named(self) -> Iterable[tuple[int, str, str, Tensor]]:
        seen: dict[str, int] = {}
        for index, edit in enumerate(self.items):
            for field, tensor in edit.trained().items():
                name = f"{edit.site}.{field}"
                count = seen[name] = seen.get(name, -1) + 1
                yield index, f"{name}#{count}" if count else name, field, tensor
