"""Scores as a table, and what was cut."""

from collections.abc import Iterable, Mapping

from lmtailor.cli import say
from lmtailor.readouts.readout import Reading
from lmtailor.tasks.example import Example, Split
from lmtailor.tasks.metrics import Scores


def show_scores(scores: Mapping[str, Scores]) -> None:
    """One line a split and metric, with the interval and n."""
    rows = [
        (split, score.metric, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}", f"{score.n}")
        for split, own in scores.items()
        for score in own.values()
    ]
    say.table(("split", "metric", "value", "95 % interval", "n"), rows, right=("value", "n"))


def write_scores(scores: Mapping[str, Scores], about: Mapping[str, str | None]) -> None:
    """One JSON object: what was scored, and the scores by split and metric."""
    say.json_line({**about, "scores": {split: own.to_mapping() for split, own in scores.items()}}, indent=2)


def cut(reading: Reading, examples: Iterable[Example]) -> int:
    """How many examples are longer than the model takes."""
    return sum(reading.encode(example).cut > 0 for example in examples)


def warn_of_cuts(reading: Reading | None, split: Split) -> None:
    """Say how many texts of a split lost their end, if any did."""
    if reading is not None:
        tell_cuts(cut(reading, split), len(split), split.name)


def tell_cuts(count: int, total: int, what: str) -> None:
    """Say how many texts lost their end, if any did."""
    if count:
        say.warn(f"{what}: {count} of {total} examples are longer than the model takes, or than max_length, and lost their end.")
