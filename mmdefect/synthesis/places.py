"""Where defects may go: location codes carried along with an image, densities, and the search for a place.

An image is resized, cropped and flipped before anything is pasted, while the outline of the object and the places
where defects were seen belong to the frame of the file. So the place of every pixel is written down once, before that::

    0                    outside of the object: no defect goes here
    255                  padding, the value that label maps are padded with: no defect goes here
    256 + 2048 row + column   on the object; row and column in 1/2048 of the frame of the file

The codes are float32: these numbers are exact in it, and every resize, flip, rotation and padding of OpenCV takes it;
they must be resized with nearest neighbours, as label maps are. One map carries the allowed region, the density of
defects (a table over the cells of a coarse grid) and the way the image was scaled and flipped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.records import IGNORE_LABEL

#: First code of a pixel on the object.
FIRST_CODE = 256
#: Rows and columns of the frame in location codes.
SIDE = 2048
#: Rows and columns of the grid on which the places of defects are counted.
GRID = 32
_CELL_SHIFT = (SIDE // GRID).bit_length() - 1
_ROW_SHIFT = (SIDE * SIDE // GRID).bit_length() - 1
#: Places are looked for on a grid of about this many points a side, then moved to a pixel between them.
_SEARCH_POINTS = 64
#: Rows and columns of a part of an image.
Window = tuple[slice, slice]
#: Top, bottom, left and right in an array; they may lie outside of it.
Box = tuple[int, int, int, int]
OFF_OBJECT, ON_DEFECT, NO_PLACE = 'off the object', 'on another defect', 'no place allowed'


def overlap(size_hw: tuple[int, int], corner: tuple[int, int], frame_hw: tuple[int, int]) -> tuple[Window, Window]:
    """Return the part of the frame that a patch covers, and the part of the patch that lies in the frame.

    >>> overlap((4, 3), (-1, 6), (10, 8))
    ((slice(0, 3, None), slice(6, 8, None)), (slice(1, 4, None), slice(0, 2, None)))
    """
    frame, part = [], []
    for size, start, limit in zip(size_hw, corner, frame_hw, strict=True):
        low = min(max(0, start), limit)
        high = max(low, min(limit, start + size))
        frame.append(slice(low, high))
        part.append(slice(low - start, high - start))
    return tuple(frame), tuple(part)


def cut_box(array: ndarray, box: Box, border: int) -> ndarray:
    """Return a box of an array; beyond it there are zeros, or its border goes on, as OpenCV's ``border`` says."""
    (height, width), (top, bottom, left, right) = array.shape[:2], box
    inner = array[max(0, top) : min(bottom, height), max(0, left) : min(right, width)]
    outside = max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)
    return cv2.copyMakeBorder(inner, *outside, border)


def rotated_size(size_hw: tuple[int, int], degrees: float) -> tuple[int, int]:
    """Return height and width of the upright canvas that holds a rectangle after its rotation."""
    height, width = size_hw
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    # a full turn must not grow by a pixel because a sine is 1e-16
    down, across = height * cosine + width * sine, width * cosine + height * sine
    return max(1, math.ceil(down - 1e-6)), max(1, math.ceil(across - 1e-6))


def location_codes(size_hw: tuple[int, int], allowed: ndarray | None = None) -> ndarray:
    """Return the location codes of a frame, ``(H, W)`` float32; ``allowed`` is non-zero where a defect may be."""
    codes = _whole_frame(*size_hw)
    if allowed is None:
        return codes.copy()
    if allowed.shape != codes.shape:
        raise ValueError(f'`allowed` must have the size of the frame, {codes.shape}, got {allowed.shape}; resize it.')
    return codes * (allowed > 0)


@lru_cache(maxsize=8)
def _whole_frame(height: int, width: int) -> ndarray:
    rows, columns = ((2 * np.arange(n) + 1) * SIDE // (2 * n) for n in (height, width))  # of the pixels' middles
    return (FIRST_CODE + rows[:, None] * SIDE + columns).astype(np.float32)


def decode(codes: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Return which codes are on the object, and their rows and columns in 1/2048 of the frame (int32)."""
    value = codes.astype(np.int32) - FIRST_CODE
    return value >= 0, value // SIDE, value % SIDE


def code_weights(codes: ndarray, density: ndarray | None) -> ndarray:
    """Return how likely a defect is at each code, up to a factor, by a ``(GRID, GRID)`` density; 0 off the object."""
    if density is None:
        return (codes >= FIRST_CODE).astype(np.float32)
    value = codes.astype(np.int32) - FIRST_CODE
    # Codes and cells are powers of two: the cell of a code is what two shifts leave of it.
    cells = (value >> _ROW_SHIFT) * GRID + ((value & (SIDE - 1)) >> _CELL_SHIFT)
    return np.where(value >= 0, density.ravel().take(cells, mode='clip'), np.float32(0))


def frame_affine(codes: ndarray, stride: int = 1) -> ndarray | None:
    """Return how the frame of the file was moved into this image: the least-squares fit to every ``stride``-th code.

    Returns:
        ``(2, 3)`` float64: row and column in the image from (row, column, 1) in 1/2048 of the frame; ``None`` when
        too little of the object is visible to tell.
    """
    on_object, rows, columns = decode(codes[::stride, ::stride])
    here = np.nonzero(on_object)
    if len(here[0]) < 16:
        return None
    source = np.stack([rows[on_object], columns[on_object]]).astype(np.float64)
    target = np.stack(here).astype(np.float64) * stride
    source_mean, target_mean = source.mean(1), target.mean(1)
    source -= source_mean[:, None]
    (yy, yx), (_, xx) = source @ source.T
    determinant = yy * xx - yx * yx
    if determinant <= 1e-9 * yy * xx:  # all on one line
        return None
    linear = target @ source.T @ np.array([[xx, -yx], [-yx, yy]]) / determinant
    return np.concatenate([linear, (target_mean - linear @ source_mean)[:, None]], 1)


def empirical_density(counts: ndarray, smoothing: float = 1.0, floor: float = 0.02) -> ndarray:
    """Turn the places where defects were found into a density per class.

    The square root of the counts is smoothed: a single large defect of a thousand pixels is not a thousand reports.

    Args:
        counts: ``(K + 1, GRID, GRID)`` pixels of each class by place; row 0 is not used.
        smoothing: standard deviation of the Gaussian, in cells of ``1 / GRID`` of the frame.
        floor: share of the even density that is mixed in, so that no place is impossible.

    Returns:
        ``(K + 1, GRID, GRID)`` float32, every class with mean 1; a class that was never seen takes that of the others
        together, and without any defect the density is even.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f'`floor` must be in [0, 1], got {floor}; it is the share of the even density.')
    density = np.ones(counts.shape, np.float32)
    for class_id in range(1, len(counts)):
        seen = np.sqrt(counts[class_id] if counts[class_id].any() else counts[1:].sum(0))
        if seen.any():
            if smoothing > 0:
                seen = cv2.GaussianBlur(seen, (0, 0), smoothing, borderType=cv2.BORDER_REFLECT_101)
            density[class_id] = (1 - floor) * seen / seen.mean() + floor
    return density


def map_density(location_map: ndarray) -> ndarray:
    """Shrink a map of the frame (learned, or made by hand) to a density, ``(GRID, GRID)`` float32 with mean 1.

    The map is ``(H, W)`` numbers, not negative, in the frame of the file: larger where defects belong.
    """
    array = np.asarray(location_map, np.float32)
    if array.ndim != 2 or not np.isfinite(array).all() or array.min() < 0 or not array.any():
        raise ValueError(
            '`location_map` must be (H, W) with finite values >= 0, not all zero, got shape '
            f'{array.shape}; pass probabilities in the frame of the image.'
        )
    shrunk = cv2.resize(array, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return shrunk / shrunk.mean()


class PlaceSearch:
    """Looks for places of defects in one image: on the object, by a density, and not on other defects.

    Args:
        codes: ``(H, W)`` float32 location codes.
        label: ``(H, W)`` integers, the label map so far: 0 normal, 1..K defects, 255 ignore.
        densities: ``(GRID, GRID)`` density by class, for places by density; even for classes without one.
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
        """How the frame of the file lies in the image, see :func:`frame_affine`."""
        return frame_affine(self.codes, 2 * self.stride)

    def find(self, mask: ndarray, density_class: int | None, uniforms: ndarray) -> tuple[int, int] | str:
        """Return row and column of the mask's corner, or why no place was found.

        Args:
            mask: ``(h, w)`` bool, the defect; it may be larger than the image.
            density_class: class whose density the place follows; ``None`` for an even one.
            uniforms: ``(T, 3)`` numbers in [0, 1) for the places to try, in turn.
        """
        sums, stride = self._cumulated(density_class)
        if sums[-1] <= 0:
            return NO_PLACE
        (height, width), columns = self.codes.shape, -(-self.codes.shape[1] // stride)

        def corners():
            for place, row_jitter, column_jitter in uniforms.tolist():
                row, column = divmod(int(np.searchsorted(sums, place * sums[-1], side='right')), columns)
                # Centre of the mask on the point, moved by less than one step of the search.
                row = min(row * stride + int(row_jitter * stride), height - 1)
                yield (
                    row - mask.shape[0] // 2,
                    (min(column * stride + int(column_jitter * stride), width - 1) - mask.shape[1] // 2),
                )

        return self._first_free(mask, corners(), self.cleared)

    def find_near(
        self, mask: ndarray, centre_yx: tuple[float, float], jitter_yx: Sequence[Sequence[float]]
    ) -> tuple[int, int] | str:
        """Return row and column of the mask's corner near a given centre, or why it cannot go there.

        No clearance is asked for: what was found on the outline goes back onto it. The centre is in fractions of the
        frame of the file, the jitter in pixels for every place to try in turn.
        """
        if self.affine is None:
            return NO_PLACE
        top, left = self.affine @ (centre_yx[0] * SIDE, centre_yx[1] * SIDE, 1)
        half_y, half_x = (mask.shape[0] - 1) / 2, (mask.shape[1] - 1) / 2
        corners = ((round(top + row - half_y), round(left + column - half_x)) for row, column in jitter_yx)
        return self._first_free(mask, corners, self.allowed)

    def _first_free(self, mask: ndarray, corners, allowed: Callable[[Window], ndarray]) -> tuple[int, int] | str:
        """Return the first corner at which a defect may lie, or why it may not lie at the last one."""
        area, reason = np.count_nonzero(mask), OFF_OBJECT
        for corner in corners:
            window, part = overlap(mask.shape, corner, self.codes.shape)
            visible = mask[part]
            if not visible.size or np.count_nonzero(visible & allowed(window)) < max(1, self.min_overlap * area):
                reason = OFF_OBJECT
                continue
            occupied = self.occupied(window)
            if occupied.any() and np.count_nonzero(visible & occupied) > self.max_existing_overlap * area:
                reason = ON_DEFECT
                continue
            return corner
        return reason

    def settle(self, mask: ndarray, corner: tuple[int, int]) -> tuple[ndarray, Window, Window]:
        """Note that a defect now lies there; return what of its mask may be pasted, and how frame and patch overlap.

        The mask loses what lies off the object or outside of the frame, and is returned itself where nothing does.
        """
        if self._taken is None:
            self._taken = np.zeros(self.codes.shape, bool)
        frame, part = overlap(mask.shape, corner, self.codes.shape)
        kept = mask[part] & self.allowed(frame)
        self._taken[frame] |= kept
        if kept.shape != mask.shape or np.count_nonzero(kept) != np.count_nonzero(mask):
            mask = np.zeros_like(mask)
            mask[part] = kept
        return mask, frame, part

    def _cumulated(self, density_class: int | None) -> tuple[ndarray, int]:
        if density_class not in self._sums:
            for stride in (self.stride, 1):  # an object thinner than a step is found at the second try
                weights = code_weights(self.codes[::stride, ::stride], self.densities.get(density_class))
                sums = np.cumsum(weights.ravel(), dtype=np.float64)
                if sums[-1] > 0:
                    break
            self._sums[density_class] = sums, stride
        return self._sums[density_class]
