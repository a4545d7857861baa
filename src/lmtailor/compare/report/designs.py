"""Pictures of designs: the score against training examples, against a setting, and against the size of the base."""

from collections.abc import Iterator

from lmtailor.compare.leaderboard import Leaderboard
from lmtailor.compare.numbers import count, listed, metric_name
from lmtailor.compare.positions import BASE, EXAMPLES
from lmtailor.compare.recommend import Recommendation
from lmtailor.compare.report.canvas import Picture, make_picture
from lmtailor.compare.report.colours import shapes_of
from lmtailor.compare.report.lines import Chart, Line, lines_on, said, shared_parts
from lmtailor.compare.report.scale import Scale, scale_of


def design_pictures(board: Leaderboard, recommendation: Recommendation) -> list[Picture]:
    """All that the cells give: over sizes, over each setting that is swept, over bases."""
    found = [
        _sizes_picture(board, recommendation),
        *_sweep_pictures(board, recommendation),
        _bases_picture(board, recommendation),
    ]
    return [picture for picture in found if picture is not None]


def _sizes_picture(board: Leaderboard, recommendation: Recommendation) -> Picture | None:
    lines = lines_on(board, EXAMPLES, board.all_rows)
    if not lines:
        return None
    name, flat = metric_name(board.metric), [row for row in board.rows if row.untrained]
    scale = scale_of([(one.text, one.number) for line in lines for one, _ in line.points])
    still = f" Without any training: {listed([row.cell for row in flat])}." if flat else ""
    bands = " Bands go from the lowest seed to the highest; each seed draws its own examples." if _several_seeds(lines) else ""
    return make_picture(
        "sizes",
        title="What do more examples buy?",
        alt=f"{name} against training examples: {said(lines)}.{still}",
        caption=f"{_capital(name)}{_of(lines)} on {board.about.split} against the number of training examples; the smaller "
        f"samples of a seed lie in its larger ones.{bands}{still}",
        draw=Chart(
            board=board,
            lines=lines,
            scale=scale,
            label="training examples",
            spread="seeds",
            chosen=recommendation.cell,
            flat=flat,
            baseline=True,
        ).draw,
    )


def _sweep_pictures(board: Leaderboard, recommendation: Recommendation) -> Iterator[Picture]:
    """One for each axis, with routes at their largest training size."""
    axes = dict.fromkeys(one.axis for own in board.about.positions.values() for one in own)
    for number, axis in enumerate(axis for axis in axes if axis not in (EXAMPLES, BASE)):
        lines = lines_on(board, axis, board.rows)
        if lines:
            yield _sweep_picture(board, recommendation, axis, lines, f"sweep-{number}")


def _sweep_picture(board: Leaderboard, recommendation: Recommendation, axis: str, lines: list[Line], key: str) -> Picture:
    name, setting = metric_name(board.metric), axis_name(axis)
    scale = scale_of([(one.text, one.number) for line in lines for one, _ in line.points])
    return make_picture(
        key,
        title=f"What does {setting} change?",
        alt=f"{name} against {setting}: {said(lines)}.",
        caption=f"{_capital(name)}{_of(lines)} on {board.about.split} against {setting}, with 95 % intervals.",
        draw=Chart(board=board, lines=lines, scale=scale, label=setting, spread="interval", chosen=recommendation.cell).draw,
    )


def _bases_picture(board: Leaderboard, recommendation: Recommendation) -> Picture | None:
    """Over the number of the bases' parameters, with routes at their largest training size."""
    lines = [
        Line(name=line.name, points=tuple(sorted(line.points, key=lambda point: point[1].base_parameters)))
        for line in lines_on(board, BASE, board.rows)
    ]
    if not lines:
        return None
    name = metric_name(board.metric)
    sizes = {one.text: row.base_parameters for line in lines for one, row in line.points}
    places = scale_of([(base, float(parameters)) for base, parameters in sizes.items()]).places
    models = listed([f"{base} with {count(parameters)}" for base, parameters in sorted(sizes.items(), key=lambda item: item[1])])
    return make_picture(
        "bases",
        title="What does a larger model buy?",
        alt=f"{name} against the model's parameters: {said(lines)}. Parameters: {models}.",
        caption=f"{_capital(name)}{_of(lines)} on {board.about.split} against the parameters of the model, with 95 % intervals: "
        f"{models}.",
        draw=Chart(
            board=board,
            lines=lines,
            scale=Scale(places=places, numbers=True, texts={base: count(parameters) for base, parameters in sizes.items()}),
            label="parameters of the model",
            spread="interval",
            chosen=recommendation.cell,
            shapes=shapes_of(board),
        ).draw,
    )


def axis_name(axis: str) -> str:
    """An axis in running text: method.prefix_length → the method's prefix length; start → start."""
    choice, dot, setting = axis.partition(".")
    return f"the {choice}'s {setting.replace('_', ' ').replace('.', ' ')}" if dot else axis


def _of(lines: list[Line]) -> str:
    """What the names of the lines in a picture leave out, for its caption."""
    shared = shared_parts([line.name for line in lines])
    return f" of {shared}" if shared else ""


def _several_seeds(lines: list[Line]) -> bool:
    return any(len(row.by_seed) > 1 for line in lines for _, row in line.points)


def _capital(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}"
