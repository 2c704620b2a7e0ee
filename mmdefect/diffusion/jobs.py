"""What every command that generates images shares: seeds, the share of each process, batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Job = TypeVar('Job')


def seed_of(seed: int, name: str) -> int:
    """Return the seed of one image: it depends on its name, not on what else is made."""
    return int.from_bytes(hashlib.sha256(f'{seed}/{name}'.encode()).digest()[:4], 'big')


def check_unique(names: Sequence[str]) -> None:
    """Raise when two images would get one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f'each generated image must have its own name, but {name!r} comes twice; images or '
                'masks of one name lie in several folders. Rename them, or make two sets.'
            )
        seen.add(name)


def share_of(jobs: Sequence[Job], process: int, processes: int) -> list[Job]:
    """Return the jobs of one process."""
    return list(jobs[process::processes])


def batches(jobs: Sequence[Job], size: int, key: Callable[[Job], object]) -> Iterator[list[Job]]:
    """Yield batches of at most ``size`` neighbours that agree in ``key``, for example in the size of their image."""
    if size < 1:
        raise ValueError(f'`batch_size` must be at least 1, got {size}.')
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == size or key(job) != key(batch[0])):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch
