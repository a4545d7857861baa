"""Random numbers that depend on names, not on the order of calls."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a seed and a path of names: equal inputs give equal seeds on every machine."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive`. Starts are drawn on the CPU so that devices agree."""
    return torch.Generator().manual_seed(derive(seed, *names))
