"""The images and labels of a test set, and the predictions beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from mmdefect.experiments.evidence.counts import Counts, confusion, read_labels

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')


@dataclass(frozen=True)
class Sample:
    """One test image.

    Attributes:
        name: relative path without suffix, as the predictions are named.
        image: file of the image.
        load_label: gives ``(H, W)`` class ids, 255 where nothing counts.
    """

    name: str
    image: Path
    load_label: Callable[[], ndarray]


@dataclass(frozen=True)
class Truth:
    """A test set.

    Attributes:
        classes: the background first.
        palette: RGB of each class.
        samples: in a fixed order.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    samples: tuple[Sample, ...]


def paired_folders(images: Path, labels: Path, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Truth:
    """Pair two folders by file name; an image without a label file is clean.

    Raises:
        FileNotFoundError: if a folder is missing or holds no image.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder} must be a folder of images, but is not; check the data root.')
    found = sorted(path for path in images.rglob('*') if path.suffix.lower() in IMAGES)
    if not found:
        raise FileNotFoundError(f'{images} must hold images ({", ".join(IMAGES)}), but has none.')
    samples = []
    for path in found:
        name = path.relative_to(images).with_suffix('')
        label = labels / name.parent / f'{name.name}.png'
        samples.append(Sample(name.as_posix(), path, _loader(label, path)))
    return Truth(tuple(classes), tuple(tuple(map(int, colour)) for colour in palette), tuple(samples))


def _loader(label: Path, image: Path) -> Callable[[], ndarray]:
    def load() -> ndarray:
        if label.is_file():
            return read_labels(label)
        return np.zeros(read_image_size(image), np.uint8)

    return load


def read_image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image from its header."""
    from PIL import Image

    with Image.open(path) as photo:
        return photo.height, photo.width


def prediction_file(folder: Path, sample: Sample) -> Path:
    """Return where the prediction of a sample lies; dots in its name are kept."""
    return folder / f'{sample.name}.png'


def count_predictions(folder: Path, truth: Truth) -> tuple[Counts, ndarray]:
    """Count every test image of a run.

    Returns:
        The counts of each image, and the ``(K, K)`` confusion of all of them, row = label, column = prediction.

    Raises:
        FileNotFoundError: if a prediction is missing; the message names the first and how many.
    """
    missing = [s.name for s in truth.samples if not prediction_file(folder, s).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{folder} must hold a prediction NAME.png of each of the {len(truth.samples)} test images, '
            f'but {len(missing)} are missing, the first is {missing[0]}.png; test with --out.'
        )
    matrices = []
    for sample in truth.samples:
        try:
            matrices.append(
                confusion(read_labels(prediction_file(folder, sample)), sample.load_label(), len(truth.classes))
            )
        except ValueError as err:
            raise ValueError(f'{prediction_file(folder, sample)}: {err}') from err
    stack = np.stack(matrices)
    values = np.stack([np.diagonal(stack, axis1=1, axis2=2), stack.sum(1), stack.sum(2)], axis=-1)
    return Counts(tuple(s.name for s in truth.samples), truth.classes, values), stack.sum(0)
