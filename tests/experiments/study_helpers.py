"""A study over the stand-in tools: their configs are plain Python files."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np

from mmdefect.experiments.batch import Tools
from mmdefect.experiments.evidence.counts import Truth, paired_folders
from mmdefect.experiments.study import Composer

HERE = Path(__file__).parent
CLASSES, PALETTE = ('normal', 'attached', 'broken'), ((0, 0, 0), (255, 0, 0), (0, 255, 0))
TOOLS = Tools(
    HERE / 'stand_ins' / 'train.py',
    HERE / 'stand_ins' / 'evaluate_images.py',
    HERE.parents[1] / 'bash' / 'find_best.py',
    sys.executable,
)


def read(path: Path) -> dict:
    return {
        key: value
        for key, value in runpy.run_path(str(path)).items()
        if not key.startswith('_') and not callable(value)
    }


def compose(settings: dict, path: Path) -> tuple[dict, str]:
    return settings, ''.join(f'{key} = {value!r}\n' for key, value in settings.items())


COMPOSER = Composer(read, compose)


def write_data(root: Path, count: int = 6, side: int = 24) -> None:
    """Write test images and labels; every third image is clean."""
    rng = np.random.default_rng(0)
    for folder in ('img_dir', 'ann_dir'):
        (root / folder / 'test').mkdir(parents=True)
    for index in range(count):
        label = np.zeros((side, side), np.uint8)
        if index % 3:
            label[4:10, 5 : 9 + index] = index % 3
        image = rng.integers(90, 160, (side, side, 3), dtype=np.uint8)
        image[label > 0] //= 3
        cv2.imwrite(str(root / 'img_dir' / 'test' / f'part.{index}.png'), image)
        cv2.imwrite(str(root / 'ann_dir' / 'test' / f'part.{index}.png'), label)


def truth(root: Path) -> Truth:
    return paired_folders(root / 'img_dir' / 'test', root / 'ann_dir' / 'test', CLASSES, PALETTE)
