"""Modules of a model by path, measured; errors name the family, the site and the path."""

from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmtailor.core.errors import SiteError

_Module = TypeVar("_Module", bound=nn.Module)


def join(*parts: str) -> str:
    """Module paths or site names joined by dots; empty ones are left out."""
    return ".".join(part for part in parts if part)


class Lookup:
    """The modules of one model, as one family's table names them."""

    def __init__(self, model: PreTrainedModel, family: str) -> None:
        self.model = model
        self.family = family
        self._modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))

    def __contains__(self, path: str) -> bool:
        return path in self._modules

    def find(self, site: str, path: str) -> nn.Module:
        """The module at a path.

        Raises:
            SiteError: there is none.
        """
        if path not in self._modules:
            raise SiteError(
                f"The table of {self.family} puts {site} at {path!r}, but this {type(self.model).__name__} has no such "
                "module. The table does not fit this version or variant of the architecture."
            )
        return self._modules[path]

    def typed(self, site: str, path: str, kind: type[_Module]) -> _Module:
        """The module at a path, which must be of a type.

        Raises:
            SiteError: there is none, or it is of another type.
        """
        module = self.find(site, path)
        if not isinstance(module, kind):
            raise SiteError(
                f"The table of {self.family} puts {site} at {path!r}, where it wants a {kind.__name__}, but this "
                f"{type(self.model).__name__} has a {type(module).__name__} there."
            )
        return module

    def projection(self, site: str, path: str) -> tuple[int, int]:
        """(out, in) features of the projection at a path.

        Raises:
            SiteError: there is none, or it is no linear map that is known.
        """
        module = self.find(site, path)
        if isinstance(module, Conv1D):
            return int(module.weight.shape[1]), int(module.weight.shape[0])
        linear = self.typed(site, path, nn.Linear)
        return linear.out_features, linear.in_features

    def gain(self, site: str, path: str) -> int | None:
        """Number of gains of the norm at a path; None where it has none (an identity, a norm without weights).

        Raises:
            SiteError: there is no module.
        """
        weight = self.find(site, path)._parameters.get("weight")
        return None if weight is None else int(weight.shape[0])

    def expect(self, site: str, path: str, what: str, found: int, wanted: int) -> None:
        """Check a number.

        Raises:
            SiteError: it is not the wanted one.
        """
        if found != wanted:
            raise SiteError(
                f"{site} of {self.family}, at {path!r}, has {found} {what}, but the configuration makes it {wanted}. "
                "The table does not fit this model."
            )
