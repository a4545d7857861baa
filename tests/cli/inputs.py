"""Bases and data for the tests of the command line."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import kind_of, tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
GOOD = ("good", "great", "best", "fun", "love", "happy")
BAD = ("bad", "awful", "worst", "sad", "boring", "terrible")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Its error lines."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def warnings(self) -> list[str]:
        """Its warnings."""
        return [line for line in self.err.splitlines() if line.startswith("warning: ")]


Command = Callable[..., Outcome]
"""Runs the words of a command."""


def _rows(count: int, start: int) -> list[tuple[str, str]]:
    pairs = [(f"the movie was {(GOOD, BAD)[i % 2][i // 2 % 6]} {start + i}", ("pos", "neg")[i % 2]) for i in range(count)]
    return pairs


ROWS = {"train": _rows(24, 0), "dev": _rows(12, 100), "test": _rows(8, 200)}
"""Split → texts and labels that a word tells apart."""


def save_base(family: str, folder: Path) -> Path:
    """A tiny model as a transformers folder."""
    tiny_model(family).save_pretrained(folder)
    tiny_tokenizer(kind_of(family)).save_pretrained(folder)
    return folder


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A CSV file."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def fit_words(base: Path, data: Path, out: Path, *more: object, method: str = "lora") -> list[object]:
    """A short fit on the data's card."""
    short = ("--method", method, "--epochs", 1, "--batch-size", 8)
    return ["fit", base, "--task", data / "card.toml", *short, "--out", out, *more]


def process(*words: object) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a command as a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    environment = {**inherited, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return [sys.executable, "-m", "lmtailor", *map(str, words)], environment
