"""What an adapter may have beside the method that gives a folder its type: modules and biases that were trained whole.

IA3() + Select()     modules_to_save
LoRA() + BitFit()    bias: "all"; the biases themselves, and not their changes
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Edit
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import DenseWeight
from lmtailor.methods import method_name
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.method import Method
from lmtailor.methods.select import Select
from lmtailor.methods.union import Union
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.extras import LAYER
from lmtailor.store.peft.kind import PREFIX, Target
from lmtailor.store.peft.modules import path_of
from lmtailor.store.peft.task import module_path


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An adapter, by what PEFT has a place for."""

    whole: Adapter
    own: Adapter
    """With the method that gives the folder its type, and its edits alone."""
    modules: Edits
    """Select's."""
    biases: Edits
    """BitFit's."""

    @classmethod
    def of(cls, adapter: Adapter) -> "Parts":
        """Those of an adapter.

        Raises:
            UnsupportedError: it is a union of other methods.
        """
        if not isinstance(adapter.method, Union):
            return cls(whole=adapter, own=adapter, modules=Edits(), biases=Edits())
        parts = list(zip(adapter.method.parts, adapter.edits.split(), strict=True))
        own = [(method, edits) for method, edits in parts if not isinstance(method, Select | BitFit)]
        if len(own) != 1:
            names = ", ".join(method_name(method) for method in adapter.method.parts)
            raise UnsupportedError(
                "A folder of PEFT has one method, and beside it modules (select) and biases (bitfit) that were trained whole; "
                f"this union has {names}."
            )

        def of(kind: type[Method]) -> Edits:
            return Edits(tuple(edit for method, edits in parts if isinstance(method, kind) for edit in edits))

        (method, edits), *_ = own
        return cls(whole=adapter, own=replace(adapter, method=method, edits=edits), modules=of(Select), biases=of(BitFit))

    def joined(self, own: Edits, modules: Mapping[str, Tensor]) -> Edits:
        """The edits of the adapter, from those of its method and the values of parameters by their paths in the base.

        Biases stay as they are, since a folder without its base does not have their changes.
        """
        if not isinstance(self.whole.method, Union):
            return own

        def filled(method: Method, edits: Edits) -> Edits:
            if isinstance(method, Select):
                return edits.with_state({f"{edit.site}.value": modules[edit.site] for edit in edits})
            return edits if isinstance(method, BitFit) else own

        pairs = zip(self.whole.method.parts, self.whole.edits.split(), strict=True)
        return Edits.joined([filled(method, edits) for method, edits in pairs])


def whole_modules(edits: Iterable[Edit], target: Target) -> tuple[tuple[str, ...], dict[str, DenseWeight]]:
    """Replaced parameters as PEFT stores them: `modules_to_save`, and the edits by the names of their tensors.

    A parameter of several modules stands there for each of them.

    Raises:
        UnsupportedError: PEFT would train another module too.
    """
    outline, modules, out = target.outline, set(), {}
    for edit in edits:
        assert isinstance(edit, DenseWeight)
        for owner in outline.shared.get(edit.site, (edit.site,)):
            module, _, field = owner.rpartition(".")
            path = module_path(outline, module, target.task)
            modules.add(path)
            out[f"{PREFIX}{path}.{field}"] = edit
    for module in outline.modules:
        inside = target.task != "SEQ_CLS" or outline.in_trunk(module) is not None
        path = module_path(outline, module, target.task) if inside else module
        if path not in modules and (caught := next((one for one in modules if path.endswith(one)), None)):
            raise UnsupportedError(f"PEFT would also train {path!r}, since it ends with the name {caught!r} of another module.")
    return tuple(sorted(modules)), out


def whole_biases(edits: Iterable[Edit], target: Target, adapted: Iterable[str]) -> dict[str, Tensor]:
    """The base's biases with BitFit's changes, under PEFT's names.

    Args:
        edits: BitFit's.
        target: what the folder is for.
        adapted: names of the method's tensors: the parameters of the modules that it is at have other names in PEFT.

    Raises:
        UnsupportedError: the base is not at hand, or has no such bias.
    """
    out: dict[str, Tensor] = {}
    inside = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in adapted}
    for edit in edits:
        site = target.outline.sites[edit.site]
        if target.base is None:
            raise UnsupportedError(
                "PEFT stores biases whole, and BitFit has their changes alone. Export with the base: export(..., base=base)."
            )
        own = dict(target.base.model.named_parameters(remove_duplicate=False)).get(f"{site.module}.bias")
        if own is None:
            raise UnsupportedError(f"{edit.site} has no bias in the base, and PEFT trains those alone that are there.")
        path = path_of(site, target)
        (delta,) = edit.trained().values()
        out[f"{PREFIX}{path}{LAYER if path in inside else ''}.bias"] = own.detach().float().to(delta.device) + delta.detach()
    return out
