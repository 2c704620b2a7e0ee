"""Sources, edits and labels with known answers, with plain NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 160
GOLD, WHITE = (190, 150, 70), (240, 240, 235)


def draw_surface(rng: np.random.Generator) -> np.ndarray:
    """Return a dark textured surface with relief, ``(SIZE, SIZE, 3)`` uint8 RGB."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    relief = 12 * np.sin(rows / 9.0) * np.sin(columns / 13.0)
    grey = 80 + relief + rng.normal(0, 2, (SIZE, SIZE))
    return np.clip(grey[..., None] + [2, 0, -2], 0, 255).astype(np.uint8)


def put(
    image: np.ndarray, label: np.ndarray | None, box: tuple[int, int, int, int], class_id: int, rng: np.random.Generator
) -> None:
    """Draw a gold (1) or white (2) defect into ``(top, left, height, width)``, in place."""
    top, left, height, width = box
    area = np.s_[top : top + height, left : left + width]
    image[area] = np.clip(rng.normal((GOLD, WHITE)[class_id - 1], 4, (height, width, 3)), 0, 255)
    if label is not None:
        label[area] = class_id


def reconstruct(image: np.ndarray, rng: np.random.Generator, noise: float = 1.5) -> np.ndarray:
    """Imitate an autoencoder: a light blur, a tone of its own, noise."""
    import cv2

    blurred = cv2.GaussianBlur(image, (0, 0), 0.6).astype(np.float32)
    return np.clip(0.97 * blurred + 4 + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def labelled_sources(count: int = 6, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return images with one gold and one white defect each, and their labels."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        image, label = draw_surface(rng), np.zeros((SIZE, SIZE), np.uint8)
        put(image, label, (20 + 3 * index, 30, 6, 8), 1, rng)
        put(image, label, (100, 90 + 4 * index, 7, 5), 2, rng)
        made.append((image, label))
    return made


def write_edits(root: Path, count: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Write ``img/``, ``ann/`` and ``edits/new_*``; the gold defect vanishes in each edit and a white one comes.

    Returns:
        The true label of every edit by its stem.
    """
    rng = np.random.default_rng(seed)
    truth = {}
    for folder in ('img', 'ann', 'edits'):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        surface, label = draw_surface(rng), np.zeros((SIZE, SIZE), np.uint8)
        source = surface.copy()
        put(source, label, (20, 30 + index, 6, 8), 1, rng)
        new, true = surface.copy(), np.zeros_like(label)
        put(new, true, (110, 60 + 5 * index, 6, 7), 2, rng)
        Image.fromarray(source).save(root / 'img' / f'part{index}.png')
        Image.fromarray(label).save(root / 'ann' / f'part{index}.png')
        Image.fromarray(reconstruct(new, rng)).save(root / 'edits' / f'new_part{index}.png')
        truth[f'new_part{index}'] = true
    for index, (image, label) in enumerate(labelled_sources()):  # these show what white looks like
        Image.fromarray(image).save(root / 'img' / f'other{index}.png')
        Image.fromarray(label).save(root / 'ann' / f'other{index}.png')
    return truth
