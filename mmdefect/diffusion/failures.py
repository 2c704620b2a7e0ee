"""Say in words what to do when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class OutOfMemory(RuntimeError):
    """Memory ran out; the message says what to change."""


@contextmanager
def explain_memory(batch_size: int, dtype: str, what: str) -> Iterator[None]:
    """Turn an out-of-memory error of the device or of the machine into one that names the remedies that are left.

    Args:
        batch_size: images computed at once.
        dtype: name of the number format.
        what: what was being done.

    Raises:
        OutOfMemory: instead of the error of torch.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as err:
        raise _explain(batch_size, dtype, what) from err
    except RuntimeError as err:
        # the allocator of the CPU raises a plain RuntimeError
        if 'DefaultCPUAllocator' in str(err) or "can't allocate memory" in str(err):
            raise _explain(batch_size, dtype, what) from err
        raise


def _explain(batch_size: int, dtype: str, what: str) -> OutOfMemory:
    advice = []
    if batch_size > 1:
        advice.append(f'--batch-size {batch_size // 2} (now {batch_size})')
    if dtype == 'fp32':
        advice.append('--dtype bf16 (now fp32)')
    advice += ['--attention-slicing', '--offload model', 'a smaller --resolution']
    return OutOfMemory(
        f'{what} must fit into memory, but it did not; try {", ".join(advice)}. What is finished is '
        'kept: the same command goes on from there.'
    )
