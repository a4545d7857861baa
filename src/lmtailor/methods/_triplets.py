"""A budget of triplets (a column, a number, a row) that moves between sites by importance: what AdaLoRA does after a step.

Zhang et al. 2023, arXiv:2303.10512, sections 3.2 and 3.3. Shapes: K triplets of a site.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def budget(step: int, start: int, end: int, first: int, last: int) -> int:
    """How many triplets may stay: `first` until `start`, then falling as a cubic to `last` at `end`."""
    if last >= first:
        return first
    if step >= end:
        return last
    if step <= start:
        return first
    return int((first - last) * (1 - (step - start) / (end - start)) ** 3 + last)


@dataclass(frozen=True)
class Triplets:
    """The triplets of all sites, and what is remembered of them between steps."""

    parts: Mapping[str, Mapping[str, tuple[Tensor, int]]]
    """Site → name of a tensor → the tensor and the axis of its triplets; `lambda` is the one whose numbers are cut."""
    memory: dict[str, Tensor]

    @property
    def count(self) -> int:
        """Triplets of all sites, those that are cut too."""
        return sum(len(parts["lambda"][0]) for parts in self.parts.values())

    def measure(self, beta1: float, beta2: float) -> None:
        """Follow the sensitivity |w · gradient| of every number: its mean, and the mean of its distance from that."""
        for site, parts in self.parts.items():
            for name, (tensor, _) in parts.items():
                now = torch.zeros_like(tensor) if tensor.grad is None else (tensor * tensor.grad).abs()
                mean_key, spread_key = _keys(site, name)
                mean = beta1 * self.memory.get(mean_key, torch.zeros_like(now)) + (1 - beta1) * now
                spread = self.memory.get(spread_key, torch.zeros_like(now))
                self.memory[mean_key] = mean
                self.memory[spread_key] = beta2 * spread + (1 - beta2) * (now - mean).abs()

    def cut(self, most: int) -> None:
        """Set the number of all triplets but the `most` important to zero; equals of the last one that is cut go too."""
        if most >= self.count:
            return
        importance = {site: self._importance(site) for site in self.parts}
        threshold = torch.kthvalue(torch.cat(list(importance.values())), self.count - most).values
        for site, parts in self.parts.items():
            parts["lambda"][0].masked_fill_(importance[site] <= threshold, 0.0)

    def settle(self) -> None:
        """From now on the choice stands: remember it, and forget what led to it."""
        self.memory.clear()
        for site, parts in self.parts.items():
            self.memory[f"{site}.keep"] = parts["lambda"][0] != 0

    def keep(self) -> None:
        """Set what was cut to zero again, since an optimizer with momentum moves it."""
        for site, parts in self.parts.items():
            parts["lambda"][0].masked_fill_(~self.memory[f"{site}.keep"], 0.0)

    def _importance(self, site: str) -> Tensor:
        """Of each triplet (K,): the product of the two means, averaged over a column or row, and summed over the three parts."""
        scores = []
        for name, (_, axis) in self.parts[site].items():
            mean, spread = (self.memory[key] for key in _keys(site, name))
            score = mean * spread
            scores.append(score if score.ndim == 1 else score.mean(1 - axis))
        return torch.stack(scores).sum(0)


def _keys(site: str, name: str) -> tuple[str, str]:
    return f"{site}.{name}.mean", f"{site}.{name}.spread"
