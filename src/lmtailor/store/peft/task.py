"""PEFT's task types: which class of the base a folder is for, and so how its modules are called.

    none, or a readout that PEFT has no place for   CAUSAL_LM, SEQ_2_SEQ_LM; FEATURE_EXTRACTION for encoders and headless models
    Head(pooling="native")                          SEQ_CLS: the family's model for sequence classification, head included

A masked LM has no task type of its own; FEATURE_EXTRACTION passes what the model returns, logits too.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from lmtailor.base.lookup import join
from lmtailor.core.errors import UnsupportedError
from lmtailor.readouts.head import HeadReading
from lmtailor.store.adapter import Adapter
from lmtailor.store.outline import Outline

TaskType = Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "SEQ_CLS"]


def plain_task(outline: Outline) -> TaskType:
    """The task type of a base as it is, without a head of our own."""
    if outline.kind == "encoder" or not outline.has_lm_head:
        return "FEATURE_EXTRACTION"
    return "CAUSAL_LM" if outline.kind == "decoder" else "SEQ_2_SEQ_LM"


def is_native(adapter: Adapter) -> bool:
    """Whether the adapter answers with its family's own classification head."""
    return isinstance(adapter.reading, HeadReading) and adapter.reading.native is not None


def module_path(outline: Outline, module: str, task: TaskType) -> str:
    """Where a module of the base is in the class that the task type is for.

    Raises:
        UnsupportedError: that class does not have it.
    """
    if task != "SEQ_CLS":
        return module
    inner = outline.in_trunk(module)
    if inner is None:
        raise UnsupportedError(f"A model for sequence classification has no {module}, which this adapter changes.")
    return join(outline.classifier_trunk, inner)


def head_tensors(adapter: Adapter) -> Mapping[str, Tensor]:
    """The tensors of a native head, under the names of the family's model for sequence classification."""
    assert is_native(adapter)
    assert adapter.reading is not None
    return adapter.reading.parameters()


def head_modules(outline: Outline, names: Mapping[str, Tensor]) -> list[str]:
    """The modules that hold a native head, as PEFT's `modules_to_save` wants them: no one inside another."""
    modules = (name.rpartition(".")[0] for name in names)
    trunk = f"{outline.classifier_trunk}."
    return sorted({module if module.startswith(trunk) else module.partition(".")[0] for module in modules})
