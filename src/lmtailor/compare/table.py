"""The leaderboard in a terminal, readable at 80 columns."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lmtailor.compare.leaderboard import Leaderboard, Row
from lmtailor.compare.numbers import count, duration, listed, metric_name, score, share, size
from lmtailor.compare.recommend import Recommendation


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One column of costs."""

    title: str
    text: Callable[[Row], str]
    width: int = 0
    """The narrowest terminal that has room for it (characters)."""


_COSTS = (
    _Column(title="trained", text=lambda row: count(row.trained_parameters)),
    _Column(title="share", text=lambda row: share(row.share), width=72),
    _Column(title="fit", text=lambda row: _compact(duration(row.fit_seconds))),
    _Column(title="predict", text=lambda row: _compact(duration(row.predict_seconds)), width=90),
    _Column(title="memory", text=lambda row: size(row.peak_memory), width=72),
    _Column(title="disk", text=lambda row: size(row.disk_bytes), width=72),
)


def show(console: Console, board: Leaderboard, recommendation: Recommendation) -> None:
    """Print the leaderboard, what it rests on, and the recommendation."""
    console.print(_parts(board, recommendation, console.width))


def _parts(board: Leaderboard, recommendation: Recommendation, width: int) -> RenderableType:
    parts: list[RenderableType] = [_table(board, recommendation, width), Text(_legend(board), style="dim"), Text()]
    if recommendation.cell is not None:
        parts.append(Text.assemble("Recommended: ", (recommendation.cell, "bold green")))
    parts.append(Text(recommendation.reason))
    parts += [Padding(Text.assemble(("Mind: ", "bold yellow"), text), (1, 0, 0, 0)) for text in recommendation.warnings]
    if recommendation.remarks:
        parts.append(Text())
        parts.extend(Text(f"· {remark}") for remark in recommendation.remarks)
    if board.failures:
        parts.append(Text())
        parts.extend(
            Text.assemble(("Failed: ", "bold red"), f"{cell}, {seeds}: {reason}") for cell, seeds, reason in board.failed_cells()
        )
    return Group(*parts)


def _table(board: Leaderboard, recommendation: Recommendation, width: int) -> Table:
    columns = [column for column in _COSTS if width >= column.width]
    splits = board.about.ood if width >= 72 else ()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", width=1)
    table.add_column("route", overflow="fold", min_width=12)
    for title in (metric_name(board.metric), *_titles(splits), *(column.title for column in columns)):
        table.add_column(title, justify="right", no_wrap=True)
    for row in board.rows:
        there = [row.on(split) for split in splits]
        texts = ["" if one is None else score(one.value) for one in there] + [column.text(row) for column in columns]
        table.add_row(*_first_cells(board, row, recommendation), *texts, style="dim" if row.baseline else None)
    return table


def _first_cells(board: Leaderboard, row: Row, recommendation: Recommendation) -> list[Text]:
    """Mark, name, and score with half of its interval."""
    best = board.best is not None and row.cell == board.best.cell
    mark = "★" if row.cell == recommendation.cell else "=" if row.tied and not row.baseline else " "
    half = (row.score.high - row.score.low) / 2
    value = Text.assemble((score(row.score.value), "bold" if best else ""), (f" ±{score(half)[1:]}", "dim"))
    return [Text(mark, style="green"), Text(row.cell), value]


def _titles(splits: tuple[str, ...]) -> list[str]:
    """Short titles of the out-of-domain sets; the legend has their names."""
    return ["ood"] if len(splits) == 1 else [f"ood {number}" for number in range(1, len(splits) + 1)]


def _legend(board: Leaderboard) -> str:
    about = board.about
    seeds = sorted({len(row.seeds) for row in board.rows if not row.baseline})
    over = f"mean over {listed([str(n) for n in seeds], 'or')} seed{'s' if seeds != [1] else ''}" if seeds else "no runs"
    named = "".join(f" {title}: {name}." for title, name in zip(_titles(about.ood), about.ood, strict=True))
    largest = " Routes with several training sizes stand at their largest." if board.unranked else ""
    return (
        f"{metric_name(board.metric)} on {about.split} (n = {about.sizes.get(about.split, 0)}), {over}, "
        f"± half of the 95 % interval.{named}{largest} ★ recommended, = not significantly worse than the best."
    )


def _compact(text: str) -> str:
    """Minutes without their seconds, to save room."""
    parts = text.split("\u202f")
    return "\u202f".join(parts[:2]) if len(parts) == 4 else text
