"""What the files of an adapter must know of its base, when the base itself is no longer at hand."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from transformers.pytorch_utils import Conv1D

from lmtailor.base.base import Base
from lmtailor.base.family import Kind
from lmtailor.base.lookup import join
from lmtailor.base.sites import Site
from lmtailor.base.stack import Stack


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """Names and shapes of a base, without its weights."""

    family: str
    """The model type."""
    kind: Kind
    model_class: str
    """Class of the model that module paths belong to, such as LlamaForCausalLM."""
    has_lm_head: bool
    sites: Mapping[str, Site]
    stacks: tuple[Stack, ...]
    modules: tuple[str, ...]
    """Paths of all modules of the model."""
    conv1d: frozenset[str]
    """Paths of the projections that store their weight as (in, out)."""
    shared: Mapping[str, tuple[str, ...]]
    """Paths of the parameters that are also those of another module, each with all paths of the same one, itself among them."""
    embed_scales: Mapping[str, float]
    """Paths of the word embeddings that multiply what they give themselves (Gemma 3, BART), with the factor."""
    trunk: str
    """Path of the trunk in the model; "" if the model is its own trunk, or holds the trunk's parts itself."""
    classifier_trunk: str
    """Path of the trunk in the family's model for sequence classification."""

    @classmethod
    def of(cls, base: Base) -> "Outline":
        """That of a base."""
        modules = dict(base.model.named_modules(remove_duplicate=False))
        parameters = list(base.model.named_parameters(remove_duplicate=False))
        owners: dict[int, list[str]] = {}
        for path, value in parameters:
            owners.setdefault(id(value), []).append(path)
        trunk = next((path for path, module in modules.items() if module is base.trunk), "")
        return cls(
            family=base.family.name,
            kind=base.kind,
            model_class=type(base.model).__name__,
            has_lm_head=base.has_lm_head,
            sites=dict(base.sites),
            stacks=base.stacks,
            modules=tuple(path for path in modules if path),
            conv1d=frozenset(path for path, module in modules.items() if isinstance(module, Conv1D)),
            shared={path: tuple(own) for own in owners.values() if len(own) > 1 for path in own},
            embed_scales={
                site.module: float(getattr(modules[site.module], "embed_scale", 1.0))
                for site in base.sites.values()
                if site.kind == "embedding"
            },
            trunk=trunk,
            classifier_trunk=str(base.model.base_model_prefix),
        )

    def in_trunk(self, module: str) -> str | None:
        """A module's path relative to the trunk, or None if it is not in it."""
        if not self.trunk:
            return None if module == "lm_head" else module
        return module.removeprefix(f"{self.trunk}.") if module.startswith(f"{self.trunk}.") else None

    def find(self, path: str) -> str:
        """A module's path in the model, from its path in any class of the family: with LM head, headless, or a classifier.

        A path that fits none is returned as it is.
        """
        modules = set(self.modules)
        inner = path.removeprefix(f"{self.classifier_trunk}.")
        return next((one for one in (path, join(self.trunk, inner), join(self.trunk, path)) if one in modules), path)

    def projections(self) -> Iterable[Site]:
        """The sites that are whole modules with a weight."""
        return (site for site in self.sites.values() if site.kind == "projection" and site.part is None)

    def whole(self, site: Site) -> Site:
        """The site of the fused projection that a site is a part of, or the site itself."""
        return site if site.fused is None else self.sites[site.fused]
