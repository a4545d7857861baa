"""A short name for a model's weights, to tell whether an adapter was made for them.

It is a SHA-256 over the model type, and each of the trunk's parameters: its name in the trunk, its shape, and the
signs of at most `SAMPLE` of its numbers, evenly spread. Rounding keeps signs (numbers that vanish become zeros of
their sign), so a model has one fingerprint in float32, bfloat16 and float16. LM head and pooler are left out, so it has the
same one with and without them.

Its limits: it is no proof of equality. Weights that differ without a changed sign among the sampled numbers share a
fingerprint, as a model and its copy whose gains alone were trained may; what differs by continued training of
the matrices, by seed or by size does not. It protects from mistakes, not from malice.
"""

import hashlib

import numpy as np
import torch
from transformers import PreTrainedModel

SAMPLE = 1 << 17
"""How many numbers of a parameter are looked at, at most."""


def fingerprint(trunk: PreTrainedModel) -> str:
    """The fingerprint of a trunk's weights, in hexadecimal."""
    digest = hashlib.sha256(trunk.config.model_type.encode())
    for name, parameter in trunk.named_parameters():
        if name.startswith("pooler."):
            continue
        flat = parameter.detach().flatten()
        # An odd step does not stay in one column of a matrix.
        step = -(-flat.numel() // SAMPLE) | 1
        signs = torch.signbit(flat[::step]).cpu().numpy()
        digest.update(f"\n{name} {tuple(parameter.shape)} ".encode())
        digest.update(np.packbits(signs).tobytes())
    return digest.hexdigest()
