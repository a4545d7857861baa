"""What must be known of rotary embeddings."""

from typing import Any


def rope_depends_on_batch(config: Any) -> bool:
    """Whether a model's rotary embedding depends on the longest sequence of the batch (dynamic or longrope)."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {value.get("rope_type") for value in rope.values() if isinstance(value, dict)}
    return bool(kinds & {"dynamic", "longrope"})
