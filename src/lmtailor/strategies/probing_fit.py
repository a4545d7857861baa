"""Linear probes, or with one hidden layer, on every layer and on a learned mix of layers: all trained together.

    s = W x + b,  or  s = W relu(U x + c) + b

x is a layer's state, or the mix of all layers (Peters et al. 2018, arXiv:1802.05365, equation 1; Tenney et al. 2019,
arXiv:1905.05950, section 2):

    x = γ Σ_l softmax(a)_l x_l

Probes share each batch and the arithmetic, and nothing else: each has its own loss, rate and end, so that it becomes what it
would have become alone. The rate halves after each epoch without a new least loss on dev, and a probe ends after `patience`
such epochs in a row, as in Hewitt & Manning 2019 (NAACL), appendix A.1; what is kept of it is its best epoch.

Linear probes start at zero and are convex. Hidden layers start as `torch.nn.Linear` does: uniform within 1 / sqrt(inputs).

Shapes: L layers, M = L + 1 places (the layers, then the mix), K sets of labels (the task's, then those of control tasks),
N items, B items of a batch, H features, F width of the hidden layer, C labels (1 in regression).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lmtailor.core.rng import generator
from lmtailor.strategies.probing_settings import Probing

Tensors = dict[str, Tensor]

MIX = "mix"
_SCALARS = "mix.scalars"
_GAIN = "mix.gain"
_WEIGHTS = ("hidden.weight", "head.weight")

Tell = Callable[[int, int], None]
"""Called with steps done and of how many."""


class States(Protocol):
    """States of items at every layer."""

    @property
    def shape(self) -> tuple[int, int]:
        """L and H."""

    def batch(self, items: Tensor) -> Tensor:
        """States (L, B, H) of items by number (B,), float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """What the probes are to tell, and from what."""

    layers: tuple[str, ...]
    """Names of the layers; a probe's start depends on its layer's name."""
    targets_KN: Tensor
    """Labels (int64; −1: none, which does not count), or numbers (float32) in regression."""
    outputs: int
    """C."""
    train: Tensor
    """Numbers of the items to learn from."""
    dev: Tensor
    """Numbers of the items that end the training."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Probes:
    """Probes at their best."""

    tensors: Tensors
    epochs_MK: Tensor
    """The epoch of each, counted from 1; 0 is the start."""
    losses_MK: Tensor
    """The mean loss on dev at that epoch."""

    @property
    def mix_KL(self) -> Tensor:
        """The share of each layer in the mix."""
        return self.tensors[_SCALARS][0].softmax(1)

    @property
    def gain_K(self) -> Tensor:
        """γ."""
        return self.tensors[_GAIN][0]

    @torch.no_grad()
    def answers(self, states: States, items: Tensor, batch_size: int) -> Tensor:
        """Answers (K, M, n): labels, or numbers if there is one output."""
        parts = []
        for part in torch.split(items, batch_size):
            scores_KMBC = scores(self.tensors, states.batch(part))
            parts.append(scores_KMBC[..., 0] if scores_KMBC.shape[-1] == 1 else scores_KMBC.argmax(-1))
        return torch.cat(parts, 2)


def train_probes(states: States, goal: Goal, settings: Probing, hidden: int, tell: Tell | None = None) -> Probes:
    """Train a probe for each place and each set of labels.

    Args:
        states: of all items.
        goal: what is to be told.
        settings: rates, penalty and end.
        hidden: F; 0 for linear probes.
        tell: is told how far it is.
    """
    tensors = _start(goal, states.shape[1], hidden, settings.seed)
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in tensors.items()}
    ends = _Ends(tensors, _dev_losses(tensors, states, goal, settings), settings)
    steps, step = len(torch.split(goal.train, settings.batch_size)) * settings.epochs, 0
    for epoch in range(1, settings.epochs + 1):
        for items in _batches(goal.train, settings, epoch):
            rate_MK = ends.rate_MK if settings.early_stopping else torch.full_like(ends.rate_MK, 1 - step / steps)
            step += 1
            gradients = _gradients(tensors, states.batch(items), goal.targets_KN[:, items], settings.l2)
            _adam(tensors, gradients, moments, rate_MK, step, settings)
            if tell is not None:
                tell(step, steps)
        ends.after(epoch, tensors, _dev_losses(tensors, states, goal, settings))
        if not ends.rate_MK.any():
            break
    return Probes(tensors=ends.tensors, epochs_MK=ends.epochs_MK, losses_MK=ends.losses_MK)


class _Ends:
    """Each probe as it will be returned, and its rate as a share of the first one."""

    def __init__(self, tensors: Tensors, losses_MK: Tensor, settings: Probing) -> None:
        self.tensors, self.losses_MK = {name: value.clone() for name, value in tensors.items()}, losses_MK
        self.epochs_MK, self.rate_MK = torch.zeros(losses_MK.shape, dtype=torch.long), torch.ones_like(losses_MK)
        self._bad_MK, self._settings = torch.zeros_like(losses_MK), settings

    def after(self, epoch: int, tensors: Tensors, losses_MK: Tensor) -> None:
        """Take what is better, and slow down or end what is not; without early stopping take all."""
        early = self._settings.early_stopping
        better = (losses_MK < self.losses_MK) & (self.rate_MK > 0) if early else torch.ones_like(losses_MK, dtype=torch.bool)
        self.losses_MK = torch.where(better, losses_MK, self.losses_MK)
        self.epochs_MK[better] = epoch
        for name, value in tensors.items():
            self.tensors[name] = torch.where(_wide(_own(name, better), value), value, self.tensors[name])
        self._bad_MK = torch.where(better, 0, self._bad_MK + 1)
        slower_MK = torch.where(better, self.rate_MK, self.rate_MK / 2)
        self.rate_MK = torch.where(self._bad_MK >= self._settings.patience, 0, slower_MK)


def scores(tensors: Tensors, x_LBH: Tensor) -> Tensor:
    """Scores (K, M, B, C) of a batch under every probe."""
    mix_KL = tensors[_SCALARS][0].softmax(1)
    mixed_KBH = tensors[_GAIN][0][:, None, None] * torch.einsum("kl,lbh->kbh", mix_KL, x_LBH)
    layers, mixed = x_LBH[:, None], mixed_KBH[None]
    for name in ("hidden", "head"):
        if f"{name}.weight" in tensors:
            weight_MKIO, bias_MKO = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            layers = _mapped(layers, weight_MKIO[:-1], bias_MKO[:-1])
            mixed = _mapped(mixed, weight_MKIO[-1:], bias_MKO[-1:])
            if name == "hidden":
                layers, mixed = layers.relu(), mixed.relu()
    return torch.cat([layers, mixed]).transpose(0, 1)


def _mapped(x: Tensor, weight_MKIO: Tensor, bias_MKO: Tensor) -> Tensor:
    """(M, K or 1, B, I) to (M, K, B, O): one batched product."""
    # Where all sets of labels read the same states, their weights stand side by side in one product.
    shared = x.shape[1] == 1
    y_MKBO = torch.einsum("mbi,mkio->mkbo", x[:, 0], weight_MKIO) if shared else x @ weight_MKIO
    return y_MKBO + bias_MKO[:, :, None]


def _losses(scores_KMBC: Tensor, targets_KB: Tensor) -> tuple[Tensor, Tensor]:
    """Summed losses (M, K), and how many items they are of (K,)."""
    sets, places, items, outputs = scores_KMBC.shape
    if outputs == 1:
        losses_KMB = (scores_KMBC[..., 0] - targets_KB[:, None]).square()
        return losses_KMB.sum(2).T, torch.full((sets,), items)
    targets = targets_KB[:, None].expand(sets, places, items).flatten()
    losses = cross_entropy(scores_KMBC.reshape(-1, outputs), targets, ignore_index=-1, reduction="none")
    return losses.view(sets, places, items).sum(2).T, (targets_KB >= 0).sum(1)


def _gradients(tensors: Tensors, x_LBH: Tensor, targets_KB: Tensor, l2: float) -> Tensors:
    """Those of the sum over probes of mean loss + l2 / 2 · |weights|²: of each probe its own."""
    leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
    losses_MK, count_K = _losses(scores(leaves, x_LBH), targets_KB)
    loss = (losses_MK / count_K.clamp(min=1)).sum()
    for name in _WEIGHTS:
        if l2 and name in leaves:
            loss = loss + 0.5 * l2 * leaves[name].square().sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@torch.no_grad()
def _dev_losses(tensors: Tensors, states: States, goal: Goal, settings: Probing) -> Tensor:
    """Mean losses (M, K) on dev."""
    sums, counts = torch.zeros(len(goal.layers) + 1, len(goal.targets_KN)), torch.zeros(len(goal.targets_KN))
    for items in torch.split(goal.dev, settings.batch_size):
        losses_MK, count_K = _losses(scores(tensors, states.batch(items)), goal.targets_KN[:, items])
        sums, counts = sums + losses_MK, counts + count_K
    return sums / counts.clamp(min=1)


@torch.no_grad()
def _adam(
    tensors: Tensors, gradients: Tensors, moments: dict[str, tuple[Tensor, Tensor]], rate_MK: Tensor, step: int, settings: Probing
) -> None:
    """A step of Adam (Kingma & Ba 2015, algorithm 1), in which each probe has a rate of its own."""
    for name, gradient in gradients.items():
        first, second = moments[name]
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        size = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        rate = (settings.mix_lr if name in (_SCALARS, _GAIN) else settings.lr) / (1 - 0.9**step)
        tensors[name] -= _wide(rate * _own(name, rate_MK), gradient) * first / size


def _start(goal: Goal, features: int, hidden: int, seed: int) -> Tensors:
    """The tensors of all probes before training, (M, K, …) each; those of the mix's scalars (1, K, …)."""
    places, sets = [*goal.layers, MIX], len(goal.targets_KN)

    def drawn(name: str, *shape: int) -> Tensor:
        bound = shape[0] ** -0.5 if name.endswith("weight") else features**-0.5 if name == "hidden.bias" else hidden**-0.5
        rows = [
            torch.empty(shape).uniform_(-bound, bound, generator=generator(seed, "probe", place, number, name))
            for place in places
            for number in range(sets)
        ]
        return torch.stack(rows).view(len(places), sets, *shape)

    tensors = {_SCALARS: torch.zeros(1, sets, len(goal.layers)), _GAIN: torch.ones(1, sets)}
    if not hidden:
        shape = (len(places), sets)
        return tensors | {
            "head.weight": torch.zeros(*shape, features, goal.outputs),
            "head.bias": torch.zeros(*shape, goal.outputs),
        }
    return tensors | {
        "hidden.weight": drawn("hidden.weight", features, hidden),
        "hidden.bias": drawn("hidden.bias", hidden),
        "head.weight": drawn("head.weight", hidden, goal.outputs),
        "head.bias": drawn("head.bias", goal.outputs),
    }


def _batches(items: Tensor, settings: Probing, epoch: int) -> Iterator[Tensor]:
    order = torch.randperm(len(items), generator=generator(settings.seed, "probing", "order", epoch))
    yield from torch.split(items[order], settings.batch_size)


def _own(name: str, values_MK: Tensor) -> Tensor:
    """The entries of a table of probes that a tensor belongs to: all, or the mix's."""
    return values_MK[-1:] if name in (_SCALARS, _GAIN) else values_MK


def _wide(values_MK: Tensor, like: Tensor) -> Tensor:
    """A table of probes, with as many axes as a tensor."""
    return values_MK.reshape(*values_MK.shape, *(1,) * (like.dim() - 2))
