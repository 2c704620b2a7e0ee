"""Random streams: one generator for each thing that samples for an image, from the seed of the image."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def stream_generator(seed: int, name: str, number: int = 0) -> torch.Generator:
    """Return a CPU generator; streams of other names and numbers are unrelated.

    Args:
        seed: seed of the image.
        name: of what samples.
        number: separates several of one name.
    """
    words = np.random.SeedSequence((seed, zlib.crc32(name.encode()), number)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed((int(words[0]) << 31) ^ int(words[1]))


def seed_of(facts: Mapping[str, Any]) -> int:
    """Return the ``sample_seed`` of a sample, or without a numbered one a seed from numpy's global generator."""
    seed = facts.get('sample_seed')
    return int(np.random.randint(0, 2**31)) if seed is None else seed  # noqa: NPY002 (the one that mmengine seeds)
