"""Exporting: an adapter in the form of another program, and nothing else in the folder.

peft     what PEFT stores: LoRA, prefixes and soft prompts; the family's own head as SEQ_CLS
vllm     LoRA for vLLM's server: PEFT's form with one rank, the scale in B and alpha = r, since vLLM has one scale for all modules
lorax    the same for LoRAX, which takes a type of module only if every layer has an adapter there

`save_adapter` already writes folders that PEFT loads; an export leaves out what only we read. vLLM serves decoders,
and adapters up to `max_lora_rank`, which is 16 unless the server is started with more.
"""

from pathlib import Path

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError, near
from lmtailor.methods import method_name
from lmtailor.methods.lora import LoRA
from lmtailor.store.adapter import Adapter, check_base
from lmtailor.store.card import model_card
from lmtailor.store.folder import CARD, write_json
from lmtailor.store.peft.config import CONFIG, TENSORS
from lmtailor.store.peft.form import PeftForm, best_task, outline_of, peft_form
from lmtailor.store.peft.kind import PREFIX, Target
from lmtailor.store.peft.lora_blocks import TABLE_A, A
from lmtailor.store.peft.lora_kind import served
from lmtailor.store.peft.task import is_native, plain_task
from lmtailor.store.place import MANIFEST
from lmtailor.store.tensors import write_tensors
from lmtailor.store.whole_folder import whole_folder

FORMATS = ("peft", "vllm", "lorax")
VLLM_RANK = 16
"""vLLM's own default of max_lora_rank."""


def export(
    adapter: Adapter,
    folder: str | Path,
    *,
    format: str = "peft",  # noqa: A002 (the word that users know)
    without_head: bool = False,
    max_rank: int = VLLM_RANK,
    base: Base | None = None,
) -> None:
    """Write an adapter in another program's form.

    Args:
        adapter: what is exported.
        folder: made if it does not exist; an export that is there already is replaced.
        format: whose form: peft, vllm or lorax.
        without_head: leave out a head that the other program has no place for, and export the method alone.
        max_rank: with vllm, the largest rank that the server takes (its max_lora_rank).
        base: what the adapter was made for; only for LoRA with BitFit, whose biases PEFT stores whole.

    Raises:
        UnsupportedError: the other program has no form for this adapter; the message says why.
        AdapterFileError: the adapter was made for another base than the one given.
        InputError: an unknown format, or a folder that cannot be written or holds an adapter of ours.
    """
    if format == "adapterhub":
        raise UnsupportedError("Exporting to AdapterHub is not built yet; 'peft', 'vllm' and 'lorax' are.")
    if format not in FORMATS:
        raise InputError(f"There is no export format {format!r}. {near(format, FORMATS)}")
    if base is not None:
        check_base(adapter, base)
    path = Path(folder).expanduser()
    if (path / MANIFEST).exists():
        raise InputError(f"{path} holds an adapter of ours, which the export would replace. Name another folder.")
    if format == "peft":
        form = _peft(adapter, without_head, base)
    else:
        form = _vllm(adapter, without_head, max_rank) if format == "vllm" else _lorax(adapter, without_head)
    with whole_folder(path, own=(CARD, CONFIG, TENSORS)) as part:
        write_tensors(part / TENSORS, form.tensors)
        write_json(part / CONFIG, form.config)
        (part / CARD).write_text(model_card(adapter, form, ""), encoding="utf-8")


def _peft(adapter: Adapter, without_head: bool, base: Base | None) -> PeftForm:
    plain = plain_task(outline_of(adapter))
    if without_head:
        return peft_form(adapter, plain, base)
    _check_readout(adapter, "PEFT", heads=is_native(adapter))
    return peft_form(adapter, best_task(adapter), base)


def _vllm(adapter: Adapter, without_head: bool, max_rank: int) -> PeftForm:
    form = _served(adapter, without_head, "vLLM")
    rank = form.config["r"]
    if rank > max_rank:
        raise UnsupportedError(
            f"The adapter has rank {rank} in vLLM's form (the parts of a fused projection add up), and the server takes "
            f"{max_rank}. Start vLLM with --max-lora-rank {rank} or more, and export with max_rank={rank}."
        )
    return form


def _lorax(adapter: Adapter, without_head: bool) -> PeftForm:
    form = _served(adapter, without_head, "LoRAX")
    if tables := [name for name in form.tensors if name.endswith(TABLE_A)]:
        raise UnsupportedError(
            f"LoRAX takes LoRA at projections alone, and this one is at a table of embeddings ({tables[0]!r})."
        )
    have = {name.removesuffix(A).removeprefix(PREFIX) for name in form.tensors if name.endswith(A)}
    outline = outline_of(adapter)
    types = {path.rpartition(".")[2] for path in have}
    every = [site.module for site in outline.projections() if site.module.rpartition(".")[2] in types]
    if lost := [module for module in every if module not in have]:
        raise UnsupportedError(
            f"LoRAX drops a type of module that lacks an adapter in some layer, and this one has none at {lost[0]!r}, but at "
            f"other modules of that name. Fit it at all {len(every)} modules that are called so."
        )
    return form


def _served(adapter: Adapter, without_head: bool, program: str) -> PeftForm:
    """PEFT's form with one rank, one scale and nothing besides A and B, for servers."""
    if not isinstance(adapter.method, LoRA):
        raise UnsupportedError(f"{program} serves adapters of LoRA alone, not {method_name(adapter.method)}.")
    outline = outline_of(adapter)
    if outline.kind != "decoder" or not outline.has_lm_head:
        raise UnsupportedError(
            f"{program} serves adapters of models that generate, and {outline.model_class} is no such model ({outline.kind})."
        )
    if not without_head:
        _check_readout(adapter, program, heads=False)
    config, tensors = served(adapter, Target(outline=outline, task="CAUSAL_LM"), program)
    form = peft_form(adapter, "CAUSAL_LM")
    return PeftForm(task=form.task, config={**form.config, **config}, tensors=tensors)


def _check_readout(adapter: Adapter, program: str, *, heads: bool) -> None:
    """See that no trained readout is dropped silently."""
    if adapter.reading is not None and adapter.reading.parameters() and not heads:
        raise UnsupportedError(
            f"{program} has no place for the {type(adapter.reading.readout).__name__} of this adapter. Export with "
            "without_head=True (--without-head) to have the method alone; the folder of save_adapter keeps both."
        )
