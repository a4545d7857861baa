"""Timing side by side: alternating rounds, medians."""

import statistics
import time
from collections.abc import Callable, Mapping


def alternate(calls: Mapping[str, Callable[[], object]], *, rounds: int = 11, warm: int = 2) -> dict[str, float]:
    """Median seconds of each call over rounds in which every call runs once, so that a slow moment strikes all of them."""
    for call in calls.values():
        for _ in range(warm):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def once(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
