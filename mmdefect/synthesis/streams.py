"""Random streams: one generator for each thing that draws for a sample, from the seed of the sample."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def stream_generator(seed: int, name: str, number: int = 0) -> torch.Generator:
    """Return a CPU generator; streams of other names and numbers are unrelated.

    Args:
        seed: seed of the sample.
        name: of what draws.
        number: separates several of one name.
    """
    words = np.random.SeedSequence((seed, zlib.crc32(name.encode()), number)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed((int(words[0]) << 31) ^ int(words[1]))
