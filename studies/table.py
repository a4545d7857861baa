"""The runs of a comparison as a table: mean and deviation over seeds. `python studies/table.py OUT [--keep FOLDER]`.

With `--metric bleu --metric cider`, of tasks whose answers are written, it has a column for each of them, and one for the
perplexity on dev that chose the checkpoints.

OUT is what `lmtailor compare … --out OUT` wrote. `--keep` copies the runs' records (settings, scores, times, versions; no weights
and no texts) to FOLDER/CELL-SEED.json, which is what stands in a study's folder.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, a row a cell, in the order in which the runs began."""
    parser = argparse.ArgumentParser(description="Mean and deviation over seeds.")
    parser.add_argument("out", type=Path, help="folder of a comparison, or of records that were kept")
    parser.add_argument("--split", default="test")
    parser.add_argument("--metric", action="append", help="a column of its own; several may be named")
    parser.add_argument("--keep", type=Path, help="folder to copy the records to")
    options = parser.parse_args(arguments)
    files = sorted(options.out.glob("runs/*/seed-*/record.json")) or sorted(options.out.glob("*.json"))
    records = [(file, json.loads(file.read_text("utf-8"))) for file in files]
    records.sort(key=lambda one: str(one[1]["provenance"].get("begun", "")))
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        for file, record in records:
            name = "".join(c if c.isalnum() else "-" for c in record["cell"].lower())
            shutil.copyfile(file, options.keep / f"{name}-{record['seed']}.json")
    runs = [record for _, record in records]
    lines = table(runs, options.split) if options.metric is None else metric_table(runs, options.split, options.metric)
    print("\n".join(lines))  # noqa: T201 - what it is for


def table(records: Sequence[dict[str, Any]], split: str) -> list[str]:
    """The lines of the table."""
    cells = _by_cell(records)
    lines = [
        f"| route | base | trained | {split} | deviation | seeds | fit | predict |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for cell, runs in cells.items():
        done = [run for run in runs if run["status"] == "done"]
        if not done:
            lines.append(f"| {cell} | {runs[0]['base']} | | failed | | | | |")
            continue
        scores = [next(iter(run["scores"][split].values()))["value"] for run in done]
        shown = ", ".join(f"{100 * score:.1f}" for score in scores) if len(scores) > 1 else ""
        deviation = f"{100 * stdev(scores):.1f}" if len(scores) > 1 else ""
        fit, predict = (fmean(run[name] for run in done) for name in ("fit_seconds", "predict_seconds"))
        trained = f"{done[0]['trained_parameters']:,}"
        lines.append(
            f"| {cell} | {done[0]['base']} | {trained} | {100 * fmean(scores):.1f} | {deviation} | {shown} "
            f"| {fit:.0f} s | {predict:.1f} s |"
        )
    return lines


def metric_table(records: Sequence[dict[str, Any]], split: str, metrics: Sequence[str]) -> list[str]:
    """The lines of a table with several metrics, as they are: mean ± sample deviation."""
    lines = [
        f"| route | trained | {' | '.join(metrics)} | perplexity on dev | fit |",
        f"| --- | {'---: | ' * (len(metrics) + 2)}---: |",
    ]
    for cell, runs in _by_cell(records).items():
        done = [run for run in runs if run["status"] == "done"]
        if not done:
            lines.append(f"| {cell} | | failed {'| ' * (len(metrics) + 1)}|")
            continue
        shown = [_spread([run["scores"][split][metric]["value"] for run in done]) for metric in metrics]
        best = [min(point["score"] for point in run["history"]) for run in done if run["history"]]
        fit = fmean(run["fit_seconds"] for run in done)
        trained = f"{done[0]['trained_parameters']:,}"
        lines.append(f"| {cell} | {trained} | {' | '.join(shown)} | {_spread(best)} | {fit:.0f} s |")
    return lines


def _by_cell(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    cells: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        cells.setdefault(record["cell"], []).append(record)
    return cells


def _spread(values: Sequence[float]) -> str:
    mean = f"{fmean(values):.3g}" if values else ""
    return f"{mean} ± {stdev(values):.2g}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
