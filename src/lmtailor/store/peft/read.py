"""Reading folders that PEFT wrote.

The tensors say which modules were trained. Names in the configuration are compared with them; a regular expression is not
run, since one from a stranger can run for ever, and PEFT's own tensors follow it.

A folder with a classification head says how many labels there are and not what they are called, nor of which columns
the text came: labels are called as in the base's configuration (LABEL_0, …), the column `text`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from lmtailor.core.errors import AdapterFileError, near
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import PlainPrefix, Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head, HeadReading
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.native import native_head
from lmtailor.store.adapter import READOUT, Adapter, build_adapter
from lmtailor.store.outline import Outline
from lmtailor.store.peft.config import HARMLESS_STARTS, check_config, flag, integer, number
from lmtailor.store.peft.form import TENSORS, head_prefix
from lmtailor.store.peft.lora import PREFIX, A, B
from lmtailor.store.peft.prompts import NAME, attention_sites, check_prefix, check_prompt, prefix_from
from lmtailor.store.peft.targets import check_targets, pattern_of
from lmtailor.store.peft.task import TaskType, plain_task
from lmtailor.store.tensors import HEADER, TensorInfo, check_shapes, read_header, read_tensors

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A method in a PEFT folder: what it is, and how its tensors become the state of our own edits."""

    method: Method
    shapes: Mapping[str, Shape]
    """Tensors of the file that are the method's."""
    state: Callable[[Adapter, Mapping[str, Tensor]], dict[str, Tensor]]
    """From the adapter of shapes and the file's tensors to the edits' tensors."""


def load_peft(folder: Path, config: Mapping[str, Any], base: Base) -> Adapter:
    """The adapter in a PEFT folder.

    Args:
        folder: holds adapter_model.safetensors.
        config: its configuration.
        base: what it was made for; its shapes are checked, but a PEFT folder holds no fingerprint.

    Raises:
        AdapterFileError: the folder is damaged, of another base, or asks for what has no equal here.
        UnsupportedError: PEFT itself does not do on this base what the folder asks for.
    """
    kind = check_config(config)
    outline = Outline.of(base)
    task = _task(config, kind, outline)
    header = read_header(folder / TENSORS, limit=HEADER + 8 * base.num_parameters)
    if kind == "LORA":
        found = _lora(config, header, base, outline)
    else:
        found = _prefix(config, outline, task) if kind == "PREFIX_TUNING" else _prompt(config, outline, task)
    # Before anything is built from numbers of the configuration, they are compared with what the file really holds.
    check_shapes(folder / TENSORS, {name: header[name].shape for name in found.shapes if name in header}, found.shapes)
    rest = {name: info.shape for name, info in header.items() if name not in found.shapes}
    readout, labels = None, None
    if task == "SEQ_CLS":
        virtual = kind == "PROMPT_TUNING" and outline.kind == "encoder"
        readout, labels = Head(pooling="native", virtual=virtual), _labels(rest, head_prefix(kind), base)
    elif rest:
        raise AdapterFileError(f"{next(iter(rest))[:120]!r} is in {TENSORS}, and has no equal in {kind} here.")
    adapter = build_adapter(base, found.method, readout, labels, None)
    head, held = _head(adapter, head_prefix(kind), rest, base)
    tensors = read_tensors(folder / TENSORS, {**found.shapes, **{name: rest[name] for name in head}})
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    own = held | {head[name]: tensor for name, tensor in tensors.items() if name in head}
    loaded = adapter.with_state(found.state(adapter, tensors) | {f"{READOUT}{name}": value for name, value in own.items()})
    origin = {key: config.get(key) for key in ("peft_type", "task_type", "peft_version", "base_model_name_or_path")}
    return replace(loaded, provenance={"read_from": origin})


def _task(config: Mapping[str, Any], kind: str, outline: Outline) -> TaskType:
    task = config.get("task_type")
    allowed: set[str | None] = {"SEQ_CLS", plain_task(outline), "FEATURE_EXTRACTION"}
    if kind == "LORA":
        # The names of modules and the head decide; the generation classes add nothing to LoRA.
        allowed |= {"CAUSAL_LM", "SEQ_2_SEQ_LM", None}
    elif task is None:
        raise AdapterFileError("task_type is null: PEFT itself ignores the prompt of such a folder. Set the task type.")
    if not isinstance(task, str | None) or task not in allowed:
        raise AdapterFileError(
            f"task_type is {str(task)[:40]}; for {kind} on a {outline.kind}, {' and '.join(sorted(map(str, allowed)))} are read."
        )
    if task != "SEQ_CLS" and config.get("modules_to_save"):
        raise AdapterFileError("modules_to_save stores whole modules, which are read for SEQ_CLS alone.")
    return "SEQ_CLS" if task == "SEQ_CLS" else plain_task(outline)


def _lora(config: Mapping[str, Any], header: Mapping[str, TensorInfo], base: Base, outline: Outline) -> _Found:
    start = config.get("init_lora_weights", True)
    if not any(start is one or (isinstance(start, str) and start == one) for one in HARMLESS_STARTS):
        raise AdapterFileError(
            f"init_lora_weights is {str(start)[:40]!r}, with which PEFT changes the base's own weights on loading."
        )
    rank = integer(config, "r")
    sites = _adapted(config, header, outline)
    order = list(base.sites)
    chosen = sorted(sites.values(), key=lambda site: order.index(site.name))
    method = LoRA(
        rank=rank,
        alpha=number(config, "lora_alpha", 8),
        dropout=number(config, "lora_dropout", 0.0),
        rslora=flag(config, "use_rslora"),
        at=pattern_of(base.sites, chosen),
    )
    shapes: dict[str, Shape] = {}
    for path, site in sites.items():
        assert site.in_width is not None
        shapes |= {f"{PREFIX}{path}{A}": (rank, site.in_width), f"{PREFIX}{path}{B}": (site.width, rank)}

    def state(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for path, site in sites.items():
            out[f"{site.name}.a_KI"] = tensors[f"{PREFIX}{path}{A}"]
            out[f"{site.name}.b_OK"] = tensors[f"{PREFIX}{path}{B}"]
        return out

    return _Found(method=method, shapes=shapes, state=state)


def _adapted(config: Mapping[str, Any], header: Mapping[str, TensorInfo], outline: Outline) -> dict[str, Site]:
    """The sites of the modules that the file has LoRA's matrices for, by the paths that it calls them."""
    paths = [name[len(PREFIX) : -len(A)] for name in header if name.startswith(PREFIX) and name.endswith(A)]
    if not paths:
        raise AdapterFileError(f"{TENSORS} has no matrices of LoRA.")
    check_targets(config, paths)
    projections = {site.module: site for site in outline.projections()}
    sites: dict[str, Site] = {}
    for path in paths:
        site = projections.get(outline.find(path))
        if site is None:
            raise AdapterFileError(f"{path[:120]!r} is no projection of this base. {near(path[:120], projections)}")
        if site.calls > 1:
            raise AdapterFileError(
                f"{path!r} is called {site.calls} times in a forward of {outline.family}. Its LoRA cannot be read: here, each "
                "call has one of its own."
            )
        if site in sites.values():
            raise AdapterFileError(f"{path!r} names a module that another tensor names too.")
        sites[path] = site
    return sites


def _prefix(config: Mapping[str, Any], outline: Outline, task: TaskType) -> _Found:
    check_prefix(outline, task)
    length, layers = integer(config, "num_virtual_tokens"), integer(config, "num_layers")
    own = attention_sites(outline)
    attention = own[0].attention
    assert attention is not None
    twice = outline.kind == "encoder-decoder"
    if layers < len(own) or (layers > len(own) and not twice):
        raise AdapterFileError(f"num_layers is {layers}; this base has {len(own)} layers that take a prefix.")
    _expect(config, "token_dim", attention.kv_width)
    _expect(config, "num_attention_heads", attention.kv_heads)
    _expect_submodules(config, 2 if twice else 1)
    method = Prefix(length=length, at="decoder.block.*.attn" if twice else "block.*.attn")

    def state(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (edit,) = adapter.edits
        assert isinstance(edit, PlainPrefix)
        new = prefix_from(tensors[NAME], edit, twice=twice)
        return dict(zip(adapter.edits.state(), new.trained().values(), strict=True))

    return _Found(method=method, shapes={NAME: (length, 2 * layers * attention.kv_width)}, state=state)


def _prompt(config: Mapping[str, Any], outline: Outline, task: TaskType) -> _Found:
    check_prompt(outline, task)
    length = integer(config, "num_virtual_tokens")
    site = next(site for site in outline.sites.values() if site.kind == "embedding" and site.stack != "decoder")
    _expect(config, "token_dim", site.width)
    # PEFT stores a prompt for the decoder too by default, and never uses it.
    copies = 1
    if outline.kind == "encoder-decoder" and config.get("num_transformer_submodules") in (None, 2):
        copies = 2
    else:
        _expect_submodules(config, 1)

    def state(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(adapter.edits.state(), tensors[NAME][:length].contiguous())

    return _Found(method=SoftPrompt(length=length), shapes={NAME: (copies * length, site.width)}, state=state)


def _labels(rest: Mapping[str, Shape], start: str, base: Base) -> LabelSet:
    """As many labels as the head's last layer has rows."""
    last = f"{native_head(base).out}.weight"
    shape = rest.get(f"{start}{last}", ())
    if len(shape) != 2:
        raise AdapterFileError(
            f"The folder is for classification, but {TENSORS} has no head ({start}{last}): PEFT would take a random one."
        )
    count = shape[0]
    named: Mapping[int, str] = base.model.config.to_dict().get("id2label") or {}
    labels = tuple(str(named[i]) if len(named) == count and i in named else f"LABEL_{i}" for i in range(count))
    if count == 1:
        return LabelSet(kind="regression", labels=(), texts=("text",))
    return LabelSet(kind="classification", labels=labels, texts=("text",))


def _head(adapter: Adapter, start: str, rest: Mapping[str, Shape], base: Base) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The file's names of the head's parameters, and those parameters that are the base's own.

    PEFT stores the classifier, but not what the model for classification takes from the checkpoint: BERT's pooler.
    """
    if not isinstance(adapter.reading, HeadReading) or adapter.reading.native is None:
        return {}, {}
    wanted = adapter.reading.parameters()
    if extra := [name for name in rest if name.removeprefix(start) not in wanted or not name.startswith(start)]:
        raise AdapterFileError(
            f"{extra[0][:120]!r} is in {TENSORS}, and is no part of the classification head of {base.family.name}."
        )
    held: dict[str, Tensor] = {}
    native = adapter.reading.native
    if native.pooler is not None and base.pooler is not None:
        held = {f"{native.pooler}.{name}": value for name, value in base.pooler.named_parameters()}
    if native.lm_module is not None:
        held |= {name: value for name, value in base.model.named_parameters() if name.startswith(f"{native.lm_module}.")}
    missing = [name for name in wanted if f"{start}{name}" not in rest]
    if lost := [name for name in missing if name not in held]:
        raise AdapterFileError(f"{TENSORS} lacks {lost[0]!r} of the classification head: PEFT would take a random one.")
    return {f"{start}{name}": name for name in wanted if name not in missing}, {
        name: held[name].detach().float().cpu().clone() for name in missing
    }


def _expect(config: Mapping[str, Any], key: str, wanted: int) -> None:
    if (found := integer(config, key)) != wanted:
        raise AdapterFileError(f"{key} is {found}, but this base needs {wanted}. The adapter is of another base.")


def _expect_submodules(config: Mapping[str, Any], wanted: int) -> None:
    if config.get("num_transformer_submodules") is not None:
        _expect(config, "num_transformer_submodules", wanted)
