"""The folder of a comparison: what is in it, and how it is read and written.

    comparison.json               the task and the order of the cells, for reports made later
    report.html
    sensitivity/BASE/             sensitivity.json, report.html and points of the plan's study on a base; or error.txt
    runs/CELL/seed-N/
        settings.json             the hash of the settings, written before the run begins
        record.json               written when the run has ended; without it the run was interrupted
        predictions.safetensors   answers and truth on every split that was scored; predictions.json, where they are texts
        log.jsonl                 what the fit said, step by step
        adapter/                  while it runs the fit's checkpoint, then the saved adapter

Every file is whole or absent, so a killed comparison goes on where it was.
"""

import hashlib
import json
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lmtailor.compare.answers import AnyAnswers
from lmtailor.compare.answers_file import read_answers, write_answers
from lmtailor.compare.positions import EXAMPLES, Position, smaller_cells
from lmtailor.compare.record import Point, RunRecord
from lmtailor.core.errors import InputError
from lmtailor.core.files import disk_error, write_text
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.metrics.direction import choosing_metric


@dataclass(frozen=True, kw_only=True)
class About:
    """What is compared on what: all that a report needs besides the records."""

    task: str
    kind: TaskKind
    text: tuple[str, ...]
    """The text columns."""
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    """The first one ranks."""
    split: str
    """The split that ranks: test, or dev where there is no test split."""
    ood: tuple[str, ...]
    sizes: Mapping[str, int]
    """Split → examples."""
    notes: tuple[str, ...]
    """What is odd in the data."""
    bases: Mapping[str, str]
    """Name in the plan → source."""
    cells: tuple[str, ...]
    """In the order of the plan."""
    baseline: str | None
    """The cell that needs no model; see `baseline`."""
    reference: str | None
    """The cell that others are tested against; None: the best."""
    positions: Mapping[str, tuple[Position, ...]] = field(default_factory=dict)
    """Cell → on which curves it is a point, if on any."""
    drawn: bool = False
    """Whether each seed is ranked on examples of its own draw: with few shots on dev. Others are ranked on the same."""
    studies: tuple[str, ...] = ()
    """Bases on which the plan has a study of sensitivity."""

    @property
    def choosing(self) -> str:
        """The metric that chose checkpoints on dev."""
        return choosing_metric(self.kind, self.metrics)

    @property
    def smaller(self) -> frozenset[str]:
        """Cells of routes that have one with more training examples; they are on curves and not ranked."""
        return smaller_cells(self.positions)

    def examples(self, cell: str) -> int:
        """How many training examples a cell's runs have."""
        sizes = [one.number for one in self.positions.get(cell, ()) if one.axis == EXAMPLES and one.number is not None]
        return round(sizes[0]) if sizes else self.sizes.get("train", 0)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def adapter(self) -> Path:
        """Where the adapter is saved, and where its fit keeps its checkpoint."""
        return self.path / "adapter"

    @property
    def log(self) -> Path:
        """What the fit said."""
        return self.path / "log.jsonl"

    def claim(self, digest: str) -> None:
        """Make the folder ready for a run of these settings; what was left by other settings is removed.

        Raises:
            InputError: the folder cannot be written.
        """
        marker = self.path / "settings.json"
        found = _read_json(marker)
        if self.path.exists() and (not isinstance(found, dict) or found.get("digest") != digest):
            try:
                shutil.rmtree(self.path)
            except OSError as error:
                raise disk_error(error, self.path) from error
        write_text(marker, json.dumps({"digest": digest}))

    def record(self) -> RunRecord | None:
        """The record of the run; None if it was interrupted, never began, or was written by another version."""
        found = _read_json(self.path / "record.json")
        try:
            return record_from_mapping(found) if isinstance(found, dict) else None
        except InputError:
            return None

    def answers(self) -> dict[str, AnyAnswers] | None:
        """Split → answers; None if they are not there."""
        return read_answers(self.path)

    def write(self, record: RunRecord, answers: Mapping[str, AnyAnswers]) -> None:
        """Keep the end of a run: the answers first, since the record says that all is there.

        Raises:
            DataError: texts are too large; nothing was written.
            InputError: the folder cannot be written.
        """
        write_answers(self.path, answers)
        write_text(self.path / "record.json", json.dumps(record_to_mapping(record), indent=1, ensure_ascii=False))


@dataclass(frozen=True)
class Folder:
    """The folder of a comparison."""

    path: Path

    def run(self, cell: str, seed: int) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / "runs" / slug(cell) / f"seed-{seed}")

    def study(self, base: str) -> Path:
        """The folder of the study of sensitivity on a base."""
        return self.path / "sensitivity" / slug(base)

    def write_about(self, about: About) -> None:
        """Keep what is compared."""
        write_text(self.path / "comparison.json", json.dumps(to_mapping(about), indent=1, ensure_ascii=False))

    def runs(self, about: About) -> list[RunFolder]:
        """The folders of all runs of these cells that began."""
        return [RunFolder(path) for cell in about.cells for path in sorted((self.path / "runs" / slug(cell)).glob("seed-*"))]

    def about(self) -> About:
        """What is compared.

        Raises:
            InputError: there is no comparison in the folder.
        """
        path = self.path / "comparison.json"
        found = _read_json(path)
        if not isinstance(found, dict):
            raise InputError(
                f"{self.path} holds no comparison: there is no readable comparison.json. Run `lmtailor compare` first."
            )
        return from_mapping(About, found, source=str(path))


def slug(name: str) -> str:
    """A cell's name as a folder's name: letters and digits of any script, everything else a hyphen.

    What is lost, such as letter case or a cut end, is made up for by a few digits of a hash, so that names do not collide.
    """
    text = unicodedata.normalize("NFC", name)
    kept = "".join(char if char.isalnum() else "-" for char in text.lower())
    short = "-".join(part for part in kept.split("-") if part)[:48].rstrip("-")
    if short.replace("-", " ") == text:
        return short
    return f"{short}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}".lstrip("-")


def record_to_mapping(record: RunRecord) -> dict[str, Any]:
    """A record as JSON holds it."""
    values = {one.name: getattr(record, one.name) for one in fields(record)}
    return values | {
        "scores": {split: scores.to_mapping() for split, scores in record.scores.items()},
        "history": [to_mapping(point) for point in record.history],
    }


def record_from_mapping(values: Mapping[str, Any]) -> RunRecord:
    """The inverse of `record_to_mapping`.

    Raises:
        InputError: it is no record, or one of another version.
    """
    names = {one.name for one in fields(RunRecord)}
    try:
        if set(values) != names:
            raise InputError(f"A record has the fields {sorted(names)}; found {sorted(values)}.")
        return RunRecord(
            **{
                **values,
                "scores": {split: Scores.from_mapping(scores) for split, scores in values["scores"].items()},
                "history": tuple(from_mapping(Point, point) for point in values["history"]),
                "touches": tuple(values["touches"]),
                "notes": tuple(values["notes"]),
            }
        )
    except (AttributeError, TypeError) as error:
        raise InputError(f"This is no record: {error}.") from error


def folder_bytes(path: Path) -> int:
    """Bytes of all files in a folder; 0 if there is none."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _read_json(path: Path) -> object:
    """What a JSON file holds; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
