"""Endless samplers whose every sample has a number, so that randomness per sample needs no worker state.

A transform that uses the global generator of its worker gives other pixels with two workers than with one. Here each
sample carries its position in the stream: the index handed to the data set is ``position * len(dataset) + index``, and
a :class:`mmdefect.datasets.DefectDataset` takes it apart and seeds the randomness of the sample with it. The stream is
one for all ranks; rank ``r`` of ``n`` takes the positions ``r, r + n, ...``, so no two ranks see the same sample.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import MMLogger
from torch.utils.data import Sampler

from mmdefect.datasets.presence import class_presence
from mmdefect.registry import DATA_SAMPLERS

_ROUNDS = 500
_TOLERANCE = 1e-3


@DATA_SAMPLERS.register_module()
class DefectSampler(Sampler):
    """Endless shuffled passes over the data set with numbered samples.

    Args:
        dataset: mmseg's and ours, also inside ``ConcatDataset``; plain indices are yielded when it does not take
            numbered samples (wrappers of mmengine).
        shuffle: whether each pass has its own order.
        seed: seed of the order and of every sample; ``None`` samples one and shares it with all ranks.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset, self.shuffle = dataset, shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.size = len(dataset)
        self.numbered = hasattr(dataset, 'set_sample_seed')
        if self.numbered:
            dataset.set_sample_seed(self.seed, self.world_size)
        self.start = 0

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Return the order of one pass; a subclass may sample with other probabilities."""
        return torch.randperm(self.size, generator=generator).tolist() if self.shuffle else list(range(self.size))

    def __iter__(self) -> Iterator[int]:
        """Yield the samples of this rank, from the position set by :meth:`skip`."""
        return itertools.islice(self._stream(), self.rank + self.start * self.world_size, None, self.world_size)

    def __len__(self) -> int:
        """Length of the data set."""
        return self.size

    def skip(self, num_samples: int) -> None:
        """Continue after ``num_samples`` samples of this rank; mmengine calls this when a run is resumed."""
        if num_samples < 0:
            raise ValueError(f'`num_samples` must not be negative, got {num_samples}.')
        self.start = num_samples

    def set_epoch(self, epoch: int) -> None:
        """Passes are counted in the stream; nothing to do."""

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        position = 0
        while True:
            for index in self.indices_of_pass(generator):
                yield position * self.size + index if self.numbered else index
                position += 1


class _GroupSampler(DefectSampler):
    """Goes through each of its groups in shuffled rounds: no image waits longer than the others of its group."""

    groups: Sequence[torch.Tensor] = ()  # the images of each group

    def _of_groups(self, chosen: torch.Tensor, generator: torch.Generator) -> list[int]:
        """Return the next image of each chosen group."""
        indices = []
        for group in chosen.long().tolist():
            if not self.left[group]:
                members = self.groups[group]
                if self.shuffle:
                    members = members[torch.randperm(len(members), generator=generator)]
                self.left[group] = members.tolist()[::-1]
            indices.append(self.left[group].pop())
        return indices

    def _stream(self) -> Iterator[int]:
        self.left: list[list[int]] = [[] for _ in self.groups]  # every iteration starts the same stream anew
        yield from super()._stream()


@DATA_SAMPLERS.register_module()
class MixingSampler(_GroupSampler):
    """Numbered endless samples, of which a given share shows a defect, whatever share the data set has.

    Args:
        dataset, shuffle, seed: see :class:`DefectSampler`.
        defective_share: share of samples that show a real defect, in [0, 1]; ``None`` keeps that of the data set.
    """

    def __init__(
        self, dataset: Sized, defective_share: float | None = None, shuffle: bool = True, seed: int | None = None
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        if defective_share is not None and not 0 <= defective_share <= 1:
            raise ValueError(f'`defective_share` must be in [0, 1], got {defective_share}.')
        self.defective_share = defective_share
        if defective_share is None:
            return
        shows = torch.tensor([bool(classes - {0, 255}) for classes in class_presence(dataset)])
        self.groups = [torch.nonzero(~shows)[:, 0], torch.nonzero(shows)[:, 0]]
        shares = (1 - defective_share, defective_share)
        for group, share, kind in zip(self.groups, shares, ('clean', 'defective'), strict=True):
            if share > 0 and len(group) == 0:
                raise ValueError(
                    f'{100 * share:.0f} % of the samples must be {kind} images, but the training set has none; change '
                    '`ratio` of the synthesis recipe.'
                )

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Return as many samples as there are images."""
        if self.defective_share is None:
            return super().indices_of_pass(generator)
        return self._of_groups(torch.rand(self.size, generator=generator) < self.defective_share, generator)


@DATA_SAMPLERS.register_module()
class PartShareSampler(_GroupSampler):
    """Numbered endless samples from the parts of a joined data set in given shares, whatever their sizes.

    Args:
        dataset: joined data set, ``MixedDefectDataset`` or mmengine's ``ConcatDataset``.
        shares: one number a part, 0 or more, not all 0; only their ratio counts.
        shuffle, seed: see :class:`DefectSampler`.
    """

    def __init__(self, dataset: Sized, shares: Sequence[float], shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle, seed)
        sizes = [len(part) for part in getattr(dataset, 'datasets', [])]
        if len(sizes) != len(shares) or min(shares) < 0 or sum(shares) <= 0:
            parts = f'each of the {len(sizes)} parts of the data set'
            raise ValueError(f'`shares` must give one number >= 0 for {parts}, not all 0, got {list(shares)}.')
        if any(share > 0 and size == 0 for share, size in zip(shares, sizes, strict=True)):
            raise ValueError(f'parts with a share must hold images, got parts of {sizes} for shares {list(shares)}.')
        self.shares = torch.tensor(shares, dtype=torch.float64)
        self.groups = torch.arange(sum(sizes)).split(sizes)

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Return as many samples as there are images."""
        chosen = torch.multinomial(self.shares, self.size, replacement=True, generator=generator)
        return self._of_groups(chosen, generator)


@DATA_SAMPLERS.register_module()
class ClassAwareSampler(DefectSampler):
    """Numbered endless samples in which rare classes appear in a given share of the images.

    A class that three of a hundred images show is otherwise seen every thirty samples. In every pass an image is
    sampled either the whole number below or above its expected number of times, so the shares hold in each pass and not
    only on average. Label files are read once, in parallel, before the first sample.

    Args:
        dataset, shuffle, seed: see :class:`DefectSampler`.
        target_share: share of the samples that show a class: one number for every defect class, or numbers by class id
            or name. A class that appears more often already is left alone.
    """

    def __init__(
        self,
        dataset: Sized,
        target_share: float | Mapping[int | str, float] = 0.3,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        presence = class_presence(dataset)
        shares = _by_class(target_share, list(dataset.metainfo['classes']), presence)
        self.probability = balanced_probabilities(presence, shares)
        MMLogger.get_current_instance().info(
            'Class-aware samples: %s; an image is sampled at most %d times in a pass of %d.',
            {c: f'{sum(c in p for p in presence) / self.size:.1%} -> at least {s:.1%}' for c, s in shares.items()},
            math.ceil(self.probability.max() * self.size),
            self.size,
        )

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Sample as many images as there are, evenly spaced over the probabilities."""
        order = torch.randperm(self.size, generator=generator)
        bounds = self.probability[order].cumsum(0)
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        points = (torch.arange(self.size, dtype=torch.float64) + offset) / self.size
        sampled = order[torch.searchsorted(bounds, points).clamp_max(self.size - 1)]
        order = torch.randperm(self.size, generator=generator) if self.shuffle else sampled.argsort()
        return sampled[order].tolist()


def balanced_probabilities(presence: Sequence[set[int]], target_share: Mapping[int, float]) -> torch.Tensor:
    """Return a probability per image, ``(N,)`` float64, with which classes have at least their share of the samples.

    The mixture stays as close to the data set as possible otherwise (iterative proportional fitting: each step scales
    the images with and without one class to its share). ``presence`` holds the classes that each image shows; a class
    that appears more often than ``target_share`` asks for keeps doing so.
    """
    probability = torch.full((len(presence),), 1 / len(presence), dtype=torch.float64)
    shows = {}
    for class_id, share in target_share.items():
        shows[class_id] = torch.tensor([class_id in classes for classes in presence])
        if not 0 < share < 1:
            raise ValueError(f'`target_share` must lie in (0, 1), got {share} for class {class_id}.')
        if not shows[class_id].any():
            raise ValueError(
                f'an image must show class {class_id} to be in {share:.0%} of the samples, but none of {len(presence)} '
                'does; check the labels or remove the class from `target_share`.'
            )
    for _ in range(_ROUNDS):
        worst = 0.0
        for class_id, share in target_share.items():
            now = float(probability[shows[class_id]].sum())
            if now < share:
                worst = max(worst, share - now)
                probability = probability * torch.where(shows[class_id], share / now, (1 - share) / (1 - now))
        if worst < _TOLERANCE:
            return probability / probability.sum()
    reached = {c: round(float(probability[s].sum()), 3) for c, s in shows.items()}
    raise ValueError(
        f'`target_share` must be shares that can be had together, got {dict(target_share)}, of which {reached} is '
        'reached; lower the shares of classes that never appear in one image.'
    )


def _by_class(
    target_share: float | Mapping[int | str, float], classes: list[str], presence: Sequence[set[int]]
) -> dict[int, float]:
    """Return the shares by class id; a single number holds for every defect class that an image shows."""
    if not isinstance(target_share, Mapping):
        return dict.fromkeys(sorted(set().union(*presence) - {0}), float(target_share))
    unknown = [key for key in target_share if isinstance(key, str) and key not in classes]
    if unknown:
        raise ValueError(f'`target_share` must name classes of {classes}, got {unknown[0]!r}.')
    return {int(classes.index(k) if isinstance(k, str) else k): float(share) for k, share in target_share.items()}
