"""The types of PEFT folders that are read and written."""

from collections.abc import Mapping

from lmtailor.store.peft.adalora import AdaLoraKind
from lmtailor.store.peft.ia3 import Ia3Kind
from lmtailor.store.peft.kind import PeftKind
from lmtailor.store.peft.ln_tuning import LnTuningKind
from lmtailor.store.peft.lora_kind import LoraKind
from lmtailor.store.peft.oft import OftKind
from lmtailor.store.peft.p_tuning_kind import PTuningKind
from lmtailor.store.peft.prompt_kinds import PrefixTuningKind, PromptTuningKind
from lmtailor.store.peft.vera import VeraKind

KINDS: Mapping[str, PeftKind] = {
    kind.name: kind
    for kind in (
        LoraKind(),
        PrefixTuningKind(),
        PromptTuningKind(),
        PTuningKind(),
        Ia3Kind(),
        LnTuningKind(),
        VeraKind(),
        AdaLoraKind(),
        OftKind(),
    )
}
"""peft_type → what it is."""
