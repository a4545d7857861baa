"""The report: one page that holds everything it shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmtailor.compare.baseline import baseline_words
from lmtailor.compare.commands import commands
from lmtailor.compare.leaderboard import LEVEL, Leaderboard, Row, Run
from lmtailor.compare.numbers import count, duration, grouped, interval, listed, metric_name, p_value, score, share, signed, size
from lmtailor.compare.recommend import Recommendation
from lmtailor.compare.report.answers import MOST_LABELS, Confusion, confusion, regression_picture
from lmtailor.compare.report.canvas import Picture
from lmtailor.compare.report.colours import Hue, hue, hues_of, shapes_of
from lmtailor.compare.report.curves import curves_picture
from lmtailor.compare.report.designs import design_pictures
from lmtailor.compare.report.domains import domains_picture
from lmtailor.compare.report.examples import text_examples
from lmtailor.compare.report.parameters import parameters_picture
from lmtailor.compare.report.shell import render_page
from lmtailor.compare.report.study import ShownStudy
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.task import LABELLED

_SHAPES = {
    "o": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0",
    "s": "M-4.5-4.5h9v9h-9z",
    "D": "M0-6L6 0L0 6L-6 0z",
    "^": "M0-5.5L5.5 4.5H-5.5z",
    "v": "M0 5.5L5.5-4.5H-5.5z",
    "P": "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
}
"""The markers of `colours.SHAPES` as outlines, for the key."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One row of the table as the page shows it."""

    row: Row
    hue: Hue
    taken: bool
    best: bool
    tied: bool
    what: str
    score: str
    interval: str
    bar: tuple[str, str, str] | None
    """Left end, length and middle of the interval's bar, as percentages of its column; None if it lies outside."""
    to_best: str
    """How it differs from the best."""
    ood: tuple[str, ...]
    trained: str
    share: str
    fit: str
    predict: str
    memory: str
    disk: str


def make_page(
    board: Leaderboard,
    runs: Sequence[Run],
    recommendation: Recommendation,
    *,
    folder: Path,
    studies: Sequence[ShownStudy] = (),
) -> str:
    """The report as HTML.

    Args:
        board: the ranked cells.
        runs: their records and answers.
        recommendation: what to take.
        folder: of the comparison, as the user wrote it; commands name it.
        studies: of sensitivity, which stand after the pictures.
    """
    shown = list(dict.fromkeys(cell for cell in (recommendation.cell, None if board.best is None else board.best.cell) if cell))
    taken = board.row(recommendation.cell) if recommendation.cell is not None else None
    uses = [use for cell in shown if (use := commands(board, runs, cell, folder)) is not None] if taken else []
    low, high = _scale(board)
    context: dict[str, Any] = {
        "about": board.about,
        "metric": metric_name(board.metric),
        "routes": f"{len(board.about.cells)} routes" if len(board.about.cells) != 1 else "1 route",
        "date": _date(runs),
        "lede": _lede(board),
        "recommendation": recommendation,
        "taken": taken,
        "facts": _facts(board, taken) if taken is not None else [],
        "uses": uses,
        "rows": [_line(board, row, recommendation, low, high) for row in board.rows],
        "scale": (score(low), score(high)),
        "board_note": _board_note(board),
        "hues": hues_of(board.rows),
        "shapes": [(base, _SHAPES[shape]) for base, shape in shapes_of(board).items()],
        "pictures": _pictures(board, runs, recommendation, shown),
        "confusions": _confusions(board, runs, shown),
        "confusion_caption": _confusion_caption(board, shown),
        "examples": text_examples(board, runs, recommendation.cell),
        "studies": studies,
        "failures": board.failed_cells(),
        "against": [
            (row.cell, signed(test.difference), interval(test.low, test.high), p_value(test.p))
            for row in board.rows
            if (test := row.to_reference) is not None
        ],
        "measured": _measured(board, runs),
        "machine": _machine(runs),
        "settings": _settings(runs),
    }
    return render_page("page.html", context)


def _date(runs: Sequence[Run]) -> str:
    """The day on which the last run ended."""
    ends = [str(run.record.provenance["ended"]) for run in runs if "ended" in run.record.provenance]
    return max(ends)[:10] if ends else ""


_KINDS: Mapping[TaskKind, str] = {
    "classification": "{labels} labels",
    "regression": "a number for each text",
    "generation": "an answer written to each text",
    "labelling": "{labels} tags of words",
    "span": "a part of each text as its answer",
}


def _lede(board: Leaderboard) -> str:
    about = board.about
    bases = list(about.bases)
    models = f"{len(bases)} models ({listed(bases)})" if len(bases) > 1 else f"the model {bases[0]}" if bases else "no model"
    kind = _KINDS[about.kind].format(labels=len(about.labels))
    names = {"train": "to learn from", "dev": "to choose checkpoints", about.split: "to rank"}
    parts = [f"{grouped(about.sizes[split])} texts {use}" for split, use in names.items() if split in about.sizes]
    learned = about.smaller | {row.cell for row in board.rows if not row.baseline and not row.untrained}
    sizes = sorted({about.examples(cell) for cell in learned})
    if about.smaller and parts:
        parts[0] += f" (of which routes see {listed([grouped(size) for size in sizes])})"
    parts += [f"{grouped(about.sizes[split])} of {split}" for split in about.ood]
    return f"{kind[:1].upper()}{kind[1:]}, {models}, {listed(parts)}."


def _facts(board: Leaderboard, taken: Row) -> list[tuple[str, str]]:
    facts = [(score(taken.score.value), f"{metric_name(board.metric)} on {board.about.split}")]
    there = [(split, one) for split in board.about.ood if (one := taken.on(split)) is not None]
    facts += [(score(one.value), f"on {split}") for split, one in there[:1]]
    part = f" ({share(taken.share)})" if taken.trained_parameters else ""
    facts.append((count(taken.trained_parameters), f"parameters trained{part}"))
    if taken.fit_seconds:
        facts.append((duration(taken.fit_seconds), "to fit"))
    facts.append((size(taken.disk_bytes), "to store"))
    return facts


def _scale(board: Leaderboard) -> tuple[float, float]:
    """What the bars of the table stand for: from the lowest interval's end to the highest, the baseline aside."""
    rows = [row for row in board.rows if not row.baseline] or list(board.rows)
    if not rows:
        return 0.0, 1.0
    low, high = min(row.score.low for row in rows), max(row.score.high for row in rows)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _bar(row: Row, low: float, high: float) -> tuple[str, str, str] | None:
    if row.score.value < low or row.score.value > high:
        return None
    left, right = max(row.score.low, low), min(row.score.high, high)
    return tuple(f"{100 * value / (high - low):.2f}" for value in (left - low, right - left, row.score.value - low))  # type: ignore[return-value]


def _to_best(row: Row) -> str:
    """A tip for the row's score."""
    if row.to_best is None:
        return ""
    test = row.to_best
    return f"{signed(test.difference)} {interval(test.low, test.high)}\nagainst the best, {p_value(test.p)}"


def _line(board: Leaderboard, row: Row, recommendation: Recommendation, low: float, high: float) -> _Line:
    what = "no model" if row.baseline else " · ".join(part for part in (row.base, row.readout, row.method) if part)
    if row.failed:
        what += f" · {len(row.failed)} of {len(row.seeds) + len(row.failed)} seeds failed"
    elif len(row.seeds) > 1:
        what += f" · {len(row.seeds)} seeds"
    return _Line(
        row=row,
        hue=hue(row),
        taken=row.cell == recommendation.cell,
        best=board.best is not None and row.cell == board.best.cell,
        tied=row.tied and not row.baseline,
        what=what,
        score=score(row.score.value),
        interval=interval(row.score.low, row.score.high),
        bar=_bar(row, low, high),
        to_best=_to_best(row),
        ood=tuple("–" if (one := row.on(split)) is None else score(one.value) for split in board.about.ood),
        trained=count(row.trained_parameters),
        share=share(row.share) if row.trained_parameters else "",
        fit=duration(row.fit_seconds),
        predict=duration(row.predict_seconds),
        memory=size(row.peak_memory),
        disk=size(row.disk_bytes),
    )


def _board_note(board: Leaderboard) -> str:
    largest = " A route with several training sizes stands here at its largest." if board.unranked else ""
    return (
        f"Ranked by {metric_name(board.metric)} on {grouped(board.about.sizes.get(board.about.split, 0))} texts of "
        f"{board.about.split}, mean over seeds. Bars are 95 % intervals; a full dot is not significantly worse than the best. "
        f"How costs and intervals are measured is said below.{largest}"
    )


def _pictures(board: Leaderboard, runs: Sequence[Run], recommendation: Recommendation, shown: Sequence[str]) -> list[Picture]:
    if board.best is None:
        return []
    pictures: list[Picture | None] = [
        *design_pictures(board, recommendation),
        parameters_picture(board, recommendation),
        domains_picture(board, recommendation),
        curves_picture(board, runs, recommendation),
    ]
    if board.about.kind == "regression":
        pictures += [regression_picture(board, runs, cell, name=f"answers-{number}") for number, cell in enumerate(shown)]
    return [picture for picture in pictures if picture is not None]


def _confusions(board: Leaderboard, runs: Sequence[Run], shown: Sequence[str]) -> list[Confusion]:
    return [confusion(board, runs, cell) for cell in shown] if board.about.kind in LABELLED else []


def _confusion_caption(board: Leaderboard, shown: Sequence[str]) -> str:
    seeds = ", mean over seeds" if any(len(board.row(cell).seeds) > 1 for cell in shown) else ""
    what, label = ("words", "tag") if board.about.kind == "labelling" else ("texts", "label")
    if len(board.about.labels) > MOST_LABELS:
        return (
            f"The most frequent mistakes on {board.about.split}: {what}{seeds}, and their share of the {what} with that {label}."
        )
    return (
        f"Rows are true {label}s, columns are answers on {board.about.split}. The shares of a row add up to 100\u202f%; "
        f"below them the number of {what}{seeds}."
    )


def _measured(board: Leaderboard, runs: Sequence[Run]) -> list[str]:
    about, name = board.about, metric_name(board.metric)
    n = about.sizes.get(about.split, 0)
    unseen = ", which no run saw while it was trained" if about.split == "test" else ""
    lines = [
        f"The score of a route is the mean of its seeds' {name} on the {n} texts of {about.split}{unseen}.",
        "Intervals hold 95 % of 1000 bootstrap samples of texts and of seeds. They say how far the score would move with other "
        "texts of the same kind and with training again.",
        "“Within chance” means not significantly worse than the best: a paired bootstrap over the same texts, at the level "
        f"{LEVEL}. It is no proof of being as good, least of all with few texts; and the best of several routes on one test set "
        "looks a little better than it is.",
        "The recommended route is, among those within chance of the best, one with a small model, of these the one with the "
        "fewest trained parameters, and of equals the one that trains fastest.",
        "Fit is the time of training with all that belongs to it; predict the time for all texts of the split that ranks, on "
        "the same machine.",
        "Memory is the largest resident memory of the whole process while the route ran, the model and Python included, sampled "
        "20 times a second. Disk is the folder of the saved adapter, without the model.",
    ]
    if about.baseline is not None:
        lines.append(
            f"The baseline ({about.baseline}) needs no model; it stands for {baseline_words(about.kind).doing}. A route that is "
            "not better learned nothing."
        )
    return lines


def _machine(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the last run says of its surroundings."""
    done = [run.record.provenance for run in runs if run.record.provenance]
    if not done:
        return []
    last, found = done[-1], []
    for key in ("hardware", "versions"):
        part = last.get(key)
        if isinstance(part, dict):
            found += [(str(name), str(value)) for name, value in part.items()]
    if last.get("revision"):
        found.append(("revision", str(last["revision"])))
    return found


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str], str]]:
    """Cell, what its runs said, and its settings as JSON; one entry a cell, of its first seed."""
    found: dict[str, tuple[str, list[str], str]] = {}
    for run in runs:
        record = run.record
        if record.cell not in found:
            notes = list(dict.fromkeys(record.notes))
            found[record.cell] = (record.cell, notes, json.dumps(record.settings, indent=2, ensure_ascii=False))
    return list(found.values())
