"""Merging: a plain transformers model that does alone what base and adapter do together.

Only what is a change of weights can be merged: projections and norms whose edits fold, and replaced weights. What the model
saves must be what it loads again. So a bias where there was none is added only if the configuration has a setting that
says so, and a weight that other modules share is changed only if it can be parted from them.

Where several edits act on one module, they are folded in the order in which they act: replaced weights are there first, outputs
are changed from the whole of a fused projection to its parts, and of changes of an input the last is folded first. An edit that
reads the base's own weight (DoRA) is no change of what others made of it, so what was merged is compared there with what was
attached.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from lmtailor.base.trunk import trunk_of
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach, check_free
from lmtailor.edits.edit import Edit
from lmtailor.edits.kinds import NormEdit, ProjectionEdit, WeightEdit
from lmtailor.methods import method_name
from lmtailor.methods._lora_embedding import EmbeddingLoRAEdit
from lmtailor.readouts.head import HeadReading
from lmtailor.store.adapter import Adapter, check_base
from lmtailor.store.whole_folder import whole_folder

KEEP = "Keep the adapter and attach it."


def merge(base: Base, adapter: Adapter, *, without_head: bool = False) -> PreTrainedModel:
    """The base with the adapter's changes in its weights; the base is untouched.

    With the family's own head (`Head(pooling="native")`) it is the family's model for sequence classification. A
    verbalizer has no weights: ask the merged model the same pattern.

    Args:
        base: what the adapter was made for.
        adapter: the changes.
        without_head: leave out a head that no class of transformers has, and merge the method alone.

    Returns:
        A model of its own memory, in eval mode.

    Raises:
        UnsupportedError: the method is no change of weights, the model could not be saved and loaded again, or it has a
            head that no class of transformers has.
        AdapterFileError: the adapter was made for another base.
        StateError: something is attached to the base.
    """
    check_base(adapter, base)
    check_free(base)
    reading = adapter.reading
    native = isinstance(reading, HeadReading) and reading.native is not None
    if reading is not None and reading.parameters() and not native and not without_head:
        raise UnsupportedError(
            f"The {type(reading.readout).__name__} of this adapter is no head that a class of transformers has; only "
            "Head(pooling='native') is. Merge with without_head=True (--without-head) to have the method's changes alone, and "
            "keep the adapter for its head."
        )
    name = method_name(adapter.method)
    for edit in adapter.edits:
        _check_foldable(edit, name)
    merged = _Merged(base, name)
    with torch.no_grad():
        for edit in folding_order(base, adapter.edits):
            merged.take(edit)
        merged.add_biases()
        _check_composed(base, adapter, merged)
        if native and not without_head:
            assert reading is not None
            return _classifier(merged.model, base, reading.parameters(), adapter)
    return merged.model


def save_merged(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Store a merged model as a plain transformers folder, whole or not at all.

    Raises:
        InputError: the folder holds something already, or cannot be written.
    """
    path = Path(folder).expanduser()
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} is not empty. Name another folder for the merged model, or empty it first.")
    with whole_folder(path, own=()) as part:
        try:
            model.save_pretrained(part)
        except SafetensorError as error:
            raise InputError(f"Cannot write {path}: {error}") from error
        tokenizer.save_pretrained(part)


def folding_order(base: Base, edits: Iterable[Edit]) -> list[Edit]:
    """Edits in the order in which their folds, one after another, do what they do attached."""
    order = {name: number for number, name in enumerate(base.sites)}
    weights = [edit for edit in edits if isinstance(edit, WeightEdit)]
    others = sorted((edit for edit in edits if not isinstance(edit, WeightEdit)), key=lambda edit: order.get(edit.site, 0))
    inputs = [edit for edit in others if isinstance(edit, ProjectionEdit) and edit.changes_input]
    return [*weights, *(edit for edit in others if edit not in inputs), *reversed(inputs)]


def _check_composed(base: Base, adapter: Adapter, merged: "_Merged") -> None:
    """Where edits meet at a module, see that the merged one does what they do together.

    Raises:
        UnsupportedError: it does not.
    """
    modules = _met(base, adapter.edits)
    if not modules:
        return
    rng = torch.Generator().manual_seed(0)
    bound = 1e-4 if base.dtype == torch.float32 else 5e-2
    with attach(base, adapter):
        for path, site in modules.items():
            x = torch.randn(8, site.in_width or site.width, generator=rng).to(base.device, base.dtype)
            wanted, found = base.module(path)(x).float(), merged.model.get_submodule(path)(x).float()
            if float((found - wanted).abs().max()) > bound * float(wanted.abs().max()):
                raise UnsupportedError(
                    f"At {site.name} several edits of {merged.method} meet, and one of them depends on the base's own weight (as "
                    f"DoRA and norm tuning do), so together they are no change of weights. Let that method be the first of the "
                    f"union. {KEEP}"
                )


def _met(base: Base, edits: Iterable[Edit]) -> dict[str, Site]:
    """The modules at which one edit acts on what another has changed, with their sites."""
    sites: dict[str, list[Site]] = {}
    replaced = {edit.site.rpartition(".")[0] for edit in edits if isinstance(edit, WeightEdit)}
    for edit in edits:
        if isinstance(edit, ProjectionEdit | NormEdit):
            site = base.sites[edit.site]
            sites.setdefault(site.module, []).append(site)
    met = {}
    for path, own in sites.items():
        whole = any(site.part is None for site in own)
        if path in replaced or (whole and len(own) > 1) or len({site.name for site in own}) < len(own):
            met[path] = next((site for site in own if site.part is None), own[0])
    return met


def _check_foldable(edit: Edit, method: str) -> None:
    if isinstance(edit, WeightEdit | NormEdit | EmbeddingLoRAEdit) or (isinstance(edit, ProjectionEdit) and edit.foldable):
        return
    raise UnsupportedError(
        f"The method {method} cannot be merged: it acts on states at {edit.site}, which no weight of the model does. {KEEP}"
    )


class _Merged:
    """A copy of a base's model, and what was done to it."""

    def __init__(self, base: Base, method: str) -> None:
        self.base = base
        self.method = method
        self.model = copy.deepcopy(base.model)
        self._new_biases: dict[str, Tensor] = {}

    def take(self, edit: Edit) -> None:
        """Put an edit into the weights."""
        if isinstance(edit, WeightEdit):
            self._replace(edit)
            return
        site = self.base.sites[edit.site]
        if site.calls > 1:
            raise UnsupportedError(
                f"{site.name} is one of {site.calls} calls of a module, and the edits of each differ: {self.base.family.name} "
                f"shares its weights between blocks, so {self.method} cannot be merged into them. {KEEP}"
            )
        if isinstance(edit, ProjectionEdit):
            self._fold_projection(edit, site)
        elif isinstance(edit, NormEdit):
            self._fold_norm(edit, site)
        elif isinstance(edit, EmbeddingLoRAEdit):
            self._fold_embedding(edit, site)

    def add_biases(self) -> None:
        """Give modules the biases that they did not have, where the configuration can say that they have them."""
        if not self._new_biases:
            return
        gains = self._bias_settings()
        chosen = {flag: modules for flag, modules in gains.items() if modules & self._new_biases.keys()}
        covered = set().union(*chosen.values())
        if bare := [path for path in self._new_biases if path not in covered]:
            raise UnsupportedError(
                f"{self.method} gives {bare[0]} a bias. No setting of {type(self.model).__name__}'s configuration says that it "
                f"has one, so the merged model would lose it when it is loaded. {KEEP}"
            )
        for flag in chosen:
            setattr(self.model.config, flag, True)
        for path in covered:
            module = self.model.get_submodule(path)
            weight = self._weight(module)
            bias = self._new_biases.get(path, torch.zeros(_outputs(self.base, path)))
            module._parameters["bias"] = _frozen(bias.to(weight))

    def _replace(self, edit: WeightEdit) -> None:
        old = self.model.get_parameter(edit.site)
        new = edit.weight(old)
        if edit.site in (self.model._keys_to_ignore_on_save or ()) and not torch.equal(new.to(old), old):
            raise UnsupportedError(
                f"{self.method} has trained {edit.site}, which {type(self.model).__name__} never stores but computes anew, so "
                f"the merged model would lose the change when it is loaded. {KEEP}"
            )
        self._swap(old, new)

    def _fold_projection(self, edit: ProjectionEdit, site: Site) -> None:
        module = self.model.get_submodule(site.module)
        view = replace(self.base.linear(site), module=module)
        weight_OI, bias_O = edit.fold(view.weight_OI, self._bias(site.module, view.bias_O, site))
        weight = self._weight(module)
        if not torch.equal(weight_OI, view.weight_OI):
            whole_OI = weight.T if view.transposed else weight
            new_OI = weight_OI if site.part is None else site.part.put(whole_OI.T, weight_OI.T).T
            self._part_from_tied(site, weight)
            self._swap(self._weight(module), new_OI.T if view.transposed else new_OI)
        if bias_O is not None:
            self._set_bias(site, module, bias_O)

    def _fold_norm(self, edit: NormEdit, site: Site) -> None:
        module = self.model.get_submodule(site.module)
        view = replace(self.base.norm(site), module=module)
        gain_H, shift_H = edit.fold(view.gain_H, view.shift_H)
        self._swap(self._weight(module), gain_H - view.unit)
        if shift_H is not None:
            self._set_bias(site, module, shift_H)

    def _fold_embedding(self, edit: EmbeddingLoRAEdit, site: Site) -> None:
        module = self.model.get_submodule(site.module)
        weight_VH = self._weight(module)
        # What the module gives may be a multiple of its table (Gemma), and the edit is added to what it gives.
        ids = torch.arange(len(weight_VH), device=weight_VH.device)
        multiple = torch.linalg.vector_norm(module(ids).double()) / torch.linalg.vector_norm(weight_VH.double())
        new_VH = weight_VH.double() + (edit.b_HK.double() @ edit.a_KV.double()).T * edit.scale / multiple
        self._part_from_tied(site, weight_VH)
        self._swap(self._weight(module), new_VH)

    def _bias(self, path: str, own_O: Tensor | None, site: Site) -> Tensor | None:
        """The bias that a projection has by now."""
        new = self._new_biases.get(path)
        if own_O is not None or new is None:
            return own_O
        return new if site.part is None else site.part.take(new)

    def _set_bias(self, site: Site, module: nn.Module, bias_O: Tensor) -> None:
        old = module._parameters.get("bias")
        before = self._new_biases.get(site.module) if old is None else old
        if site.part is not None:
            before = bias_O.new_zeros(_outputs(self.base, site.module)) if before is None else before
            bias_O = site.part.put(before, bias_O)
        if old is None:
            self._new_biases[site.module] = bias_O
        else:
            self._swap(old, bias_O)

    def _bias_settings(self) -> dict[str, set[str]]:
        """Settings that are off → the modules that have a bias if one is on."""
        have = {path for path, module in self.model.named_modules() if module._parameters.get("bias") is not None}
        gains: dict[str, set[str]] = {}
        for name, value in self.model.config.to_dict().items():
            if name.endswith("bias") and value is False:
                config = copy.deepcopy(self.model.config)
                setattr(config, name, True)
                with torch.device("meta"):
                    other = type(self.model)(config)
                gains[name] = {
                    path for path, module in other.named_modules() if module._parameters.get("bias") is not None
                } - have
        return gains

    def _part_from_tied(self, site: Site, weight: Tensor) -> None:
        """Give a module a weight of its own where it shares one.

        Raises:
            UnsupportedError: the weight is shared, and the model cannot be told that it no longer is.
        """
        if sum(own is weight for module in self.model.modules() for own in module._parameters.values()) == 1:
            return
        if site.name not in ("lm_head", "embed") or self.base.kind != "decoder":
            others = "the LM head" if site.kind == "embedding" else "the word embeddings"
            raise UnsupportedError(
                f"{site.name} shares its weight with other modules of this {self.base.family.name} model ({others}), "
                f"which {self.method} would change too. {KEEP}"
            )
        self.model.config.tie_word_embeddings = False
        self.model.get_submodule(site.module)._parameters["weight"] = _frozen(weight.clone())

    def _weight(self, module: nn.Module) -> nn.Parameter:
        weight = module._parameters["weight"]
        assert weight is not None
        return weight

    def _swap(self, old: Tensor, new: Tensor) -> None:
        """Replace a parameter wherever it stands."""
        if new.shape != old.shape:
            raise UnsupportedError(f"A merged weight has shape {tuple(new.shape)} instead of {tuple(old.shape)}.")
        parameter = _frozen(new.detach().to(old).clone().contiguous())
        for module in self.model.modules():
            for name, own in module._parameters.items():
                if own is old:
                    module._parameters[name] = parameter


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def _outputs(base: Base, path: str) -> int:
    """Features of the output of the module at a path."""
    return next(
        site.width
        for site in base.sites.values()
        if site.module == path and site.part is None and site.kind in ("projection", "norm")
    )


def _classifier(model: PreTrainedModel, base: Base, head: Mapping[str, Tensor], adapter: Adapter) -> PreTrainedModel:
    """The family's model for sequence classification, on the merged trunk."""
    config = copy.deepcopy(model.config)
    labels = adapter.labels or ("LABEL_0",)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if adapter.labels else "regression"
    if config.pad_token_id is None:
        config.pad_token_id = base.tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        whole: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=base.dtype)  # type: ignore[no-untyped-call]
    whole.to(base.device)  # type: ignore[arg-type]
    trunk, _ = trunk_of(model, base.family)
    inner = whole.get_submodule(whole.base_model_prefix)
    lost = inner.load_state_dict(trunk.state_dict(), strict=False).missing_keys
    result = whole.load_state_dict(dict(head), strict=False)
    given = {name.removeprefix(f"{whole.base_model_prefix}.") for name in head}
    if result.unexpected_keys or set(lost) - given:
        raise UnsupportedError(
            f"{type(whole).__name__} of this version of transformers does not fit the adapter's head: "
            f"{[*result.unexpected_keys, *sorted(set(lost) - given)][0]!r}."
        )
    whole.train(False)
    whole.requires_grad_(False)
    return whole
