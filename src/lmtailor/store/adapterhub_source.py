"""Where the tensors of an edit come from in a folder of AdapterHub's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one tensor of an edit comes from."""

    shapes: Mapping[str, Shape]
    """Names in the file, without what stands before the trunk, and their shapes."""
    make: Callable[[Mapping[str, Tensor]], Tensor]
    """From the file's tensors by those names to the edit's."""

    @classmethod
    def same(cls, name: str, tensor: Tensor) -> "Source":
        """A tensor that the file holds as it is."""
        return cls(shapes={name: tuple(tensor.shape)}, make=lambda file: file[name])
