"""Randomness by the position of a sample in the stream: it has the same pixels whatever worker makes it."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np


def sample_seed(seed: int, position: int, index: int) -> int:
    """Return a 63-bit seed for one sample; neighbouring arguments give unrelated seeds."""
    words = np.random.SeedSequence((seed, position, index)).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


@contextlib.contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed ``random`` and ``numpy.random``, which the transforms of mmcv and mmseg use, and restore them at the end."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (what mmcv uses)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


class NumberedSamples:
    """Mixin of a data set whose sampler numbers its samples (:class:`mmdefect.engine.samplers.DefectSampler`).

    The index ``position * len(self) + index`` is image ``index`` as number ``position`` of the stream. Plain indices,
    as the samplers of validation and test give them, are unchanged: they mean position 0 and are not seeded.
    """

    _sample_seed: int | None = None
    _ranks: int = 1
    _current: dict | None = None  # what transforms learn of the sample being made

    def set_sample_seed(self, seed: int, ranks: int = 1) -> None:
        """Take numbered samples of a stream that ``ranks`` processes share; called before the workers start."""
        self._sample_seed = int(seed)
        self._ranks = ranks

    def __getitem__(self, number: int) -> dict:
        """Return one sample; transforms find its seed under ``sample_seed``, how many came before under ``draws``."""
        if self._sample_seed is None:
            return super().__getitem__(number)
        position, index = divmod(number, len(self))
        seed = sample_seed(self._sample_seed, position, index)
        self._current = dict(sample_seed=seed, draws=position // self._ranks)
        try:
            with seeded_globals(seed):
                return super().__getitem__(index)
        finally:
            self._current = None

    def get_data_info(self, index: int) -> dict:
        """Return the record of one image, with seed and number (of this rank) of the sample being made."""
        return super().get_data_info(index) | (self._current or {})
