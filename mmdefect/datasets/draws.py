"""Randomness by the number of the draw: the same sample has the same pixels whatever worker makes it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np


def sample_seed(seed: int, position: int, index: int) -> int:
    """Return a 63-bit seed for one draw; neighbouring arguments give unrelated seeds."""
    words = np.random.SeedSequence((seed, position, index)).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


@contextlib.contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed ``random`` and ``numpy.random`` inside the block and restore them after it.

    The transforms of mmcv and mmseg draw from these two; nothing else reaches them.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class NumberedDraws:
    """Mixin of a data set whose sampler numbers its draws (:class:`mmdefect.engine.samplers.DefectSampler`).

    The index ``position * len(self) + index`` is the draw ``position`` of image ``index``. Plain indices, as the
    samplers of validation and test give them, are unchanged: they mean position 0 and are not seeded.
    """

    _draw_seed: int | None = None
    _ranks: int = 1
    _draw: dict | None = None  # what transforms learn of the draw being made

    def set_draw_seed(self, seed: int, ranks: int = 1) -> None:
        """Take numbered draws from now on; the sampler calls this before the workers start.

        Args:
            seed: seed of the stream.
            ranks: processes that share the stream.
        """
        self._draw_seed = int(seed)
        self._ranks = ranks

    def __getitem__(self, draw: int) -> dict:
        """Return one sample; transforms find its seed under ``sample_seed``, how many came before under ``draws``."""
        if self._draw_seed is None:
            return super().__getitem__(draw)
        position, index = divmod(draw, len(self))
        seed = sample_seed(self._draw_seed, position, index)
        self._draw = dict(sample_seed=seed, draws=position // self._ranks)
        try:
            with seeded_globals(seed):
                return super().__getitem__(index)
        finally:
            self._draw = None

    def get_data_info(self, index: int) -> dict:
        """Return the record of one image, with seed and number (of this rank) of the draw being made."""
        return super().get_data_info(index) | (self._draw or {})
