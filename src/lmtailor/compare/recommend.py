"""Which cell to take, in words with numbers, and what to be careful about.

The rule: of the cells that are not significantly worse than the best, keep those whose base is at most half as large again as the
smallest one's; of these take the one with the fewest trained parameters, and of equals the one that trains fastest.
The size of the base stands for what each prediction costs, since it is the same on every machine; the trained
parameters for what is stored and shipped for each task.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lmtailor.compare.baseline import baseline_words
from lmtailor.compare.leaderboard import LEVEL, Leaderboard, Row
from lmtailor.compare.numbers import count, duration, interval, listed, metric_name, p_value, score, signed

SLACK = 1.5
"""Bases that are larger than the smallest by no more than this factor count as equally large."""
SMALL = 200
"""Test sets with fewer examples are called small."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to take."""

    cell: str | None
    """None: nothing is worth taking."""
    reason: str
    warnings: tuple[str, ...] = ()
    """What to be careful about."""
    remarks: tuple[str, ...] = ()
    """What else the numbers say: prompting without training, out-of-domain sets."""


def recommend(board: Leaderboard) -> Recommendation:
    """Apply the rule."""
    best = board.best
    warnings, remarks = tuple(_warnings(board)), tuple(_remarks(board))
    if best is None:
        return Recommendation(cell=None, reason="No run came to an end, so there is nothing to recommend.", warnings=warnings)
    if not beats_baseline(board, best):
        return Recommendation(cell=None, reason=_useless(board, best), warnings=warnings, remarks=remarks)
    tested = [row for row in board.rows if row is best or row.to_best is not None]
    candidates = [row for row in tested if row.tied and not row.baseline and beats_baseline(board, row)]
    chosen = cheapest(candidates)
    return Recommendation(cell=chosen.cell, reason=_reason(board, best, chosen, candidates), warnings=warnings, remarks=remarks)


def cheapest(rows: list[Row]) -> Row:
    """The cheapest of equally good rows; see the rule above."""
    bound = SLACK * min(row.base_parameters for row in rows)
    small = [row for row in rows if row.base_parameters <= bound]
    return min(small, key=lambda row: (row.trained_parameters, row.fit_seconds))


def beats_baseline(board: Leaderboard, row: Row) -> bool:
    """Whether a row is significantly better than the baseline; true if that was not measured."""
    if board.baseline is None or row.to_baseline is None:
        return True
    return row.to_baseline.p < LEVEL and board.sign * row.to_baseline.difference > 0


def _doing(board: Leaderboard) -> str:
    """What the baseline does."""
    return baseline_words(board.about.kind).doing


def _useless(board: Leaderboard, best: Row) -> str:
    assert board.baseline is not None
    assert best.to_baseline is not None
    return (
        f"Nothing is significantly better than {_doing(board)} ({metric_name(board.metric)} "
        f"{score(board.baseline.score.value)}). The best, {best.cell}, differs from it by {signed(best.to_baseline.difference)} "
        f"{interval(best.to_baseline.low, best.to_baseline.high)}. More data, longer training or another model may help."
    )


def _reason(board: Leaderboard, best: Row, chosen: Row, candidates: list[Row]) -> str:
    name = metric_name(board.metric)
    has = f"{name} {score(chosen.score.value)} {interval(chosen.score.low, chosen.score.high)}"
    if chosen is not best:
        assert chosen.to_best is not None
        test = chosen.to_best
        return (
            f"It is the cheapest route that is not significantly worse than the best: {has}, against {score(best.score.value)} "
            f"of {best.cell}. The difference of {signed(test.difference)} {interval(test.low, test.high)} may be chance "
            f"({p_value(test.p)}). {_savings(chosen, best)}"
        )
    others = [row for row in candidates if row is not best]
    if not others:
        rest = "every other one is significantly worse" if len(board.rows) > 1 else "it is the only one"
        return f"It has the best score of all routes, {has}, and {rest}. {_costs(chosen)}"
    ties = listed([row.cell for row in others[:3]] + ([f"{len(others) - 3} more"] if len(others) > 3 else []))
    return f"It has the best score of all routes, {has}. Within chance of it, but not cheaper: {ties}. {_costs(chosen)}"


def _costs(row: Row) -> str:
    if row.untrained:
        return f"Nothing is trained; its model has {count(row.base_parameters)} parameters."
    if not row.trained_parameters:
        return (
            f"Its prompt is searched for in {duration(row.fit_seconds)}; nothing in its model of "
            f"{count(row.base_parameters)} parameters is trained."
        )
    return (
        f"It trains {count(row.trained_parameters)} parameters on a model of {count(row.base_parameters)}, "
        f"in {duration(row.fit_seconds)}."
    )


def _savings(chosen: Row, best: Row) -> str:
    """How the chosen one is cheaper."""
    parts = []
    if chosen.base_parameters * SLACK < best.base_parameters:
        parts.append(f"its model has {count(chosen.base_parameters)} parameters instead of {count(best.base_parameters)}")
    trained = "no parameters" if not chosen.trained_parameters else f"{count(chosen.trained_parameters)} parameters"
    if chosen.trained_parameters < best.trained_parameters:
        parts.append(f"it trains {trained} instead of {count(best.trained_parameters)}")
    if chosen.fit_seconds < 0.9 * best.fit_seconds:
        took = "no time" if chosen.untrained else duration(chosen.fit_seconds)
        parts.append(f"training takes {took} instead of {duration(best.fit_seconds)}")
    text = listed(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _warnings(board: Leaderboard) -> Iterator[str]:
    about = board.about
    if board.failures:
        cells = list(dict.fromkeys(record.cell for record in board.failures))
        runs = "1 run" if len(board.failures) == 1 else f"{len(board.failures)} runs"
        yield f"{runs} failed ({listed(cells)}); the reasons are listed below."
    if about.split != "test":
        yield (
            f"There is no test split, so {about.split} ranks, the same examples that chose the checkpoints: all scores are too "
            "good. Keep some labelled texts aside as a test split."
        )
    n = about.sizes.get(about.split, 0)
    best = board.best
    if best is not None and n < SMALL:
        half = (best.score.high - best.score.low) / 2
        known = f"the best one's score is known to ±{score(half)}, and small differences stay hidden"
        yield f"Only {n} examples rank the routes: {known}."
    trained = [row for row in board.rows if row.trained_parameters]
    if trained and all(len(row.seeds) == 1 for row in trained):
        yield "Every route was trained once, so the intervals do not say how much another seed would change."
    for one in board.ood:
        if best is not None and one.winner is not None and one.winner.p < LEVEL and board.sign * one.winner.difference < 0:
            ahead = board.row(one.cell)
            there, here = ahead.on(one.split), best.on(one.split)
            assert there is not None
            assert here is not None
            yield (
                f"On {one.split} the order is another: {one.cell} reaches {score(there.value)} and the winner {best.cell} "
                f"{score(here.value)}, a difference of {signed(one.winner.difference)} "
                f"{interval(one.winner.low, one.winner.high)}. If your texts are more like {one.split}, take {one.cell}."
            )


def _remarks(board: Leaderboard) -> Iterator[str]:
    best, name = board.best, metric_name(board.metric)
    for row in board.rows:
        if row.untrained and best is not None:
            yield _untrained(board, row, best, name)
    weak = [row.cell for row in board.rows if not row.baseline and not row.untrained and not beats_baseline(board, row)]
    if best is not None and not beats_baseline(board, best):
        return  # the recommendation says so already
    if weak:
        yield f"Trained, and not significantly better than {_doing(board)}: {listed(weak)}."
    elif board.baseline is not None and any(row.trained_parameters for row in board.rows):
        worth = f"{name} {score(board.baseline.score.value)}"
        yield f"Every trained route is significantly better than {_doing(board)} ({worth})."


def _untrained(board: Leaderboard, row: Row, best: Row, name: str) -> str:
    """Where a prompt without training stands between the baseline and the best."""
    text = f"Without any training, {row.cell} reaches {name} {score(row.score.value)} {interval(row.score.low, row.score.high)}"
    if board.baseline is not None and row.to_baseline is not None:
        if beats_baseline(board, row):
            text += f": {signed(row.to_baseline.difference)} against {_doing(board)}"
        elif row.to_baseline.p < LEVEL:
            text += f", which is worse than {_doing(board)} ({score(board.baseline.score.value)})"
        else:
            text += f", no better than {_doing(board)} ({score(board.baseline.score.value)})"
    if row.to_best is not None:
        text += f", and {signed(row.to_best.difference)} against the best, {best.cell}"
    return text + "."
