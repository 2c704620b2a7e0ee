"""Masks that say where a defect shall be: sizes, boxes that lie on the object, shapes inside them, sets on disk.

The size of a box comes from a range in YAML or from the caller; the package has the ranges of AnoGen for MVTec AD (Gui
et al., "Few-shot anomaly-driven generation", ECCV 2024). A box is taken when more than ``min_overlap`` of its area lies
on the allowed region (a template, the foreground of an image, or the whole frame); area beyond the frame is never
allowed. AnoGen uses 0.75 and tries for ever; here a range that does not fit is an error that names it.

Where a label is the mask that was generated into, a box marks mostly normal pixels. Blobs, scratches and outlines of
real defects look more like a defect; they fill the upright frame of the box and are turned with it.

A set is one PNG for each mask and ``masks.json``: ``{"format": "mmdefect-masks/1", "masks": [{"file", "category",
"defect_type", "kind", "source", "seed", "box", "overlap", "donor"}, ...]}``; ``file`` is relative to the folder,
``source`` is the image that a mask was fitted to and ``null`` when it fits every image (template or whole frame).
"""

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy import ndarray

from mmdefect.diffusion.images import bounding_box, write_image
from mmdefect.diffusion.manifest import read_entries
from mmdefect.extras import require
from mmdefect.files import write_json
from mmdefect.synthesis.library import DefectLibrary
from mmdefect.synthesis.perlin import perlin_noise
from mmdefect.synthesis.streams import stream_generator

FORMAT = 'mmdefect-masks/1'
SHAPES = ('box', 'perlin', 'scratch', 'donor')
#: Sizes of AnoGen for MVTec AD.
MVTEC_RANGES = Path(__file__).with_name('anogen_mvtec.yaml')


@dataclass(frozen=True)
class BoxRange:
    """Size of a mask as fractions of the image, low and high in (0, 1]; ``name`` is for messages."""

    width_range: tuple[float, float] = (0.05, 0.1)
    height_range: tuple[float, float] = (0.05, 0.1)
    rotate: bool = False
    name: str = 'box'

    def __post_init__(self) -> None:
        if not isinstance(self.rotate, bool):
            raise ValueError(
                f'`rotate` of {self.name} must be true or false, got {self.rotate!r}; write it without quotes.'
            )
        for side, value in (('width', self.width_range), ('height', self.height_range)):
            good = len(value) == 2 and all(isinstance(v, (int, float)) for v in value)
            if not good or not 0 < value[0] <= value[1] <= 1:
                raise ValueError(
                    f'`{side}` of {self.name} must be a fraction of the image, 0 < low <= high <= 1, got {list(value)}.'
                )

    def __str__(self) -> str:
        sides = (('width', self.width_range), ('height', self.height_range))
        text = ', '.join(f'{side} {low:g}-{high:g}' for side, (low, high) in sides)
        return f'{self.name} ({text}, {"turned" if self.rotate else "upright"})'


def read_ranges(path: str | os.PathLike = MVTEC_RANGES) -> dict[str, dict[str, BoxRange]]:
    """Read ``{category: {defect type: BoxRange}}`` from YAML, or from the JSON of AnoGen (``mvtec_range.json``).

    Raises:
        ValueError: if the file is missing or a row is not ``{width: [low, high], height: [low, high], rotate: bool}``
            or, as AnoGen writes it, ``[[low, high], [low, high], "True"]``.
    """
    require('generation', 'yaml', who='reading sizes of masks')
    import yaml

    try:
        body = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except OSError as err:
        raise ValueError(f'the file of ranges {path} must be readable, but it is not ({err.strerror}).') from err
    except yaml.YAMLError as err:
        raise ValueError(f'the file of ranges {path} must be YAML, but it cannot be read ({err}).') from err
    try:
        return {
            category: {kind: _read_row(f'{category}/{kind}', row) for kind, row in kinds.items()}
            for category, kinds in body.items()
        }
    except (AttributeError, TypeError, KeyError) as err:
        raise ValueError(
            f'{path} must hold `category: {{type: {{width: [low, high], height: [low, high], rotate: false}}}}`, but '
            f'does not ({err!r}); see {MVTEC_RANGES.name} in the package.'
        ) from err


def _read_row(name: str, row: dict | list) -> BoxRange:
    if isinstance(row, list):
        texts = {'True': True, 'False': False}  # their code takes either text for true; here it is what it says
        if len(row) != 3 or row[2] not in texts:
            raise ValueError(f'{name} must be [[low, high], [low, high], "True" or "False"], got {row!r}.')
        row = dict(width=row[0], height=row[1], rotate=texts[row[2]])
    unknown = sorted(set(row) - {'width', 'height', 'rotate'})
    if unknown:
        raise ValueError(f'{name} must have width, height and rotate only, got {unknown}.')
    return BoxRange(tuple(row['width']), tuple(row['height']), row['rotate'], name)


def find_range(ranges: dict[str, dict[str, BoxRange]], category: str, kind: str) -> BoxRange:
    """Return the range of one defect type; ``ValueError`` lists those that exist."""
    advice = 'give the sizes with --width and --height, or a file with --ranges.'
    if category not in ranges:
        raise ValueError(f'`category` must have ranges, but {category!r} has none among {sorted(ranges)}; {advice}')
    if kind not in ranges[category]:
        known = sorted(ranges[category])
        raise ValueError(
            f'`type` must have a range, but {kind!r} has none among those of {category}, {known}; {advice}'
        )
    return ranges[category][kind]


@dataclass(frozen=True)
class Box:
    """One sampled box, in pixels."""

    center_rc: tuple[float, float]  # row and column of its centre; the upright box lies inside the frame
    size_hw: tuple[int, int]  # height and width before it is turned
    degrees: float = 0.0  # turn about the centre, 0 to 180


def sample_box(box_range: BoxRange, size_hw: tuple[int, int], generator: torch.Generator) -> Box:
    """Sample a box for an image of this size."""
    width, height, row, column, turn = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    box_h = _pixels(box_range.height_range, height, size_hw[0])
    box_w = _pixels(box_range.width_range, width, size_hw[1])
    top, left = int(row * (size_hw[0] - box_h + 1)), int(column * (size_hw[1] - box_w + 1))
    return Box((top + box_h / 2, left + box_w / 2), (box_h, box_w), 180.0 * turn if box_range.rotate else 0.0)


def _pixels(interval: tuple[float, float], position: float, size: int) -> int:
    return min(size, max(1, round((interval[0] + (interval[1] - interval[0]) * position) * size)))


def _box_coordinates(box: Box, size_hw: tuple[int, int]) -> tuple[ndarray, ndarray]:
    """Return the offsets of all pixels from the centre of a box, across and along it, ``(H, W)`` each."""
    rows = np.arange(size_hw[0])[:, None] + 0.5 - box.center_rc[0]
    columns = np.arange(size_hw[1])[None] + 0.5 - box.center_rc[1]
    cosine, sine = math.cos(math.radians(box.degrees)), math.sin(math.radians(box.degrees))
    return rows * cosine - columns * sine, columns * cosine + rows * sine


def draw_box(box: Box, size_hw: tuple[int, int]) -> ndarray:
    """Return the box as ``(H, W)`` bool: the pixels whose centres lie in it."""
    across, along = _box_coordinates(box, size_hw)
    return (np.abs(along) <= box.size_hw[1] / 2) & (np.abs(across) <= box.size_hw[0] / 2)


def place_shape(shape: ndarray, box: Box, size_hw: tuple[int, int]) -> ndarray:
    """Return a shape, ``(h, w)`` bool of the size of the box, at its place and turned with it, ``(H, W)`` bool."""
    across, along = _box_coordinates(box, size_hw)
    row = np.floor(across + box.size_hw[0] / 2).astype(np.int64)
    column = np.floor(along + box.size_hw[1] / 2).astype(np.int64)
    inside = (row >= 0) & (row < shape.shape[0]) & (column >= 0) & (column < shape.shape[1])
    placed = np.zeros(size_hw, bool)
    placed[inside] = shape[row[inside], column[inside]]
    return placed


def overlap_fraction(box: Box, allowed: ndarray) -> float:
    """Return the share of the box that lies on ``allowed``, ``(H, W)`` bool; outside the frame nothing is allowed."""
    height, width = allowed.shape
    around = math.ceil(math.hypot(*box.size_hw) / 2) + 1
    top, left = max(0, math.floor(box.center_rc[0]) - around), max(0, math.floor(box.center_rc[1]) - around)
    part = allowed[top : min(height, top + 2 * around + 2), left : min(width, left + 2 * around + 2)]
    shifted = Box((box.center_rc[0] - top, box.center_rc[1] - left), box.size_hw, box.degrees)
    inside = np.count_nonzero(draw_box(shifted, part.shape) & part)
    return min(1.0, inside / (box.size_hw[0] * box.size_hw[1]))


def fit_box(
    box_range: BoxRange,
    allowed: ndarray,
    generator: torch.Generator,
    min_overlap: float = 0.75,
    attempts: int = 1000,
    where: str = 'the allowed region',
) -> tuple[Box, float]:
    """Sample boxes until one lies on the allowed region; returns it and its share on the region.

    Args:
        allowed: ``(H, W)`` bool.
        min_overlap: share of the box that must be exceeded.
        attempts: boxes tried at most; ``ValueError`` names the range when none fits.
        where: the region in words, for the message.
    """
    best = 0.0
    for _ in range(attempts):
        box = sample_box(box_range, allowed.shape, generator)
        share = overlap_fraction(box, allowed)
        if share > min_overlap:
            return box, share
        best = max(best, share)
    raise ValueError(
        f'a box of the range {box_range} must fit on {where} with more than {min_overlap:g} of its area, but none of '
        f'{attempts} did (best {best:.2f}; {allowed.mean():.0%} of the frame is allowed); give a smaller range, '
        'another template, or a lower --min-overlap.'
    )


def sample_blob(size_hw: tuple[int, int], generator: torch.Generator) -> ndarray:
    """Return a blob with a Perlin outline, ``(h, w)`` bool, one part that reaches at least half of the frame.

    A cone that falls from the centre keeps the blob whole; noise bends its edge.
    """
    seed, cells = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    noise = perlin_noise(size_hw, (2 + int(cells * 2),) * 2, int(seed * 2**53)).numpy()
    rows = (np.arange(size_hw[0]) + 0.5) / size_hw[0] * 2 - 1
    columns = (np.arange(size_hw[1]) + 0.5) / size_hw[1] * 2 - 1
    distance = np.hypot(rows[:, None], columns[None])
    blob = (distance < 0.75 + 0.5 * noise) | (distance <= max(0.25, distance.min()))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(blob.astype(np.uint8), connectivity=4)
    return parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 2 else blob


def sample_scratch(size_hw: tuple[int, int], generator: torch.Generator) -> ndarray:
    """Return a bent line of varying width along the longer side of the frame, ``(h, w)`` bool."""
    length, breadth = max(size_hw), min(size_hw)
    random = torch.rand(8, generator=generator, dtype=torch.float64).numpy()
    along = np.linspace(0, 1, 2 * length + 1)
    bend = (
        1.6 * (random[0] - 0.5) * (2 * along - 1)
        + 2 * (random[1] - 0.5) * np.sin(math.pi * along)
        + 0.15 * (random[2] - 0.5) * np.sin(2 * math.pi * (2 + 2 * random[3]) * along + 2 * math.pi * random[4])
    )
    thick = max(1.0, breadth * (0.08 + 0.14 * random[5]))
    room = max(0.0, (breadth - thick) / 2 - 0.5)
    centre = breadth / 2 + np.clip(bend, -1, 1) * room
    width = thick * (0.55 + 0.45 * np.sin(math.pi * (0.1 + 0.8 * along)) * (0.6 + 0.4 * random[6]))
    mask = np.zeros((breadth, length), bool)
    rows = np.arange(breadth) + 0.5
    for position, middle, half in zip(along, centre, np.maximum(width / 2, 0.51), strict=True):
        mask[np.abs(rows - middle) <= half, min(length - 1, int(position * length))] = True
    mask = mask if random[7] < 0.5 else mask[:, ::-1]
    return np.ascontiguousarray(mask if size_hw[1] >= size_hw[0] else mask.T)


def sample_donor_shape(
    size_hw: tuple[int, int], generator: torch.Generator, library: DefectLibrary, class_id: int | None = None
) -> tuple[ndarray, str]:
    """Return the outline of a real defect scaled into the frame, ``(h, w)`` bool, and the image it comes from.

    The proportions of the defect are kept; its longer axis goes along the longer side of the frame.
    """
    rows = np.arange(len(library)) if class_id is None else np.flatnonzero(library.table['class_id'] == class_id)
    if not len(rows):
        raise ValueError(
            f'the library {library.folder} must hold a defect of class {class_id}, but it holds {library.classes}.'
        )
    donor = library[int(rows[int(torch.randint(len(rows), (), generator=generator))])]
    shape = donor.mask == 1
    top, left, bottom, right = bounding_box(shape)
    shape = shape[top:bottom, left:right]
    if (shape.shape[0] > shape.shape[1]) != (size_hw[0] > size_hw[1]):
        shape = np.rot90(shape)
    scale = min(size_hw[0] / shape.shape[0], size_hw[1] / shape.shape[1])
    size = max(1, round(shape.shape[0] * scale)), max(1, round(shape.shape[1] * scale))
    small = cv2.resize(shape.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
    mask = np.zeros(size_hw, bool)
    top, left = (size_hw[0] - size[0]) // 2, (size_hw[1] - size[1]) // 2
    mask[top : top + size[0], left : left + size[1]] = small if small.any() else True
    return mask, donor.source


@dataclass(frozen=True)
class MaskRule:
    """How masks are sampled."""

    box_range: BoxRange
    kind: str = 'box'  # one of :data:`SHAPES`
    min_overlap: float = 0.75  # share of the box that must lie on the allowed region
    attempts: int = 1000  # boxes tried at most for one mask
    library: DefectLibrary | None = None  # defects whose outlines are used; for `donor`
    class_id: int | None = None  # class of the donors; `None` takes all
    clip: bool | None = None  # cut off what lies beyond the allowed region; `None`: of shapes, but not of boxes

    def __post_init__(self) -> None:
        if self.kind not in SHAPES:
            raise ValueError(f'`kind` must be one of {", ".join(SHAPES)}, got {self.kind!r}.')
        if not 0 <= self.min_overlap < 1:
            raise ValueError(f'`min_overlap` must be in [0, 1), got {self.min_overlap}; it is a share of the box.')
        if self.attempts < 1:
            raise ValueError(f'`attempts` must be at least 1, got {self.attempts}.')
        if self.kind == 'donor' and self.library is None:
            raise ValueError("`library` must be given for `kind='donor'`; build one from the training images.")


def sample_mask(
    rule: MaskRule, allowed: ndarray, generator: torch.Generator, where: str = 'the allowed region'
) -> tuple[ndarray, dict]:
    """Sample one mask on the allowed region, ``(H, W)`` bool; ``where`` names the region in messages.

    Returns:
        ``(H, W)`` bool, not empty, and what was sampled: ``box``, ``overlap``, ``donor``.
    """
    box, share = fit_box(rule.box_range, allowed, generator, rule.min_overlap, rule.attempts, where)
    facts = dict(box=dict(center_rc=list(box.center_rc), size_hw=list(box.size_hw), degrees=box.degrees), overlap=share)
    clip = rule.kind != 'box' if rule.clip is None else rule.clip
    region = allowed if clip else np.ones_like(allowed)
    whole = draw_box(box, allowed.shape) & region
    if rule.kind == 'box':
        return whole, facts
    if rule.kind == 'donor':
        shape, facts['donor'] = sample_donor_shape(box.size_hw, generator, rule.library, rule.class_id)
    else:
        shape = {'perlin': sample_blob, 'scratch': sample_scratch}[rule.kind](box.size_hw, generator)
    mask = place_shape(shape, box, allowed.shape) & region
    return (mask if mask.any() else whole), facts


@dataclass(frozen=True)
class MaskEntry:
    """One mask of a set, see the module."""

    file: str
    category: str
    defect_type: str
    kind: str
    seed: int
    source: str | None = None
    box: dict | None = None
    overlap: float | None = None
    donor: str | None = None


def write_masks(
    folder: Path, category: str, rules: dict[str, MaskRule], source: str | None, region: ndarray, count: int, seed: int
) -> list[MaskEntry]:
    """Sample ``count`` masks of each defect type on one region and write them, without the list.

    The same seed gives the same masks, whatever else is sampled.

    Args:
        category: product, part of the file names.
        rules: how masks are sampled, by defect type.
        source: image that the region belongs to; ``None``: any.
        region: ``(H, W)`` bool, where masks may lie.
    """
    entries = []
    for defect_type, rule in rules.items():
        where = f'the foreground of {source}' if source else f'the template of {category}/{defect_type}'
        for number in range(count):
            name = f'{category}/{defect_type}/{Path(source).stem if source else "any"}-{number:04d}'
            own = zlib.crc32(f'{seed}/{name}/{rule.kind}'.encode())
            mask, facts = sample_mask(rule, region, stream_generator(own, 'mask'), where)
            write_image(folder / f'{name}.png', mask)
            entries.append(MaskEntry(f'{name}.png', category, defect_type, rule.kind, own, source, **facts))
    return entries


def write_list(folder: str | os.PathLike, entries: Sequence[MaskEntry]) -> None:
    """Write ``masks.json``: with it the set is complete."""
    write_json(Path(folder) / 'masks.json', dict(format=FORMAT, masks=[vars(e) for e in entries]))


def read_list(folder: str | os.PathLike) -> list[MaskEntry]:
    """Read ``masks.json``; ``ValueError`` if it is missing or broken, or the set is empty."""
    advice = 'make the set with `tools/generate.py masks`.'
    return read_entries(Path(folder) / 'masks.json', FORMAT, 'masks', MaskEntry, advice)[1]
