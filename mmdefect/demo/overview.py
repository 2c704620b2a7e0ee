"""One sheet that shows every category with every defect, for the README and for judging the renderer by eye."""

from __future__ import annotations

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.demo.sample import CATEGORIES, DemoSample, render_sample
from mmdefect.visualization import image_grid, default_palette, legend, overlay_labels


def crop_around(sample: DemoSample, side: int) -> tuple[ndarray, ndarray]:
    """Return image and label cut to a square of ``side`` pixels around the first defect."""
    left, top, right, bottom = sample.records[0].box_xyxy
    height, width = sample.label.shape
    y = int(np.clip((top + bottom - side) // 2, 0, height - side))
    x = int(np.clip((left + right - side) // 2, 0, width - side))
    return sample.image[y : y + side, x : x + side], sample.label[y : y + side, x : x + side]


def pick_example(category: str, kind: str, class_index: int, size: int, seed: tuple[int, ...]) -> DemoSample:
    """Return the second largest of eight random defects of one kind: typical, yet visible on a small sheet."""
    samples = [render_sample(category, [(kind, class_index)], (size, size), (*seed, k)) for k in range(8)]
    return sorted(samples, key=lambda sample: sample.records[0].area)[-2]


def demo_overview(size: int = 224, seed: int = 0) -> ndarray:
    """Return a sheet: for each category a row of whole images and a row of enlarged defects with their labels.

    Args:
        size: side of the images in pixels.
        seed: seed of the images.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    kinds = list(dict.fromkeys(kind for kinds in CATEGORIES.values() for kind in kinds))
    palette = default_palette(len(kinds) + 1)
    rows, captions, titles = [], [], []
    for c, (category, names) in enumerate(CATEGORIES.items()):
        whole, close = [render_sample(category, (), (size, size), (seed, 9, c)).image], [None]
        for k, kind in enumerate(names):
            sample = pick_example(category, kind, kinds.index(kind) + 1, size, (seed, 9, c, k))
            image, label = crop_around(sample, size // 2)
            enlarged = [cv2.resize(a, (size, size), interpolation=cv2.INTER_NEAREST) for a in (image, label)]
            whole.append(sample.image)
            close.append(overlay_labels(*enlarged, palette, alpha=0.0, outline=1))
        rows += [whole, close]
        captions += [['good', *names], ['', *['label, twice enlarged'] * len(names)]]
        titles += [category, '']
    return image_grid(rows, titles, captions=captions, footer=legend(kinds, palette[1:], size=15))
