"""Crop so that a defect is seen: defects cover a thousandth of an image, and even crops mostly miss them."""

# ruff: noqa: NPY002 -- crops follow numpy's global generator, as those of mmseg do; a data set seeds it for each sample
from __future__ import annotations

import numpy as np
from mmseg.datasets.transforms import RandomCrop

from mmdefect.registry import TRANSFORMS


@TRANSFORMS.register_module()
class DefectCrop(RandomCrop):
    """Random crop that contains a defect with a given probability; otherwise mmseg's ``RandomCrop``.

    A class of the image is sampled, all alike, then one of its pixels, then one of the crops that show this pixel. An
    image without a defect is cropped anywhere.

    Args:
        crop_size: height and width.
        probability: of asking for a defect.
        cat_max_ratio: largest share of one class in crops that need not show a defect.
        ignore_index: label that is no class.
    """

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        probability: float = 0.5,
        cat_max_ratio: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f'`probability` must be in [0, 1], got {probability}.')
        super().__init__(tuple(crop_size) if isinstance(crop_size, list) else crop_size, cat_max_ratio, ignore_index)
        self.probability = probability

    def crop_bbox(self, results: dict) -> tuple[int, int, int, int]:
        """Return top, bottom, left and right of the crop, as mmseg's transform does."""
        if np.random.rand() >= self.probability:
            return super().crop_bbox(results)
        label = results['gt_seg_map']
        classes = [c for c in np.unique(label).tolist() if c not in (0, self.ignore_index)]
        if not classes:
            return super().crop_bbox(results)
        rows, columns = np.nonzero(label == classes[np.random.randint(len(classes))])
        pick = np.random.randint(len(rows))
        top, left = (
            _start(int(at), size, crop)
            for at, size, crop in zip((rows[pick], columns[pick]), label.shape, self.crop_size, strict=True)
        )
        return top, top + self.crop_size[0], left, left + self.crop_size[1]

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(crop_size={self.crop_size}, probability={self.probability})'


def _start(at: int, size: int, crop: int) -> int:
    """Sample the start of a crop that contains position ``at``."""
    low, high = max(0, at - crop + 1), max(0, min(at, size - crop))
    return np.random.randint(low, high + 1) if low <= high else high
