"""Do not ask a network for pixels on which annotators do not agree: a band along the borders of labels is ignored."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmdefect.datasets.masks import IGNORE
from mmdefect.registry import TRANSFORMS


def ignore_band(label: np.ndarray, width: float, min_core: float = 0.25) -> np.ndarray:
    """Ignore the pixels within ``width`` of a pixel of another class.

    A component (8 neighbours, one class) of which less than ``min_core`` would stay keeps all its pixels: in some data
    sets half of the defects have no more than two. Outside it the band is ignored all the same. Pixels that are ignored
    already make no border.

    Args:
        label: ``(H, W)`` uint8, 255 is ignored; not modified.
        width: pixels, measured between pixel centres, so that 1 takes the pixels on either side of a border.
        min_core: share of a defect component that must stay for its band to be ignored, in [0, 1].

    Returns:
        ``(H, W)`` uint8.
    """
    classes = [c for c in np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist() if c != IGNORE]
    result = label.copy()
    if len(classes) < 2 or width <= 0:
        return result
    for class_id in classes:
        own = label == class_id
        other = ~own & (label != IGNORE)
        # the distance transform measures to the nearest zero
        distance = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        band = own & (distance <= width)
        if class_id != 0:
            band &= ~_too_small(own, band, min_core)
        result[band] = IGNORE
    return result


def _too_small(own: np.ndarray, band: np.ndarray, min_core: float) -> np.ndarray:
    """Return the pixels of components of which the band leaves less than ``min_core``."""
    _, components = cv2.connectedComponents(own.astype(np.uint8), connectivity=8)
    total = np.bincount(components.ravel())
    core = np.bincount(components[~band], minlength=len(total))
    return (core < np.maximum(1, min_core * total))[components] & own


@TRANSFORMS.register_module()
class IgnoreBand(BaseTransform):
    """Set the label to 255 along its borders; put it after the geometric transforms, for widths in network pixels.

    Required keys: ``gt_seg_map``. Modified keys: ``gt_seg_map``.

    Args:
        width: pixels on either side of a border.
        min_core: share of a defect component that must stay for its band to be ignored.
    """

    def __init__(self, width: float = 1, min_core: float = 0.25) -> None:
        if width <= 0 or not 0 <= min_core <= 1:
            raise ValueError(f'`width` must be above 0 and `min_core` in [0, 1], got {width} and {min_core}.')
        self.width = width
        self.min_core = min_core

    def transform(self, results: dict) -> dict:
        """Change the label map."""
        results['gt_seg_map'] = ignore_band(results['gt_seg_map'], self.width, self.min_core)
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(width={self.width}, min_core={self.min_core})'
