"""CutPaste on 8-bit images in numpy and OpenCV: the draws of ``cutpaste``, its pixels to a grey level, in less time.

Only the source and the target of the patch are touched; the rest of a new image is one copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray
from torch import Generator

from mmdefect.synthesis.array_writing import changed_pixels
from mmdefect.synthesis.color import color_matrix
from mmdefect.synthesis.cutpaste import CutPasteDraw, CutPasteRanges, check_inside, sample_cutpaste
from mmdefect.synthesis.shapes import VISIBLE_TOLERANCE
from mmdefect.synthesis.types import IGNORE_LABEL, Instance

_BGR = [2, 1, 0, 3]


class EditedImage(NamedTuple):
    """An image with defects in it: ``(H, W, C)`` uint8, its label ``(H, W)`` uint8, the instances, and the skips."""

    image: ndarray
    label: ndarray
    instances: list[Instance]
    skipped: Mapping[str, int]


def cut_paste_array(
    image: ndarray,
    generator: Generator,
    label: ndarray | None = None,
    *,
    kind: str = 'normal',
    class_id: int = 1,
    ranges: CutPasteRanges | None = None,
    tolerance: float = VISIBLE_TOLERANCE,
    is_bgr: bool = True,
    attempts: int = 4,
) -> EditedImage:
    """Paste one CutPaste defect into an image.

    Args:
        image: ``(H, W, 3)`` or ``(H, W, 1)`` uint8, at network size.
        generator: CPU generator.
        label: ``(H, W)`` uint8 to write into; all normal when absent. Pasted pixels win over classes, not over 255.
        kind: ``normal``, ``scar`` or ``union`` (half of each).
        class_id: class of the pasted pixels.
        ranges: what is drawn.
        tolerance: a pasted pixel is labelled when a colour moved by more than this, of [0, 1].
        is_bgr: whether blue comes first.
        attempts: draws until one is visible; after the last the image stays as it is and the skip is counted.

    Returns:
        New arrays.
    """
    for _ in range(attempts):
        draw = sample_cutpaste(image.shape[:2], generator, kind, ranges)
        part, alpha = cutpaste_part(image, draw, is_bgr)
        crop = target_crop(draw)
        visible = changed_pixels(part, image[crop], tolerance)
        if label is not None:
            visible &= label[crop] != IGNORE_LABEL
        if not visible.any():
            continue
        new_image = image.copy()
        new_image[crop] = part
        if label is None:
            new_label = np.zeros(image.shape[:2], np.uint8)
            np.multiply(visible, class_id, out=new_label[crop], casting='unsafe')
        else:
            new_label = label.copy()
            new_label[crop][visible] = class_id
        return EditedImage(new_image, new_label, [cutpaste_instance(draw, visible, class_id)], {})
    new_label = np.zeros(image.shape[:2], np.uint8) if label is None else label.copy()
    return EditedImage(image.copy(), new_label, [], {'invisible': 1})


def cut_paste_3way_array(
    image: ndarray,
    generator: Generator,
    label: ndarray | None = None,
    *,
    class_ids: tuple[int, int] = (1, 2),
    **options,
) -> tuple[EditedImage, EditedImage, EditedImage]:
    """Return three views: the image as it is (the same array), with a normal patch, and with a scar.

    Args:
        image, generator, label, options: as for :func:`cut_paste_array`.
        class_ids: classes of the normal patch and of the scar.
    """
    same = np.zeros(image.shape[:2], np.uint8) if label is None else label
    return (
        EditedImage(image, same, [], {}),
        cut_paste_array(image, generator, label, kind='normal', class_id=class_ids[0], **options),
        cut_paste_array(image, generator, label, kind='scar', class_id=class_ids[1], **options),
    )


def cutpaste_part(image: ndarray, draw: CutPasteDraw, is_bgr: bool = True) -> tuple[ndarray, ndarray | None]:
    """Return what the draw makes of the target part of an image.

    Args:
        image: ``(H, W, 3)`` or ``(H, W, 1)`` uint8.
        draw: the patch.
        is_bgr: whether blue comes first.

    Returns:
        part: ``(h, w, C)`` uint8 new pixels of the target rectangle, whose size is ``draw.canvas_hw``.
        alpha: ``(h, w)`` float32 in [0, 1], how much of every pixel was pasted; ``None`` for all of it.

    Raises:
        ValueError: if the source or the target leaves the image.
    """
    check_inside(draw, image.shape[:2])
    source = image[draw.source_top : draw.source_top + draw.height, draw.source_left : draw.source_left + draw.width]
    matrix = _jitter_matrix(source, draw, is_bgr)
    if not draw.scar:
        part = cv2.transform(source, matrix)
        return part.reshape(source.shape), None
    # Four channels also for a grey image: OpenCV samples two of them at 1/32 of a pixel.
    patch = np.empty((draw.height, draw.width, 4), np.float32)
    colours = cv2.transform(source.astype(np.float32), matrix)
    patch[..., :-1] = np.minimum(np.maximum(colours, 0), 255).reshape(source.shape)
    patch[..., -1] = 1
    turned = cv2.remap(patch, *_turned_places(draw), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    alpha = turned[..., -1]
    target = image[target_crop(draw)]
    part = np.rint(turned[..., : target.shape[2]] + target * (1 - alpha)[..., None])
    return np.minimum(part, 255).astype(np.uint8), alpha


def target_crop(draw: CutPasteDraw) -> tuple[slice, slice]:
    """Return the rows and columns that the patch is pasted into."""
    height, width = draw.canvas_hw
    return slice(draw.target_top, draw.target_top + height), slice(draw.target_left, draw.target_left + width)


def cutpaste_instance(draw: CutPasteDraw, visible: ndarray, class_id: int) -> Instance:
    """Return the record of a patch of which some pixels are labelled."""
    left, top, width, height = cv2.boundingRect(visible.view(np.uint8))
    top, left = top + draw.target_top, left + draw.target_left
    return Instance(
        class_id,
        (top, left, top + height, left + width),
        int(np.count_nonzero(visible)),
        f'background:{draw.source_top},{draw.source_left},{draw.height},{draw.width}',
        'cutpaste-scar' if draw.scar else 'cutpaste-normal',
        'alpha',
        draw.parameters(),
    )


def _jitter_matrix(source: ndarray, draw: CutPasteDraw, is_bgr: bool) -> ndarray:
    mean = cv2.mean(source)
    if source.shape[2] != 3:
        gain = draw.brightness * draw.contrast
        return np.array([[gain, (draw.brightness - gain) * mean[0]]])
    values = draw.brightness, draw.contrast, draw.saturation, draw.hue
    if not is_bgr:
        return color_matrix(values, mean[:3])
    return color_matrix(values, mean[2::-1])[::-1, _BGR]


def _turned_places(draw: CutPasteDraw) -> tuple[ndarray, ndarray]:
    """Return columns and rows in the patch of each pixel of the rotated canvas."""
    height, width = draw.canvas_hw
    cosine, sine = math.cos(math.radians(draw.degrees)), math.sin(math.radians(draw.degrees))
    rows = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    columns = np.arange(width, dtype=np.float32) - (width - 1) / 2
    across = cosine * columns - sine * rows + (draw.width - 1) / 2
    down = sine * columns + cosine * rows + (draw.height - 1) / 2
    return across.astype(np.float32, copy=False), down.astype(np.float32, copy=False)
