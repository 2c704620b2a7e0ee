"""One image with its exact label: the scene is rendered with and without each defect and the two are compared.

A pixel belongs to a defect if and only if the image with it differs from the image without it by more than
:data:`TOLERANCE` levels in some channel. Sensor noise, light and pose are the same in both, so the label is neither
drawn nor estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.demo.defects import SAMPLERS, Defect
from mmdefect.demo.scenes import carpet_scene, insert_scene, metal_scene
from mmdefect.demo.shading import render
from mmdefect.demo.types import Scene, Surface

#: A pixel counts as defective when a channel changes by more than this many of 255 levels (sensor noise: about 2).
TOLERANCE = 6
#: Largest share of the image that all defects together may change.
MAX_AREA_FRACTION = 0.03
#: A defect that changes fewer pixels than this is drawn again: two pixels is the smallest speck worth a label.
MIN_PIXELS = 2
#: Sizes that the scenes are made for, in pixels of the short and the long side.
SIZE_RANGE = (128, 1024)

SCENES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Scene]] = {
    'metal': metal_scene,
    'carpet': carpet_scene,
    'insert': insert_scene,
}

#: Defects that occur in each category, in the order of their class indices.
CATEGORIES: dict[str, tuple[str, ...]] = {
    'metal': ('scratch', 'pit', 'stain', 'particle'),
    'carpet': ('cut', 'hole', 'stain', 'yarn', 'particle'),
    'insert': ('scratch', 'chip', 'missing', 'stain', 'particle'),
}


@dataclass(frozen=True)
class DefectRecord:
    """What one defect did to the image.

    Attributes:
        kind: key of :data:`mmdefect.demo.defects.SAMPLERS`.
        class_index: its value in the label.
        box_xyxy: left, top, right, bottom of its pixels, ends excluded.
        area: its number of pixels.
        defect: the sampled parameters.
    """

    kind: str
    class_index: int
    box_xyxy: tuple[int, int, int, int]
    area: int
    defect: Defect

    def as_dict(self) -> dict:
        """Return the record as plain lists and numbers."""
        return asdict(self)


@dataclass(frozen=True)
class DemoSample:
    """An image and everything that is known about it.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        clean: the same image without defects, ``(H, W, 3)`` uint8 RGB.
        label: ``(H, W)`` uint8, 0 normal, else the class of the defect.
        support: ``(H, W)`` bool, the object; the plain background never carries a defect.
        records: one entry per defect, in the order in which they were applied.
    """

    image: ndarray
    clean: ndarray
    label: ndarray
    support: ndarray
    records: tuple[DefectRecord, ...]


def check_size(size_hw: tuple[int, int]) -> None:
    """Raise ``ValueError`` unless both sides lie within :data:`SIZE_RANGE`."""
    low, high = SIZE_RANGE
    if not all(low <= side <= high for side in size_hw):
        raise ValueError(
            f'`size_hw` must lie between {low} and {high} pixels on both sides, got {tuple(size_hw)}; '
            'the scenes lose their detail below and have not been judged above, so choose a size between.'
        )


def render_sample(
    category: str, defects: Sequence[tuple[str, int]], size_hw: tuple[int, int], seed: Sequence[int]
) -> DemoSample:
    """Render one image with exactly known defects.

    Args:
        category: key of :data:`CATEGORIES`.
        defects: kind and class index of each defect wanted; empty for a clean image.
        size_hw: height and width in pixels.
        seed: integers that identify the image; the same ones give the same pixels in any process.

    Raises:
        ValueError: for an unknown category or kind, or a size outside the range.
    """
    check_size(size_hw)
    if category not in CATEGORIES:
        raise ValueError(f'`category` must be one of {sorted(CATEGORIES)}, got {category!r}.')
    unknown = sorted({kind for kind, _ in defects} - set(CATEGORIES[category]))
    if unknown:
        raise ValueError(f'`defects` of {category!r} must be among {list(CATEGORIES[category])}, got {unknown}.')
    scene_seed, defect_seed = np.random.SeedSequence(list(seed)).spawn(2)
    scene = SCENES[category](np.random.default_rng(scene_seed), size_hw)
    return add_defects(scene, defects, np.random.default_rng(defect_seed))


def add_defects(scene: Scene, defects: Sequence[tuple[str, int]], rng: np.random.Generator) -> DemoSample:
    """Put defects on a scene one after the other and label what each of them changed.

    Where several defects changed a pixel it belongs to the one that changed it most.
    """
    clean = render(scene)
    support = scene.support
    surface, image = scene.surface, clean
    strongest = np.zeros(scene.size_hw, np.int16)
    owner = np.full(scene.size_hw, -1, np.int8)
    applied: list[tuple[str, int, Defect]] = []
    for kind, class_index in defects:
        budget = MAX_AREA_FRACTION * support.size
        surface, after, defect = _place(scene, surface, image, clean, kind, budget, rng)
        change = _difference(after, image)
        owner[change > strongest] = len(applied)
        strongest = np.maximum(strongest, change)
        image = after
        applied.append((kind, class_index, defect))
    changed = _difference(image, clean) > TOLERANCE
    owner[~changed] = -1
    classes = np.array([0, *(index for _, index, _ in applied)], np.uint8)
    records = tuple(_record(owner == k, *entry) for k, entry in enumerate(applied))
    return DemoSample(image, clean, classes[owner + 1], support, records)


def _difference(a: ndarray, b: ndarray) -> ndarray:
    """Return the largest difference over the channels, ``(H, W)`` int16."""
    red, green, blue = cv2.split(cv2.absdiff(a, b))  # a reduction over the short last axis is ten times slower
    return cv2.max(cv2.max(red, green), blue).astype(np.int16)


def _place(
    scene: Scene, surface: Surface, image: ndarray, clean: ndarray, kind: str, budget: float, rng: np.random.Generator
) -> tuple[Surface, ndarray, Defect]:
    """Sample a defect until it is visible and small enough; return the new surface, its image and the defect."""
    for _ in range(60):
        defect = SAMPLERS[kind](rng, scene)
        candidate = defect.apply(surface, scene)
        after = np.where(scene.support[..., None], render(scene, candidate), clean)
        visible = np.count_nonzero(_difference(after, image) > TOLERANCE) >= MIN_PIXELS
        if visible and np.count_nonzero(_difference(after, clean) > TOLERANCE) <= budget:
            return candidate, after, defect
    raise RuntimeError(
        f'no visible {kind!r} under {budget:.0f} pixels in 60 draws on a scene of {scene.size_hw}; '
        'ask for fewer defects in one image.'
    )


def _record(mask: ndarray, kind: str, class_index: int, defect: Defect) -> DefectRecord:
    rows, cols = np.nonzero(mask)
    box = (int(cols.min()), int(rows.min()), int(cols.max()) + 1, int(rows.max()) + 1) if len(rows) else (0, 0, 0, 0)
    return DefectRecord(kind, class_index, box, int(mask.sum()), defect)
