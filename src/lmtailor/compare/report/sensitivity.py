"""The page of a sensitivity study: the same boxes before and after calibration, and the numbers behind them."""

from collections import Counter
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmtailor.compare.numbers import grouped, interval, metric_name, p_value, score, signed
from lmtailor.compare.report.boxes import ALL, boxes_picture
from lmtailor.compare.report.canvas import Picture
from lmtailor.compare.report.shell import render_page
from lmtailor.core.files import write_text
from lmtailor.strategies.sensitivity_record import Difference, SensitivityRecord, Summary
from lmtailor.tasks.metrics import get_metric

LEVEL = 0.05
"""The level of the tests, after Holm's correction."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One row of the table."""

    name: str
    pattern: str
    words: str
    cells: tuple[tuple[str, str, str, str, str], ...]
    """For each side: mean, its interval, worst, median, best."""
    change: str
    p: str


def sensitivity_page(record: SensitivityRecord) -> str:
    """The page as HTML. It needs no network and holds all that it shows."""
    order = _order(record)
    changes = {change.first: change for change in record.by_calibration()}
    tests = record.between_templates(record.sides[-1])
    return render_page(
        "sensitivity.html",
        {
            "record": record,
            "metric": metric_name(record.metric),
            "title": f"{record.task}: {_counted(record.templates, 'template')}, {_counted(record.points, 'prompt')}",
            "lede": sensitivity_lede(record),
            "facts": _facts(record),
            "pictures": sensitivity_pictures(record),
            "lines": [*(_line(record, name, changes.get(name)) for name in order), _line(record, None, None)],
            "tests": [_test(test) for test in tests],
            "significant": sum(test.adjusted < LEVEL for test in tests),
            "tested": " after calibration" if len(record.sides) > 1 else "",
            "measured": _measured(record),
        },
    )


def write_sensitivity_page(record: SensitivityRecord, path: str | Path) -> Path:
    """Write the page to a file.

    Raises:
        InputError: it cannot be written.
    """
    file = Path(path)
    write_text(file, sensitivity_page(record))
    return file


def constant_score(record: SensitivityRecord) -> float:
    """The score of always the most frequent label."""
    reference_N = np.array(record.reference, dtype=np.float64)
    most = Counter(record.reference).most_common(1)[0][0]
    return get_metric(record.metric).value(np.full_like(reference_N, most), reference_N)


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def sensitivity_pictures(record: SensitivityRecord, *, within: str = "") -> list[Picture]:
    """The boxes of each side. `within` begins their names, where a page has several studies."""
    order, chance = _order(record), constant_score(record)
    return [boxes_picture(record, side, order, chance, within=within) for side in record.sides]


def _order(record: SensitivityRecord) -> list[str]:
    """The templates, the best first."""
    return sorted(record.templates, key=lambda name: -record.summary("before", name).median)


def sensitivity_lede(record: SensitivityRecord) -> str:
    """What came out, in a sentence or two."""
    name, before = metric_name(record.metric), record.summary("before")
    text = (
        f"The same {grouped(len(record.reference))} documents of {record.split} behind {_counted(record.points, 'prompt')}: "
        f"{name} goes from {score(before.worst)} to {score(before.best)}"
    )
    if len(record.sides) < 2:
        return f"{text}."
    after = record.summary("after")
    return f"{text}; after contextual calibration from {score(after.worst)} to {score(after.best)}."


def _facts(record: SensitivityRecord) -> list[tuple[str, str]]:
    facts = []
    for side in record.sides:
        all_points = record.summary(side)
        facts.append(
            (
                f"{score(all_points.mean.value)} ± {score(all_points.deviation)}",
                f"mean and deviation{f' {side}' if len(record.sides) > 1 else ''}",
            )
        )
    return [*facts, (score(constant_score(record)), "always the same answer")]


def _line(record: SensitivityRecord, name: str | None, change: Difference | None) -> _Line:
    asked = None if name is None else record.templates[name]
    words = [] if asked is None else [" / ".join(words) for words in asked.words.values()]
    return _Line(
        name=name or ALL,
        pattern="" if asked is None else asked.pattern,
        words=" · ".join(words),
        cells=tuple(_cells(record.summary(side, name)) for side in record.sides),
        change="" if change is None else signed(change.difference),
        p="" if change is None else p_value(change.adjusted),
    )


def _cells(row: Summary) -> tuple[str, str, str, str, str]:
    return score(row.mean.value), interval(row.mean.low, row.mean.high), score(row.worst), score(row.median), score(row.best)


def _test(test: Difference) -> tuple[str, str, str, str, str]:
    return test.first, test.second, signed(test.difference), interval(test.low, test.high), p_value(test.adjusted)


def _measured(record: SensitivityRecord) -> list[str]:
    lines = [
        f"Every prompt answers the same {len(record.reference)} documents. Its {metric_name(record.metric)} is a dot.",
        "Intervals of means hold 95 % of 1000 bootstrap samples of documents and of prompts.",
        "Templates are compared by a paired bootstrap over documents, of their means over prompts; p is corrected for the number "
        "of comparisons by Holm's rule.",
    ]
    if len(record.sides) > 1:
        lines.append(
            "Contextual calibration divides the labels' probabilities by what the same prompt gives them on inputs without "
            "content, and looks at no label of any document."
        )
    return lines + list(record.notes)
