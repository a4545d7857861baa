"""What AdapterHub's library computed on tiny models, as `scripts/fixtures/adapterhub.py` stored it."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from lmtailor.base.base import Base
from tests.tiny import kind_of, tiny_tokenizer

FOLDER = Path(__file__).parent / "fixtures"
MODELS = ("bert", "gpt2", "llama", "t5", "bart")


@dataclass(frozen=True)
class Stored:
    """The file of one model."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    base: Base

    def of(self, start: str) -> dict[str, Tensor]:
        """The tensors below a name."""
        return {name.removeprefix(f"{start}/"): value for name, value in self.tensors.items() if name.startswith(f"{start}/")}

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The batch."""
        return self.of("inputs")

    def write(self, case: str, folder: Path, **changes: Any) -> dict[str, Any]:
        """Put a case's folder there as the library wrote it, with other settings if given; gives the configuration."""
        config: dict[str, Any] = json.loads(self.metadata[case])
        config["config"] |= changes
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(self.of(f"{case}/adapter"), folder / "adapter.safetensors")
        return config


@cache
def stored_lora(key: str) -> Stored:
    """What was stored of IA3, DoRA, VeRA and unions for a model, by `scripts/fixtures/adapterhub_lora.py`."""
    with safe_open(FOLDER / f"adapterhub_lora_{key}.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        return Stored(tensors, file.metadata(), stored(key).base)


@cache
def stored(key: str) -> Stored:
    """What was stored for a model."""
    with safe_open(FOLDER / f"adapterhub_{key}.safetensors", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    autos = {"encoder": AutoModelForMaskedLM, "decoder": AutoModelForCausalLM, "encoder-decoder": AutoModelForSeq2SeqLM}
    settings = json.loads(metadata["model"])
    model: Any = autos[kind_of(key)].from_config(AutoConfig.for_model(**settings))  # type: ignore[no-untyped-call]
    one = Stored(tensors, metadata, Base.from_model(model, tiny_tokenizer(kind_of(key))))
    model.load_state_dict(one.of("model"))
    return Stored(tensors, metadata, Base.from_model(model, tiny_tokenizer(kind_of(key))))
