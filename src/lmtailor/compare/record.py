"""What is kept of one run of one cell: settings, scores, costs, and why it failed if it did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmtailor.tasks.metrics import Scores


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement while training."""

    step: int
    epoch: float
    loss: float | None = None
    """Mean training loss since the point before."""
    score: float | None = None
    """The first metric on the dev set."""
    seconds: float = 0.0
    """Since the start of the fit."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One (base, readout, method, training, seed)."""

    cell: str
    """Name of the cell without its seed; rows of the leaderboard have one each."""
    base: str
    readout: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    """Everything resolved: base, readout, method, training."""
    status: Literal["done", "failed"]
    reason: str | None = None
    """Why it failed."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Split (dev, test, out-of-domain names) → metric → score."""
    trained_parameters: int = 0
    base_parameters: int = 0
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    """For the test set."""
    peak_memory: int = 0
    """Largest resident memory of the process while it ran (bytes)."""
    disk_bytes: int = 0
    """The adapter's folder."""
    history: tuple[Point, ...] = ()
    adapter: str | None = None
    """Folder of the saved adapter, relative to the comparison's."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, git hash, hardware, start and end."""
