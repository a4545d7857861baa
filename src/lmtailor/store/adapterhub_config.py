"""`adapter_config.json` of AdapterHub's folders: from its settings to a method of ours.

A key is read, or changes no number of a stored adapter, or must have a value that changes nothing. Anything else raises.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, near
from lmtailor.methods._bottleneck import Activation
from lmtailor.methods.compacter import Compacter
from lmtailor.methods.compacter_plus_plus import CompacterPlusPlus
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.ia3 import IA3
from lmtailor.methods.lora import LoRA
from lmtailor.methods.loreft import LoReFT
from lmtailor.methods.method import Method
from lmtailor.methods.parallel_adapter import ParallelAdapter
from lmtailor.methods.pfeiffer import Pfeiffer

_BERT = {"attn": "attention.output", "ffn": "output"}
_LATER = {"attn": "attention_adapters", "ffn": "output_adapters", "cross": "cross_attention_adapters"}
HOLDERS: Mapping[str, Mapping[str, str]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "gpt2": _LATER,
    "llama": _LATER,
    "mistral": _LATER,
    "bart": _LATER,
    "mbart": _LATER,
    "t5": {"attn": "layer.0", "cross": "layer.1", "encoder.ffn": "layer.1", "decoder.ffn": "layer.2"},
}
"""Model type → sublayer → the module of a block in which the library keeps its adapters."""
_SWAPPED = ("llama", "mistral")
"""Where the library takes the down projection for the intermediate one, and up for output."""
_ACTIVATIONS: Mapping[str, Activation] = {"gelu": "gelu", "relu": "relu", "tanh": "tanh", "silu": "silu", "swish": "silu"}

_EVERY = frozenset({"architecture", "leave_out", "dropout", "init_weights", "init_weights_seed", "dtype"})
"""Keys that are read everywhere, or that say how training began; dropout acts in training alone."""
_BOTTLENECK_KEYS = frozenset(
    """mh_adapter output_adapter cross_adapter reduction_factor non_linearity original_ln_before is_parallel scaling
    phm_layer phm_dim phm_rank phm_c_init phm_init_range learn_phm hypercomplex_nonlinearity
    inv_adapter_reduction_factor""".split()
)
_BOTTLENECK_REST: Mapping[str, tuple[Any, ...]] = {
    "original_ln_after": (True,),
    "ln_before": (False,),
    "ln_after": (False,),
    "use_gating": (False,),
    "residual_before_ln": (True,),
    "adapter_residual_before_ln": (False,),
    "inv_adapter": (None,),
    "stochastic_depth": (0.0,),
    "shared_phm_rule": (True,),
    "factorized_phm_rule": (False,),
    "factorized_phm_W": (True,),
    "shared_W_phm": (False,),
    "phm_bias": (True,),
}
_REFT_KEYS = frozenset("layers prefix_positions suffix_positions r orthogonality tied_weights".split())
_REFT_REST: Mapping[str, tuple[Any, ...]] = {"non_linearity": (None,), "output_reft": (True,)}
_LORA_KEYS = frozenset(
    "selfattn_lora intermediate_lora output_lora r alpha attn_matrices composition_mode use_dora vera_d vera_b".split()
)
_LORA_REST: Mapping[str, tuple[Any, ...]] = {"use_gating": (False,)}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a folder asks for."""

    method: Method
    holders: Mapping[str, str] = field(default_factory=dict)
    matrices: tuple[str, ...] = ()
    """LoRA, IA3: the parts of a fused projection that are adapted, in the order of its features."""
    whole_scales: bool = False
    """LoRA: whether it is a VeRA whose vectors are whole matrices."""
    rotated: bool = False
    """LoReFT: whether R was kept orthonormal, and so is stored as what it is computed from."""

    def holder(self, stack: str, part: str) -> str:
        """The module of a block in which the library keeps the adapters of a sublayer."""
        return self.holders.get(f"{stack}.{part}") or self.holders[part]


def parts_of(settings: Mapping[str, Any], base: Base) -> tuple[Asked, ...]:
    """What a folder's settings ask for: one method, or those of a union.

    Raises:
        AdapterFileError: the settings have no equal here, or are not known.
    """
    if settings.get("architecture") != "union":
        return (_part(settings, base),)
    _known(settings, {"configs"}, {})
    configs = settings.get("configs")
    if not isinstance(configs, list) or not configs or not all(isinstance(one, dict) for one in configs):
        raise AdapterFileError(f"configs is {shown(configs)}; a list of the settings of a union's parts is read.")
    return tuple(_part(one, base) for one in configs)


def _part(settings: Mapping[str, Any], base: Base) -> Asked:
    kind = settings.get("architecture") or "bottleneck"
    if not isinstance(kind, str) or kind not in _KINDS:
        why = ", since the library cannot store prefixes as safetensors" if kind == "prefix_tuning" else ""
        raise AdapterFileError(
            f"It is of AdapterHub's architecture {shown(kind)}, which is not read{why}. Those read are {', '.join(_KINDS)} "
            "and unions of them."
        )
    return _KINDS[kind](settings, base)


def shown(value: Any) -> str:
    """A value of a stranger's file, cut short."""
    return repr(value)[:60]


def _bottleneck(settings: Mapping[str, Any], base: Base) -> Asked:
    _known(settings, _BOTTLENECK_KEYS, _BOTTLENECK_REST)
    if base.family.name not in HOLDERS:
        raise AdapterFileError(f"Adapters of AdapterHub are read for {', '.join(HOLDERS)}, not for {base.family.name}.")
    parts = [
        part
        for part, key in (("attn", "mh_adapter"), ("cross", "cross_adapter"), ("ffn", "output_adapter"))
        if _flag(settings, key)
    ]
    if "cross" in parts and base.kind != "encoder-decoder":
        parts.remove("cross")
    common: dict[str, Any] = {
        "bottleneck": _units(settings, base.hidden_size),
        "activation": _activation(settings),
        "at": _at(
            settings, base, {stack: [p for p in parts if p != "cross" or stack != "encoder"] for stack in base.sites.stacks}
        ),
    }
    method = _placed(settings, common)
    return Asked(method=method, holders=HOLDERS[base.family.name])


def _placed(settings: Mapping[str, Any], common: dict[str, Any]) -> Method:
    """Which method stands where these settings put it."""
    scaling, parallel, stream = (
        settings.get("scaling", 1.0),
        _flag(settings, "is_parallel"),
        _flag(settings, "original_ln_before"),
    )
    phm = _flag(settings, "phm_layer")
    if parallel and not phm:
        if scaling != "learned" and type(scaling) not in (int, float):
            raise AdapterFileError(f"scaling is {shown(scaling)}; a number or 'learned' is read.")
        scale = scaling if scaling == "learned" else float(scaling)
        return ParallelAdapter(scale=scale, reads="residual", **common)
    if parallel or scaling != 1.0:
        raise AdapterFileError(
            f"It uses scaling {shown(scaling)} (is_parallel {parallel}, phm_layer {phm}), which is not read here."
        )
    if phm:
        shape: dict[str, Any] = {"terms": _integer(settings, "phm_dim"), "rank": _integer(settings, "phm_rank")}
        return CompacterPlusPlus(reads="stream", **shape, **common) if stream else Compacter(**shape, **common)
    return Pfeiffer(**common) if stream else Houlsby(**common)


def _lora(settings: Mapping[str, Any], base: Base) -> Asked:
    _known(settings, _LORA_KEYS, _LORA_REST)
    matrices = settings.get("attn_matrices")
    if not isinstance(matrices, list) or not set(matrices) <= set("qkv"):
        raise AdapterFileError(f"attn_matrices is {shown(matrices)}; a list of q, k and v is read.")
    ordered = tuple(part for part in "qkv" if part in matrices) if _flag(settings, "selfattn_lora") else ()
    inner = {"intermediate_lora": "ffn.up", "output_lora": "ffn.down"}
    if base.family.name in _SWAPPED:
        inner = {"intermediate_lora": "ffn.down", "output_lora": "ffn.up"}
    feed = [part for key, part in inner.items() if _flag(settings, key)]
    attn, cross = ([f"{where}.{part}" for part in ordered] for where in ("attn", "cross"))
    at = _at(settings, base, {stack: [*attn, *(cross if stack == "decoder" else ()), *feed] for stack in base.sites.stacks})
    return _low_rank(settings, at, ordered)


def _low_rank(settings: Mapping[str, Any], at: str, matrices: tuple[str, ...]) -> Asked:
    """LoRA, DoRA, VeRA or IA3 at these sites. Which it is, the library tells by settings, and so does this."""
    rank, alpha, dora = _integer(settings, "r"), settings.get("alpha"), _flag(settings, "use_dora")
    if type(alpha) not in (int, float):
        raise AdapterFileError(f"alpha must be a number; it is {shown(alpha)}.")
    for key in ("vera_d", "vera_b"):
        if type(settings.get(key)) not in (float, type(None)):
            raise AdapterFileError(f"{key} must be a number or null; it is {shown(settings[key])}.")
    vera = settings.get("vera_d") is not None or settings.get("vera_b") is not None
    mode = settings.get("composition_mode", "add")
    if mode == "scale":
        if dora or vera or rank != 1 or alpha != 1:
            raise AdapterFileError(
                f"It is an IA3 (composition_mode 'scale') with r {rank}, alpha {shown(alpha)}, use_dora {dora} and vera_d "
                f"{shown(settings.get('vera_d'))}; an IA3 with r 1, alpha 1 and neither of the others is read."
            )
        return Asked(method=IA3(at=at, at_inputs=""), matrices=matrices)
    if mode != "add":
        raise AdapterFileError(f"composition_mode is {shown(mode)}; 'add' (LoRA) and 'scale' (IA3) are read.")
    if vera and dora:
        raise AdapterFileError("It uses use_dora (True) together with vera_d and vera_b, which is not read here.")
    return Asked(
        method=LoRA(rank=rank, alpha=float(alpha), dora=dora, at=at),  # type: ignore[arg-type]
        matrices=matrices,
        whole_scales=vera,
    )


def _reft(settings: Mapping[str, Any], base: Base) -> Asked:
    """LoReFT or NoReFT, with R itself, as a finished LoReFT has it. The file does not say whether it was DiReFT, and the library
    too reads that as NoReFT.

    Where the input is shorter than its first and last positions together, the library lets the last ones win, and the paper,
    which is followed here, takes half of each.
    """
    _known(settings, _REFT_KEYS, _REFT_REST)
    layers = settings.get("layers")
    if layers != "all" and not (isinstance(layers, list) and all(type(one) is int for one in layers)):
        raise AdapterFileError(f"layers is {shown(layers)}; 'all' or a list of blocks is read.")
    count = sum(base.sites.blocks(stack) for stack in base.sites.stacks)
    left_out = [] if layers == "all" else [number for number in range(count) if number not in layers]
    first, last = (_integer(settings, f"{end}_positions", least=0) for end in ("prefix", "suffix"))
    dropout = settings.get("dropout", 0.0)
    if type(dropout) not in (int, float):
        raise AdapterFileError(f"dropout must be a number; it is {shown(dropout)}.")
    method = LoReFT(
        rank=_integer(settings, "r"),
        first=first,
        last=last,
        tied=_flag(settings, "tied_weights"),
        orthogonal=False,
        dropout=float(dropout),
        at=_at({"leave_out": left_out}, base, {stack: [""] for stack in base.sites.stacks}),
    )
    return Asked(method=method, rotated=_flag(settings, "orthogonality"))


_KINDS: Mapping[str, Callable[[Mapping[str, Any], Base], Asked]] = {"bottleneck": _bottleneck, "lora": _lora, "reft": _reft}


def _known(settings: Mapping[str, Any], keys: Collection[str], rest: Mapping[str, tuple[Any, ...]]) -> None:
    """See that every key is understood."""
    for key, value in settings.items():
        if key in keys or key in _EVERY:
            continue
        if key not in rest:
            raise AdapterFileError(
                f"{key[:60]!r} is no setting of AdapterHub's that is known here, and ignoring it could change the adapter. "
                f"{near(key, {*keys, *rest, *_EVERY})}"
            )
        if not any(type(value) is type(one) and value == one for one in rest[key]):
            raise AdapterFileError(f"It uses {key} ({shown(value)}), which is not read here.")


def _at(settings: Mapping[str, Any], base: Base, parts: Mapping[str, list[str]]) -> str:
    """The pattern of these parts of every stack's blocks but those that are left out, which count through all stacks."""
    left_out = settings.get("leave_out") or []
    if not isinstance(left_out, list) or not all(type(one) is int for one in left_out):
        raise AdapterFileError(f"leave_out is {shown(left_out)}; a list of blocks is read.")
    patterns, before = [], 0
    for stack in base.sites.stacks:
        count = base.sites.blocks(stack)
        numbers = [number for number in range(count) if before + number not in left_out]
        chosen = "*" if len(numbers) == count else f"[{','.join(map(str, numbers))}]"
        start = f"{stack}." if stack else ""
        patterns += [f"{start}block.{chosen}.{part}".removesuffix(".") for part in parts[stack] if numbers]
        before += count
    if not patterns:
        raise AdapterFileError("Its settings adapt nothing. Get the adapter again.")
    return ", ".join(patterns)


def _units(settings: Mapping[str, Any], width: int) -> int:
    factor = settings.get("reduction_factor")
    if type(factor) not in (int, float) or not 1e-3 <= factor <= 1e6:  # type: ignore[operator]
        raise AdapterFileError(f"reduction_factor is {shown(factor)}; one number from 0.001 on for all blocks is read.")
    return max(1, int(width // factor))  # type: ignore[operator]


def _activation(settings: Mapping[str, Any]) -> Activation:
    name = str(settings.get("non_linearity")).lower()
    if name not in _ACTIVATIONS:
        raise AdapterFileError(f"non_linearity is {name[:60]!r}; {', '.join(_ACTIVATIONS)} are read.")
    return _ACTIVATIONS[name]


def _integer(settings: Mapping[str, Any], key: str, *, least: int = 1) -> int:
    value = settings.get(key)
    if type(value) is not int or value < least:
        raise AdapterFileError(f"{key} must be an integer of at least {least}; it is {shown(value)}.")
    return value


def _flag(settings: Mapping[str, Any], key: str) -> bool:
    value = settings.get(key, False)
    if type(value) is not bool:
        raise AdapterFileError(f"{key} must be true or false; it is {shown(value)}.")
    return value
