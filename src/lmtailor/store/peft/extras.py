"""What a folder may hold besides its method: parameters of the base that were trained themselves.

    modules_to_save                  modules; Select here, which replaces their parameters
    LORA bias: "lora_only", "all"    biases, whole; BitFit here, which adds to them
    LORA trainable_token_indices     rows of a table of word embeddings; Select here, of the whole table
    (embeddings are adapted)         the table itself once more, which PEFT does not train

Parameters that are as in the base change nothing, wherever they stand. With `ensure_weight_tying`, PEFT trains modules that share
a weight as one, and stores it once for each of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from lmtailor.methods.union import Union
from lmtailor.store.peft.config import TENSORS, flag, names
from lmtailor.store.peft.kind import PREFIX, Folder, Found, Shape
from lmtailor.store.peft.targets import pattern_of

LAYER = ".base_layer"
"""Between the path of a module that the method is at and its own parameters."""
_ROWS = ".token_adapter.trainable_tokens_delta"
Sort = Literal["bias", "module", "same", "tied"]


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A parameter of the base in a file."""

    path: str
    """In the base's model."""
    sort: Sort
    """A new bias, part of a new module, what must be as in the base, or a copy of a parameter that another tensor holds."""
    site: Site | None
    """Whose parameter it is."""
    rows: tuple[int, ...] | None = None
    """The rows that are in the file; None for all."""

    def value(self, stored: Tensor, own: Tensor) -> Tensor:
        """The whole parameter, from what the file has and the base's own."""
        if self.rows is None:
            return stored
        return own.detach().float().cpu().index_copy(0, torch.tensor(self.rows), stored)


@dataclass(frozen=True, kw_only=True)
class Extras:
    """All of them, by the names of tensors."""

    base: Base
    found: Mapping[str, Extra]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of the tensors."""
        parameters = _parameters(self.base)
        shapes = {name: tuple(parameters[extra.path].shape) for name, extra in self.found.items()}
        return {
            name: shape if (rows := self.found[name].rows) is None else (len(rows), *shape[1:]) for name, shape in shapes.items()
        }

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
        main = {name: extra for name, extra in self.found.items() if extra.sort != "tied"}
        new = {extra.path: extra.value(tensors[name], own[extra.path]) for name, extra in main.items()}
        for name, extra in self.found.items():
            if extra.sort == "tied" and not (extra.path in new and torch.equal(tensors[name], new[extra.path])):
                raise AdapterFileError(f"{name[:120]!r} in {TENSORS} is not {extra.path!r}, whose weight it shares in the base.")
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


def with_extras(folder: Folder, found: Found) -> Found:
    """A folder's method together with what trains the parameters of the base in its file."""
    extras = _extras(folder, found.shapes)

    def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
        own, *rest = empty.split() if extras.methods else (empty,)
        filled, more = found.edits(own, tensors), extras.edits(rest, tensors)
        return Edits.joined([filled, *more]) if more else filled

    whole: Method = Union(parts=(found.method, *extras.methods)) if extras.methods else found.method
    return replace(found, method=whole, shapes={**found.shapes, **extras.shapes}, edits=edits)


def _extras(folder: Folder, known: Mapping[str, Any]) -> Extras:
    """The parameters of the base in a file.

    Args:
        folder: what is read.
        known: names of tensors that are the method's own.

    Raises:
        AdapterFileError: one is shared by modules which PEFT parts, or stands twice.
    """
    found: dict[str, Extra] = {}
    for name in folder.header:
        extra = _extra(folder, name) if name not in known and name.startswith(PREFIX) else None
        if extra is None:
            continue
        if extra.sort != "tied" and extra.path in {other.path for other in found.values() if other.sort != "tied"}:
            raise AdapterFileError(f"{name[:120]!r} in {TENSORS} names a parameter that another tensor names too.")
        found[name] = extra
    return Extras(base=folder.base, found=found)


def _extra(folder: Folder, name: str) -> Extra | None:
    """What a tensor is; None if it is no parameter of the base that the configuration speaks of."""
    config, parameters = folder.config, _parameters(folder.base)
    if name.endswith(_ROWS):
        return _rows(folder, name.removeprefix(PREFIX).removesuffix(_ROWS))
    asked, _, field = name.removeprefix(PREFIX).rpartition(".")
    module = folder.outline.find(asked.removesuffix(LAYER))
    path = f"{module}.{field}"
    if path not in parameters or (folder.task == "SEQ_CLS" and folder.outline.in_trunk(module) is None):
        return None
    site = next((site for site in folder.base.sites.values() if site.module == module and site.part is None), None)
    owners = folder.outline.shared.get(path, (path,))
    tied = len(owners) > 1 and flag(config, "ensure_weight_tying") and all(_stored(folder, owner) for owner in owners)
    saved = [asked, *(owner.rpartition(".")[0] for owner in owners if tied)]
    if folder.task != "SEQ_CLS" and any(_saved(config, one) for one in saved):
        if len(owners) > 1 and not tied:
            raise AdapterFileError(
                f"modules_to_save has {asked[:120]!r}, which shares its weight with {' and '.join(set(owners) - {path})}. PEFT "
                "trains it apart from them, and here they are one, as they are in PEFT with ensure_weight_tying."
            )
        if tied and path != owners[0]:
            return Extra(path=owners[0], sort="tied", site=site)
        return Extra(path=path, sort="same" if site is None else "module", site=site)
    bias = config.get("bias", "none")
    if field == "bias" and bias != "none" and (bias == "all" or asked.endswith(LAYER)):
        trained = site is not None and site.kind in ("projection", "norm") and site.name != "lm_head"
        return Extra(path=path, sort="bias" if trained else "same", site=site)
    return Extra(path=path, sort="same", site=site) if asked.endswith(LAYER) else None


def _stored(folder: Folder, path: str) -> bool:
    """Whether a parameter is in the file, whatever class of the family names it."""
    own = (name.removeprefix(PREFIX).rpartition(".") for name in folder.header if name.endswith(f".{path.rpartition('.')[2]}"))
    return any(f"{folder.outline.find(module)}.{field}" == path for module, _, field in own)


def _rows(folder: Folder, asked: str) -> Extra:
    """Rows of a table that were trained.

    Raises:
        AdapterFileError: it is no table of word embeddings, or the configuration does not say which rows.
    """
    base, module, tokens = folder.base, folder.outline.find(asked), folder.config.get("trainable_token_indices")
    site = next((site for site in base.sites.values() if site.kind == "embedding" and site.module == module), None)
    if isinstance(tokens, dict):
        tokens = next((own for key, own in tokens.items() if asked.endswith(key)), None)
    if site is None or not isinstance(tokens, list):
        raise AdapterFileError(f"There are rows for {asked[:120]!r}, which trainable_token_indices does not name as embeddings.")
    (path, table), *_ = base.sites.parameters(site.name).items()
    if not all(type(token) is int and 0 <= token < len(table) for token in tokens) or len(set(tokens)) < len(tokens):
        raise AdapterFileError(f"trainable_token_indices must be different tokens, from 0 to {len(table) - 1}.")
    return Extra(path=path, sort="module", site=site, rows=tuple(tokens))


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
