"""Count what one labelled image holds: pixels and components of each class, content hash, thumbnail."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmdefect.datasets.file_facts import image_facts
from mmdefect.datasets.masks import IGNORE, decode_mask, label_from_raw
from mmdefect.datasets.near_duplicates import thumbnail
from mmdefect.datasets.samples import Sample, relative_path


@dataclass(frozen=True)
class ImageRecord:
    """What one image contributes.

    Attributes:
        image: path relative to the root.
        mask: path of its mask relative to the root, or ``None``.
        split: split its folder puts it in, or ``None``.
        defect_type: type by folder or name, ``'good'`` or ``'unknown'``.
        size_hw: height and width.
        sha256: hash of the image file.
        pixels: number of pixels of each class, normal first; ignored ones are in none.
        ignored: number of ignored pixels.
        components: ``(n, 4)`` int: class, area, height and width of each defect component.
        odd_values: for 0/255 and 0/1 masks, the values beside the two most frequent ones, with their pixel counts.
        thumbnail: ``(64, 64)`` float32, see :func:`~mmdefect.datasets.near_duplicates.thumbnail`.
    """

    image: str
    mask: str | None
    split: str | None
    defect_type: str
    size_hw: tuple[int, int]
    sha256: str
    pixels: tuple[int, ...]
    ignored: int
    components: np.ndarray
    odd_values: dict[int, int]
    thumbnail: np.ndarray


def take_record(sample: Sample, num_classes: int, root: str | os.PathLike) -> ImageRecord:
    """Read one image and its mask.

    Raises:
        ValueError: if a file cannot be read, sizes differ, or the mask holds values outside the classes.
    """
    image_facts(sample.img_path)  # OpenCV decodes half a JPEG without a word
    data = Path(sample.img_path).read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'the image {sample.img_path} must be readable, but decoding fails; replace the file.')
    label, odd = np.zeros(image.shape[:2], np.uint8), {}
    if sample.seg_map_path is not None:
        raw = decode_mask(Path(sample.seg_map_path).read_bytes(), sample.mask_encoding, sample.seg_map_path)
        if raw.shape[:2] != image.shape[:2]:
            raise ValueError(
                f'the mask {sample.seg_map_path} must have the size of its image, {image.shape[1]}x{image.shape[0]}, '
                f'but it has {raw.shape[1]}x{raw.shape[0]}; export it at the size of the image.'
            )
        label = label_from_raw(
            raw, sample.mask_encoding, sample.seg_map_path, num_classes, sample.class_id, sample.palette
        )
        odd = _odd_values(raw) if sample.mask_encoding == 'binary' else {}
    counts = np.bincount(label.ravel(), minlength=256)
    return ImageRecord(
        relative_path(sample.img_path, str(root)),
        None if sample.seg_map_path is None else relative_path(sample.seg_map_path, str(root)),
        sample.own_split,
        sample.defect_type,
        image.shape[:2],
        hashlib.sha256(data).hexdigest(),
        tuple(int(c) for c in counts[:num_classes]),
        int(counts[IGNORE]),
        list_components(label),
        odd,
        thumbnail(image),
    )


def list_components(label: np.ndarray) -> np.ndarray:
    """List the 8-connected components of every defect class.

    Args:
        label: ``(H, W)`` uint8; 0 and 255 are no defect.

    Returns:
        ``(n, 4)`` int64 rows of class, area in pixels, height and width of the bounding box.
    """
    rows = []
    for value in np.unique(label):
        if value in (0, IGNORE):
            continue
        _, _, stats, _ = cv2.connectedComponentsWithStats((label == value).astype(np.uint8), connectivity=8)
        stats = stats[1:]
        columns = (cv2.CC_STAT_AREA, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH)
        rows.append(np.column_stack([np.full(len(stats), value), *(stats[:, c] for c in columns)]))
    return np.concatenate(rows).astype(np.int64) if rows else np.empty((0, 4), np.int64)


def _odd_values(raw: np.ndarray) -> dict[int, int]:
    """Count the values of a black-and-white mask that are neither 0 nor its most frequent other value."""
    values, counts = np.unique(raw, return_counts=True)
    marked = [(int(n), int(v)) for v, n in zip(values, counts, strict=True) if v != 0]
    if len(marked) < 2:
        return {}
    white = max(marked)[1]
    return {v: n for n, v in marked if v != white}
