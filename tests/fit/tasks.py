"""Small tasks that can be learned."""

import random

from lmtailor.tasks.task import Task

GOOD = ("great", "good", "happy", "best", "love", "fun")
BAD = ("bad", "awful", "sad", "worst", "terrible", "boring")


def _records(count: int, rng: random.Random) -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    for i in range(count):
        good = rng.random() < 0.5
        tail = " and it is " + "so very "[: rng.choice([0, 3, 8])] + "text"
        text = f"the {rng.choice(['movie', 'book', 'cat'])} was {rng.choice(GOOD if good else BAD)}{tail} {i}"
        out.append({"sentence": text, "label": "pos" if good else "neg", "grade": 1.0 if good else -1.0})
    return out


def records(count: int, seed: int) -> list[dict[str, object]]:
    """Rows with a text column named "text"."""
    return [{"text": row["sentence"], "label": row["label"]} for row in _records(count, random.Random(seed))]


def sentiment(train: int = 60, dev: int = 30) -> Task:
    """Two labels told apart by one word."""
    rng = random.Random(0)
    return Task.from_records(
        text=["sentence"],
        label="label",
        kind="classification",
        train=_records(train, rng),
        dev=_records(dev, rng),
        test=_records(20, rng),
    )


def grades(train: int = 60, dev: int = 30) -> Task:
    """A number for the same texts."""
    rng = random.Random(0)
    return Task.from_records(
        text=["sentence"], label="grade", kind="regression", train=_records(train, rng), dev=_records(dev, rng)
    )
