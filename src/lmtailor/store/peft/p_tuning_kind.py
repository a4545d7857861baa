"""P_TUNING: a prompt that a network computed. What is stored is what it computed, so it is read as a soft prompt."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Method
from lmtailor.methods.p_tuning import PTuning
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.kind import Folder, Found, PeftKind, Target
from lmtailor.store.peft.prompt_kinds import SIZES, PromptTuningKind


class PTuningKind(PeftKind):
    """Virtual tokens before the input embeddings, under another name than PROMPT_TUNING."""

    name: ClassVar[str] = "P_TUNING"
    writes: ClassVar[tuple[type[Method], ...]] = (PTuning,)
    # The network is not stored, so that its sizes have no influence.
    keys: ClassVar[frozenset[str]] = SIZES | {
        "encoder_reparameterization_type",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_dropout",
    }
    by_module: ClassVar[bool] = False

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """None: what is kept after training is a soft prompt, which is written as PROMPT_TUNING."""
        raise self._unfinished()

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """None, see `config`."""
        raise self._unfinished()

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """None, see `config`."""
        raise self._unfinished()

    def found(self, folder: Folder) -> Found:
        """The soft prompt that the network computed."""
        return PromptTuningKind().found(folder)

    def _unfinished(self) -> UnsupportedError:
        return UnsupportedError(
            "The prompt is still computed by a network, of which PEFT stores nothing. It is thrown away when training ends."
        )
