"""What is kept of one run of one cell: settings, scores, costs, and why it failed if it did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmtailor.tasks.metrics import Scores

Touch = Literal["nothing", "weights", "projections", "hidden", "prefix"]
"""Where a method acts: on nothing, on weights it replaces, on projections and norms, on hidden states between them, or
through positions before the input. It comes from the kinds of a method's edits, so a new method has its place at once."""


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
    """Name of the base in the plan; "" if the cell needs none."""
    readout: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    """Everything resolved: base, task, readout, method, training."""
    digest: str = ""
    """Hash of the settings; a record of other settings is not used again."""
    status: Literal["done", "failed"]
    reason: str | None = None
    """Why it failed."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Split (dev, test, out-of-domain names) → metric → score."""
    touches: tuple[Touch, ...] = ()
    """Where the method acts, without repetition."""
    trained_parameters: int = 0
    base_parameters: int = 0
    seconds: float = 0.0
    """All that the run took when it ended, what an earlier call spent on it aside."""
    fit_seconds: float = 0.0
    """Training and what belongs to it: encoding, caching, evaluations on dev. 0 if nothing is trained."""
    predict_seconds: float = 0.0
    """For the test set."""
    peak_memory: int = 0
    """Largest resident memory of the process while it ran (bytes), the base model included."""
    device_memory: int = 0
    """Largest memory taken on the accelerator (bytes); 0 on a CPU."""
    disk_bytes: int = 0
    """The adapter's folder."""
    history: tuple[Point, ...] = ()
    adapter: str | None = None
    """Folder of the saved adapter, relative to the comparison's."""
    notes: tuple[str, ...] = ()
    """What the run said about itself: cut texts, the cached trunk."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, git hash, hardware, start and end."""
