"""Load a pretrained model and its tokenizer from a folder, a GGUF file or the hub. Nothing is ever unpickled."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lmtailor.base.base import Base
from lmtailor.base.families import FamilyTable, family_of, known_families
from lmtailor.base.family import Family, Kind
from lmtailor.base.quiet import quiet
from lmtailor.base.source import Source, resolve
from lmtailor.base.trunk import trunk_of
from lmtailor.core.errors import InputError, UnsupportedError, near

DTypeName = Literal["float32", "bfloat16", "float16", "auto"]
"""Type of the weights in memory; "auto" takes the checkpoint's."""

_LM_CLASSES: dict[Kind, Any] = {
    "encoder": AutoModelForMaskedLM,
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}

_FEWEST_WORDS = 2

_Loaded = TypeVar("_Loaded")


def load_base(
    source: str | Path,
    *,
    dtype: DTypeName = "float32",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
    family: FamilyTable | None = None,
    plain_products: bool = False,
) -> Base:
    """Load a pretrained language model, frozen and in eval mode.

    It has its LM head where the checkpoint does (or ties it to the word embeddings), else none; and the pooler that
    sequence classification reads, where the checkpoint does. GGUF weights are dequantised. A tokenizer without a
    padding token pads with its end-of-text token, which the attention mask hides.

    Args:
        source: a hub id, a folder, or a .gguf file.
        dtype: type of the weights in memory.
        device: such as cpu, cuda, cuda:1, mps.
        revision: branch, tag or commit on the hub.
        trust_remote_code: let code that comes with the model run.
        family: the table of an architecture that is not known.
        plain_products: leave products under adapters to the library that torch takes by itself, and so to the rounding of the
            model without adapters; on CPUs that are not Intel's they then take twice as long.

    Raises:
        InputError: the source is no model or a damaged one, weights of the trunk are missing, or an option is wrong.
        UnsupportedError: the architecture is not known.
    """
    weights_dtype = _dtype(dtype)
    target = _device(device)
    where = resolve(source)
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    if where.gguf is not None:
        options["gguf_file"] = where.gguf
    with quiet(stderr=where.gguf is not None):
        config = _config(where, options)
        table = family_of(config, family)
        tokenizer = _tokenizer(where, options)
        model = _model(where, config, table, {**options, "dtype": weights_dtype})
    if where.gguf is not None:
        _forget_quantisation(model)
    model.to(target)  # type: ignore[arg-type]
    base = replace(Base.from_model(model, tokenizer, where.asked, family=family), plain_products=plain_products)
    _check_sizes(base)
    if model.can_generate() and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return base


def _dtype(name: str) -> torch.dtype | Literal["auto"]:
    if name not in get_args(DTypeName):
        raise InputError(f"There is no dtype {name!r} for weights. {near(name, get_args(DTypeName))}")
    if name == "auto":
        return "auto"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _device(name: str | torch.device) -> torch.device:
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{name!r} is no device. {near(str(name), present)}") from None
    if device.type not in present:
        raise InputError(f"{name!r} is no device for models. {near(str(name), present)}")
    if (device.index or 0) >= present[device.type]:
        usable = ", ".join(kind for kind, count in present.items() if count)
        raise InputError(f"The device {name!r} is not there; this machine has {usable}.")
    return device


def _config(where: Source, options: dict[str, Any]) -> PreTrainedConfig:
    def load() -> PreTrainedConfig:
        config: PreTrainedConfig = AutoConfig.from_pretrained(where.place, **options)
        return config

    try:
        return _reading("the configuration", where, load)
    except (ValueError, KeyError) as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise InputError(f"{where.asked} comes with code of its own. Pass trust_remote_code=True if you trust it.") from error
        raise UnsupportedError(
            f"transformers does not know the architecture of {where.asked}: {_first_line(error)} "
            f"Known here are {', '.join(known_families())}."
        ) from error


def _tokenizer(where: Source, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where.place, **options)
    except Exception as error:
        raise InputError(
            f"{where.asked} has no tokenizer that can be read ({_first_line(error)}). Put its tokenizer files (tokenizer.json "
            "and tokenizer_config.json) beside the weights."
        ) from error
    # Without files, transformers makes a tokenizer of special tokens alone (T5's also knows the space).
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if len(tokenizer.get_vocab().keys() - special) < _FEWEST_WORDS:
        raise InputError(
            f"{where.asked} has no tokenizer: no words were found. Put its tokenizer files (tokenizer.json and "
            "tokenizer_config.json) beside the weights."
        )
    return tokenizer


def _check_sizes(base: Base) -> None:
    """Raise if the tokenizer gives ids that the word embeddings lack; special tokens that are never used may."""
    rows = base.module(base.stacks[0].embedding).get_parameter("weight").shape[0]
    words = {word: number for word, number in base.tokenizer.get_vocab().items() if number >= rows}
    extra = words.keys() - base.tokenizer.get_added_vocab().keys()
    if extra or base.tokenizer.pad_token_id >= rows:
        raise InputError(
            f"The tokenizer of {base.source} has ids up to {max(words.values())}, but the model knows {rows} words. They do not "
            "belong together; put the model's own tokenizer files beside the weights."
        )


def _model(where: Source, config: PreTrainedConfig, table: Family, options: dict[str, Any]) -> PreTrainedModel:
    """The LM, or the headless model where weights of the LM head are missing."""
    model, missing, unexpected = _weights(where, _LM_CLASSES[table.kind], config, options)
    trunk, _ = trunk_of(model, table)
    in_trunk = {id(parameter) for parameter in trunk.parameters()}
    names = dict(model.named_parameters(remove_duplicate=False))
    head = {name for name, parameter in names.items() if id(parameter) not in in_trunk}
    _check_complete(where, names, missing - head)
    has_pooler = table.pooler is not None and any(f"{table.pooler}." in name for name in unexpected)
    if not missing and not has_pooler:
        return model
    whole, lost, _ = _weights(where, AutoModel, config, options)
    pooler = {name for name in lost if table.pooler is not None and name.startswith(f"{table.pooler}.")}
    _check_complete(where, dict(whole.named_parameters()), lost - pooler)
    if pooler:
        setattr(whole, str(table.pooler), None)
    if missing:
        return whole
    # LM classes build their trunk without pooler.
    for name, module in whole.named_children():
        if trunk._modules.get(name) is None:
            setattr(trunk, name, module)
    return model


def _weights(
    where: Source, kind: Any, config: PreTrainedConfig, options: dict[str, Any]
) -> tuple[PreTrainedModel, set[str], set[str]]:
    """A model of a class, the names of its weights that the checkpoint lacks, and of those that it has too many."""

    def load() -> tuple[PreTrainedModel, dict[str, Any]]:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            where.place,
            config=config,
            use_safetensors=None if where.gguf else True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
        return loaded

    model, info = _reading("the weights", where, load)
    # Ignored there so that they can be named here.
    wrong = [f"{name} is {tuple(stored)}, not {tuple(wanted)}" for name, stored, wanted in info["mismatched_keys"]]
    wrong += info["error_msgs"]
    if wrong:
        raise InputError(
            f"The weights of {where.asked} do not fit its configuration: {'; '.join(sorted(wrong)[:3])}. The checkpoint and its "
            "config.json are not of one model; get it again."
        )
    return model, set(info["missing_keys"]), set(info["unexpected_keys"])


def _check_complete(where: Source, parameters: dict[str, Any], missing: Iterable[str]) -> None:
    """Raise if trained weights of the trunk are missing; those that are computed (Marian's sinusoids) are not stored."""
    lost = sorted(name for name in missing if name not in parameters or parameters[name].requires_grad)
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise InputError(
            f"{where.asked} lacks weights of the model itself: {shown}. Fitting would start from random numbers there. The "
            "checkpoint is incomplete, or of another architecture than its config.json says; get it again."
        )


def _reading(what: str, where: Source, load: Callable[[], _Loaded]) -> _Loaded:
    """Call a loader of transformers; its many errors become one sentence that says what to do."""
    try:
        return load()
    except ImportError as error:
        raise InputError(f"Reading {where.asked} needs another package: {_first_line(error)}") from error
    except SafetensorError as error:
        raise InputError(
            f"Cannot read {what} of {where.asked}: the file is damaged ({_first_line(error)}). Get it again."
        ) from error
    except OSError as error:
        if where.local:
            raise InputError(f"Cannot read {what} of {where.asked}: {_first_line(error)}") from error
        raise InputError(
            f"Cannot get {what} of {where.asked!r}, which is no folder here: {_first_line(error)} Check the name; for a hub "
            "model that is not in the cache a connection is needed (and HF_HUB_OFFLINE unset), and safetensors weights."
        ) from error
    except RuntimeError as error:
        raise InputError(f"Loading {what} of {where.asked} failed: {_first_line(error)}") from error
    except Exception as error:
        if where.gguf is None:
            raise
        raise InputError(
            f"Cannot read {what} of {where.asked}: {_first_line(error)}. The file is damaged, or of an architecture that "
            "transformers does not read from GGUF."
        ) from error


def _forget_quantisation(model: PreTrainedModel) -> None:
    """GGUF weights are dequantised on loading, but the model still says that it is quantised, and refuses to save."""
    for name in ("is_quantized", "quantization_method", "hf_quantizer"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
