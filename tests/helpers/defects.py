"""Images with known defects and the library cut from them, with plain NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmdefect.synthesis.library import CuttingRule, DefectLibrary, LabelledImage, open_library

FRAME_HW = (96, 120)
#: The object fills this part of the frame; the rest is a white screen.
OBJECT = (slice(12, 84), slice(16, 104))


def draw_part(rng: np.random.Generator, size_hw: tuple[int, int] = FRAME_HW) -> np.ndarray:
    """Return an ``(H, W, 3)`` uint8 RGB image of a dark noisy part before a white screen."""
    image = np.full((*size_hw, 3), 250, np.uint8)
    shape = image[OBJECT].shape
    image[OBJECT] = np.clip(90 + rng.normal(0, 4, shape), 0, 255)
    return image


def draw_defects(rng: np.random.Generator, image: np.ndarray, outline: bool = False) -> np.ndarray:
    """Draw a bright defect of class 1 and a reddish one of class 2 on a part, in place, and return the label."""
    label = np.zeros(image.shape[:2], np.uint8)
    row, column = int(rng.integers(22, 60)), int(rng.integers(26, 50))
    label[row : row + 6, column : column + 9] = 1
    label[row + 2, column + 3] = 0  # a hole
    image[label == 1] = 200
    row, column = int(rng.integers(22, 60)), int(rng.integers(70, 90))
    label[row : row + 5, column : column + 4] = 2
    image[label == 2] = (180, 60, 50)
    if outline:
        label[40:46, 16:20] = 2
        image[40:46, 16:20] = (180, 60, 50)
    return label


def labelled_parts(count: int = 4, seed: int = 0, outline: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return images and labels; every second image is clean."""
    rng = np.random.default_rng(seed)
    parts = []
    for index in range(count):
        image = draw_part(rng)
        label = draw_defects(rng, image, outline) if index % 2 == 0 else np.zeros(image.shape[:2], np.uint8)
        parts.append((image, label))
    return parts


def library_of_parts(folder: Path, parts: list | None = None, rule: CuttingRule | None = None) -> DefectLibrary:
    """Return the library cut from parts."""
    parts = labelled_parts() if parts is None else parts
    images = [LabelledImage(f'part{i}.png', lambda part=part: part, f'content{i}') for i, part in enumerate(parts)]
    return open_library(images, rule or CuttingRule(merge_radius=2), folder)
