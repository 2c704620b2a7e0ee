"""Draw images with rare classes more often, to a share that the config states.

A class that three of a hundred images show is seen every thirty draws. Here the images get probabilities such that a
class appears in a given share of the draws and the mixture stays as close to the data set as possible otherwise
(iterative proportional fitting: each step scales the images with and without one class to its share).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized

import torch
from mmengine.logging import MMLogger

from mmdefect.datasets.presence import class_presence
from mmdefect.engine.samplers.defect_sampler import DefectSampler
from mmdefect.registry import DATA_SAMPLERS

_ROUNDS = 500
_TOLERANCE = 1e-3


def balanced_probabilities(presence: Sequence[set[int]], target_share: Mapping[int, float]) -> torch.Tensor:
    """Return a probability per image, such that classes appear in at least their share of the draws.

    Args:
        presence: classes that each image shows.
        target_share: share of the draws by class, each in (0, 1); a class that appears more often keeps doing so.

    Returns:
        ``(N,)`` float64, adding up to 1, all above 0.

    Raises:
        ValueError: if no image shows a class, or the shares cannot be had together.
    """
    probability = torch.full((len(presence),), 1 / len(presence), dtype=torch.float64)
    shows = {}
    for class_id, share in target_share.items():
        shows[class_id] = torch.tensor([class_id in classes for classes in presence])
        if not 0 < share < 1:
            raise ValueError(f'`target_share` must lie in (0, 1), got {share} for class {class_id}.')
        if not shows[class_id].any():
            raise ValueError(
                f'an image must show class {class_id} to be drawn in {share:.0%} of the draws, but none '
                f'of {len(presence)} does; check the labels or remove the class from `target_share`.'
            )
    for _ in range(_ROUNDS):
        worst = 0.0
        for class_id, share in target_share.items():
            now = float(probability[shows[class_id]].sum())
            if now < share:
                worst = max(worst, share - now)
                scale = torch.where(shows[class_id], share / now, (1 - share) / (1 - now))
                probability = probability * scale
        if worst < _TOLERANCE:
            return probability / probability.sum()
    reached = {c: round(float(probability[s].sum()), 3) for c, s in shows.items()}
    raise ValueError(
        f'`target_share` must be shares that can be had together, got {dict(target_share)}, of which '
        f'{reached} is reached; lower the shares of classes that never appear in one image.'
    )


@DATA_SAMPLERS.register_module()
class ClassAwareSampler(DefectSampler):
    """Numbered endless draws in which rare classes appear in a given share of the images.

    In every pass an image is drawn either the whole number below or above its expected number of draws, so the shares
    hold in each pass and not only on average. Label files are read once, in parallel, before the first draw. Numbers,
    ranks and resuming are those of :class:`~mmdefect.engine.samplers.DefectSampler`.

    Args:
        dataset: the data set; mmseg's and ours, also inside ``ConcatDataset``.
        target_share: share of the draws that show a class: one number for every defect class, or numbers by class id or
            name. A class that appears more often already is left alone.
        shuffle: whether each pass has its own order.
        seed: seed of the order and of every sample; ``None`` draws one and shares it with all ranks.
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
        expected = self.probability.max() * self.size
        MMLogger.get_current_instance().info(
            'Class-aware draws: %s; an image is drawn at most %d times in a pass of %d.',
            {c: f'{sum(c in p for p in presence) / self.size:.1%} -> at least {s:.1%}' for c, s in shares.items()},
            math.ceil(expected),
            self.size,
        )

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Draw as many images as there are, evenly spaced over the probabilities."""
        order = torch.randperm(self.size, generator=generator)
        bounds = self.probability[order].cumsum(0)
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        points = (torch.arange(self.size, dtype=torch.float64) + offset) / self.size
        drawn = order[torch.searchsorted(bounds, points).clamp_max(self.size - 1)]
        if self.shuffle:
            return drawn[torch.randperm(self.size, generator=generator)].tolist()
        return drawn.sort().values.tolist()


def _by_class(
    target_share: float | Mapping[int | str, float], classes: list[str], presence: Sequence[set[int]]
) -> dict[int, float]:
    """Return the shares by class id; a single number holds for every defect class that an image shows."""
    if not isinstance(target_share, Mapping):
        present = set().union(*presence) - {0}
        return {class_id: float(target_share) for class_id in sorted(present)}
    shares = {}
    for key, share in target_share.items():
        if isinstance(key, str):
            if key not in classes:
                raise ValueError(f'`target_share` must name classes of {classes}, got {key!r}.')
            key = classes.index(key)
        shares[int(key)] = float(share)
    return shares
