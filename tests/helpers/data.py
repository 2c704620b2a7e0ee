"""Write tiny data sets in the real folder layouts, with plain NumPy and Pillow.

Every writer returns the label map of every image by its path relative to the root, as drawn: the truth that data sets
are compared with. Nothing here comes from the package under test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE_HW = (40, 56)


def draw_image(rng: np.random.Generator, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    """Return an ``(H, W, 3)`` uint8 RGB image: a bright noisy plate with a gradient."""
    rows = np.linspace(120, 200, size_hw[0])[:, None, None]
    return np.clip(rows + rng.normal(0, 8, (*size_hw, 3)), 0, 255).astype(np.uint8)


def draw_label(rng: np.random.Generator, classes: Sequence[int], size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    """Return an ``(H, W)`` uint8 label map with one rectangle per class, side by side so that none hides another."""
    label = np.zeros(size_hw, np.uint8)
    width = size_hw[1] // max(1, len(classes))
    for position, value in enumerate(classes):
        top, left = int(rng.integers(1, size_hw[0] - 8)), position * width + int(rng.integers(1, 4))
        label[top : top + int(rng.integers(2, 7)), left : left + int(rng.integers(2, width - 5))] = value
    return label


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as an image file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_sample(rng: np.random.Generator, image_path: Path, label: np.ndarray) -> None:
    """Write an image whose defect pixels are dark."""
    image = draw_image(rng, label.shape)
    image[label > 0] = image[label > 0] // 4
    save(image_path, image)


def write_wta(
    root: Path,
    counts: Mapping[str, int] | None = None,
    num_classes: int = 3,
    seed: int = 0,
    size_hw: tuple[int, int] = SIZE_HW,
) -> dict[str, np.ndarray]:
    """Write ``img_dir`` and ``ann_dir``; every third image is clean, the others hold one or all defect classes."""
    rng = np.random.default_rng(seed)
    labels = {}
    for split, count in (counts or dict(train=6, val=3, test=3)).items():
        for index in range(count):
            classes = ([], [1 + index % (num_classes - 1)], list(range(1, num_classes)))[index % 3]
            label = draw_label(rng, classes, size_hw)
            name = f'[{index:04d}]top.png'
            write_sample(rng, root / 'img_dir' / split / name, label)
            save(root / 'ann_dir' / split / name, label)
            labels[f'img_dir/{split}/{name}'] = label
    return labels


def write_mvtec(
    root: Path,
    categories: Mapping[str, Sequence[str]] | None = None,
    train_good: int = 4,
    test_good: int = 3,
    per_type: int = 6,
    seed: int = 0,
    image_suffix: str = '.png',
    mask_suffix: str = '_mask.png',
    mask_value: int = 255,
) -> dict[str, np.ndarray]:
    """Write MVTec AD folders; labels are 1 on every defect.

    VisA in its one-class layout is ``categories={'pcb': ['bad']}, image_suffix='.JPG', mask_suffix='.png'``.
    """
    rng = np.random.default_rng(seed)
    labels = {}

    def write(category: str, split: str, defect_type: str, index: int) -> None:
        label = draw_label(rng, [] if defect_type == 'good' else [1])
        name = f'{category}/{split}/{defect_type}/{index:03d}'
        write_sample(rng, root / f'{name}{image_suffix}', label)
        if defect_type != 'good':
            mask = label * np.uint8(mask_value)
            save(root / category / 'ground_truth' / defect_type / f'{index:03d}{mask_suffix}', mask)
        labels[f'{name}{image_suffix}'] = label

    for category, types in (categories or dict(bottle=('crack', 'stain'), screw=('crack', 'bent'))).items():
        for index in range(train_good):
            write(category, 'train', 'good', index)
        for index in range(test_good):
            write(category, 'test', 'good', index)
        for defect_type in types:
            for index in range(per_type):
                write(category, 'test', defect_type, index)
    return labels


def write_visa(
    root: Path, objects: Sequence[str] = ('pcb', 'nut'), normal: int = 10, anomalous: int = 6, seed: int = 0
) -> dict[str, np.ndarray]:
    """Write VisA as downloaded, with the divisions ``1cls`` and ``2cls_highshot`` in ``split_csv``; labels are 0/1.

    The first 4 of 5 normal images train; of the anomalous ones none, or the first half.
    """
    rng = np.random.default_rng(seed)
    labels, rows = {}, dict.fromkeys(('1cls', '2cls_highshot'), 'object,split,label,image,mask')
    for name in objects:
        for folder, count in (('Anomaly', anomalous), ('Normal', normal)):
            for index in range(count):
                bad = folder == 'Anomaly'
                image = f'{name}/Data/Images/{folder}/{index:03d}.JPG'
                mask = f'{name}/Data/Masks/Anomaly/{index:03d}.png' if bad else ''
                labels[image] = draw_label(rng, [1] if bad else [])
                write_sample(rng, root / image, labels[image])
                if bad:  # values tell the type in the original, so any but 0 is a defect
                    save(root / mask, labels[image] * np.uint8(1 + index % 3))
                for division in rows:
                    trains = division != '1cls' and index < anomalous // 2 if bad else index < 4 * normal // 5
                    rows[division] += (
                        f'\n{name},{"train" if trains else "test"},{"anomaly" if bad else "normal"},{image},{mask}'
                    )
    for division, text in rows.items():
        (root / 'split_csv').mkdir(parents=True, exist_ok=True)
        (root / 'split_csv' / f'{division}.csv').write_text(text + '\n')
    return labels


def write_combined(
    root: Path, counts: Mapping[str, int] | None = None, good: int = 3, object_masks: bool = True, seed: int = 0
) -> dict[str, np.ndarray]:
    """Write ``Combined/{train,train_gt,...}``, ``good/`` and object masks that cover the left half."""
    rng = np.random.default_rng(seed)
    labels = {}
    for split, count in (counts or dict(train=4, val=2, test=2)).items():
        for index in range(count):
            label = draw_label(rng, [1])
            write_sample(rng, root / 'Combined' / split / f'{index:03d}.png', label)
            save(root / 'Combined' / f'{split}_gt' / f'{index:03d}_mask.png', label * np.uint8(255))
            labels[f'Combined/{split}/{index:03d}.png'] = label
    for index in range(good):
        label = np.zeros(SIZE_HW, np.uint8)
        write_sample(rng, root / 'good' / f'{index:03d}.png', label)
        labels[f'good/{index:03d}.png'] = label
        if object_masks:
            mask = np.zeros(SIZE_HW, np.uint8)
            mask[:, : SIZE_HW[1] // 2] = 255
            save(root / 'good_object_location_mask' / f'{index:03d}_mask.png', mask)
    return labels
