"""The page of a probing study: layers of every base as heat maps, the tags by layer, and the numbers behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmtailor.compare.numbers import grouped, interval, listed, metric_name, score
from lmtailor.compare.report.canvas import Picture
from lmtailor.compare.report.heat import HeatBlock, HeatRow, heat_picture
from lmtailor.compare.report.shell import render_page
from lmtailor.core.files import write_text
from lmtailor.strategies.probing_record import BaseResult, LayerResult, ProbeResult, ProbingRecord
from lmtailor.tasks.metrics import Score

_SCORE, _SELECTIVITY, _SHARE = "hue-projections", "accent", "hue-prompt"
_RARE = 10
"""Labels with fewer items are told of, for their rates say little."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One row of the table."""

    base: str
    probe: str
    best: str
    cells: tuple[tuple[str, str, str], ...]
    """Name of a number, its value, its interval."""
    mix: str
    centre: str


def probing_page(record: ProbingRecord) -> str:
    """The page as HTML. It needs no network and holds all that it shows."""
    kinds = list(dict.fromkeys(probe.hidden for base in record.bases for probe in base.probes))
    name = metric_name(record.metric)
    return render_page(
        "probing.html",
        {
            "record": record,
            "metric": name,
            "title": f"{record.task}: what the layers of {listed([base.name for base in record.bases])} tell",
            "lede": _lede(record),
            "facts": [(score(one.value), label) for label, one in record.baselines.items()]
            + [(f"{score(probe.best.score.value)}", f"{base.name}, layer {probe.best.layer}") for base, probe in _first(record)],
            "pictures": [_layers(record, hidden, number) for number, hidden in enumerate(kinds)],
            "lines": [_line(record, base, probe) for base in record.bases for probe in base.probes],
            "baselines": [(label, score(one.value), interval(one.low, one.high)) for label, one in record.baselines.items()],
            "labels": [] if not record.labels else [_labels(record, base, probe) for base, probe in _first(record)],
            "all": [(f"{base.name}, {probe.name}", _rows(probe)) for base in record.bases for probe in base.probes],
            "measured": _measured(record),
        },
    )


def write_probing_page(record: ProbingRecord, path: str | Path) -> Path:
    """Write the page to a file.

    Raises:
        InputError: it cannot be written.
    """
    file = Path(path)
    write_text(file, probing_page(record))
    return file


def _first(record: ProbingRecord) -> list[tuple[BaseResult, ProbeResult]]:
    """Each base with its first kind of probe."""
    return [(base, base.probes[0]) for base in record.bases]


def _lede(record: ProbingRecord) -> str:
    said = []
    for base, probe in _first(record):
        best = probe.best
        where = f"layer {best.layer} of {len(probe.layers) - 1}"
        text = f"In {base.name} a {_kind(probe)} does best at {where}: {score(best.score.value)}"
        if best.selectivity is not None:
            text += f", which is {score(best.selectivity.value)} more than on labels without meaning"
        said.append(f"{text}.")
    return " ".join(said)


def _kind(probe: ProbeResult) -> str:
    return "linear probe" if not probe.hidden else f"probe with a hidden layer of {probe.hidden}"


def _layers(record: ProbingRecord, hidden: int, number: int) -> Picture:
    """Every base's layers under one kind of probe."""
    shown = [(base, probe) for base in record.bases for probe in base.probes if probe.hidden == hidden]
    places = [one for _, probe in shown for one in probe.places]
    scores = [one.score.value for one in places]
    gains = [one.selectivity.value for one in places if one.selectivity is not None]
    shares = max(share for _, probe in shown for share in probe.shares)
    name = metric_name(record.metric)
    blocks = []
    for base, probe in shown:
        tips = tuple(_tip(base, probe, one, place) for place, one in enumerate(probe.places))
        best = probe.places.index(probe.best)
        rows = [_row(name, [one.score for one in probe.places], tips, _SCORE, (min(scores), max(scores)), best)]
        if gains:
            values = [one.selectivity for one in probe.places]
            rows.append(_row("selectivity", values, tips, _SELECTIVITY, (min(gains), max(gains)), None))
        row = HeatRow(name="share of mix", values=(*probe.shares, None), tips=tips, ink=_SHARE, low=0.0, high=shares)
        columns = tuple(one.layer for one in probe.places)
        blocks.append(HeatBlock(title=base.name, columns=columns, rows=(*rows, row), apart=1))
    gained = f", selectivity from {score(min(gains))} to {score(max(gains))}" if gains else ""
    return heat_picture(
        f"layers-{number}",
        title=f"Probes with a hidden layer of {hidden}" if hidden else "Linear probes",
        alt="; ".join(f"{base.name}: {name} is best at layer {probe.best.layer}" for base, probe in shown) + ".",
        caption="Layer 0 is the embeddings, mix the learned mix of all layers. Colours mean the same in all bases: "
        f"{name} goes from {score(min(scores))} to {score(max(scores))}{gained}. The frame is the layer that is best on dev.",
        blocks=blocks,
    )


def _row(
    name: str, scores: Sequence[Score | None], tips: tuple[str, ...], ink: str, limits: tuple[float, float], best: int | None
) -> HeatRow:
    values = tuple(None if one is None else one.value for one in scores)
    return HeatRow(name=name, values=values, tips=tips, ink=ink, low=limits[0], high=limits[1], best=best)


def _tip(base: BaseResult, probe: ProbeResult, one: LayerResult, place: int) -> str:
    lines = [
        f"{base.name}, {_place(one)}",
        f"{one.score.metric} {score(one.score.value)} {interval(one.score.low, one.score.high)}",
    ]
    if one.control is not None and one.selectivity is not None:
        lines += [f"control {score(one.control.value)}", f"selectivity {score(one.selectivity.value)}"]
    if place < len(probe.shares):
        lines.append(f"share of mix {score(probe.shares[place])}")
    return "\n".join(lines)


def _place(one: LayerResult) -> str:
    return "embeddings" if one.layer == "0" else f"layer {one.layer}" if one.layer.isdigit() else one.layer


def _labels(record: ProbingRecord, base: BaseResult, probe: ProbeResult) -> Picture:
    """Each label's share of right answers by layer."""
    order = sorted((label for label in range(len(record.labels)) if base.counts[label]), key=lambda label: -base.counts[label])
    rates = {label: [one.rate(base.counts, label) or 0.0 for one in probe.places] for label in order}
    told = [label for label in order if base.counts[label] >= _RARE] or order
    low = min(min(rates[label]) for label in told)  # the rates of a few items would fade all others
    rows = []
    for label in order:
        tips = tuple(
            f"{record.labels[label]}, {base.name}, {_place(one)}\n{score(rate)} of {grouped(base.counts[label])}"
            for one, rate in zip(probe.places, rates[label], strict=True)
        )
        layers = rates[label][:-1]
        rows.append(
            HeatRow(
                name=record.labels[label],
                values=tuple(rates[label]),
                tips=tips,
                ink=_SCORE,
                low=low,
                high=1.0,
                best=layers.index(max(layers)) if max(layers) > 0 else None,
            )
        )
    what = "tag" if record.kind == "labelling" else "label"
    return heat_picture(
        f"labels-{record.bases.index(base)}",
        title=f"{base.name}, {_kind(probe)}",
        alt=f"{base.name}: " + "; ".join(f"{record.labels[one]} is best at layer {_top(rates[one])}" for one in order) + ".",
        caption=f"The share of each {what}'s items that is answered rightly, the most frequent {what} first: from {score(low)} "
        "or less to 1. The frame is the best layer, by the same items.",
        blocks=[HeatBlock(title="", columns=tuple(one.layer for one in probe.places), rows=tuple(rows), apart=1)],
    )


def _top(rates: Sequence[float]) -> int:
    layers = rates[:-1]
    return layers.index(max(layers))


def _line(record: ProbingRecord, base: BaseResult, probe: ProbeResult) -> _Line:
    best = probe.best
    named = ((metric_name(record.metric), best.score), ("control", best.control), ("selectivity", best.selectivity))
    return _Line(
        base=base.name,
        probe=probe.name,
        best=f"{best.layer} of {len(probe.layers) - 1}",
        cells=tuple((name, score(one.value), interval(one.low, one.high)) for name, one in named if one is not None),
        mix=score(probe.mix.score.value),
        centre=f"{probe.centre:.1f}",
    )


def _rows(probe: ProbeResult) -> list[tuple[str, ...]]:
    """All places, as text."""
    rows = []
    for number, one in enumerate(probe.places):
        numbers = [score(one.score.value), interval(one.score.low, one.score.high), score(one.dev), score(one.train)]
        if one.control is not None and one.selectivity is not None and one.train_control is not None:
            numbers += [score(one.control.value), score(one.train_control), score(one.selectivity.value)]
        share = score(probe.shares[number]) if number < len(probe.shares) else ""
        rows.append((_place(one), *numbers, share, str(one.epoch)))
    return rows


def _measured(record: ProbingRecord) -> list[str]:
    what = "word" if record.kind == "labelling" else "text"
    sizes = ", ".join(
        f"{grouped(record.items[name])} {what}s"
        + (f" of {grouped(record.examples[name])} sentences" if what == "word" else "")
        + f" in {shown}"
        for name, shown in (("train", "train"), ("dev", "dev"), ("test", record.split))
    )
    lines = [
        f"{sizes[:1].upper()}{sizes[1:]}. The base is frozen; one forward gives all layers.",
        *(f"{base.name}: {base.read}." for base in record.bases),
        "Layer 0 is the embeddings as they enter the first block; the last layer is read after the final norm.",
        f"Intervals hold 95 % of 1000 bootstrap samples of {'sentences' if what == 'word' else 'texts'}"
        f"{' and control tasks' if record.controlled else ''}.",
        "The mix is γ Σ softmax(a) · layer, learned with its probe; its centre of gravity is the mean layer by share.",
        "The best layer is chosen on dev.",
    ]
    if record.controlled:
        whose = "each word type" if what == "word" else "each text"
        lines.insert(
            4,
            f"A control task gives {whose} a label of its own, drawn from the frequencies of train. Selectivity is the score on "
            "the task less that on control tasks, for probes of the same kind: it is high where a probe tells the task and "
            "cannot learn labels by heart.",
        )
        if what == "text":
            lines.append(
                f"The texts of {record.split} have control labels that nobody can know from train, so that control is near "
                "chance; what a probe can learn by heart is its score on the control in train."
            )
    lines += [
        f"{base.name}: {listed(rare)} {'have' if len(rare) > 1 else 'has'} fewer than {_RARE} items in {record.split}."
        for base in record.bases
        if (rare := [label for label, count in zip(record.labels, base.counts, strict=False) if count < _RARE])
    ]
    return [*lines, *record.notes]
