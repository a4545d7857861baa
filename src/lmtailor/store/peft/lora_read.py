"""Reading LORA folders: ranks and scales by module, magnitudes, biases, and starts that change the base's weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.edits import Edits
from lmtailor.methods._lora import orthonormal, principal
from lmtailor.methods._lora_embedding import vocabulary
from lmtailor.methods.lora import LoRA
from lmtailor.store.peft.config import flag, integer, number
from lmtailor.store.peft.kind import PREFIX, Folder, Found, Shape
from lmtailor.store.peft.lora_blocks import BIAS, MAGNITUDE, TABLE_A, TABLE_B, A, B
from lmtailor.store.peft.modules import named_sites
from lmtailor.store.peft.patterns import pattern_value
from lmtailor.store.peft.targets import pattern_of

KEYS = frozenset(
    {
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "bias",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "lora_dropout",
        "target_modules",
        "trainable_token_indices",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
        "fan_in_fan_out",  # PEFT corrects it to what the module is, and stores the same shapes for both
        "ensure_weight_tying",
        # Only read by the starts of these names.
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),
        "megatron_core",  # only read with megatron_config
        "qalora_group_size",  # only read with use_qalora
    }
)
AT_REST: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "megatron_config": (None,),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    "use_bdlora": (None,),
    "use_qalora": (False,),
    "velora_config": (None,),
}
HARMLESS_STARTS = (True, False, "gaussian", "eva", "mica", "orthogonal")
"""Values of init_lora_weights that set LoRA's own matrices alone."""
COMPUTED_STARTS = ("pissa", "olora")
"""Those with which PEFT changes the base's weights on loading, by what can be computed from them."""


@dataclass(frozen=True, kw_only=True)
class _Module:
    """What a configuration says of one module, and how its tensors are called."""

    site: Site
    rank: int
    alpha: float
    """Ours: with a table of embeddings, times the table's own factor."""
    inputs: int
    fields: Mapping[str, str]
    """End of a tensor's name → field of the edit."""

    def shape(self, ending: str) -> Shape:
        """Of a tensor."""
        if ending in (A, TABLE_A):
            return self.rank, self.inputs
        return (self.site.width, self.rank) if ending in (B, TABLE_B) else (self.site.width,)


def found_lora(folder: Folder) -> Found:
    """LoRA at the sites of the modules that a file has matrices for.

    Raises:
        AdapterFileError: the folder is damaged, of another base, or asks for what has no equal here.
    """
    config, sites = folder.config, folder.base.sites
    if config.get("bias", "none") not in ("none", "lora_only", "all"):
        raise AdapterFileError(f"bias must be none, lora_only or all; it is {str(config['bias'])[:40]!r}.")
    modules = _modules(folder)
    rank, alpha, start = integer(config, "r"), number(config, "lora_alpha", 8), _start(config)
    method = LoRA(
        rank=rank,
        alpha=alpha,
        dropout=number(config, "lora_dropout", 0.0),
        rslora=flag(config, "use_rslora"),
        dora=flag(config, "use_dora"),
        bias=flag(config, "lora_bias"),
        init="kaiming" if start is None else "pissa" if start == "pissa" else "olora",
        at=pattern_of(sites, [one.site for one in modules.values()]),
        rank_pattern=_pattern(sites, {one.site: one.rank for one in modules.values() if one.rank != rank}),
        alpha_pattern=_pattern(sites, {one.site: one.alpha for one in modules.values() if one.alpha != alpha}),
    )
    names = {
        f"{PREFIX}{path}{ending}": (one, ending, field) for path, one in modules.items() for ending, field in one.fields.items()
    }

    def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
        state = {f"{one.site.name}.{field}": tensors[name] for name, (one, _, field) in names.items()}
        return empty.with_state(state).with_fixed(_start_factors(method, empty, folder.base))

    return Found(method=method, shapes={name: one.shape(ending) for name, (one, ending, _) in names.items()}, edits=edits)


def _modules(folder: Folder) -> dict[str, _Module]:
    """What is adapted, by the paths that the file calls it, in the order of the forward."""
    projections = {A: "a_KI", B: "b_OK"}
    projections |= {MAGNITUDE: "m_O"} if flag(folder.config, "use_dora") else {}
    projections |= {BIAS: "bias_O"} if flag(folder.config, "lora_bias") else {}
    tables = any(name.endswith(TABLE_A) for name in folder.header)
    found: dict[str, _Module] = {}
    if tables:
        for path, site in named_sites(folder, TABLE_A, "embedding").items():
            found[path] = _module(folder, path, site, vocabulary(site, folder.base.sites), {TABLE_A: "a_KV", TABLE_B: "b_HK"})
    if not tables or any(name.endswith(A) for name in folder.header):
        for path, site in named_sites(folder, A, "projection").items():
            assert site.in_width is not None
            found[path] = _module(folder, path, site, site.in_width, projections)
    order = list(folder.base.sites)
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[1].site.name)))


def _module(folder: Folder, path: str, site: Site, inputs: int, fields: Mapping[str, str]) -> _Module:
    config = folder.config
    rank, alpha = pattern_value(config, "rank_pattern", path), pattern_value(config, "alpha_pattern", path)
    if rank is not None and (type(rank) is not int or rank < 1):
        raise AdapterFileError(f"rank_pattern gives {path[:120]!r} the rank {rank}; a rank is a positive integer.")
    return _Module(
        site=site,
        rank=integer(config, "r") if rank is None else int(rank),
        alpha=(number(config, "lora_alpha", 8) if alpha is None else float(alpha))
        * folder.outline.embed_scales.get(site.module, 1),
        inputs=inputs,
        fields=fields,
    )


def _start(config: Mapping[str, Any]) -> str | None:
    """The start that changed the base's weights, or None.

    Raises:
        AdapterFileError: it cannot be computed from the base alone.
    """
    given = config.get("init_lora_weights", True)
    start = given.lower() if isinstance(given, str) else given
    if any(start is one or (isinstance(start, str) and start == one) for one in HARMLESS_STARTS):
        return None
    if not isinstance(start, str) or start not in COMPUTED_STARTS:
        raise AdapterFileError(
            f"init_lora_weights is {str(given)[:40]!r}, with which PEFT changes the base's own weights by what the folder does "
            "not have. Save it in PEFT with path_initial_model_for_weight_conversion."
        )
    return start


def _pattern(sites: Sites, values: Mapping[Site, Any]) -> dict[str, Any]:
    """Site patterns for these values."""
    return {
        pattern_of(sites, [site for site, own in values.items() if own == value]): value
        for value in dict.fromkeys(values.values())
    }


def _start_factors(method: LoRA, empty: Edits, base: Base) -> dict[str, Tensor]:
    """A₀ and B₀ as PEFT computes them from the base on loading."""
    out: dict[str, Tensor] = {}
    if method.init == "kaiming":
        return out
    for edit in empty:
        weight_OI, rank = base.linear(base.sites[edit.site]).weight_OI, len(edit.trained()["a_KI"])
        pair = principal(weight_OI, rank, edit.scale) if method.init == "pissa" else orthonormal(weight_OI, rank)  # type: ignore[attr-defined]
        out |= {f"{edit.site}.a0_KI": pair[0], f"{edit.site}.b0_OK": pair[1]}
    return out
