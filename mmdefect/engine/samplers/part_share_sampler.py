"""Draw from the parts of a joined data set in given shares, whatever their sizes."""

from __future__ import annotations

from collections.abc import Sequence, Sized

import torch

from mmdefect.engine.samplers.defect_sampler import DefectSampler
from mmdefect.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class PartShareSampler(DefectSampler):
    """Numbered endless draws; each draw comes from a part with the probability of its share.

    Each part is gone through in shuffled rounds: no image waits longer than the others of its part.

    Args:
        dataset: joined data set, ``MixedDefectDataset`` or mmengine's ``ConcatDataset``.
        shares: one number a part, 0 or more, not all 0; only their ratio counts.
        shuffle: whether each round has its own order.
        seed: seed of the order and of every sample; ``None`` draws one and shares it with all ranks.

    Raises:
        ValueError: if the shares do not fit the parts.
    """

    def __init__(self, dataset: Sized, shares: Sequence[float], shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle, seed)
        sizes = [len(part) for part in getattr(dataset, 'datasets', [])]
        if len(sizes) != len(shares) or min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(
                f'`shares` must give one number >= 0 for each of the {len(sizes)} parts of the data set, not all '
                f'0, got {list(shares)}.'
            )
        if any(share > 0 and size == 0 for share, size in zip(shares, sizes, strict=True)):
            raise ValueError(
                f'a part with a share must hold images, got parts of {sizes} for the shares {list(shares)}.'
            )
        self.shares = torch.tensor(shares, dtype=torch.float64)
        starts = torch.tensor([0, *sizes]).cumsum(0)
        self.parts = [torch.arange(starts[k], starts[k + 1]) for k in range(len(sizes))]
        self.left: list[list[int]] = [[] for _ in sizes]

    def indices_of_pass(self, generator: torch.Generator) -> list[int]:
        """Return as many draws as there are images."""
        chosen = torch.multinomial(self.shares, self.size, replacement=True, generator=generator)
        return [self._next(part, generator) for part in chosen.tolist()]

    def _next(self, part: int, generator: torch.Generator) -> int:
        if not self.left[part]:
            members = self.parts[part]
            if self.shuffle:
                members = members[torch.randperm(len(members), generator=generator)]
            self.left[part] = members.tolist()[::-1]
        return self.left[part].pop()

    def _draws(self):
        self.left = [[] for _ in self.parts]  # every iteration starts the same stream anew
        yield from super()._draws()
