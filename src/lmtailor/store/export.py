"""Exporting: an adapter in the form of another program, and nothing else in the folder.

peft     what PEFT stores: LoRA, prefixes and soft prompts; the family's own head as SEQ_CLS
vllm     LoRA for vLLM's server: PEFT's form with the scale in B and alpha = r, since vLLM has one scale for all modules

`save_adapter` already writes folders that PEFT loads; an export leaves out what only we read. vLLM serves decoders,
and adapters up to `max_lora_rank`, which is 16 unless the server is started with more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lmtailor.core.errors import InputError, UnsupportedError, near
from lmtailor.methods import method_name
from lmtailor.methods.lora import LoRA
from lmtailor.store.adapter import Adapter
from lmtailor.store.card import model_card
from lmtailor.store.folder import CARD, write_json
from lmtailor.store.peft.config import CONFIG, TENSORS
from lmtailor.store.peft.form import PeftForm, best_task, outline_of, peft_form
from lmtailor.store.peft.lora import B
from lmtailor.store.peft.task import is_native, plain_task
from lmtailor.store.place import MANIFEST
from lmtailor.store.tensors import write_tensors
from lmtailor.store.whole_folder import whole_folder

FORMATS = ("peft", "vllm")
VLLM_RANK = 16
"""vLLM's own default of max_lora_rank."""


def export(
    adapter: Adapter,
    folder: str | Path,
    *,
    format: str = "peft",  # noqa: A002 (the word that users know)
    without_head: bool = False,
    max_rank: int = VLLM_RANK,
) -> None:
    """Write an adapter in another program's form.

    Args:
        adapter: what is exported.
        folder: made if it does not exist; an export that is there already is replaced.
        format: whose form: peft or vllm.
        without_head: leave out a head that the other program has no place for, and export the method alone.
        max_rank: with vllm, the largest rank that the server takes (its max_lora_rank).

    Raises:
        UnsupportedError: the other program has no form for this adapter; the message says why.
        InputError: an unknown format, or a folder that cannot be written or holds an adapter of ours.
    """
    if format == "adapterhub":
        raise UnsupportedError("Exporting to AdapterHub is not built yet; 'peft' and 'vllm' are.")
    if format not in FORMATS:
        raise InputError(f"There is no export format {format!r}. {near(format, FORMATS)}")
    path = Path(folder).expanduser()
    if (path / MANIFEST).exists():
        raise InputError(f"{path} holds an adapter of ours, which the export would replace. Name another folder.")
    form = _peft(adapter, without_head) if format == "peft" else _vllm(adapter, without_head, max_rank)
    with whole_folder(path, own=(CARD, CONFIG, TENSORS)) as part:
        write_tensors(part / TENSORS, form.tensors)
        write_json(part / CONFIG, form.config)
        (part / CARD).write_text(model_card(adapter, form, ""), encoding="utf-8")


def _peft(adapter: Adapter, without_head: bool) -> PeftForm:
    plain = plain_task(outline_of(adapter))
    if without_head:
        return peft_form(adapter, plain)
    _check_readout(adapter, "PEFT", heads=is_native(adapter))
    return peft_form(adapter, best_task(adapter))


def _vllm(adapter: Adapter, without_head: bool, max_rank: int) -> PeftForm:
    if not isinstance(adapter.method, LoRA):
        raise UnsupportedError(f"vLLM serves adapters of LoRA alone, not {method_name(adapter.method)}.")
    outline = outline_of(adapter)
    if outline.kind != "decoder" or not outline.has_lm_head:
        raise UnsupportedError(
            f"vLLM serves adapters of models that generate, not of a {outline.kind} such as {outline.model_class}."
        )
    if not without_head:
        _check_readout(adapter, "vLLM", heads=False)
    form = peft_form(adapter, "CAUSAL_LM")
    rank = form.config["r"]
    if rank > max_rank:
        raise UnsupportedError(
            f"The adapter has rank {rank} in vLLM's form (the parts of a fused projection add up), and the server takes "
            f"{max_rank}. Start vLLM with --max-lora-rank {rank} or more, and export with max_rank={rank}."
        )
    config: Mapping[str, Any] = {**form.config, "lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0}
    tensors: dict[str, Tensor] = {
        name: tensor * adapter.method.scale if name.endswith(B) else tensor for name, tensor in form.tensors.items()
    }
    return PeftForm(task=form.task, config=config, tensors=tensors)


def _check_readout(adapter: Adapter, program: str, *, heads: bool) -> None:
    """See that no trained readout is dropped silently."""
    if adapter.reading is not None and adapter.reading.parameters() and not heads:
        raise UnsupportedError(
            f"{program} has no place for the {type(adapter.reading.readout).__name__} of this adapter. Export with "
            "without_head=True to have the method alone; the folder of save_adapter keeps both."
        )
