"""Cut the defects of a labelled image out: connected components, merged when close, with a margin around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.types import IGNORE_LABEL

#: Value of a donor's mask where its margin shows another defect: part of the object, and not pasted with this one.
OTHER_DEFECT = 3


@dataclass(frozen=True)
class CuttingRule:
    """How defects are cut out of a labelled image.

    Attributes:
        merge_radius: parts of one class at most about this many pixels apart are one defect; 0 keeps every connected
            component apart. Speckle defects need it: in the set of cutting inserts the median component has 2 pixels.
        whole_mask: take all pixels of a class in an image as one defect.
        margin: pixels around the defect that are stored with it; blending needs at least one after all shrinking.
        min_area: smaller defects, in pixels, are left out.
        max_extent_fraction: defects longer than this fraction of the longer side of their image are left out.
    """

    merge_radius: int = 8
    whole_mask: bool = False
    margin: int = 8
    min_area: int = 4
    max_extent_fraction: float = 0.5

    def __post_init__(self) -> None:
        for name, low in (('merge_radius', 0), ('margin', 2), ('min_area', 1)):
            if getattr(self, name) < low:
                raise ValueError(
                    f'`{name}` must be at least {low}, got {getattr(self, name)}; it is a number of '
                    'pixels of the stored image.'
                )
        if not 0 < self.max_extent_fraction <= 1:
            raise ValueError(
                f'`max_extent_fraction` must be in (0, 1], got {self.max_extent_fraction}; it is a '
                'fraction of the longer side of the image.'
            )


@dataclass(frozen=True)
class CutDefect:
    """One defect cut out of an image.

    Attributes:
        class_id: defect class, 1..K.
        image: ``(h, w, 3)`` uint8, colours in the order of the source; the border of the source is repeated beyond it.
        mask: ``(h, w)`` uint8: 1 on the defect, 2 on its margin where that shows the object, 3 where it shows another
            defect, 0 elsewhere.
        top_left_rc: row and column of the patch in the source; negative where the margin leaves it.
        inside: fraction of the pixels just around the defect that lie on the object of the source.
    """

    class_id: int
    image: ndarray
    mask: ndarray
    top_left_rc: tuple[int, int]
    inside: float


def cut_defects(
    image: ndarray,
    label: ndarray,
    rule: CuttingRule,
    object_mask: ndarray | None = None,
    skipped: dict[str, int] | None = None,
) -> Iterator[CutDefect]:
    """Yield the defects of an image, class by class, from top to bottom.

    Args:
        image: ``(H, W, 3)`` uint8.
        label: ``(H, W)`` integers: 0 normal, 1..K defects, 255 ignore.
        rule: what counts as one defect, and the margin.
        object_mask: ``(H, W)``, non-zero on the inspected object; everywhere when absent.
        skipped: counts of what was left out, by reason and class (:func:`reason_of_class`), are added here.

    Raises:
        ValueError: if label and image differ in size.
    """
    if label.shape != image.shape[:2]:
        raise ValueError(
            f'`label` must have the size of `image`, {image.shape[:2]}, got {label.shape}; load both at '
            'the resolution of the file.'
        )
    skipped = {} if skipped is None else skipped
    on_object = np.ones(label.shape, bool) if object_mask is None else object_mask > 0
    on_object = on_object | ((label > 0) & (label != IGNORE_LABEL))
    class_ids = [class_id for class_id in np.unique(label).tolist() if class_id not in (0, IGNORE_LABEL)]
    masks = {}
    for class_id in class_ids:
        masks[class_id], rims = _without_rims((label == class_id).view(np.uint8), label)
        if rims:
            key = reason_of_class('rim of another class', class_id)
            skipped[key] = skipped.get(key, 0) + rims
    surroundings = np.uint8(2) * on_object
    for mask in masks.values():
        surroundings[mask > 0] = OTHER_DEFECT
    for class_id, mask in masks.items():
        for part, box in _parts(mask, rule):
            top, left, bottom, right = box
            reason = _reason_to_skip(part, image.shape, rule)
            if reason:
                key = reason_of_class(reason, class_id)
                skipped[key] = skipped.get(key, 0) + 1
                continue
            margin = rule.margin
            around = np.zeros((part.shape[0] + 2 * margin, part.shape[1] + 2 * margin), np.uint8)
            frame, inner = overlap(around.shape, (top - margin, left - margin), label.shape)
            around[inner] = surroundings[frame]
            around[margin:-margin, margin:-margin][part > 0] = 1
            yield CutDefect(
                class_id, _window(image, box, margin), around, (top - margin, left - margin), _share_inside(around)
            )


def reason_of_class(reason: str, class_id: int) -> str:
    """Return the key under which defects of a class that were left out are counted."""
    return f'{reason} | {class_id}'


def _without_rims(mask: ndarray, label: ndarray) -> tuple[ndarray, int]:
    """Return the mask of a class without the pixels strewn along larger defects of other classes, and how many there were.

    Resizing a label that was drawn in colours leaves them; pasted alone they are a dotted outline of nothing.
    """
    others = ((mask == 0) & (label > 0) & (label != IGNORE_LABEL)).view(np.uint8)
    if not others.any():
        return mask, 0
    _, other_parts, other_stats, _ = cv2.connectedComponentsWithStats(others, connectivity=8)
    areas = np.where(others > 0, other_stats[other_parts, cv2.CC_STAT_AREA], 0).astype(np.float32)
    touched = cv2.dilate(areas, np.ones((3, 3), np.uint8))  # area of the largest other defect that touches a pixel
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    own = stats[:, cv2.CC_STAT_AREA]
    beside = np.bincount(parts[(mask > 0) & (touched > own[parts])], minlength=count)
    rim = beside > 0.5 * own
    rim[0] = False
    return np.where(rim[parts], np.uint8(0), mask), int(rim.sum())


def _parts(mask: ndarray, rule: CuttingRule) -> Iterator[tuple[ndarray, tuple[int, int, int, int]]]:
    """Yield the pixels of every defect inside its bounding box, and the box."""
    if not mask.any():
        return
    if rule.whole_mask:
        yield _tight(mask, (0, 0, *mask.shape))
        return
    joined = mask
    if rule.merge_radius > 0:
        # Two parts touch after growing each by half of the distance.
        size = rule.merge_radius + 1
        joined = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    for index in range(1, count):
        left, top, width, height = stats[index, :4].tolist()
        part = (parts[top : top + height, left : left + width] == index) & (
            mask[top : top + height, left : left + width] > 0
        )
        yield _tight(part.view(np.uint8), (top, left, top + height, left + width))


def _tight(part: ndarray, box: tuple[int, int, int, int]) -> tuple[ndarray, tuple[int, int, int, int]]:
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return np.ascontiguousarray(part[top:bottom, left:right]), (
        box[0] + top,
        box[1] + left,
        box[0] + bottom,
        box[1] + right,
    )


def _reason_to_skip(part: ndarray, shape: tuple, rule: CuttingRule) -> str | None:
    if np.count_nonzero(part) < rule.min_area:
        return 'too small'
    return 'too long' if max(part.shape) > rule.max_extent_fraction * max(shape[:2]) else None


def _window(image: ndarray, box: tuple[int, int, int, int], margin: int) -> ndarray:
    """Return the box with its margin; the border of the image is repeated (a mirror would show a defect twice)."""
    top, left, bottom, right = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    height, width = image.shape[:2]
    inner = image[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    sides = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    return np.ascontiguousarray(inner) if not any(sides) else cv2.copyMakeBorder(inner, *sides, cv2.BORDER_REPLICATE)


def _share_inside(around: ndarray) -> float:
    """Share of the ring of two pixels around the defect that lies on the object and inside the frame."""
    core = (around == 1).view(np.uint8)
    ring = (cv2.dilate(core, np.ones((5, 5), np.uint8)) > 0) & (core == 0)
    return float((around[ring] >= 2).mean())
