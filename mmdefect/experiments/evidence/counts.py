"""Counts of each test image and class from predicted and true label maps, and the metrics of any set of images.

Counts are what a paired bootstrap resamples: a metric of the data set is computed anew from the sum of the resampled
images' counts. Definitions are those of mmseg's ``IoUMetric``. The test set itself (:class:`Truth`) is here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

IGNORE = 255
IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')
#: Percentage points by which a metric recomputed from counts may miss the logged one (logs are rounded).
LOG_TOLERANCE = 0.02


@dataclass(frozen=True)
class Counts:
    """Pixels of each image and class."""

    names: tuple[str, ...]  # identity of each image; runs are paired by it
    classes: tuple[str, ...]  # name of each class, the background first
    values: ndarray  # `(N, K, 3)` int64: intersection, predicted, labelled

    def __post_init__(self) -> None:
        expected = (len(self.names), len(self.classes), 3)
        if self.values.shape != expected:
            raise ValueError(f'`values` must be {expected} for the names and classes, got {self.values.shape}.')

    def to_json(self) -> dict[str, Any]:
        """Return plain data; the union is predicted + labelled - intersection."""
        return {
            'classes': list(self.classes),
            'columns': ['intersection', 'predicted', 'labelled'],
            'images': {name: row.reshape(-1).tolist() for name, row in zip(self.names, self.values, strict=True)},
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Counts:
        """Invert :meth:`to_json`."""
        classes = tuple(value['classes'])
        rows = np.array(list(value['images'].values()), np.int64).reshape(-1, len(classes), 3)
        return Counts(tuple(value['images']), classes, rows)


@dataclass(frozen=True)
class Sample:
    """One test image."""

    name: str  # relative path without suffix, as the predictions are named
    image: Path  # file of the image
    load_label: Callable[[], ndarray]  # gives `(H, W)` class ids, 255 where nothing counts

    def prediction_in(self, folder: Path) -> Path:
        """Return where the prediction of the image lies; dots in its name are kept."""
        return folder / f'{self.name}.png'


@dataclass(frozen=True)
class Truth:
    """A test set: classes (the background first) with their RGB colours, and samples in a fixed order."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    samples: tuple[Sample, ...]


def paired_folders(images: Path, labels: Path, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Truth:
    """Pair two folders by file name; an image without a label file is clean."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder} must be a folder of images, but is not; check the data root.')
    found = find_images(images)
    if not found:
        raise FileNotFoundError(f'{images} must hold images ({", ".join(IMAGES)}), but has none.')
    samples = [Sample(name, path, partial(_label, labels / f'{name}.png', path)) for name, path in found.items()]
    return Truth(tuple(classes), tuple(tuple(map(int, colour)) for colour in palette), tuple(samples))


def find_images(folder: Path) -> dict[str, Path]:
    """Return ``{relative path without suffix: file}`` of all images below a folder, in order."""
    found = sorted(path for path in folder.rglob('*') if path.suffix.lower() in IMAGES)
    return {path.relative_to(folder).with_suffix('').as_posix(): path for path in found}


def _label(label: Path, image: Path) -> ndarray:
    if label.is_file():
        return read_labels(label)
    with Image.open(image) as header:
        return np.zeros((header.height, header.width), np.uint8)


def read_labels(path: Path) -> ndarray:
    """Read a label map with one channel, ``(H, W)`` uint8 of class ids."""
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if label is None or label.ndim != 2:
        what = 'cannot be read' if label is None else f'has shape {label.shape}'
        raise ValueError(f'{path} must be a PNG of class ids with one channel, but {what}.')
    return label


def confusion(prediction: ndarray, label: ndarray, num_classes: int) -> ndarray:
    """Return the confusion of one image, ``(num_classes, num_classes)`` int64, row = label, column = prediction.

    Both maps are ``(H, W)`` integers in ``0 .. num_classes - 1``; label pixels of 255 do not count.

    Example:
        >>> confusion(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), 2).tolist()
        [[1, 1], [0, 0]]
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f'prediction and label must have one size, got {prediction.shape} and {label.shape}; predict at the latter.'
        )
    keep = label != IGNORE
    predicted, labelled = prediction[keep].astype(np.int64), label[keep].astype(np.int64)
    for kind, values in (('prediction', predicted), ('label', labelled)):
        if values.size and values.max() >= num_classes:
            raise ValueError(f'a {kind} must hold values below {num_classes}, got {values.max()}; check the classes.')
    return np.bincount(labelled * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def counts_of(matrix: ndarray) -> ndarray:
    """Return intersection, predicted and labelled, ``(..., K, 3)``, of confusions ``(..., K, K)``."""
    return np.stack([np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-2), matrix.sum(-1)], axis=-1)


def count_predictions(folder: Path, truth: Truth) -> tuple[Counts, ndarray]:
    """Count every test image of a run, each of which must have a prediction.

    Returns:
        The counts of each image, and the ``(K, K)`` confusion of all of them, row = label, column = prediction.
    """
    files = [sample.prediction_in(folder) for sample in truth.samples]
    missing = [file for file in files if not file.is_file()]
    if missing:
        first = f'{len(missing)} are missing, the first is {missing[0].relative_to(folder)}'
        raise FileNotFoundError(
            f'{folder} must hold NAME.png for each of the {len(files)} test images, but {first}; test with --out.'
        )
    matrices = []
    for file, sample in zip(files, truth.samples, strict=True):
        try:
            matrices.append(confusion(read_labels(file), sample.load_label(), len(truth.classes)))
        except ValueError as err:
            raise ValueError(f'{file}: {err}') from err
    stack = np.stack(matrices)
    return Counts(tuple(s.name for s in truth.samples), truth.classes, counts_of(stack)), stack.sum(0)


def metrics(values: ndarray, classes: Sequence[str]) -> dict[str, ndarray]:
    """Return metrics in percent from counts ``(..., K, 3)``, already summed over images; leading axes are kept.

    They are ``aAcc``, ``mIoU``, ``mAcc``, ``fg_mIoU``, ``fg_mAcc``, ``fg_mF1`` and per class ``IoU.c``, ``Acc.c``,
    ``Precision.c``, ``F1.c``. NaN where nothing was counted, and NaN does not count in the means.
    """
    hit, predicted, labelled = np.moveaxis(values.astype(np.float64), -1, 0)
    with np.errstate(invalid='ignore', divide='ignore'):
        columns = {
            'IoU': 100 * hit / (predicted + labelled - hit),
            'Acc': 100 * hit / labelled,
            'Precision': 100 * hit / predicted,
            'F1': 200 * hit / (predicted + labelled),
        }
        out = {'aAcc': 100 * hit.sum(-1) / labelled.sum(-1)}
    out |= {'mIoU': _nan_mean(columns['IoU']), 'mAcc': _nan_mean(columns['Acc'])}
    out |= {f'fg_m{kind}': _nan_mean(columns[kind][..., 1:]) for kind in ('IoU', 'Acc', 'F1')}
    for k, name in enumerate(classes):
        out.update({f'{kind}.{name}': column[..., k] for kind, column in columns.items()})
    return out


def _nan_mean(values: ndarray) -> ndarray:
    known = ~np.isnan(values)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)
