"""How far two label maps of one image agree: exact overlap, and overlap within a tolerance.

Two people who outline the same 30 pixel scratch one pixel apart agree to an IoU of about a third; within three pixels
they agree fully. So the exact IoU is told beside the *coverage*: the share of one map's defect pixels that have a
defect pixel of the other within a Euclidean distance.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy import ndarray
from scipy import ndimage

IGNORE = 255


@dataclass(frozen=True)
class Agreement:
    """Two label maps of one image compared; "defect" is any class but 0."""

    first: int  # defect pixels of the first map
    second: int
    both: int  # defect in both
    same_class: int  # defect of the same class in both
    first_covered: int  # defect pixels of the first map within the tolerance of one of the second
    second_covered: int
    first_alone: int  # regions (8-connected) of the first map without any pixel of the second within the tolerance
    second_alone: int

    @property
    def iou(self) -> float:
        """IoU of any defect; NaN if neither map has one."""
        return _share(self.both, self.first + self.second - self.both)

    @property
    def coverage_first(self) -> float:
        """Share of the first map's defect pixels that the second confirms within the tolerance; NaN without any."""
        return _share(self.first_covered, self.first)

    @property
    def coverage_second(self) -> float:
        """The same the other way round."""
        return _share(self.second_covered, self.second)

    @property
    def unconfirmed(self) -> int:
        """Defect pixels of either map that the other one does not confirm within the tolerance."""
        return self.first + self.second - self.first_covered - self.second_covered

    @property
    def class_agreement(self) -> float:
        """Share of the pixels that are defect in both maps and have the same class; NaN without any."""
        return _share(self.same_class, self.both)

    def kind(self) -> str:
        """Say in two words how the maps differ."""
        if not self.first and not self.second:
            return 'both clean'
        if not self.first or not self.second:
            return 'only in second' if not self.first else 'only in first'
        if self.both and self.class_agreement < 0.5:
            return 'other class'
        if not self.unconfirmed:
            return 'agree' if self.iou == 1.0 else 'within tolerance'
        return 'regions differ' if self.first_alone or self.second_alone else 'outline differs'


def compare_labels(first: ndarray, second: ndarray, tolerance: float = 3.0) -> Agreement:
    """Compare two label maps.

    Args:
        first: ``(H, W)`` integers: 0 normal, 1..K defect classes, 255 ignored.
        second: same shape and meaning; pixels that either map ignores do not count.
        tolerance: distance in pixels.

    Example:
        >>> a = np.zeros((8, 8), int); a[2:4, 2:4] = 1
        >>> b = np.zeros((8, 8), int); b[2:4, 3:5] = 1
        >>> result = compare_labels(a, b, tolerance=1)
        >>> round(result.iou, 3), result.coverage_first, result.kind()
        (0.333, 1.0, 'within tolerance')
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f'both label maps must be (H, W) of one size, got {first.shape} and {second.shape}; compare them at the '
            'native resolution of the image.'
        )
    if tolerance < 0:
        raise ValueError(f'`tolerance` must be a distance in pixels, 0 or more, got {tolerance}.')
    known = (first != IGNORE) & (second != IGNORE)
    masks = [(label > 0) & known for label in (first, second)]
    near = [_near(mask, tolerance) for mask in masks]
    both = masks[0] & masks[1]
    covered = [mask & other for mask, other in zip(masks, near[::-1], strict=True)]
    counts = [int(pixels.sum()) for pixels in (*masks, both, both & (first == second), *covered)]
    return Agreement(*counts, *map(_regions_alone, masks, covered))


def total(parts: list[Agreement]) -> Agreement:
    """Return the agreement over a whole data set: the sums of all pixels."""
    return Agreement(*(sum(getattr(part, f.name) for part in parts) for f in fields(Agreement)))


def _near(mask: ndarray, tolerance: float) -> ndarray:
    """Return the pixels within a Euclidean distance of a mask."""
    if not mask.any():
        return np.zeros_like(mask)
    return mask if tolerance == 0 else ndimage.distance_transform_edt(~mask) <= tolerance


def _regions_alone(mask: ndarray, covered: ndarray) -> int:
    regions, number = ndimage.label(mask, np.ones((3, 3)))
    return int(number - len(np.unique(regions[covered])))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float('nan')
