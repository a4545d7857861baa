"""`adapter_config.json` of PEFT folders: which keys are understood, and which must be at rest.

PEFT itself drops keys that it does not know. Here a key is read, or has no influence on a stored adapter, or must have a
value that changes nothing; anything else is an error that names it. The keys are those of PEFT 0.21.2.
"""

from collections.abc import Mapping
from typing import Any

from lmtailor.core.errors import AdapterFileError, near

_EVERY = {
    "peft_type",
    "task_type",
    "modules_to_save",
    # What follows says where the folder comes from, and changes no number.
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
}
_PROMPTS = _EVERY | {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}

READ: Mapping[str, frozenset[str]] = {
    "LORA": frozenset(
        _EVERY
        | {
            "r",
            "lora_alpha",
            "use_rslora",
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
    ),
    # A network that computed the prefix is not stored: what is stored is what it computed.
    "PREFIX_TUNING": frozenset(_PROMPTS | {"prefix_projection", "encoder_hidden_size", "init_weights"}),
    # How a prompt started has no influence on what is stored.
    "PROMPT_TUNING": frozenset(
        _PROMPTS | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
    ),
}
"""Keys that are read, or that have no influence, by peft_type."""

AT_REST: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": ({}, None),
    "arrow_config": (None,),
    "bias": ("none",),
    "corda_config": (None,),
    "ensure_weight_tying": (False,),
    "eva_config": (None,),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "loftq_config": ({}, None),
    "lora_bias": (False,),
    "lora_ga_config": (None,),
    "megatron_config": (None,),
    "monteclora_config": (None,),
    "rank_pattern": ({}, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "use_bdlora": (None,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "velora_config": (None,),
}
"""LoRA's keys that are not read, with the values at which they change nothing."""

HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that set LoRA's own matrices alone; others change the base's weights when PEFT loads it."""


def check_config(config: Mapping[str, Any]) -> str:
    """See that every key of a configuration is understood.

    Returns:
        Its peft_type.

    Raises:
        AdapterFileError: a key is unknown, or asks for what is not read here.
    """
    kind = str(config.get("peft_type"))
    if kind not in READ:
        raise AdapterFileError(f"It is of peft_type {kind[:40]}, which is not read here; {', '.join(READ)} are.")
    for key, value in config.items():
        if key in READ[kind]:
            continue
        if kind != "LORA" or key not in AT_REST:
            raise AdapterFileError(
                f"{key[:60]!r} is no key of PEFT's {kind} that is known here, and ignoring it could change the adapter. "
                f"{near(key, READ[kind])}"
            )
        if not any(type(value) is type(rest) and value == rest for rest in AT_REST[key]):
            raise AdapterFileError(f"It uses {key} ({_shown(value)}), which is not read here.")
    return kind


def integer(config: Mapping[str, Any], key: str) -> int:
    """A key that must hold a positive integer.

    Raises:
        AdapterFileError: it does not.
    """
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise AdapterFileError(f"{key} must be a positive integer; it is {_shown(value)}.")
    return value


def number(config: Mapping[str, Any], key: str, default: float) -> float:
    """A key that holds a number, or is missing.

    Raises:
        AdapterFileError: it holds something else.
    """
    value = config.get(key, default)
    if type(value) not in (int, float):
        raise AdapterFileError(f"{key} must be a number; it is {_shown(value)}.")
    return float(value)


def flag(config: Mapping[str, Any], key: str) -> bool:
    """A key that holds true or false, or is missing (false).

    Raises:
        AdapterFileError: it holds something else.
    """
    value = config.get(key, False)
    if type(value) is not bool:
        raise AdapterFileError(f"{key} must be true or false; it is {_shown(value)}.")
    return value


def names(config: Mapping[str, Any], key: str) -> list[str] | str | None:
    """A key that holds a list of names, a pattern, or nothing.

    Raises:
        AdapterFileError: it holds something else.
    """
    value = config.get(key)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise AdapterFileError(f"{key} must be a list of names, or a text; it is {_shown(value)}.")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
