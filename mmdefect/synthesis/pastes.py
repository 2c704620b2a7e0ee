"""What the draw must know about an image, and what it hands to the writing: one paste after the other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.blending.membrane import Membrane
from mmdefect.synthesis.donor_fitting import StoredPatch
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.types import Instance

#: Parameter of an instance: share of the outline at which the step to the image was limited; absent for none.
LIMITED = 'boundary_limited'


@dataclass
class Background:
    """What the draw must know about an image.

    Attributes:
        label: ``(H, W)`` integers on the CPU: 0 normal, 1..K defects, 255 ignore.
        codes: ``(H, W)`` float32 location codes; without them the whole frame is object and has no fixed pose.
        file_hw: height and width of the image in its file; needed with ``codes``.
        scale_yx: pixels of this image per pixel of the file, when there are no ``codes``.
        density: ``(GRID, GRID)`` learned density of this image, or ``(K + 1, GRID, GRID)`` with one for each class; takes
            the place of the one found in training labels.
    """

    label: ndarray
    codes: ndarray | None = None
    file_hw: tuple[int, int] | None = None
    scale_yx: tuple[float, float] = (1.0, 1.0)
    density: ndarray | None = None


@dataclass
class Paste:
    """One drawn defect, ready to be written.

    Attributes:
        donor: index in the library.
        class_id: its class.
        corner: row and column of the patch in the image.
        patch: ``(h, w, 3)`` float32 in [0, 1], RGB; a tensor where it carries the gradient of learned ranges; ``None`` when
            the pixels stay on a device.
        mask: ``(h, w)`` bool: what is pasted, the defect and ``grow`` pixels around it, as far as allowed.
        core: ``(h, w)`` bool: the defect itself.
        blend: how it is composed.
        parameters: the numbers that make ``patch`` and ``mask`` again.
        membrane: of ``mask``, where its factor may be there already.
        stored: where the pixels are, when they stay on a device.
    """

    donor: int
    class_id: int
    corner: tuple[int, int]
    patch: ndarray | None
    mask: ndarray
    core: ndarray
    blend: str
    parameters: dict[str, float]
    membrane: Membrane | None = None
    stored: StoredPatch | None = None


@dataclass
class Draw:
    """All defects of one image, and what was drawn but found no place."""

    pastes: list[Paste] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)


def limits_of(policy: PolicySpec) -> tuple[float, float]:
    """Return the limits of the step at the outline of Poisson blends."""
    return policy.max_boundary_shade, policy.max_boundary_cast


def record_paste(
    paste: Paste, frame: tuple[slice, slice], visible: ndarray, limited: float, source_name: str
) -> Instance:
    """Return the record of a written defect.

    Args:
        paste: the defect.
        frame: part of the image that it was written into.
        visible: ``(h, w)`` bool, the labelled pixels of that part; not all false.
        limited: share of the outline that was limited.
        source_name: of the donor.
    """
    left, top, width, height = cv2.boundingRect(visible.view(np.uint8))
    top, left = top + frame[0].start, left + frame[1].start
    parameters = {**paste.parameters, LIMITED: limited} if limited else paste.parameters
    area = int(np.count_nonzero(visible))
    return Instance(
        paste.class_id, (top, left, top + height, left + width), area, source_name, 'paste', paste.blend, parameters
    )
