"""A projected prompt against the paper's formula in NumPy."""

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Words
from lmtailor.methods.projected_prompt import ProjectedPrompt, ProjectedPromptEdit
from lmtailor.methods.soft_prompt import SoftPrompt
from tests.edits.worn import base_of, perturbed

METHOD = ProjectedPrompt(length=3, source_width=7, hidden=5)


def table(base: Base) -> torch.Tensor:
    weight = base.module(base.stacks[0].embedding).weight
    assert isinstance(weight, torch.Tensor)
    return weight


def count(method: ProjectedPrompt, base: Base) -> int:
    """W₁, b₁, W₂, b₂, gain and shift."""
    width = table(base).shape[1]
    first = method.hidden * method.length * method.source_width + method.hidden
    return first + method.length * width * (method.hidden + 1) + 2 * width


def test_the_formula() -> None:
    base = base_of("bert")
    (edit,) = perturbed(METHOD.edits(base.sites, generator(0)), scale=0.5)
    assert isinstance(edit, ProjectedPromptEdit)
    it = {name: value.double().numpy() for name, value in {**edit.trained(), **edit.fixed()}.items()}
    inner = it["first_KI"] @ it["source_NS"].reshape(-1) + it["first_bias_K"]
    inner = np.where(inner > 0, inner, 0.01 * inner)
    rows = (it["second_OK"] @ inner + it["second_bias_O"]).reshape(3, -1)
    unit = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    wanted = unit * it["gain_H"] + it["shift_H"]
    found = edit.embeddings(torch.nn.Identity())
    assert np.allclose(found.numpy(), wanted, atol=1e-5)
    method, kept = METHOD.finished(Edits((edit,)))
    assert method == SoftPrompt(length=3)
    assert torch.equal(kept.state()["embed.prompt_NH"], found)


def test_it_starts_as_spread_as_words() -> None:
    base = base_of("bert")
    (edit,) = METHOD.started(METHOD.edits(base.sites, generator(0)), base, Words(), generator(0))
    assert isinstance(edit, ProjectedPromptEdit)
    prompt = edit.embeddings(torch.nn.Identity())
    assert abs(float(prompt.std() / table(base).std()) - 1) < 0.05


@pytest.mark.parametrize("name", ["length", "source_width", "hidden"])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0; it must be at least 1"):
        ProjectedPrompt(**{name: 0})
