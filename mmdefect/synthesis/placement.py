"""The draw of a place for a defect: on the object by its own extent, by a density, and not on other defects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.location import FIRST_CODE, SIDE, code_weights, frame_affine
from mmdefect.synthesis.types import IGNORE_LABEL

#: Places are looked for on a grid of about this many points a side, then moved to a pixel between them.
_SEARCH_POINTS = 64
OFF_OBJECT, ON_DEFECT, NO_PLACE = 'off the object', 'on another defect', 'no place allowed'


class PlaceSearch:
    """Draws places of defects in one picture.

    Args:
        codes: ``(H, W)`` float32 location codes.
        label: ``(H, W)`` integers, the label map so far: 0 normal, 1..K defects, 255 ignore.
        densities: ``(GRID, GRID)`` density by class, for places drawn by density; even for classes without one.
        min_overlap: fraction of the defect's pixels that must lie on the object, inside the frame, and not on ignored
            pixels.
        max_existing_overlap: fraction of its pixels that may cover defects that are there already.
        clearance: pixels that the defect keeps from the outline of the object (not from the border of the frame).
    """

    def __init__(self, codes: ndarray, label: ndarray, densities: Mapping[int, ndarray] | None = None,
                 min_overlap: float = 0.95, max_existing_overlap: float = 0.1, clearance: int = 2) -> None:
        self.codes, self.densities = codes, densities or {}
        self.allowed = (codes >= FIRST_CODE) & (label != IGNORE_LABEL)
        self.occupied = (label > 0) & (label != IGNORE_LABEL)
        self.min_overlap, self.max_existing_overlap, self.clearance = min_overlap, max_existing_overlap, clearance
        self.stride = max(1, min(codes.shape) // _SEARCH_POINTS)
        self._sums: dict[int | None, tuple[ndarray, int]] = {}

    @cached_property
    def cleared(self) -> ndarray:
        """Allowed pixels that keep clear of the outline of the object."""
        if self.clearance < 1 or self.allowed.all():
            return self.allowed
        square = np.ones((2 * self.clearance + 1, ) * 2, np.uint8)
        return cv2.erode(self.allowed.view(np.uint8), square, borderType=cv2.BORDER_REPLICATE).view(bool)

    @cached_property
    def affine(self) -> ndarray | None:
        """How the frame of the file lies in the picture, see :func:`~mmdefect.synthesis.location.frame_affine`."""
        return frame_affine(self.codes, 2 * self.stride)

    def draw(self, mask: ndarray, density_class: int | None, uniforms: Sequence[Sequence[float]]
             ) -> tuple[int, int] | str:
        """Return row and column of the mask's corner, or why no place was found.

        Args:
            mask: ``(h, w)`` bool, the defect; it may be larger than the picture.
            density_class: class whose density the place is drawn from; ``None`` for an even one.
            uniforms: three numbers in [0, 1) for every place to try, in turn.
        """
        sums, stride = self._cumulated(density_class)
        if sums[-1] <= 0:
            return NO_PLACE
        columns, area, reason = -(-self.codes.shape[1] // stride), np.count_nonzero(mask), OFF_OBJECT
        for place, row_jitter, column_jitter in uniforms:
            row, column = divmod(int(np.searchsorted(sums, place * sums[-1], side='right')), columns)
            # Centre of the mask on the point, moved by less than one step of the search.
            corner = (min(row * stride + int(row_jitter * stride), self.codes.shape[0] - 1) - mask.shape[0] // 2,
                      min(column * stride + int(column_jitter * stride), self.codes.shape[1] - 1) - mask.shape[1] // 2)
            refused = self.refuses(mask, corner, area, self.cleared)
            if refused is None:
                return corner
            reason = refused
        return reason

    def draw_near(self, mask: ndarray, centre_yx: tuple[float, float], jitter_yx: Sequence[Sequence[float]]
                  ) -> tuple[int, int] | str:
        """Return row and column of the mask's corner near a given centre, or why it cannot go there.

        No clearance is asked for: what was found on the outline goes back onto it.

        Args:
            mask: ``(h, w)`` bool.
            centre_yx: place of the middle of the mask in the frame of the file, as fractions of its height and width.
            jitter_yx: pixels to move it by, for every place to try in turn.
        """
        if self.affine is None:
            return NO_PLACE
        centre = self.affine @ (centre_yx[0] * SIDE, centre_yx[1] * SIDE, 1)
        area, reason = np.count_nonzero(mask), OFF_OBJECT
        for row, column in jitter_yx:
            corner = (round(centre[0] + row - (mask.shape[0] - 1) / 2),
                      round(centre[1] + column - (mask.shape[1] - 1) / 2))
            refused = self.refuses(mask, corner, area, self.allowed)
            if refused is None:
                return corner
            reason = refused
        return reason

    def refuses(self, mask: ndarray, corner: tuple[int, int], area: int, allowed: ndarray) -> str | None:
        """Return why a defect may not lie there, or ``None``."""
        frame, part = overlap(mask.shape, corner, self.codes.shape)
        visible = mask[part]
        if np.count_nonzero(visible & allowed[frame]) < max(1, self.min_overlap * area):
            return OFF_OBJECT
        if np.count_nonzero(visible & self.occupied[frame]) > self.max_existing_overlap * area:
            return ON_DEFECT
        return None

    def occupy(self, mask: ndarray, corner: tuple[int, int]) -> None:
        """Note that a defect now lies there."""
        frame, part = overlap(mask.shape, corner, self.codes.shape)
        self.occupied[frame] |= mask[part]

    def _cumulated(self, density_class: int | None) -> tuple[ndarray, int]:
        if density_class not in self._sums:
            for stride in (self.stride, 1):  # an object thinner than a step is found at the second try
                weights = code_weights(self.codes[::stride, ::stride], self.densities.get(density_class))
                sums = np.cumsum(weights.ravel(), dtype=np.float64)
                if sums[-1] > 0:
                    break
            self._sums[density_class] = sums, stride
        return self._sums[density_class]
