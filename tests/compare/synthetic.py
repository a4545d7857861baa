"""Comparisons that never ran, for tests of what is made from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmtailor.compare.answers import Answers
from lmtailor.compare.folder import About
from lmtailor.compare.leaderboard import Run
from lmtailor.compare.record import Point, RunRecord, Touch
from lmtailor.tasks.metrics import evaluate_predictions

BASES = {"minilm": 22_713_216, "smollm2": 134_515_008}


@dataclass(frozen=True)
class Cell:
    """A cell, with how often it is right."""

    name: str
    base: str = "minilm"
    readout: str = "head"
    method: str = "frozen"
    touches: tuple[Touch, ...] = ()
    trained: int = 0
    right: float = 0.6
    ood: float = 0.5
    fit: float = 0.0
    predict: float = 1.4
    steps: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)


DEMO = (
    Cell("probe", trained=1_155, right=0.63, ood=0.46, fit=9.1, steps=20),
    Cell("full fine-tuning", method="full", touches=("weights",), trained=22_714_371, right=0.755, ood=0.53, fit=58.0, steps=8),
    Cell("top 2 layers", method="top_layers", touches=("weights",), trained=3_550_083, right=0.72, ood=0.52, fit=31.0, steps=9),
    Cell("LoRA", method="lora", touches=("projections",), trained=74_883, right=0.748, ood=0.545, fit=44.0, steps=9),
    Cell("BitFit", method="bitfit", touches=("projections",), trained=26_883, right=0.715, ood=0.51, fit=39.0, steps=9),
    Cell("Houlsby", method="houlsby", touches=("hidden",), trained=302_211, right=0.735, ood=0.55, fit=46.0, steps=9),
    Cell("prefix", method="prefix", touches=("prefix",), trained=185_475, right=0.69, ood=0.5, fit=51.0, steps=9),
    Cell("zero-shot", base="smollm2", readout="verbalizer", right=0.47, ood=0.52, predict=21.0, seeds=(0,)),
    Cell("12 demonstrations", base="smollm2", readout="verbalizer", right=0.53, ood=0.6, predict=24.0),
    Cell("majority class", base="", readout="majority", method="", right=0.0, ood=0.0, seeds=(0,), predict=0.0),
)


def demo_about(
    cells: Sequence[Cell] = DEMO, *, n: int = 1500, labels: Sequence[str] = ("negative", "neutral", "positive")
) -> About:
    """A comparison of these cells."""
    baseline = next((cell.name for cell in cells if cell.readout == "majority"), None)
    return About(
        task="tweets",
        kind="classification",
        text=("text",),
        labels=tuple(labels),
        metrics=("macro_f1", "accuracy"),
        split="test",
        ood=("drug_reviews",),
        sizes={"train": 6000, "dev": 1000, "test": n, "drug_reviews": 800},
        notes=(),
        bases={"minilm": "models/all-MiniLM-L6-v2", "smollm2": "models/SmolLM2-135M-Instruct.Q4_1.gguf"},
        cells=tuple(cell.name for cell in cells),
        baseline=baseline,
        reference=None,
    )


def demo_runs(about: About, cells: Sequence[Cell] = DEMO, *, failed: Sequence[tuple[str, int, str]] = ()) -> list[Run]:
    """One run a cell and seed; `failed` names cell, seed and reason of runs that are to have failed."""
    reasons = {(cell, seed): reason for cell, seed, reason in failed}
    truth = {split: _truth(about, split) for split in ("test", "dev", *about.ood)}
    runs = []
    for number, cell in enumerate(cells):
        for seed in cell.seeds:
            record = RunRecord(
                cell=cell.name,
                base=cell.base,
                readout=cell.readout,
                method=cell.method,
                seed=seed,
                settings={"method": {"name": cell.method}, "seed": seed},
                status="done",
                touches=cell.touches,
                trained_parameters=cell.trained,
                base_parameters=BASES.get(cell.base, 0),
                fit_seconds=cell.fit * (1 + 0.05 * seed),
                predict_seconds=cell.predict,
                peak_memory=700_000_000 + 9 * cell.trained,
                disk_bytes=4 * cell.trained + 3_000 if cell.trained else 2_400,
                adapter=f"runs/{cell.name}/seed-{seed}/adapter",
                provenance={"versions": {"torch": "2.13.0"}, "hardware": {"cpu": "2 cores"}},
            )
            if (cell.name, seed) in reasons:
                runs.append(Run(record=replace(record, status="failed", reason=reasons[cell.name, seed], adapter=None)))
                continue
            answers = {
                split: _answers(about, cell, split, reference, seed=100 * number + seed) for split, reference in truth.items()
            }
            scores = {
                split: evaluate_predictions(
                    about.metrics,
                    one.predicted,
                    one.reference,
                    kind="classification",
                    labels=about.labels,
                    resamples=50,
                )
                for split, one in answers.items()
            }
            runs.append(Run(record=replace(record, scores=scores, history=_history(cell, seed)), answers=answers))
    return runs


def _truth(about: About, split: str) -> np.ndarray:
    rng = np.random.default_rng([7, len(split)])
    weights = np.linspace(1, 2, len(about.labels))
    return rng.choice(len(about.labels), size=about.sizes[split], p=weights / weights.sum())


def _answers(about: About, cell: Cell, split: str, reference: np.ndarray, *, seed: int) -> Answers:
    if cell.readout == "majority":
        return Answers(predicted=np.full(len(reference), len(about.labels) - 1), reference=reference)
    rng = np.random.default_rng([seed, len(split)])
    hard = np.random.default_rng([3, len(split)]).random(len(reference))  # the same texts are hard for every cell
    right = hard * 0.8 + rng.random(len(reference)) * 0.2 < (cell.ood if split in about.ood else cell.right)
    wrong = (reference + rng.choice([1, 1, 1, 2], size=len(reference))) % len(about.labels)
    return Answers(predicted=np.where(right, reference, wrong), reference=reference)


def _history(cell: Cell, seed: int) -> tuple[Point, ...]:
    rng = np.random.default_rng([seed, cell.trained])
    return tuple(
        Point(
            step=step * 60,
            epoch=step / 3,
            loss=1.1 * 0.85**step + 0.3,
            score=max(0.2, cell.right - 0.3 * 0.6**step + 0.01 * float(rng.normal())),
            seconds=cell.fit * (step + 1) / cell.steps,
        )
        for step in range(cell.steps)
    )
