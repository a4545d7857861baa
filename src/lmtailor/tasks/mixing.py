"""How many examples of each task a mixture has, and which.

    proportional    p_i ∝ min(n_i, cap)                          cap 3,000: FLAN, Wei et al. 2022, arXiv:2109.01652, section 2.4
    t0              p_i ∝ n_i, of n_i > cap only cap / T_i       cap 500,000: T0, Sanh et al. 2022, arXiv:2110.08207
    temperature     p_i ∝ min(n_i, cap)^(1/T)                    T5, Raffel et al. 2020, arXiv:1910.10683, section 3.5.2
    equal           p_i ∝ 1

for n_i examples and T_i templates of task i. Temperature 1 is proportional; the higher it is, the more equal tasks are. t0 is the
paper's sentence; in its code each template is a task with that many examples, so that every task counts T_i times as much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lmtailor.core.errors import InputError
from lmtailor.core.rng import derive

Scheme = Literal["proportional", "t0", "temperature", "equal"]

_CAPS = {"proportional": 3_000, "t0": 500_000}


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """A way to mix tasks."""

    scheme: Scheme = "proportional"
    cap: int | None = None
    """The most examples that count for a task's share; None: that of the paper, and none in the other schemes."""
    temperature: float = 2.0
    """Of the scheme temperature."""

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise InputError(f"The cap must be at least 1 example; found {self.cap}.")
        if not self.temperature > 0:
            raise InputError(f"The temperature must be greater than 0; found {self.temperature}.")

    def capped(self, size: int, templates: int) -> float:
        """How many examples a task counts for."""
        cap = _CAPS.get(self.scheme) if self.cap is None else self.cap
        if self.scheme == "t0":
            assert cap is not None
            return float(size) if size <= cap else cap / templates
        return float(size if cap is None else min(size, cap))

    def shares(self, sizes: Sequence[int], templates: Sequence[int]) -> list[float]:
        """p of each task.

        Args:
            sizes: examples of each task.
            templates: templates of each.
        """
        known = [self.capped(size, count) for size, count in zip(sizes, templates, strict=True)]
        if self.scheme == "equal":
            known = [1.0] * len(sizes)
        if self.scheme == "temperature":
            largest = max(known)  # as shares of the largest no power is too large
            known = [(value / largest) ** (1 / self.temperature) for value in known]
        return [value / sum(known) for value in known]


def counts_of(shares: Sequence[float], total: int) -> list[int]:
    """`total` examples divided by shares: whole parts, then the largest remainders."""
    exact = [share * total for share in shares]
    counts = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def draws(ids: Sequence[str], templates: int, *, seed: int, name: str) -> Iterator[tuple[int, int]]:
    """Examples with templates, without end: all examples in a random order, each with a template that its name picks, then all in
    another order with the next template, and so on. So nothing comes twice before each example had each template.

    Args:
        ids: names of the examples, which decide their places: more examples do not move the others.
        templates: how many there are.
        seed: changes the draw.
        name: of the task; changes the draw too.
    """
    first = [derive(seed, "mixture", name, "template", one) % templates for one in ids]
    turn = 0
    while True:
        order = sorted(range(len(ids)), key=lambda i: derive(seed, "mixture", name, str(turn), ids[i]))
        yield from ((i, (first[i] + turn) % templates) for i in order)
        turn += 1
