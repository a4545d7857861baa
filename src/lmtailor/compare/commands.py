"""What to type to use a cell's adapter."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from lmtailor.compare.leaderboard import Leaderboard, Run
from lmtailor.core.errors import InputError
from lmtailor.core.settings import from_mapping
from lmtailor.infer.decoding import Decoding
from lmtailor.readouts.columns import columns_read
from lmtailor.readouts.registry import get_readout
from lmtailor.store.native import read_manifest
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


def commands(board: Leaderboard, runs: Sequence[Run], cell: str, folder: Path) -> Commands | None:
    """Commands for the cell's best adapter; None if none was saved.

    Args:
        board: for names.
        runs: the cell's among them.
        cell: its name.
        folder: the comparison's, as the user wrote it.
    """
    own = [run for run in runs if run.record.cell == cell and run.record.adapter is not None]
    if not own:
        return None
    best = max(own, key=lambda run: (_dev(board, run), -run.record.seed))
    assert best.record.adapter is not None
    adapter = str(folder / best.record.adapter)
    base = board.about.bases[best.record.base]
    columns = _columns(folder / best.record.adapter) or board.about.text
    example = {column: f"your {column}" if len(columns) > 1 else "your text" for column in columns}
    texts = " ".join(map(shlex.quote, example.values()))
    known = repr(example if len(columns) > 1 else example[columns[0]])
    source, flag = ("rows.csv", "--file ") if len(columns) > 1 else ("texts.txt", "< ")
    held = best.record.settings.get("decoding")
    decoding = from_mapping(Decoding, held) if isinstance(held, dict) else None
    flags = "".join(f" {shlex.quote(word)}" for word in decoding_flags(decoding))
    how = f"Decoding({', '.join(f'{name}={value!r}' for name, value in asked.items())})" if (asked := _asked(decoding)) else ""
    return Commands(
        cell=cell,
        seed=best.record.seed,
        lines=(
            f"lmtailor predict {shlex.quote(base)} {shlex.quote(adapter)} {texts}{flags}",
            f"lmtailor predict {shlex.quote(base)} {shlex.quote(adapter)}{flags} {flag}{source} > answers.jsonl",
        ),
        python="\n".join(
            (
                "import lmtailor as lt",
                *(["from lmtailor.infer.decoding import Decoding"] if how else []),
                "",
                f"base = lt.load_base({base!r})",
                f"adapter = lt.load_adapter({adapter!r}, base)",
                f"print(lt.predict(base, adapter, [{known}]{f', decoding={how}' if how else ''}))",
            )
        ),
    )


def _columns(adapter: Path) -> tuple[str, ...]:
    """The columns that an adapter reads, of its folder; none where that is gone or damaged."""
    try:
        found = read_manifest(adapter)
        if found.readout is None or found.labels is None:
            return ()
        readout = from_mapping(get_readout(found.readout.name), found.readout.settings)
    except (InputError, OSError):
        return ()
    return columns_read(readout, found.labels)


def decoding_flags(decoding: Decoding | None) -> list[str]:
    """Words of a command that make it write so; none where that is done unasked."""
    asked = [(name, value if isinstance(value, tuple) else (value,)) for name, value in _asked(decoding).items()]
    return [word for name, values in asked for one in values for word in (f"--{name.replace('_', '-')}", str(one))]


def _asked(decoding: Decoding | None) -> dict[str, object]:
    """The settings that are not what is done unasked."""
    how = decoding or Decoding()
    return {one.name: value for one in fields(how) if (value := getattr(how, one.name)) != one.default}


def _dev(board: Leaderboard, run: Run) -> float:
    """The score by which the adapter was chosen, so that larger is better; −∞ where there is none."""
    metric = board.about.choosing
    scores = run.record.scores.get("dev")
    if scores is None or metric not in scores:
        return float("-inf")
    return scores[metric].value if greater_is_better(metric) else -scores[metric].value
