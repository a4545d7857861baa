"""What to type to use a cell's adapter."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmtailor.compare.leaderboard import Leaderboard, Run
from lmtailor.tasks.metrics.direction import greater_is_better


@dataclass(frozen=True, kw_only=True)
class Commands:
    """How to predict with one cell."""

    cell: str
    seed: int
    """Of the adapter: the one with the best score on dev, where that was measured."""
    lines: tuple[str, ...]
    """For a shell: one text, and many."""
    python: str


def commands(board: Leaderboard, runs: Sequence[Run], cell: str, folder: Path, example: Sequence[str]) -> Commands | None:
    """Commands for the cell's best adapter; None if none was saved.

    Args:
        board: for names.
        runs: the cell's among them.
        cell: its name.
        folder: the comparison's, as the user wrote it.
        example: a text, or the two of a pair.
    """
    own = [run for run in runs if run.record.cell == cell and run.record.adapter is not None]
    if not own:
        return None
    best = max(own, key=lambda run: (_dev(board, run), -run.record.seed))
    assert best.record.adapter is not None
    adapter = str(folder / best.record.adapter)
    base = board.about.bases[best.record.base]
    texts = " ".join(shlex.quote(text) for text in example)
    known = repr(example[0]) if len(example) == 1 else repr(tuple(example))
    return Commands(
        cell=cell,
        seed=best.record.seed,
        lines=(
            f"lmtailor predict {shlex.quote(base)} {shlex.quote(adapter)} {texts}",
            f"lmtailor predict {shlex.quote(base)} {shlex.quote(adapter)} < texts.txt > answers.jsonl",
        ),
        python="\n".join(
            (
                "import lmtailor as lt",
                "",
                f"base = lt.load_base({base!r})",
                f"adapter = lt.load_adapter({adapter!r}, base)",
                f"print(lt.predict(base, adapter, [{known}]))",
            )
        ),
    )


def _dev(board: Leaderboard, run: Run) -> float:
    """The score by which the adapter was chosen, so that larger is better; −∞ where there is none."""
    metric = board.about.choosing
    scores = run.record.scores.get("dev")
    if scores is None or metric not in scores:
        return float("-inf")
    return scores[metric].value if greater_is_better(metric) else -scores[metric].value
