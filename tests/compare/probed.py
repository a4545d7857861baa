"""Probing studies that never ran, for tests of what is made from them."""

import numpy as np

from lmtailor.strategies.probing_record import BaseResult, LayerResult, ProbeResult, ProbingRecord
from lmtailor.tasks.metrics import Score

TAGS = ("NOUN", "VERB", "日本 & <b>", "a-tag-with-a-very-long-name-that-nobody-needs", "X")
COUNTS = (700, 400, 200, 95, 5)


def value(metric: str, at: float) -> Score:
    return Score(metric=metric, value=at, n=sum(COUNTS), low=at - 0.01, high=at + 0.01)


def probed(name: str, layers: int, hidden: tuple[int, ...], *, controlled: bool = True, seed: int = 0) -> BaseResult:
    """A base whose middle layers tell the most, and whose upper ones know types the least."""
    rng = np.random.default_rng(seed)
    probes = []
    for width in hidden:
        places = []
        for number in range(layers + 2):
            depth = 0.4 if number > layers else number / layers
            score = 0.93 - 0.3 * (depth - 0.4) ** 2 + 0.002 * rng.random()
            control = 0.7 - 0.3 * depth + (0.1 if width else 0.0)
            places.append(
                LayerResult(
                    layer="mix" if number > layers else str(number),
                    score=value("accuracy", score),
                    control=value("accuracy", control) if controlled else None,
                    selectivity=value("selectivity", score - control) if controlled else None,
                    dev=score,
                    train=min(1.0, score + 0.03),
                    train_control=control + 0.1 if controlled else None,
                    epoch=7,
                    right=tuple(int(count * (score - 0.05 * tag)) for tag, count in enumerate(COUNTS)),
                )
            )
        shares = rng.dirichlet(np.ones(layers + 1))
        probes.append(ProbeResult(hidden=width, places=tuple(places), shares=tuple(map(float, shares)), gain=1.3, seconds=2.5))
    return BaseResult(
        name=name,
        kind="encoder",
        fingerprint="f" * 16,
        dtype="torch.float32",
        parameters=1_000_000,
        read="a word is read at its first token: all tokens see the whole text",
        n=sum(COUNTS),
        counts=COUNTS,
        unread=0,
        cut=0,
        probes=tuple(probes),
    )


def made_up(*, bases: tuple[tuple[str, int], ...] = (("shallow", 6), ("deep", 30)), controlled: bool = True) -> ProbingRecord:
    """A study of bases of different depths with linear probes and others."""
    return ProbingRecord(
        task="treebank <i>",
        kind="labelling",
        split="test",
        metric="accuracy",
        labels=TAGS,
        items={"train": 30_000, "dev": 4_000, "test": sum(COUNTS)},
        examples={"train": 2_000, "dev": 300, "test": 100},
        baselines={
            "always the most frequent label": value("accuracy", 0.17),
            "each word's most frequent tag": value("accuracy", 0.8),
        },
        bases=tuple(
            probed(name, layers, (0, 64), controlled=controlled, seed=number) for number, (name, layers) in enumerate(bases)
        ),
        settings={"hidden": "[0, 64]", "controls": "[0, 1, 2]"},
        notes=("deep: 3 of 36000 items are cut off.",),
    )
