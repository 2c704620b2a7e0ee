"""Bring a donor to the scale and pose of an image with numpy and OpenCV, and keep what can be used again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.array_operations import Window, coloured, masked_mean, sampling_of, warped_mask
from mmdefect.synthesis.blending.membrane import Membrane
from mmdefect.synthesis.donor_fitting import FittedDonor, fit, grown, grown_pixels
from mmdefect.synthesis.donors import Donor
from mmdefect.synthesis.drawn_operations import DrawnOperations


@dataclass(frozen=True)
class WarpedDonor:
    """A donor in the shape in which it is pasted, before its colours are changed.

    Attributes:
        patch: ``(h, w, 3)`` float32 in [0, 255], RGB, with a ring of one pixel around the region.
        core, region: see :class:`~mmdefect.synthesis.donor_fitting.FittedDonor`.
        mean: ``(3,)`` mean colour of the defect in [0, 1].
        membrane: of the region.
    """

    patch: ndarray
    core: ndarray
    region: ndarray
    mean: ndarray
    membrane: Membrane

    def coloured(self, operations: DrawnOperations) -> FittedDonor:
        """Return the donor as it is pasted."""
        return FittedDonor(coloured(self.patch, operations, self.mean), self.core, self.region, self.membrane)

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.patch.nbytes + self.core.nbytes + self.region.nbytes + self.membrane.nbytes


def warp_donor(donor: Donor, scale_yx: tuple[float, float], operations: DrawnOperations, grow: int) -> WarpedDonor:
    """Warp a donor; arguments as for :func:`~mmdefect.synthesis.donor_fitting.prepare`."""
    image, core, on_object = fit(donor.image, donor.mask, scale_yx)
    grow = grown_pixels(grow, scale_yx, operations)
    sampling = sampling_of(operations, core.shape)
    soft = warped_mask(core, sampling)
    hard = cv2.compare(soft, max(0.5 * float(soft.max()), 1e-12), cv2.CMP_GE) if soft.any() else soft > 0
    window = window_around(hard, grow + 1)
    image_32 = image.astype(np.float32)
    mean = masked_mean(image, core)
    if window is None:
        empty = np.zeros(sampling.size_hw, bool)
        return WarpedDonor(sampling.read(image_32, cv2.BORDER_REPLICATE), empty, empty, mean, Membrane(empty))
    patch = sampling.read(image_32, cv2.BORDER_REPLICATE, window)
    core = cut_window(hard, window, cv2.BORDER_CONSTANT) > 0
    region = grown(core, grow)
    if on_object is not None:
        region &= (sampling.read(on_object, cv2.BORDER_REPLICATE, window) > 0.5) | core
    return WarpedDonor(patch, core, region, mean, Membrane(region))


def window_around(mask: ndarray, ring: int) -> Window | None:
    """Return the box of the set pixels of a uint8 or bool mask and a ring around it, ``None`` without any."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return None if not width else (top - ring, top + height + ring, left - ring, left + width + ring)


def cut_window(array: ndarray, window: Window, border: int) -> ndarray:
    """Return a window of an array; beyond it there are zeros, or its border goes on, as OpenCV's ``border`` says."""
    (height, width), (top, bottom, left, right) = array.shape, window
    inner = array[max(0, top) : min(bottom, height), max(0, left) : min(right, width)]
    outside = max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)
    return cv2.copyMakeBorder(inner, *outside, border)


class VariantCache:
    """Keeps the warped donors that were used last, up to a number of bytes.

    Args:
        most_bytes: the least recently used ones go when there are more.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[Any, tuple[WarpedDonor, int]] = OrderedDict()
        self.nbytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Any) -> WarpedDonor | None:
        """Return what is kept, or ``None``."""
        entry = self._kept.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        warped, counted = entry
        grown_by = warped.nbytes - counted  # its membrane was factorised since
        if grown_by:
            self._kept[key] = warped, counted + grown_by
            self.nbytes += grown_by
            self._shrink()
        return warped

    def put(self, key: Any, warped: WarpedDonor) -> None:
        """Keep a warped donor."""
        self._kept[key] = warped, warped.nbytes
        self.nbytes += warped.nbytes
        self._shrink()

    def _shrink(self) -> None:
        while self.nbytes > self.most_bytes and self._kept:
            self.nbytes -= self._kept.popitem(last=False)[1][1]
