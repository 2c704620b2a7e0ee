"""The draw of a place for a defect: on the object by its own extent, by a density, and not on other defects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.location import FIRST_CODE, SIDE, code_weights, frame_affine
from mmdefect.synthesis.types import IGNORE_LABEL

#: Places are looked for on a grid of about this many points a side, then moved to a pixel between them.
_SEARCH_POINTS = 64
#: Rows and columns of a part of the frame.
Window = tuple[slice, slice]
OFF_OBJECT, ON_DEFECT, NO_PLACE = 'off the object', 'on another defect', 'no place allowed'


class PlaceSearch:
    """Draws places of defects in one image.

    Args:
        codes: ``(H, W)`` float32 location codes.
        label: ``(H, W)`` integers, the label map so far: 0 normal, 1..K defects, 255 ignore.
        densities: ``(GRID, GRID)`` density by class, for places drawn by density; even for classes without one.
        min_overlap: fraction of the defect's pixels that must lie on the object, inside the frame, and not on ignored
            pixels.
        max_existing_overlap: fraction of its pixels that may cover defects that are there already.
        clearance: pixels that the defect keeps from the outline of the object (not from the border of the frame).
    """

    def __init__(
        self,
        codes: ndarray,
        label: ndarray,
        densities: Mapping[int, ndarray] | None = None,
        min_overlap: float = 0.95,
        max_existing_overlap: float = 0.1,
        clearance: int = 2,
    ) -> None:
        self.codes, self.label, self.densities = codes, label, densities or {}
        self.min_overlap, self.max_existing_overlap, self.clearance = min_overlap, max_existing_overlap, clearance
        self.stride = max(1, min(codes.shape) // _SEARCH_POINTS)
        self._sums: dict[int | None, tuple[ndarray, int]] = {}
        self._taken: ndarray | None = None

    # A frame has a hundred times the pixels of a defect, so each of these looks at one window alone.

    def allowed(self, window: Window) -> ndarray:
        """Return which pixels of a window of the frame lie on the object and are not ignored."""
        return (self.codes[window] >= FIRST_CODE) & (self.label[window] != IGNORE_LABEL)

    def occupied(self, window: Window) -> ndarray:
        """Return which pixels of a window show a defect."""
        label = self.label[window]
        shown = (label > 0) & (label != IGNORE_LABEL)
        return shown if self._taken is None else shown | self._taken[window]

    def cleared(self, window: Window) -> ndarray:
        """Return which allowed pixels of a window keep clear of the outline of the object."""
        reach = self.clearance
        if reach < 1:
            return self.allowed(window)
        wider, inner = [], []
        for part, size in zip(window, self.codes.shape, strict=True):
            wider.append(slice(max(0, part.start - reach), min(size, part.stop + reach)))
            inner.append(slice(part.start - wider[-1].start, part.stop - wider[-1].start))
        allowed = self.allowed(tuple(wider))
        if not allowed.all():
            square = np.ones((2 * reach + 1,) * 2, np.uint8)
            allowed = cv2.erode(allowed.view(np.uint8), square, borderType=cv2.BORDER_REPLICATE).view(bool)
        return allowed[tuple(inner)]

    @cached_property
    def affine(self) -> ndarray | None:
        """How the frame of the file lies in the image, see :func:`~mmdefect.synthesis.location.frame_affine`."""
        return frame_affine(self.codes, 2 * self.stride)

    def draw(
        self, mask: ndarray, density_class: int | None, uniforms: Sequence[Sequence[float]]
    ) -> tuple[int, int] | str:
        """Return row and column of the mask's corner, or why no place was found.

        Args:
            mask: ``(h, w)`` bool, the defect; it may be larger than the image.
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
            corner = (
                min(row * stride + int(row_jitter * stride), self.codes.shape[0] - 1) - mask.shape[0] // 2,
                min(column * stride + int(column_jitter * stride), self.codes.shape[1] - 1) - mask.shape[1] // 2,
            )
            refused = self._refuses(mask, corner, area, self.cleared)
            if refused is None:
                return corner
            reason = refused
        return reason

    def draw_near(
        self, mask: ndarray, centre_yx: tuple[float, float], jitter_yx: Sequence[Sequence[float]]
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
            corner = (
                round(centre[0] + row - (mask.shape[0] - 1) / 2),
                round(centre[1] + column - (mask.shape[1] - 1) / 2),
            )
            refused = self._refuses(mask, corner, area, self.allowed)
            if refused is None:
                return corner
            reason = refused
        return reason

    def _refuses(
        self, mask: ndarray, corner: tuple[int, int], area: int, allowed: Callable[[Window], ndarray]
    ) -> str | None:
        """Return why a defect may not lie there, or ``None``."""
        window, part = overlap(mask.shape, corner, self.codes.shape)
        visible = mask[part]
        if not visible.size or np.count_nonzero(visible & allowed(window)) < max(1, self.min_overlap * area):
            return OFF_OBJECT
        occupied = self.occupied(window)
        if occupied.any() and np.count_nonzero(visible & occupied) > self.max_existing_overlap * area:
            return ON_DEFECT
        return None

    def occupy(self, mask: ndarray, corner: tuple[int, int]) -> None:
        """Note that a defect now lies there."""
        if self._taken is None:
            self._taken = np.zeros(self.codes.shape, bool)
        window, part = overlap(mask.shape, corner, self.codes.shape)
        self._taken[window] |= mask[part]

    def _cumulated(self, density_class: int | None) -> tuple[ndarray, int]:
        if density_class not in self._sums:
            for stride in (self.stride, 1):  # an object thinner than a step is found at the second try
                weights = code_weights(self.codes[::stride, ::stride], self.densities.get(density_class))
                sums = np.cumsum(weights.ravel(), dtype=np.float64)
                if sums[-1] > 0:
                    break
            self._sums[density_class] = sums, stride
        return self._sums[density_class]
