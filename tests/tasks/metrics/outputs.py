"""Outputs of systems with references: a few of ours, and those of the E2E challenge where they are."""

import csv
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
EXAMPLE = "metrics_example(10 dev instances, plain text)"

PREDICTIONS = [
    "The Old Mill is a cheap pub in the city centre.",
    "Near the river, Zizzi serves Italian food; it isn't family-friendly.",
    "Cotto",
    "A coffee shop called The Vaults has a price range of £20-25.",
    "",
]
REFERENCES = [
    ["The Old Mill is a low-priced pub in the city center.", "In the city centre there is a cheap pub, The Old Mill."],
    ["Zizzi is an Italian restaurant by the river. It is not family-friendly."],
    ["Cotto is a coffee shop.", "Cotto serves coffee.", "There's a coffee shop named Cotto."],
    ["The Vaults is a coffee shop with prices between £20 and £25.", "The Vaults coffee shop has a price range of £20-25."],
    ["The Wrestlers has a rating of 5 out of 5!"],
]


def e2e_references() -> list[list[str]]:
    """References of the E2E test set, in the order of the inputs."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    found: dict[str, list[str]] = {}
    with (SHARED / "e2e" / "testset_w_refs.csv").open(encoding="utf-8-sig", newline="") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["mr"], []).append(row["ref"])
    return list(found.values())


def e2e_outputs(system: str) -> tuple[list[str], list[list[str]]]:
    """Predictions of a system of the challenge, or of the example of its script, and references."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    folder = SHARED / "e2e_systems"
    if system == EXAMPLE:
        predictions = (folder / "metrics_example" / "baseline-output.txt").read_text("utf-8").splitlines()
        groups = (folder / "metrics_example" / "devel-conc.txt").read_text("utf-8").strip().split("\n\n")
        return predictions, [group.splitlines() for group in groups]
    with (folder / "primary" / f"{system}.tsv").open(encoding="utf-8-sig", newline="") as stream:
        return [row["output"] for row in csv.DictReader(stream, delimiter="\t")], e2e_references()


def e2e_published(system: str) -> dict[str, str]:
    """What the official program printed, by the names of our metrics."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    for line in (SHARED / "e2e_systems" / "reference_scores.tsv").read_text("utf-8").splitlines():
        name, *values = line.split("\t")
        if name == system:
            return dict(zip(("bleu", "nist", "meteor", "coco_rouge_l", "cider"), values, strict=True))
    raise AssertionError(system)
