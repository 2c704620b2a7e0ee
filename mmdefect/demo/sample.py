"""One image with its exact label: the scene is rendered with and without each defect and the two are compared.

A pixel belongs to a defect if and only if the image with it differs from the image without it by more than
:data:`TOLERANCE` levels in some channel. Sensor noise, light and pose are the same in both, so the label is neither
drawn nor estimated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.defects.deposits import sample_particles, sample_stain
from mmdefect.demo.defects.fabric import sample_cut, sample_hole, sample_missing_yarn
from mmdefect.demo.defects.hard import sample_broken_corner, sample_chip, sample_pits, sample_scratch
from mmdefect.demo.scene import Scene, Surface, render
from mmdefect.demo.scenes import carpet_scene, insert_scene, metal_scene
from mmdefect.visualization.grid import image_grid, legend
from mmdefect.visualization.overlay import default_palette, overlay_labels

#: A pixel counts as defective when a channel changes by more than this many of 255 levels (sensor noise: about 2).
TOLERANCE = 6
#: Largest share of the image that all defects together may change.
MAX_AREA_FRACTION = 0.03
#: A defect that changes fewer pixels than this is sampled again: two pixels is the smallest speck worth a label.
MIN_PIXELS = 2
#: Sizes that the scenes are made for, in pixels of the short and the long side.
SIZE_RANGE = (128, 1024)

SCENES: dict[str, Callable[[Generator, tuple[int, int]], Scene]] = dict(
    metal=metal_scene, carpet=carpet_scene, insert=insert_scene
)
#: Defects that occur in each category, in the order of their class indices.
CATEGORIES: dict[str, tuple[str, ...]] = {
    'metal': ('scratch', 'pit', 'stain', 'particle'),
    'carpet': ('cut', 'hole', 'stain', 'yarn', 'particle'),
    'insert': ('scratch', 'chip', 'missing', 'stain', 'particle'),
}


class Defect(Protocol):
    """What every record of defect parameters can do."""

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return a new surface that carries the defect; the argument stays as it is."""


#: Sampler of each kind of defect. ``missing`` is a corner of the object that is gone, ``yarn`` a gap in a weave.
SAMPLERS: dict[str, Callable[[Generator, Scene], Defect]] = {
    'scratch': sample_scratch,
    'cut': sample_cut,
    'chip': sample_chip,
    'missing': sample_broken_corner,
    'yarn': sample_missing_yarn,
    'stain': sample_stain,
    'pit': sample_pits,
    'hole': sample_hole,
    'particle': sample_particles,
}


@dataclass(frozen=True)
class DefectRecord:
    """What one defect did to the image."""

    kind: str  # key of SAMPLERS
    class_index: int  # its value in the label
    box_xyxy: tuple[int, int, int, int]  # left, top, right, bottom of its pixels, ends excluded
    area: int  # its number of pixels
    defect: Defect  # the sampled parameters


@dataclass(frozen=True)
class DemoSample:
    """An image and everything that is known about it."""

    image: ndarray  # (H, W, 3) uint8 RGB
    clean: ndarray  # the same image without defects
    label: ndarray  # (H, W) uint8, 0 normal, else the class of the defect
    support: ndarray  # (H, W) bool, the object; the plain background never carries a defect
    records: tuple[DefectRecord, ...]  # one entry per defect, in the order in which they were applied


def check_size(size_hw: tuple[int, int]) -> None:
    """Raise ``ValueError`` unless both sides lie within :data:`SIZE_RANGE`."""
    low, high = SIZE_RANGE
    if not all(low <= side <= high for side in size_hw):
        raise ValueError(
            f'`size_hw` must lie between {low} and {high} pixels on both sides, got {tuple(size_hw)}; '
            'the scenes lose their detail below and have not been judged above.'
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


def add_defects(scene: Scene, defects: Sequence[tuple[str, int]], rng: Generator) -> DemoSample:
    """Put defects on a scene one after the other and label what each of them changed.

    Where several defects changed a pixel it belongs to the one that changed it most.
    """
    clean = image = render(scene)
    surface, support = scene.surface, scene.support
    strongest = np.zeros(scene.size_hw, np.int16)
    owner = np.full(scene.size_hw, -1, np.int8)
    applied: list[Defect] = []
    for kind, _ in defects:
        surface, after, defect = _place(scene, surface, image, clean, kind, rng)
        change = _difference(after, image)
        owner[change > strongest] = len(applied)
        strongest = np.maximum(strongest, change)
        image = after
        applied.append(defect)
    owner[_difference(image, clean) <= TOLERANCE] = -1
    label = np.array([0, *(index for _, index in defects)], np.uint8)[owner + 1]
    records = []
    for k, ((kind, index), defect) in enumerate(zip(defects, applied, strict=True)):
        mask = (owner == k).view(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        records.append(DefectRecord(kind, index, (left, top, left + width, top + height), int(mask.sum()), defect))
    return DemoSample(image, clean, label, support, tuple(records))


def _place(
    scene: Scene, surface: Surface, image: ndarray, clean: ndarray, kind: str, rng: Generator
) -> tuple[Surface, ndarray, Defect]:
    """Sample a defect until it is visible and small enough; return the new surface, its image and the defect."""
    most = MAX_AREA_FRACTION * scene.support.size
    for _ in range(60):
        defect = SAMPLERS[kind](rng, scene)
        candidate = defect.apply(surface, scene)
        after = np.where(scene.support[..., None], render(scene, candidate), clean)
        visible = np.count_nonzero(_difference(after, image) > TOLERANCE) >= MIN_PIXELS
        if visible and np.count_nonzero(_difference(after, clean) > TOLERANCE) <= most:
            return candidate, after, defect
    raise RuntimeError(
        f'no visible {kind!r} of fewer than {most:.0f} pixels was found in 60 tries on a scene of {scene.size_hw}; '
        'ask for fewer defects in one image.'
    )


def _difference(a: ndarray, b: ndarray) -> ndarray:
    """Return the largest difference over the channels, ``(H, W)`` int16."""
    red, green, blue = cv2.split(cv2.absdiff(a, b))  # a reduction over the short last axis is ten times slower
    return cv2.max(cv2.max(red, green), blue).astype(np.int16)


def demo_overview(size: int = 224, seed: int = 0) -> ndarray:
    """Return for each category a row of whole images, ``size`` pixels a side, and a row of enlarged defects."""
    kinds = list(dict.fromkeys(kind for kinds in CATEGORIES.values() for kind in kinds))
    palette = default_palette(len(kinds) + 1)
    rows, captions, titles = [], [], []
    for c, (category, names) in enumerate(CATEGORIES.items()):
        whole, close = [render_sample(category, (), (size, size), (seed, 9, c)).image], [None]
        for k, kind in enumerate(names):
            wanted = [(kind, kinds.index(kind) + 1)]
            samples = [render_sample(category, wanted, (size, size), (seed, 9, c, k, number)) for number in range(8)]
            # The second largest is typical, yet visible on a small page.
            sample = sorted(samples, key=lambda sample: sample.records[0].area)[-2]
            whole.append(sample.image)
            left, top, right, bottom = sample.records[0].box_xyxy
            side = size // 2
            y, x = np.clip([(top + bottom - side) // 2, (left + right - side) // 2], 0, size - side)
            parts = [array[y : y + side, x : x + side] for array in (sample.image, sample.label)]
            enlarged = [cv2.resize(part, (size, size), interpolation=cv2.INTER_NEAREST) for part in parts]
            close.append(overlay_labels(*enlarged, palette, alpha=0.0, outline=1))
        rows += [whole, close]
        captions += [['good', *names], ['', *['label, twice enlarged'] * len(names)]]
        titles += [category, '']
    return image_grid(rows, titles, captions=captions, footer=legend(kinds, palette[1:], size=15))
