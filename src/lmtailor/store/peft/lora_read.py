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
from lmtailor.methods.lora import LoRA
from lmtailor.store.peft.config import flag, integer, number
from lmtailor.store.peft.kind import PREFIX, Folder, Found, Shape
from lmtailor.store.peft.modules import named_sites
from lmtailor.store.peft.patterns import pattern_value
from lmtailor.store.peft.targets import pattern_of

A, B = ".lora_A.weight", ".lora_B.weight"
BIAS, MAGNITUDE = ".lora_B.bias", ".lora_magnitude_vector"

KEYS = frozenset(
    {
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
        "fan_in_fan_out",  # PEFT corrects it to what the module is, and stores the same shapes for both
        "megatron_core",  # only read with megatron_config
        "qalora_group_size",  # only read with use_qalora
    }
)
AT_REST: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "bias": ("none",),
    "corda_config": (None,),
    "ensure_weight_tying": (False,),
    "eva_config": (None,),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "loftq_config": ({}, None),
    "lora_ga_config": (None,),
    "megatron_config": (None,),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "use_bdlora": (None,),
    "use_qalora": (False,),
    "velora_config": (None,),
}
HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that set LoRA's own matrices alone."""
COMPUTED_STARTS = ("pissa", "olora")
"""Those with which PEFT changes the base's weights on loading, by what can be computed from them."""


@dataclass(frozen=True, kw_only=True)
class _Module:
    """What a configuration says of one module."""

    site: Site
    rank: int
    alpha: float


def found_lora(folder: Folder) -> Found:
    """LoRA at the sites of the modules that a file has matrices for.

    Raises:
        AdapterFileError: the folder is damaged, of another base, or asks for what has no equal here.
    """
    config, sites = folder.config, folder.base.sites
    modules = {path: _module(config, path, site) for path, site in named_sites(folder, A, "projection").items()}
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
    fields = {A: "a_KI", B: "b_OK"} | ({MAGNITUDE: "m_O"} if method.dora else {}) | ({BIAS: "bias_O"} if method.bias else {})
    shapes: dict[str, Shape] = {}
    for path, one in modules.items():
        assert one.site.in_width is not None
        own: dict[str, Shape] = {A: (one.rank, one.site.in_width), B: (one.site.width, one.rank)}
        shapes |= {f"{PREFIX}{path}{ending}": own.get(ending, (one.site.width,)) for ending in fields}

    def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
        state = {
            f"{one.site.name}.{field}": tensors[f"{PREFIX}{path}{ending}"]
            for path, one in modules.items()
            for ending, field in fields.items()
        }
        return empty.with_state(state).with_fixed(_start_factors(method, empty, folder.base))

    return Found(method=method, shapes=shapes, edits=edits)


def _module(config: Mapping[str, Any], path: str, site: Site) -> _Module:
    rank, alpha = pattern_value(config, "rank_pattern", path), pattern_value(config, "alpha_pattern", path)
    if rank is not None and (type(rank) is not int or rank < 1):
        raise AdapterFileError(f"rank_pattern gives {path[:120]!r} the rank {rank}; a rank is a positive integer.")
    return _Module(
        site=site,
        rank=integer(config, "r") if rank is None else int(rank),
        alpha=number(config, "lora_alpha", 8) if alpha is None else float(alpha),
    )


def _start(config: Mapping[str, Any]) -> str | None:
    """The start that changed the base's weights, or None.

    Raises:
        AdapterFileError: it cannot be computed from the base alone.
    """
    start = config.get("init_lora_weights", True)
    if any(start is one or (isinstance(start, str) and start == one) for one in HARMLESS_STARTS):
        return None
    if not isinstance(start, str) or start not in COMPUTED_STARTS:
        raise AdapterFileError(
            f"init_lora_weights is {str(start)[:40]!r}, with which PEFT changes the base's own weights on loading. Save it in "
            "PEFT with path_initial_model_for_weight_conversion."
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
