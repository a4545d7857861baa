"""What a LORA folder may hold besides LoRA: parameters of the base that were trained themselves.

    bias: "lora_only", "all"   biases, whole; BitFit here, which adds to them
    modules_to_save            modules; Select here, which replaces their parameters
    (embeddings are adapted)   the table itself once more, which PEFT does not train

Parameters that are as in the base change nothing, wherever they stand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.edits import Edits
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.method import Method
from lmtailor.methods.select import Select
from lmtailor.store.peft.config import TENSORS, names
from lmtailor.store.peft.kind import PREFIX, Folder, Shape
from lmtailor.store.peft.targets import pattern_of

_LAYER = ".base_layer"
Sort = Literal["bias", "module", "same"]


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A parameter of the base in a file."""

    path: str
    """In the base's model."""
    sort: Sort
    """A new bias, part of a new module, or what must be as in the base."""
    site: Site | None
    """Whose parameter it is."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """All of them, by the names of tensors."""

    base: Base
    found: Mapping[str, Extra]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of the tensors."""
        parameters = _parameters(self.base)
        return {name: tuple(parameters[extra.path].shape) for name, extra in self.found.items()}

    @property
    def methods(self) -> tuple[Method, ...]:
        """What trains them."""
        chosen = [extra.site for extra in self.found.values() if extra.sort == "module" and extra.site is not None]
        modules = (Select(at=pattern_of(self.base.sites, chosen)),) if chosen else ()
        biases = (BitFit(),) if any(extra.sort == "bias" for extra in self.found.values()) else ()
        return (*biases, *modules)

    def edits(self, empty: Sequence[Edits], tensors: Mapping[str, Tensor]) -> list[Edits]:
        """The edits of `methods` with the file's values.

        Raises:
            AdapterFileError: a parameter that cannot be trained here is not as in the base.
        """
        own = _parameters(self.base)
        new = {extra.path: tensors[name] for name, extra in self.found.items()}
        for name, extra in self.found.items():
            if extra.sort == "same" and not torch.equal(tensors[name], own[extra.path].detach().float().cpu()):
                raise AdapterFileError(f"{name[:120]!r} in {TENSORS} is not as in the base, and nothing here trains it alone.")
        out = []
        for method, edits in zip(self.methods, empty, strict=True):
            value = self._delta if isinstance(method, BitFit) else _replaced
            out.append(edits.with_state({name: value(name, edits, new, own) for name in edits.state()}))
        return out

    def _delta(self, name: str, edits: Edits, new: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensor:
        """The change of a bias; zero if the file has none."""
        path = f"{self.base.sites[name.rpartition('.')[0]].module}.bias"
        old = own[path].detach().float().cpu()
        return new.get(path, old) - old


def found_extras(folder: Folder, known: Mapping[str, Any]) -> Extras:
    """The parameters of the base in a file.

    Args:
        folder: what is read.
        known: names of tensors that are LoRA's own.

    Raises:
        AdapterFileError: one is shared by modules which PEFT parts, or stands twice.
    """
    found: dict[str, Extra] = {}
    for name in folder.header:
        extra = _extra(folder, name) if name not in known and name.startswith(PREFIX) else None
        if extra is None:
            continue
        if extra.path in {other.path for other in found.values()}:
            raise AdapterFileError(f"{name[:120]!r} in {TENSORS} names a parameter that another tensor names too.")
        found[name] = extra
    return Extras(base=folder.base, found=found)


def _extra(folder: Folder, name: str) -> Extra | None:
    """What a tensor is; None if it is no parameter of the base that the configuration speaks of."""
    config, parameters = folder.config, _parameters(folder.base)
    asked, _, field = name.removeprefix(PREFIX).rpartition(".")
    module = folder.outline.find(asked.removesuffix(_LAYER))
    path = f"{module}.{field}"
    if path not in parameters or (folder.task == "SEQ_CLS" and folder.outline.in_trunk(module) is None):
        return None
    site = next((site for site in folder.base.sites.values() if site.module == module and site.part is None), None)
    if folder.task != "SEQ_CLS" and _saved(config, asked):
        owners = [other for other, value in parameters.items() if value is parameters[path]]
        if len(owners) > 1:
            raise AdapterFileError(
                f"modules_to_save has {asked[:120]!r}, which shares its weight with {' and '.join(set(owners) - {path})}. PEFT "
                "trains it apart from them, and here they are one."
            )
        return Extra(path=path, sort="same" if site is None else "module", site=site)
    bias = config.get("bias", "none")
    if field == "bias" and bias != "none" and (bias == "all" or asked.endswith(_LAYER)):
        trained = site is not None and site.kind in ("projection", "norm") and site.name != "lm_head"
        return Extra(path=path, sort="bias" if trained else "same", site=site)
    return Extra(path=path, sort="same", site=site) if asked.endswith(_LAYER) else None


def _saved(config: Mapping[str, Any], module: str) -> bool:
    """Whether a module or one around it is trained whole. PEFT compares the ends of paths, also in the midst of a word."""
    saved = names(config, "modules_to_save") or []
    around = [module, *(module[:at] for at, sign in enumerate(module) if sign == ".")]
    return any(path.endswith(one) for path in around for one in ([saved] if isinstance(saved, str) else saved))


def _replaced(name: str, edits: Edits, new: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensor:
    """The new value of a parameter, or the base's own."""
    path = name.removesuffix(".value")
    return new.get(path, own[path].detach().float().cpu())


def _parameters(base: Base) -> dict[str, Tensor]:
    return dict(base.model.named_parameters(remove_duplicate=False))
