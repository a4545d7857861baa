"""What AutoPrompt found, beside the pattern by hand. `python studies/sst2_autoprompt/searches.py OUT… [--keep FILE]`.

OUT is what `lmtailor compare … --out OUT` wrote. Prints a Markdown table; `--keep` writes scores, differences, triggers, label
words and the searches' histories as JSON, which is what stands in records/.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from lmtailor.tasks.metrics.bootstrap import paired_difference

REFERENCE = "by hand"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, in the order in which the runs began."""
    parser = argparse.ArgumentParser(description="Triggers, label words and their scores.")
    parser.add_argument("out", type=Path, nargs="+", help="folder of a comparison")
    parser.add_argument("--keep", type=Path, help="file for all of it")
    options = parser.parse_args(arguments)
    found = [one for out in options.out for one in runs(out)]
    if options.keep is not None:
        options.keep.parent.mkdir(parents=True, exist_ok=True)
        options.keep.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print("\n".join(table(found)))  # noqa: T201 - what it is for


def runs(out: Path) -> list[dict[str, Any]]:
    """All runs of a comparison that were done."""
    folders = [file.parent for file in sorted(out.glob("runs/*/seed-*/record.json"))]
    records = [(folder, json.loads((folder / "record.json").read_text("utf-8"))) for folder in folders]
    records = [one for one in records if one[1]["status"] == "done"]
    records.sort(key=lambda one: str(one[1]["provenance"].get("begun", "")))
    (hand,) = (folder for folder, record in records if record["cell"] == REFERENCE)
    return [_run(folder, record, hand) for folder, record in records]


def _run(folder: Path, record: dict[str, Any], hand: Path) -> dict[str, Any]:
    score = record["scores"]["test"]["accuracy"]
    mine, other = (load_file(one / "predictions.safetensors") for one in (folder, hand))
    gain = paired_difference("accuracy", mine["test.predicted"], other["test.predicted"], mine["test.reference"])
    manifest = folder / "adapter" / "adapter.json"
    adapter = json.loads(manifest.read_text("utf-8")) if manifest.exists() else {}
    return {
        "base": record["base"],
        "cell": record["cell"],
        "seed": record["seed"],
        "test": score,
        "dev": record["scores"].get("dev", {}).get("accuracy"),
        "against by hand": {"value": gain.difference, "low": gain.low, "high": gain.high, "p": gain.p},
        "seconds": record["fit_seconds"],
        "search": adapter.get("provenance", {}).get("search"),
    }


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of the table."""
    lines = [
        "| base | route | test | against by hand | trigger | label words | search |",
        "| --- | --- | --- | --- | --- | --- | ---: |",
    ]
    for one in found:
        search = one["search"] or {}
        words = search.get("label_words") or {}
        shown = "; ".join(", ".join(word["word"] for word in own) for own in words.values())
        test, gain = one["test"], one["against by hand"]
        trigger = f"`{search['text']}`" if search.get("text") else ""
        lines.append(
            f"| {one['base']} | {one['cell']} | {_interval(test)}, n = {test['n']:,} | "
            f"{'' if one['cell'] == REFERENCE else _interval(gain, sign=True)} | {trigger} | {shown} | {one['seconds']:.0f} s |"
        )
    return lines


def _interval(score: dict[str, float], *, sign: bool = False) -> str:
    value, low, high = (f"{100 * score[name]:{'+' if sign else ''}.1f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
