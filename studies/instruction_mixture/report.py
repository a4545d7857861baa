"""What held-out tasks came to, before a fit on a mixture and after.

    python studies/instruction_mixture/report.py OUT [--keep FILE]

OUT is the adapter's folder, as `lmtailor fit … --out OUT` wrote it. `--keep` copies what is told here, with settings, times and
versions, to a file, from which the same table can be made again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

KEPT = ("settings", "steps", "best_step", "seconds", "history", "watched", "versions", "revision", "hardware", "begun", "ended")
"""What is kept of an adapter's provenance."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, a row a task and template, and the mean of each task."""
    parser = argparse.ArgumentParser(description="Held-out tasks before and after.")
    parser.add_argument("out", type=Path, help="an adapter's folder, or a record that was kept")
    parser.add_argument("--keep", type=Path, help="file for the record")
    options = parser.parse_args(arguments)
    if options.out.is_dir():
        provenance = json.loads((options.out / "adapter.json").read_text("utf-8"))["provenance"]
        record = {name: provenance[name] for name in KEPT}
    else:
        record = json.loads(options.out.read_text("utf-8"))
    if options.keep is not None:
        options.keep.parent.mkdir(parents=True, exist_ok=True)
        options.keep.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print("\n".join(table(record["watched"], record["best_step"])))  # noqa: T201 - what it is for


def table(asked: Sequence[Mapping[str, Any]], best_step: int) -> list[str]:
    """The lines of the table.

    Args:
        asked: each time the held-out tasks were asked: step, and scores by task/template.
        best_step: of the weights that were kept.
    """
    lines = [
        "| held out | template | metric | n | " + " | ".join(_title(entry["step"], best_step) for entry in asked) + " |",
        "| --- | --- | --- | ---: |" + " ---: |" * len(asked),
    ]
    groups: dict[str, list[str]] = {}
    for name in asked[0]["scores"]:
        groups.setdefault(name.partition("/")[0], []).append(name)
    for task, names in groups.items():
        metric = next(iter(asked[0]["scores"][names[0]]))
        for name in names:
            scores = [entry["scores"][name][metric] for entry in asked]
            cells = " | ".join(_cell(score, metric) for score in scores)
            lines.append(f"| {task} | {name.partition('/')[2]} | {metric} | {scores[0]['n']} | {cells} |")
        if len(names) > 1:
            means = [fmean(entry["scores"][name][metric]["value"] for name in names) for entry in asked]
            cells = " | ".join(_number(mean, metric) for mean in means)
            lines.append(f"| **{task}** | mean | {metric} | | {cells} |")
    return lines


def _title(step: int, best_step: int) -> str:
    return "before" if step == 0 else f"step {step}, kept" if step == best_step else f"step {step}"


def _cell(score: Mapping[str, float], metric: str) -> str:
    return f"{_number(score['value'], metric)} ({_number(score['low'], metric)} to {_number(score['high'], metric)})"


def _number(value: float, metric: str) -> str:
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.2f}"


if __name__ == "__main__":
    main()
