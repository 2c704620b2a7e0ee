"""The table of defects: connected regions of a label map, gathered band by band.

An image larger than memory comes in bands of rows. Regions that meet at the border of two bands are joined, so the
table does not depend on the bands. Of each region only sums and the outline are kept, and its pixels as long as they
are fewer than the minimum area, since it may have to be erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.deployment.types import Defect

CONNECTIVITY = 8


class TooManyRegions(ValueError):
    """More regions than the caller is ready to measure: noise, or a threshold that is far too low."""


def find_defects(
    label_map: ndarray,
    probabilities: ndarray,
    classes: Sequence[str],
    min_area_px: int = 0,
    mm_per_pixel: float | None = None,
    max_regions: int | None = None,
) -> list[Defect]:
    """Measure the regions of a label map, erase those that are too small, and return the others, largest score first.

    Args:
        label_map: ``(H, W)`` uint8 class ids; regions below the minimum area are set to 0 in it.
        probabilities: ``(K + 1, H, W)`` float32 in [0, 1], normal first.
        classes: names, normal first.
        min_area_px: regions of fewer pixels are dropped.
        mm_per_pixel: side of a pixel in millimetres, if lengths are wanted in millimetres too.
        max_regions: more, small ones included, raise :class:`TooManyRegions`; each takes some 40 microseconds.
    """
    gatherer = DefectGatherer(classes, label_map.shape, min_area_px, max_regions)
    gatherer.add(0, label_map, probabilities)
    return gatherer.finish(label_map, mm_per_pixel)


@dataclass
class _Region:
    """Sums of a region; coordinates are those of the image."""

    class_id: int
    area: int
    sums: ndarray  # float64: x, y and score of all pixels
    box: tuple[int, int, int, int]
    hull: ndarray  # (N, 2) int32 corners of pixels
    pixels: list[ndarray] | None  # (2, n) rows and columns, while the region is small

    def join(self, other: _Region, keep_below: int) -> None:
        """Add another region of the same class."""
        a, b = self.box, other.box
        self.box = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
        self.area, self.sums = self.area + other.area, self.sums + other.sums
        self.hull = _hull(np.concatenate([self.hull, other.hull]))
        self.pixels = None if self.area >= keep_below else [*self.pixels, *other.pixels]
        other.pixels = None


class DefectGatherer:
    """Gathers regions from the bands of one image, top to bottom; arguments as in :func:`find_defects`."""

    def __init__(
        self, classes: Sequence[str], size_hw: tuple[int, int], min_area_px: int = 0, max_regions: int | None = None
    ) -> None:
        if min_area_px < 0:
            raise ValueError(f'`min_area_px` must be 0 or a number of pixels, got {min_area_px}.')
        self.classes, self.size_hw = tuple(classes), size_hw
        self.min_area_px, self.max_regions = min_area_px, max_regions
        self._regions: list[_Region] = []
        self._joined: list[int] = []  # of each region, the one it became part of
        self._edge: ndarray | None = None  # region of each pixel of the last row, -1 for none

    def add(self, top: int, labels: ndarray, probabilities: ndarray) -> None:
        """Take the band from row ``top`` on: ``(h, W)`` uint8 labels, ``(K + 1, h, W)`` float32 probabilities."""
        above, first = self._edge, np.full(labels.shape[1], -1)
        self._edge = np.full(labels.shape[1], -1)
        for class_id in range(1, int(labels.max(initial=0)) + 1):
            mask = (labels == class_id).view(np.uint8)
            if cv2.countNonZero(mask):
                self._add_class(class_id, top, mask, probabilities[class_id], first)
        if above is not None:
            self._join_rows(above, first)

    def finish(self, label_map: ndarray | None = None, mm_per_pixel: float | None = None) -> list[Defect]:
        """Return the defects, largest score first; erase the small regions in the label map of the whole image."""
        if mm_per_pixel is not None and not mm_per_pixel > 0:
            raise ValueError(f'`mm_per_pixel` must be a positive length, got {mm_per_pixel}.')
        whole = [region for index, region in enumerate(self._regions) if self._joined[index] == index]
        for region in whole:
            if region.area < self.min_area_px and label_map is not None:
                for rows, columns in region.pixels:
                    label_map[rows, columns] = 0
        kept = [self._measure(region, mm_per_pixel) for region in whole if region.area >= self.min_area_px]
        return sorted(kept, key=lambda d: (-d.score, -d.area_px, d.box_xyxy))

    def _add_class(self, class_id: int, top: int, mask: ndarray, probability: ndarray, first: ndarray) -> None:
        left, upper, width, height = cv2.boundingRect(mask)
        window = slice(upper, upper + height), slice(left, left + width)
        count, marks, stats, centroids = cv2.connectedComponentsWithStats(mask[window], None, CONNECTIVITY, cv2.CV_32S)
        start = len(self._regions)
        if self.max_regions is not None and start + count - 1 > self.max_regions:
            raise TooManyRegions(
                f'a label map must have at most {self.max_regions} regions, but this one has more; '
                'raise the threshold, or train the model longer.'
            )
        inside = np.flatnonzero(mask[window].view(bool))  # few, however large the window
        scores = np.bincount(marks.ravel()[inside], probability[window].ravel()[inside].astype(np.float64), count)
        for mark in range(1, count):
            x, y, w, h, area = (int(v) for v in stats[mark])
            own = marks[y : y + h, x : x + w] == mark
            x, y = x + left, y + upper + top
            centre = centroids[mark] + (left, upper + top)
            pixels = [np.argwhere(own).T + np.array([[y], [x]])] if area < self.min_area_px else None
            sums, hull = np.array([*(area * centre), scores[mark]]), _hull(_corners(own) + np.int32([x, y]))
            self._regions.append(_Region(class_id, area, sums, (x, y, x + w, y + h), hull, pixels))
        self._joined += range(start, len(self._regions))
        columns = slice(left, left + width)
        for row, edge in ((0, first), (len(mask) - 1, self._edge)):
            if upper <= row < upper + height:
                line = marks[row - upper]
                edge[columns] = np.where(line > 0, line - 1 + start, edge[columns])

    def _join_rows(self, above: ndarray, below: ndarray) -> None:
        """Join what touches across two neighbouring rows, also at a corner."""
        for shift in (-1, 0, 1):
            a, b = above[max(0, -shift) : len(above) - max(0, shift)], below[max(0, shift) : len(below) + min(0, shift)]
            touching = (a >= 0) & (b >= 0)
            for one, two in np.unique(np.stack([a[touching], b[touching]], 1), axis=0):
                if self._regions[one].class_id == self._regions[two].class_id:
                    one, two = self._root(int(one)), self._root(int(two))
                    if one != two:
                        self._regions[one].join(self._regions[two], self.min_area_px)
                        self._joined[two] = one

    def _root(self, index: int) -> int:
        while self._joined[index] != index:
            self._joined[index] = self._joined[self._joined[index]]
            index = self._joined[index]
        return index

    def _measure(self, region: _Region, mm: float | None) -> Defect:
        width, length = sorted(map(float, cv2.minAreaRect(region.hull.astype(np.float32))[1]))
        x, y, score = (float(v) / region.area for v in region.sums)
        percent = 100.0 * region.area / (self.size_hw[0] * self.size_hw[1])
        in_mm = () if mm is None else (length * mm, width * mm, region.area * mm * mm)
        name = self.classes[region.class_id]
        return Defect(name, region.class_id, score, region.area, percent, region.box, (x, y), length, width, *in_mm)


def _corners(mask: ndarray) -> ndarray:
    """Return ``(4 h, 2)`` int32 corners of the first and last pixel of each row; they span the convex hull."""
    rows = np.flatnonzero(mask.any(1))
    first = mask[rows].argmax(1)
    after = mask.shape[1] - mask[rows, ::-1].argmax(1)
    return np.concatenate([np.stack([x, y], 1) for x in (first, after) for y in (rows, rows + 1)]).astype(np.int32)


def _hull(points: ndarray) -> ndarray:
    return cv2.convexHull(np.ascontiguousarray(points, np.int32))[:, 0]
