"""Where a patch and a frame meet."""

from __future__ import annotations


def overlap(
    size_hw: tuple[int, int], corner: tuple[int, int], frame_hw: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of the frame that a patch covers, and the part of the patch that lies in the frame."""
    frame, part = [], []
    for size, start, limit in zip(size_hw, corner, frame_hw, strict=True):
        low = min(max(0, start), limit)
        high = max(low, min(limit, start + size))
        frame.append(slice(low, high))
        part.append(slice(low - start, high - start))
    return tuple(frame), tuple(part)
