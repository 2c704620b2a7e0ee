"""Draw images with and without defects in given shares, whatever shares the data set has."""

from __future__ import annotations

from collections.abc import Sized

import torch

from mmdefect.datasets.presence import class_presence
from mmdefect.engine.samplers.defect_sampler import DefectSampler
from mmdefect.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class MixingSampler(DefectSampler):
    """Numbered endless draws in which a given share of the images shows a defect.

    Each of the two groups is gone through in shuffled rounds: no image waits longer than the others of its group.

    Args:
        dataset: the data set; mmseg's and ours, also inside ``ConcatDataset``.
        defective_share: share of draws that show a real defect, in [0, 1]; ``None`` keeps that of the data set.
        shuffle: whether each round has its own order.
        seed: seed of the order and of every sample; ``None`` draws one and shares it with all ranks.

    Raises:
        ValueError: if the share asks for a group that is empty.
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
        for group, share, what in zip(
            self.groups, (1 - defective_share, defective_share), ('clean', 'defective'), strict=True
        ):
            if share > 0 and len(group) == 0:
                raise ValueError(
                    f'{100 * share:.0f} % of the draws must be {what} images, but the training set has '
                    'none; change `ratio` of the synthesis recipe.'
                )
        self.left: list[list[int]] = [[], []]

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Return as many draws as there are images."""
        if self.defective_share is None:
            return super().indices_of_pass(generator)
        chosen = torch.rand(self.size, generator=generator) < self.defective_share
        return [self._next(int(group), generator) for group in chosen.tolist()]

    def _next(self, group: int, generator: torch.Generator) -> int:
        if not self.left[group]:
            members = self.groups[group]
            if self.shuffle:
                members = members[torch.randperm(len(members), generator=generator)]
            self.left[group] = members.tolist()[::-1]
        return self.left[group].pop()

    def _draws(self):
        self.left = [[], []]  # every iteration starts the same stream anew
        yield from super()._draws()
