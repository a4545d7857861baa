"""The weights behind the sites, for methods that start from them or replace them."""

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmtailor.base.family import Family
from lmtailor.base.views import LinearView, NormView
from lmtailor.core.errors import InputError


@dataclass(frozen=True)
class Weights:
    """Views of a model's weights. A parameter that is tied to others has one path, the first in the model's order."""

    model: PreTrainedModel
    trunk: PreTrainedModel
    family: Family

    def module(self, path: str) -> nn.Module:
        """The module at a path of the model."""
        try:
            return self.model.get_submodule(path)
        except AttributeError:
            raise InputError(f"{type(self.model).__name__} has no module {path!r}.") from None

    def linear(self, path: str) -> LinearView:
        """The projection at a path, as (out, in)."""
        module = self.module(path)
        return LinearView(module, isinstance(module, Conv1D))

    def norm(self, path: str) -> NormView:
        """The norm at a path."""
        module = self.module(path)
        kind = self.family.norm
        return NormView(module, kind.kind, float(getattr(module, kind.eps)), kind.unit)

    def of_model(self, *, head: bool) -> dict[str, Tensor]:
        """All learned parameters but the pooler's, with those of the LM head or without."""
        pooler = None if self.family.pooler is None else self.trunk._modules.get(self.family.pooler)
        left_out = set() if pooler is None else {id(parameter) for parameter in pooler.parameters()}
        left_out |= {id(parameter) for path in self.family.computed for parameter in self.trunk.get_submodule(path).parameters()}
        trunk = {id(parameter) for parameter in self.trunk.parameters()}
        return {
            path: parameter
            for path, parameter in self.model.named_parameters()
            if id(parameter) not in left_out and (head or id(parameter) in trunk)
        }

    def of_modules(self, paths: tuple[str, ...], *, deep: bool) -> dict[str, Tensor]:
        """The parameters of some modules, with their children's (`deep`) or their own alone."""
        wanted = {id(parameter) for path in paths for parameter in self.module(path).parameters(recurse=deep)}
        return {path: parameter for path, parameter in self.model.named_parameters() if id(parameter) in wanted}
