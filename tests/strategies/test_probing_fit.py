"""Probes trained together: each as alone, and linear ones at the optimum that scikit-learn finds."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lmtailor.strategies.probing_fit import Goal, Probes, scores, train_probes
from lmtailor.strategies.probing_settings import Probing

LAYERS = ("0", "1", "2")
L, N, H, C = 3, 240, 8, 4


@dataclass(frozen=True)
class Given:
    """States in memory."""

    states_LNH: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.states_LNH.shape[0], self.states_LNH.shape[2]

    def batch(self, items: Tensor) -> Tensor:
        return self.states_LNH[:, items]


@pytest.fixture
def states() -> Given:
    """The second layer tells the labels best, the third a little."""
    generator = torch.Generator().manual_seed(1)
    return Given(torch.randn(L, N, H, generator=generator))


@pytest.fixture
def labels_KN(states: Given) -> Tensor:
    """Linear in the states with noise, and drawn at random."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(L, H, C, generator=generator) * torch.tensor([0.0, 1.0, 0.3])[:, None, None]
    noisy = torch.einsum("lnh,lhc->nc", states.states_LNH, weights) + torch.randn(N, C, generator=generator)
    return torch.stack([noisy.argmax(1), torch.randint(0, C, (N,), generator=generator)])


def goal(targets_KN: Tensor, *, layers: tuple[str, ...] = LAYERS, outputs: int = C) -> Goal:
    return Goal(layers=layers, targets_KN=targets_KN, outputs=outputs, train=torch.arange(160), dev=torch.arange(160, N))


def trained(states: Given, asked: Goal, hidden: int = 0, **settings: object) -> Probes:
    return train_probes(states, asked, Probing(**{"epochs": 12, "batch_size": 40, "lr": 0.02, **settings}), hidden)  # type: ignore[arg-type]


@pytest.mark.parametrize("l2", [0.01, 0.3])
def test_linear_probes_reach_the_optimum_of_scikit_learn(states: Given, labels_KN: Tensor, l2: float) -> None:
    """The same convex problem: the loss agrees to a relative 1e-6, p of every label to 1e-3."""
    items = torch.arange(160)
    tensors = trained(states, goal(labels_KN), epochs=800, batch_size=160, lr=0.05, l2=l2, early_stopping=False).tensors
    for layer in range(L):
        x, y = states.states_LNH[layer, items].numpy().astype(np.float64), labels_KN[0, items].numpy()
        theirs = LogisticRegression(C=1 / (l2 * len(items)), tol=1e-10, max_iter=10_000).fit(x, y)
        p_theirs = theirs.predict_proba(x)
        p_own = scores(tensors, states.batch(items))[0, layer].softmax(-1).double().numpy()
        own_w = tensors["head.weight"][layer, 0].double().numpy()
        objective = [
            -np.log(p[np.arange(len(y)), y]).mean() + l2 / 2 * (w**2).sum() for p, w in ((p_own, own_w), (p_theirs, theirs.coef_))
        ]
        assert objective[0] == pytest.approx(objective[1], rel=1e-6)
        np.testing.assert_allclose(p_own, p_theirs, atol=1e-3)


@pytest.mark.parametrize("hidden", [0, 5])
def test_each_probe_becomes_what_it_becomes_alone(states: Given, labels_KN: Tensor, hidden: int) -> None:
    together = trained(states, goal(labels_KN), hidden, l2=0.01)
    for layer in range(L):
        own = Given(states.states_LNH[layer : layer + 1])
        alone = trained(own, goal(labels_KN, layers=LAYERS[layer : layer + 1]), hidden, l2=0.01)
        assert torch.equal(alone.epochs_MK[0], together.epochs_MK[layer])
        for name, value in alone.tensors.items():
            if not name.startswith("mix."):
                torch.testing.assert_close(value[0], together.tensors[name][layer], rtol=1e-4, atol=1e-6)
    first = trained(states, goal(labels_KN[:1]), hidden, l2=0.01)  # without the second set of labels
    torch.testing.assert_close(first.tensors["head.weight"][:, 0], together.tensors["head.weight"][:, 0], rtol=1e-4, atol=1e-6)


def test_the_layer_that_tells_most_has_the_best_probe_and_the_most_of_the_mix(states: Given, labels_KN: Tensor) -> None:
    probes = trained(states, goal(labels_KN), epochs=60)
    losses = probes.losses_MK[:, 0]
    assert losses[:L].argmin() == 1
    assert probes.mix_KL[0].argmax() == 1
    assert losses[L] < losses[[0, 2]].min()
    answers = probes.answers(states, torch.arange(160, N), 50)
    right = (answers[0] == labels_KN[0, 160:]).float().mean(1)
    assert right.argmax() in (1, 3)
    assert (answers[1, 1] == labels_KN[1, 160:]).float().mean() < 0.45


def test_the_mix_is_the_formula(states: Given, labels_KN: Tensor) -> None:
    tensors = trained(states, goal(labels_KN), hidden=5).tensors
    x = states.batch(torch.arange(7))
    for k in range(2):
        share = torch.softmax(tensors["mix.scalars"][0, k], 0)
        mixed = tensors["mix.gain"][0, k] * sum(share[layer] * x[layer] for layer in range(L))
        inner = torch.relu(mixed @ tensors["hidden.weight"][L, k] + tensors["hidden.bias"][L, k])
        expected = inner @ tensors["head.weight"][L, k] + tensors["head.bias"][L, k]
        torch.testing.assert_close(scores(tensors, x)[k, L], expected)


def test_it_is_the_same_each_time_and_other_with_another_seed(states: Given, labels_KN: Tensor) -> None:
    one, same, other = (trained(states, goal(labels_KN), 3, seed=seed).tensors["head.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_probe_that_gets_worse_stays_at_its_best(states: Given, labels_KN: Tensor) -> None:
    short = trained(states, goal(labels_KN), epochs=40, patience=2)
    at = short.epochs_MK[0, 1]  # random labels
    assert at < 40
    until = trained(states, goal(labels_KN), epochs=max(1, int(at)), patience=2)
    torch.testing.assert_close(until.tensors["head.weight"][0, 1], short.tensors["head.weight"][0, 1])


def test_numbers_and_labels_that_are_not_known(states: Given, labels_KN: Tensor) -> None:
    numbers = states.states_LNH[2, :, :1].T.contiguous()
    probes = trained(states, goal(numbers, outputs=1), epochs=80)
    answers = probes.answers(states, torch.arange(160, N), 50)[0]
    assert answers.dtype == torch.float32
    assert np.corrcoef(answers[2], numbers[0, 160:])[0, 1] > 0.99
    missing = labels_KN.clone()
    missing[:, :80] = -1
    half = trained(states, replace(goal(labels_KN), train=torch.arange(80, 160)), batch_size=80, epochs=1)
    whole = trained(states, goal(missing), batch_size=160, epochs=1)  # one step either way, on the same items
    torch.testing.assert_close(half.tensors["head.weight"], whole.tensors["head.weight"], rtol=1e-4, atol=1e-6)
