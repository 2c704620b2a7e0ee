"""The library of real defects: cut once from the labelled training images, then read through a memory map.

Defects are connected components, merged when close, with a margin around them. A library is a folder: ``pixels.bin``
and ``masks.bin`` (all patches one after the other), ``table.npy`` (one row a defect), ``density.npy`` (where each class
was found) and ``library.json`` (sources, rule, counts). It is written beside its final place and renamed, under a lock,
so that any number of ranks and workers may ask for it at the same time. In memory a library is its table and, while
they are used, pages of the two maps that the system may drop again.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock
from numpy import ndarray

from mmdefect.files import new_folder
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.places import GRID, cut_box
from mmdefect.synthesis.records import IGNORE_LABEL

#: Raise it when the content of a library folder changes.
VERSION = 4
#: Longer side at which the foreground is looked for: the outline of the object must be right to a pixel or two.
DETAIL = 384
_COLUMNS = 'pixel_offset mask_offset height width class_id area source top left source_height source_width inside'
_ROW = np.dtype('i8,i8,i4,i4,i4,i8,i4,i4,i4,i4,i4,f4')
_ROW.names = tuple(_COLUMNS.split())
#: Value of a donor's mask where its margin shows another defect: part of the object, and not pasted with this one.
OTHER_DEFECT = 3


@dataclass(frozen=True)
class CuttingRule:
    """How defects are cut out of a labelled image.

    Attributes:
        merge_radius: parts of one class at most about this many pixels apart are one defect; 0 keeps every connected
            component apart. Speckle defects need it: in the set of cutting inserts the median component has 2 pixels.
        whole_mask: take all pixels of a class in an image as one defect.
        margin: pixels around the defect that are stored with it; blending needs at least one after all shrinking.
        min_area: smaller defects, in pixels, are left out.
        max_extent_fraction: defects longer than this fraction of the longer side of their image are left out.
    """

    merge_radius: int = 8
    whole_mask: bool = False
    margin: int = 8
    min_area: int = 4
    max_extent_fraction: float = 0.5

    def __post_init__(self) -> None:
        for name, low in (('merge_radius', 0), ('margin', 2), ('min_area', 1)):
            if getattr(self, name) < low:
                raise ValueError(f'`{name}` must be at least {low} pixels of the file, got {getattr(self, name)}.')
        if not 0 < self.max_extent_fraction <= 1:
            raise ValueError(
                f'`max_extent_fraction` must be in (0, 1], a fraction of the image, got {self.max_extent_fraction}.'
            )


@dataclass(frozen=True)
class Donor:
    """One defect cut out of an image.

    Attributes:
        image: ``(h, w, 3)`` uint8 RGB; the border of the source is repeated beyond it.
        mask: ``(h, w)`` uint8: 1 on the defect, 2 on its margin where that shows the object, 3 where it shows another
            defect, 0 elsewhere.
        class_id: defect class, 1..K.
        area: pixels of the defect.
        source: path of the image it was cut from.
        top_left_rc: place of the patch in its image; negative where the margin leaves it.
        source_hw: size of that image.
        inside: fraction of the pixels just around the defect that lie on the object.
    """

    image: ndarray
    mask: ndarray
    class_id: int
    area: int
    source: str
    top_left_rc: tuple[int, int]
    source_hw: tuple[int, int]
    inside: float


def cut_defects(
    image: ndarray,
    label: ndarray,
    rule: CuttingRule,
    object_mask: ndarray | None = None,
    skipped: Counter | None = None,
    source: str = '',
) -> Iterator[Donor]:
    """Yield the defects of an image, class by class, from top to bottom.

    Args:
        image: ``(H, W, 3)`` uint8.
        label: ``(H, W)`` integers: 0 normal, 1..K defects, 255 ignore.
        rule: what counts as one defect, and the margin.
        object_mask: ``(H, W)``, non-zero on the inspected object; everywhere when absent.
        skipped: what was left out is counted here as ``reason | class``.
        source: path of the image.
    """
    if label.shape != image.shape[:2]:
        raise ValueError(
            f'`label` must have the size of `image`, {image.shape[:2]}, got {label.shape}; load both at full size.'
        )
    skipped = Counter() if skipped is None else skipped
    on_object = np.ones(label.shape, bool) if object_mask is None else object_mask > 0
    on_object = on_object | ((label > 0) & (label != IGNORE_LABEL))
    masks = {}
    for class_id in np.setdiff1d(label, (0, IGNORE_LABEL)).tolist():
        masks[class_id], rims = _without_rims((label == class_id).view(np.uint8), label)
        if rims:
            skipped[f'rim of another class | {class_id}'] += rims
    surroundings = np.uint8(2) * on_object
    for mask in masks.values():
        surroundings[mask > 0] = OTHER_DEFECT
    for class_id, mask in masks.items():
        for part, top, left in _parts(mask, rule):
            area, (height, width), margin = np.count_nonzero(part), part.shape, rule.margin
            if area < rule.min_area or max(part.shape) > rule.max_extent_fraction * max(label.shape):
                skipped[f'{"too small" if area < rule.min_area else "too long"} | {class_id}'] += 1
                continue
            box = top - margin, top + height + margin, left - margin, left + width + margin
            around = cut_box(surroundings, box, cv2.BORDER_CONSTANT)
            around[margin:-margin, margin:-margin][part > 0] = 1
            patch = cut_box(image, box, cv2.BORDER_REPLICATE)  # a mirror would show a defect twice
            facts = class_id, area, source, (box[0], box[2]), label.shape
            yield Donor(patch, around, *facts, _share_inside(around))


def _without_rims(mask: ndarray, label: ndarray) -> tuple[ndarray, int]:
    """Return the mask of a class without pixels strewn along larger defects of other classes, and how many there were.

    Resizing a label that was drawn in colours leaves them; pasted alone they are a dotted outline of nothing.
    """
    others = ((mask == 0) & (label > 0) & (label != IGNORE_LABEL)).view(np.uint8)
    if not others.any():
        return mask, 0
    _, other_parts, other_stats, _ = cv2.connectedComponentsWithStats(others, connectivity=8)
    areas = np.where(others > 0, other_stats[other_parts, cv2.CC_STAT_AREA], 0).astype(np.float32)
    touched = cv2.dilate(areas, np.ones((3, 3), np.uint8))  # area of the largest other defect that touches a pixel
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    own = stats[:, cv2.CC_STAT_AREA]
    beside = np.bincount(parts[(mask > 0) & (touched > own[parts])], minlength=count)
    rim = beside > 0.5 * own
    rim[0] = False
    return np.where(rim[parts], np.uint8(0), mask), int(rim.sum())


def _parts(mask: ndarray, rule: CuttingRule) -> Iterator[tuple[ndarray, int, int]]:
    """Yield the pixels of every defect inside its bounding box, and the top and left of the box."""
    joined = mask
    if rule.merge_radius > 0:
        # Two parts touch after growing each by half of the distance.
        size = rule.merge_radius + 1
        joined = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    if rule.whole_mask:
        parts, stats, count = np.ones_like(parts), np.array([[0] * 4, [0, 0, *mask.shape[::-1]]]), 1 + int(mask.any())
    for index in range(1, count):
        left, top, width, height = stats[index, :4].tolist()
        window = slice(top, top + height), slice(left, left + width)
        part = ((parts[window] == index) & (mask[window] > 0)).view(np.uint8)
        x, y, width, height = cv2.boundingRect(part)
        yield np.ascontiguousarray(part[y : y + height, x : x + width]), top + y, left + x


def _share_inside(around: ndarray) -> float:
    """Share of the ring of two pixels around the defect that lies on the object and inside the frame."""
    core = (around == 1).view(np.uint8)
    ring = (cv2.dilate(core, np.ones((5, 5), np.uint8)) > 0) & (core == 0)
    return float((around[ring] >= 2).mean())


@dataclass(frozen=True)
class LabelledImage:
    """One image that defects may be cut from.

    Attributes:
        name: path of the image: the source id of its donors.
        load: returns the image, ``(H, W, 3)`` uint8 RGB, and its label map ``(H, W)``.
        fingerprint: hash of the contents of image and label.
    """

    name: str
    load: Callable[[], tuple[ndarray, ndarray]]
    fingerprint: str


class DefectLibrary:
    """Defects cut from training images, read through memory maps; it pickles as its path.

    Args:
        folder: folder written by :func:`build_library`.

    Attributes:
        table: one structured row a defect.
        sources: paths of all images that were looked at, also those without a defect; ``fingerprints`` of them, and
            whether each is ``defective``.
        density: ``(K + 1, GRID, GRID)`` float64; pixels of each class by place in the frame of their image.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        try:
            body = json.loads((self.folder / 'library.json').read_text(encoding='utf-8'))
        except FileNotFoundError as err:
            raise ValueError(
                f'`folder` must hold a library of defects, but {self.folder} has no library.json; build it first.'
            ) from err
        if body['version'] != VERSION:
            raise ValueError(
                f'the library in {self.folder} must be of version {VERSION}, got {body["version"]}; '
                'remove the folder, and it is built again.'
            )
        self.sources, self.fingerprints, self.defective = body['sources'], body['fingerprints'], body['defective']
        self.skipped, self.rule = body['skipped'], CuttingRule(**body['rule'])
        self.table = np.load(self.folder / 'table.npy')
        self._rows: list[tuple] = self.table.tolist()  # plain numbers: reading a row of the table takes longer
        self.density = np.load(self.folder / 'density.npy')
        self._pixels, self._masks = (
            np.memmap(self.folder / name, np.uint8, mode='r').view(ndarray) for name in ('pixels.bin', 'masks.bin')
        )

    def __len__(self) -> int:
        """Number of defects."""
        return len(self.table)

    def __getitem__(self, index: int) -> Donor:
        """Return a defect."""
        pixel, mask, height, width, class_id, area, source, top, left, *source_hw, inside = self._rows[index]
        patch = self._pixels[pixel : pixel + 3 * height * width].reshape(height, width, 3)
        around = self._masks[mask : mask + height * width].reshape(height, width)
        return Donor(patch, around, class_id, area, self.sources[source], (top, left), tuple(source_hw), inside)

    def __reduce__(self) -> tuple:
        return DefectLibrary, (str(self.folder),)

    @property
    def classes(self) -> list[int]:
        """Defect classes that have at least one donor, ascending."""
        return np.unique(self.table['class_id']).tolist()

    @property
    def extents(self) -> ndarray:
        """Longer side of each defect in pixels of its file."""
        return np.maximum(self.table['height'], self.table['width']) - 2 * self.rule.margin

    def census(self, names: Mapping[int, str] | None = None) -> str:
        """Return a table: donors per class, and how many have which size."""
        edges, titles = [0, 8, 16, 32, 64, 128, np.inf], ['<=8', '<=16', '<=32', '<=64', '<=128', '>128']
        lines = [
            f'{len(self)} defects of {len(set(self.table["source"].tolist()))} images; longer side in pixels:',
            f'{"class":>12} {"donors":>7} {"median area":>12} ' + ' '.join(f'{t:>6}' for t in titles),
        ]
        for class_id in self.classes:
            rows = self.table['class_id'] == class_id
            counts, _ = np.histogram(self.extents[rows], np.array(edges) + 0.5)
            name = (names or {}).get(class_id, str(class_id))
            line = f'{name:>12} {rows.sum():>7} {np.median(self.table["area"][rows]):>12.0f} '
            lines.append(line + ' '.join(f'{c:>6}' for c in counts))
        return '\n'.join([*lines, *self._left_out(names or {})])

    def _left_out(self, names: Mapping[int, str]) -> list[str]:
        """Return what was left out by reason and class, and a note on classes that pasted images will show less of."""
        reasons: dict[str, dict[int, int]] = {}
        for key, count in self.skipped.items():
            reason, _, class_id = key.rpartition(' | ')
            reasons.setdefault(reason, {})[int(class_id)] = count
        lines = []
        for reason, counts in sorted(reasons.items()):
            each = ', '.join(f'{names.get(c, str(c))} {n}' for c, n in sorted(counts.items()))
            lines.append(f'left out, {reason}: {each}')
        too_long, donors = reasons.get('too long', {}), Counter(self.table['class_id'].tolist())
        long = [names.get(c, str(c)) for c, count in sorted(too_long.items()) if count > donors[c]]
        if long:
            lines.append(
                f'note: most defects of {", ".join(long)} are too long to be pasted, so pasted images show less of '
                'them than real ones; raise `max_extent`, or keep the share of real images in `synthesis.ratio`'
            )
        return lines


def library_key(images: Iterable[LabelledImage], rule: CuttingRule) -> str:
    """Return the content key of a library: it changes with any image, label, name, or setting."""
    digest = hashlib.sha256(json.dumps([VERSION, GRID, asdict(rule)], sort_keys=True).encode())
    for image in images:
        digest.update(f'{image.name}\0{image.fingerprint}\0'.encode())
    return digest.hexdigest()[:24]


@dataclass(frozen=True)
class ImageCuts:
    """The defects of one image, pixels of each class by place, ``(GRID, GRID)`` float64, and what was left out."""

    donors: tuple[Donor, ...]
    places: Mapping[int, ndarray]
    skipped: Mapping[str, int]


#: Cuts all images, in order: :func:`cut_images`, or the same work done side by side.
CutAll = Callable[[list[LabelledImage], CuttingRule], Iterable[ImageCuts]]


def cut_image(source: LabelledImage, rule: CuttingRule) -> ImageCuts:
    """Load an image and cut its defects out."""
    image, label = source.load()
    label = np.asarray(label)
    found = (label > 0) & (label != IGNORE_LABEL)
    skipped: Counter = Counter()
    if not found.any():
        return ImageCuts((), {}, skipped)
    donors = cut_defects(image, label, rule, find_foreground(image, DETAIL), skipped, source.name)
    return ImageCuts(tuple(donors), _places(label, found), skipped)


def cut_images(images: Iterable[LabelledImage], rule: CuttingRule) -> Iterator[ImageCuts]:
    """Cut one image after the other."""
    return (cut_image(image, rule) for image in images)


def open_library(
    images: list[LabelledImage], rule: CuttingRule, cache_folder: str | os.PathLike, cut_all: CutAll = cut_images
) -> DefectLibrary:
    """Return the library of these images from the cache; the first caller builds it while the others wait."""
    folder = Path(cache_folder) / library_key(images, rule)
    if not (folder / 'library.json').is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{folder}.lock'):
            if not (folder / 'library.json').is_file():
                build_library(images, rule, folder, cut_all)
    return DefectLibrary(folder)


def build_library(
    images: Iterable[LabelledImage], rule: CuttingRule, folder: str | os.PathLike, cut_all: CutAll = cut_images
) -> None:
    """Cut all defects and write the library; memory stays that of a few images and the table.

    How the cutting is spread (``cut_all``) does not change the library.

    Raises:
        ValueError: if no image has a defect that fits the rule.
    """
    with new_folder(folder) as unfinished:
        _write(list(images), rule, unfinished, cut_all)


def _write(images: list[LabelledImage], rule: CuttingRule, folder: Path, cut_all: CutAll) -> None:
    rows, defective, skipped = [], [], Counter()
    density = np.zeros((IGNORE_LABEL, GRID, GRID))
    pixel_offset = mask_offset = 0
    with open(folder / 'pixels.bin', 'wb') as pixels, open(folder / 'masks.bin', 'wb') as masks:
        for number, found in enumerate(cut_all(images, rule)):
            defective.append(bool(found.places))
            skipped.update(found.skipped)
            for class_id, places in found.places.items():
                density[class_id] += places
            for donor in found.donors:
                size, place = donor.mask.shape, (*donor.top_left_rc, *donor.source_hw)
                offsets = pixel_offset, mask_offset
                rows.append((*offsets, *size, donor.class_id, donor.area, number, *place, donor.inside))
                pixels.write(donor.image.tobytes())
                masks.write(donor.mask.tobytes())
                pixel_offset += donor.image.size
                mask_offset += donor.mask.size
    if not rows:
        raise ValueError(
            f'the images must show at least one defect to paste, but none of {len(images)} does '
            f'({dict(skipped) or "all labels are empty"}); label some, or use a recipe without donors.'
        )
    table = np.array(rows, _ROW)
    np.save(folder / 'table.npy', table)
    np.save(folder / 'density.npy', density[: int(table['class_id'].max()) + 1])
    body = dict(
        version=VERSION,
        rule=asdict(rule),
        sources=[image.name for image in images],
        fingerprints=[image.fingerprint for image in images],
        defective=defective,
        skipped=dict(skipped),
    )
    (folder / 'library.json').write_text(json.dumps(body), encoding='utf-8')


def _places(label: ndarray, found: ndarray) -> dict[int, ndarray]:
    """Count the pixels of each class on a grid over the frame."""
    rows, columns = np.nonzero(found)
    classes = label[rows, columns].astype(np.int64)
    places = {class_id: np.zeros((GRID, GRID)) for class_id in np.unique(classes).tolist()}
    for class_id, counts in places.items():
        of_class = classes == class_id
        np.add.at(counts, (rows[of_class] * GRID // label.shape[0], columns[of_class] * GRID // label.shape[1]), 1.0)
    return places
