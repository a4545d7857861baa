"""What `lmtailor doctor` looks at."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub import constants

from lmtailor.base.base import Base
from lmtailor.cli.toy import toy_base
from lmtailor.core.provenance import hardware
from lmtailor.core.version import __version__
from lmtailor.edits.attach import attach
from lmtailor.methods.lora import LoRA
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.store.folder import load_adapter, save_adapter

NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "datasets", "numpy", "scikit-learn", "gguf")
PEERS = ("peft", "tensorboard", "vllm")
"""Not needed: what reads our exports and logs."""

SETTINGS = ("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
SECRET = ("HF_TOKEN",)
LITTLE = 2 * 1000**3
"""Less space than this is told as a fault (bytes)."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    fine: bool | None = None
    """None: it is neither right nor wrong."""


def versions() -> list[Check]:
    """Packages that are needed, and peers that are there."""
    checks = [
        Check(name="lmtailor", found=__version__, fine=True),
        Check(name="python", found=platform.python_version(), fine=True),
    ]
    for name in NEEDED:
        found = _version(name)
        checks.append(Check(name=name, found=found or "not installed", fine=found is not None))
    return checks + [Check(name=name, found=_version(name) or "not installed (not needed)") for name in PEERS]


def machine() -> list[Check]:
    """Processor, accelerators, and number types."""
    facts = hardware()
    checks = [
        Check(name="system", found=f"{facts['system']}, {facts['machine']}"),
        Check(name="processor", found=f"{facts['cores']} cores, {torch.get_num_threads()} threads in torch"),
        Check(name="vector instructions", found=torch.backends.cpu.get_cpu_capability()),
        Check(name="bfloat16 on cpu", found=_bfloat16()),
    ]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        types = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        checks.append(Check(name=f"cuda:{index}", found=f"{about.name}, {about.total_memory / 1e9:.0f} GB, {types}", fine=True))
    if not torch.cuda.is_available():
        checks.append(Check(name="cuda", found="none"))
    checks.append(Check(name="mps", found="yes" if torch.backends.mps.is_available() else "none"))
    return checks


def places() -> list[Check]:
    """Settings that decide where models come from, and the room for them."""
    told = [Check(name=name, found="set" if name in SECRET else os.environ[name]) for name in SETTINGS if name in os.environ]
    cache = Path(constants.HF_HUB_CACHE)
    return [
        Check(name="models from the hub", found="only those in the cache" if constants.HF_HUB_OFFLINE else "yes"),
        Check(name="hub cache", found=f"{cache} ({_models(cache)})"),
        _space("space for the cache", cache),
        _space("space here", Path.cwd()),
        *told,
    ]


def trials() -> list[Check]:
    """Make a toy model, adapt it, train it for a step, and store what was trained."""
    base = toy_base()
    adapter = new_adapter(base, method=LoRA(rank=2), seed=0)
    return [
        _trial("forward", lambda: _forward(base)),
        _trial("attach, train a step", lambda: _train(base, adapter)),
        _trial("save and load", lambda: _store(base, adapter)),
    ]


def _trial(name: str, work: Callable[[], None]) -> Check:
    begun = time.perf_counter()
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with this machine is what we are asked for
        return Check(name=name, found=f"{type(error).__name__}: {error}", fine=False)
    return Check(name=name, found=f"{1000 * (time.perf_counter() - begun):.0f} ms", fine=True)


def _inputs(base: Base) -> dict[str, torch.Tensor]:
    return dict(base.tokenizer(["a good film", "a bad film"], return_tensors="pt"))


def _forward(base: Base) -> None:
    with torch.no_grad():
        states = base.hidden(_inputs(base)).last_NTH
    if not torch.isfinite(states).all():
        raise ArithmeticError("a forward gives numbers that are not finite")


def _train(base: Base, adapter: Adapter) -> None:
    """One step of gradient descent must change what the model answers, and leaving must restore it."""
    inputs = _inputs(base)
    worn = adapter.with_state({name: tensor.detach().clone().requires_grad_() for name, tensor in adapter.state.items()})
    with torch.no_grad():
        before = base.model(**inputs).logits
    with attach(base, worn):
        base.model(**inputs).logits.square().mean().backward()
        with torch.no_grad():
            for tensor in worn.state.values():
                tensor -= tensor.grad if tensor.grad is not None else 0
            inside = base.model(**inputs).logits
    with torch.no_grad():
        after = base.model(**inputs).logits
    if torch.equal(before, inside) or not torch.equal(before, after):
        raise ArithmeticError("an adapter does not act, or does not leave the model as it was")


def _store(base: Base, adapter: Adapter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapter, Path(folder) / "adapter")
        again = load_adapter(Path(folder) / "adapter", base)
    if any(not torch.equal(tensor, again.state[name]) for name, tensor in adapter.state.items()):
        raise ArithmeticError("an adapter that was stored is read as another")


def _bfloat16() -> str:
    """Whether it is worth while: the time of a product against float32's."""
    factors = {dtype: torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = {}
    for dtype, factor in factors.items():
        _ = factor @ factor
        begun = time.perf_counter()
        for _ in range(5):
            _ = factor @ factor
        seconds[dtype] = time.perf_counter() - begun
    ratio = seconds[torch.bfloat16] / seconds[torch.float32]
    return f"works; a product takes {ratio:.1f} times as long as in float32"


def _space(name: str, folder: Path) -> Check:
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    return Check(name=name, found=f"{free / 1e9:.1f} GB free", fine=free >= LITTLE)


def _models(cache: Path) -> str:
    count = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    return f"{count} model{'' if count == 1 else 's'}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
