"""Scores as a table, and what was cut."""

from collections.abc import Mapping, Sequence

from lmtailor.base.base import Base
from lmtailor.cli import say
from lmtailor.infer.decoding import Decoding
from lmtailor.infer.evaluate import measure_adapter
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.task import Task


def score_split(
    base: Base,
    task: Task,
    adapter: Adapter,
    split: str,
    *,
    batch_size: int = 32,
    seed: int = 0,
    decoding: Decoding | None = None,
) -> Scores:
    """Score an adapter on a split, with progress; say what was cut."""
    with say.progress(f"scoring {split}") as progress:
        measured = measure_adapter(
            base, task, adapter, split=split, batch_size=batch_size, decoding=decoding, seed=seed, progress=progress
        )
    tell_cuts(measured.cut, len(task.split(split)), split)
    return measured.scores


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


def tell_cuts(cut: Sequence[str], total: int, what: str) -> None:
    """Say how many texts were cut, and which was the first, if any were."""
    if cut:
        count = f"{len(cut)} of {total} examples"
        say.warn(f"{what}: {count} are longer than the model takes, or than max_length, and were cut; first {cut[0]}.")
