"""Peak memory is that of the block, not of what was before."""

import gc
import time

import numpy as np
import torch

from lmtailor.compare.memory import PeakMemory, quick_collection

MB = 1_000_000


def test_it_sees_what_the_block_takes_and_forgets_what_others_took() -> None:
    with PeakMemory(torch.device("cpu")) as large:
        start = large.resident
        block = np.ones(300 * MB, dtype=np.uint8)
        until = time.monotonic() + 30
        while large.resident < start + 290 * MB and time.monotonic() < until:
            time.sleep(0.01)
        del block
    with PeakMemory(torch.device("cpu")) as small:
        pass
    assert large.resident - start > 290 * MB
    assert large.resident - small.resident > 200 * MB


def test_a_block_that_raises_stops_the_watch() -> None:
    memory = PeakMemory(torch.device("cpu"))
    try:
        with memory:
            raise ValueError
    except ValueError:
        assert not memory._thread.is_alive()
    assert memory.resident > MB


def test_objects_are_left_out_of_collections_only_inside_the_block() -> None:
    before = gc.get_freeze_count()
    with quick_collection():
        assert gc.get_freeze_count() > before
    assert gc.get_freeze_count() == 0
