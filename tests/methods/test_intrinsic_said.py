"""SAID against its formula in NumPy, with Hadamard matrices that are written out."""

import copy
import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods._fastfood import Fastfood, walsh_hadamard
from lmtailor.methods.intrinsic_said import IntrinsicSAID, ProjectedWeight
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.merge import merge
from tests.edits.worn import Worn, apart, backward, base_of, logits, perturbed
from tests.store.adapters import assert_same_state, moved_adapter
from tests.tiny import tiny_inputs

ONE = Fastfood(seed=5, name="a", d=50, n=200, unit=200)
BY_HAND = "8c40fc9a051d"
"""Start of the SHA-256 of ONE's random numbers, in whole numbers."""


def count(method: IntrinsicSAID, base: Base) -> int:
    """d, whatever the base."""
    return method.dimension


def dense(projection: Fastfood) -> Any:
    """P as a matrix (n, d): the product of the factors, block by block."""
    factors = projection.factors(torch.device("cpu"))
    blocks, length = factors.signs_CL.shape
    H = hadamard(length).astype(np.float64)
    out = []
    for block in range(blocks):
        B, SG = np.diag(factors.signs_CL[block].double().numpy()), np.diag(factors.gains_CL[block].double().numpy())
        Pi = np.eye(length)[factors.order_CL[block].numpy() - length * block]
        out.append(H @ SG @ Pi @ H @ B)
    return np.concatenate(out)[: projection.n, : projection.d]


@pytest.mark.parametrize(("d", "n"), [(50, 200), (1, 3), (64, 64), (65, 100), (300, 1000)])
def test_the_fast_projection_is_the_dense_one(d: int, n: int) -> None:
    projection = Fastfood(seed=1, name="x", d=d, n=n, unit=n)
    x = torch.randn(d, generator=generator(0))
    wanted = dense(projection) @ x.double().numpy()
    assert np.abs(projection(x).double().numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("length", [1, 2, 64, 128, 4096])
def test_the_fast_transform_is_hadamard_s(length: int) -> None:
    x = torch.randn(3, length, generator=generator(0), dtype=torch.float64)
    assert torch.allclose(walsh_hadamard(x), x @ torch.from_numpy(hadamard(length)).double(), rtol=1e-10, atol=1e-9)


def test_columns_over_whole_blocks_have_the_length_one_and_random_directions() -> None:
    P = dense(Fastfood(seed=2, name="x", d=60, n=640, unit=640))
    assert np.abs((P**2).sum(0) - 1).max() < 1e-5
    inner = P.T @ P - np.eye(60)
    assert 0.02 < np.sqrt((inner**2).mean()) < 0.06  # as of random directions in 640 dimensions, 1 / √640


def formula(method: IntrinsicSAID, base: Base, theta: Any, lam: Any) -> dict[str, Any]:
    """θ₀ + λ_i P(θ)_i for every parameter."""
    parameters = base.sites.parameters()
    total = sum(value.numel() for value in parameters.values())
    layers: list[str] = []
    out = {}
    for path, value in parameters.items():
        blocks = [block for stack in base.stacks for block in stack.blocks if path.startswith(f"{block}.")]
        layer = path if method.layers == "parameter" else (blocks[0] if blocks else "outside")
        layers += [] if layer in layers else [layer]
        unit = total if method.unit == "model" else value.numel()
        P = dense(Fastfood(seed=method.seed, name=path, d=len(theta), n=value.numel(), unit=unit))
        moved = lam[layers.index(layer)] * (P @ theta)
        out[path] = value.detach().double().numpy() + moved.reshape(value.shape)
    return out


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("bert", IntrinsicSAID(dimension=60)),
        ("llama", IntrinsicSAID(dimension=60, unit="parameter", seed=4)),
        ("t5", IntrinsicSAID(dimension=200, layers="parameter", unit="parameter")),
        ("albert", IntrinsicSAID(dimension=40, unit="parameter")),
    ],
)
def test_the_formula(key: str, method: IntrinsicSAID) -> None:
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)), scale=0.3 if method.unit == "parameter" else 3.0)
    state = edits.state()
    wanted = formula(method, base, state["said.theta_d"].double().numpy(), state["said.lambda_m"].double().numpy())
    model = copy.deepcopy(base.model)
    for edit in edits:
        found = edit.weight(model.get_parameter(edit.site))  # type: ignore[attr-defined]
        assert apart(found, torch.from_numpy(wanted[edit.site])) < 1e-5
    with torch.no_grad():
        for path, value in wanted.items():
            model.get_parameter(path).copy_(torch.from_numpy(value))
        inputs = tiny_inputs(base)
        with attach(base, Worn(edits)):
            found = logits(base, inputs)
        assert apart(found, model(**inputs).logits) < 1e-5
        assert apart(found, logits(base, inputs)) > 1e-2


def test_each_block_and_the_rest_have_a_factor() -> None:
    def factors(key: str, **settings: Any) -> int:
        return len(IntrinsicSAID(dimension=500, **settings).edits(base_of(key).sites, None).state()["said.lambda_m"])

    assert factors("bert") == 4 + 1
    assert factors("bart") == 4 + 4 + 1
    assert factors("albert") == 2 + 1  # two groups of shared blocks
    assert factors("bert", layers="parameter") == len(base_of("bert").sites.parameters())


def digest(projection: Fastfood) -> str:
    factors = projection.factors(torch.device("cpu"))
    whole = torch.cat(
        (factors.signs_CL.flatten().int(), factors.order_CL.flatten(), (factors.gains_CL * 1e4).round().int().flatten())
    )
    return hashlib.sha256(whole.numpy().astype("<i4").tobytes()).hexdigest()[:12]


def test_the_projection_is_a_function_of_its_seed_and_name_in_every_process() -> None:
    """It is not stored, so these numbers must never change."""
    code = (
        "import torch; torch.manual_seed(9); torch.rand(3)\n"
        "from tests.methods.test_intrinsic_said import ONE, digest\n"
        "print(digest(ONE))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert run.stdout.strip() == digest(ONE) == BY_HAND
    others = [Fastfood(seed=6, name="a", d=50, n=200, unit=200), Fastfood(seed=5, name="b", d=50, n=200, unit=200)]
    assert len({digest(ONE), *map(digest, others)}) == 3


def test_the_projection_is_computed_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where two stacks begin a pass each, and not again while decoding."""
    base = base_of("t5")
    edits = perturbed(IntrinsicSAID(dimension=60).edits(base.sites, generator(0)), grad=True)
    calls: list[str] = []
    original = ProjectedWeight.weight

    def counted(edit: ProjectedWeight, own: torch.Tensor) -> torch.Tensor:
        calls.append(edit.site)
        return original(edit, own)

    monkeypatch.setattr(ProjectedWeight, "weight", counted)
    inputs = tiny_inputs(base)
    optimizer = torch.optim.SGD(edits.state().values(), lr=0.1)
    with attach(base, Worn(edits)):
        for step in range(3):
            optimizer.zero_grad()
            backward(logits(base, inputs).square().mean())
            optimizer.step()
            assert len(calls) == (step + 1) * len(edits)
        with torch.no_grad():
            for _ in range(3):
                logits(base, inputs)
    assert len(calls) == 4 * len(edits)


def test_the_folder_holds_d_numbers(tmp_path: Any) -> None:
    base = base_of("gpt2")
    adapter = moved_adapter(base, IntrinsicSAID(dimension=100))
    save_adapter(adapter, tmp_path)
    back = load_adapter(tmp_path, base)
    assert_same_state(back, adapter)
    assert sum(value.numel() for value in adapter.state.values()) == 100
    assert (tmp_path / "adapter.safetensors").stat().st_size < 1000
    inputs = tiny_inputs(base)
    with torch.no_grad():
        with attach(base, adapter):
            wanted = logits(base, inputs)
        with attach(base, back):
            assert torch.equal(logits(base, inputs), wanted)
        assert apart(merge(base, adapter)(**inputs).logits, wanted) < 1e-5


@pytest.mark.parametrize("dimension", [0, 5, 10**9])
def test_a_dimension_that_cannot_be_is_refused(dimension: int) -> None:
    with pytest.raises(InputError, match=rf"dimension is {dimension}; for bert with 5 layers and \d+ parameters it is 6 to \d+"):
        IntrinsicSAID(dimension=dimension).edits(base_of("bert").sites, None)
