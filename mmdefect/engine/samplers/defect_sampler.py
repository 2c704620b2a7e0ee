"""An endless sampler whose every draw has a number, so that randomness per sample needs no worker state.

A transform that draws from the global generator of its worker gives other pixels with two workers than with one.
Here each draw carries its position in the stream: the index handed to the data set is
``position * len(dataset) + index``, and a :class:`mmdefect.datasets.DefectDataset` takes it apart and seeds the
randomness of the sample with it. The stream is one for all ranks; rank ``r`` of ``n`` takes the positions
``r, r + n, ...``, so no two ranks see the same draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmdefect.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class DefectSampler(Sampler):
    """Endless shuffled passes over the data set with numbered draws.

    Args:
        dataset: the data set; plain indices are yielded when it does not take numbered draws (wrappers of mmengine).
        shuffle: whether each pass has its own order.
        seed: seed of the order and of every sample; ``None`` draws one and shares it with all ranks.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.size = len(dataset)
        self.numbered = hasattr(dataset, 'set_sample_seed')
        if self.numbered:
            dataset.set_sample_seed(self.seed, self.world_size)
        self.start = 0

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Return the order of one pass; a subclass may draw with other probabilities."""
        if self.shuffle:
            return torch.randperm(self.size, generator=generator).tolist()
        return list(range(self.size))

    def __iter__(self) -> Iterator[int]:
        """Yield the draws of this rank, from the position set by :meth:`skip`."""
        return itertools.islice(self._draws(), self.rank + self.start * self.world_size, None, self.world_size)

    def __len__(self) -> int:
        """Length of the data set."""
        return self.size

    def skip(self, num_samples: int) -> None:
        """Continue after ``num_samples`` draws of this rank; mmengine calls this when a run is resumed."""
        if num_samples < 0:
            raise ValueError(f'`num_samples` must not be negative, got {num_samples}.')
        self.start = num_samples

    def set_epoch(self, epoch: int) -> None:
        """Passes are counted in the stream; nothing to do."""

    def _draws(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        position = 0
        while True:
            for index in self.indices_of_pass(generator):
                yield position * self.size + index if self.numbered else index
                position += 1
