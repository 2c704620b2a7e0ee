"""The library of real defects: cut once from the labelled training images, then read through a memory map.

A library is a folder: ``pixels.bin`` and ``masks.bin`` (all patches one after the other), ``table.npy`` (one row a
defect), ``density.npy`` (where each class was found) and ``library.json`` (sources, rule, counts). It is written beside
its final place and renamed, under a lock, so that any number of ranks and workers may ask for it at the same time. In
memory a library is its table and, while they are used, pages of the two maps that the system may drop again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy import ndarray

from mmdefect.synthesis.donor_cutting import CutDefect, CuttingRule, cut_defects
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.types import IGNORE_LABEL

#: Raise it when the content of a library folder changes.
VERSION = 4
#: Rows and columns of the grid on which the places of defects are counted.
GRID = 32
#: Longer side at which the foreground is looked for: the outline of the object must be right to a pixel or two.
DETAIL = 384
_ROW = np.dtype(
    [
        ('pixel_offset', 'i8'),
        ('mask_offset', 'i8'),
        ('height', 'i4'),
        ('width', 'i4'),
        ('class_id', 'i4'),
        ('area', 'i8'),
        ('source', 'i4'),
        ('top', 'i4'),
        ('left', 'i4'),
        ('source_height', 'i4'),
        ('source_width', 'i4'),
        ('inside', 'f4'),
    ]
)


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


@dataclass(frozen=True)
class Donor:
    """One defect of a library.

    Attributes:
        image: ``(h, w, 3)`` uint8 RGB, a read-only view of the map.
        mask: ``(h, w)`` uint8: 1 on the defect, 2 on its margin where that shows the object, 3 where it shows another
            defect, 0 elsewhere; a view too.
        class_id: defect class, 1..K.
        area: pixels of the defect.
        source: path of the image it was cut from.
        top_left_rc: place of the patch in its image.
        source_hw: size of that image.
        inside: fraction of its surroundings that lay on the object.
    """

    image: ndarray
    mask: ndarray
    class_id: int
    area: int
    source: str
    top_left_rc: tuple[int, int]
    source_hw: tuple[int, int]
    inside: float


class DefectLibrary:
    """Defects cut from training images, read through memory maps; it pickles as its path.

    Args:
        folder: folder written by :func:`build_library`.

    Attributes:
        table: one structured row a defect.
        sources: paths of all images that were looked at, also those without a defect.
        density: ``(K + 1, GRID, GRID)`` float64; pixels of each class by place in the frame of their image.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        try:
            body = json.loads((self.folder / 'library.json').read_text(encoding='utf-8'))
        except FileNotFoundError as err:
            raise ValueError(
                f'`folder` must hold a library of defects, but {self.folder} has no library.json; build '
                'it with build_library.'
            ) from err
        if body['version'] != VERSION:
            raise ValueError(
                f'the library in {self.folder} must be of version {VERSION}, got {body["version"]}; '
                'remove the folder, it will be built again.'
            )
        self.sources: list[str] = body['sources']
        self.fingerprints: list[str] = body['fingerprints']
        self.defective: list[bool] = body['defective']
        self.skipped: dict[str, int] = body['skipped']
        self.rule = CuttingRule(**body['rule'])
        self.table = np.load(self.folder / 'table.npy')
        self._rows: list[tuple] = self.table.tolist()  # plain numbers: reading a row of the table takes longer
        self.density = np.load(self.folder / 'density.npy')
        self._pixels = _open_map(self.folder / 'pixels.bin')
        self._masks = _open_map(self.folder / 'masks.bin')

    def __len__(self) -> int:
        """Number of defects."""
        return len(self.table)

    def __getitem__(self, index: int) -> Donor:
        """Return a defect."""
        pixel, mask, height, width, class_id, area, source, top, left, *source_hw, inside = self._rows[index]
        return Donor(
            self._pixels[pixel : pixel + 3 * height * width].reshape(height, width, 3),
            self._masks[mask : mask + height * width].reshape(height, width),
            class_id,
            area,
            self.sources[source],
            (top, left),
            tuple(source_hw),
            inside,
        )

    def source_of(self, index: int) -> str:
        """Return the image a defect was cut from."""
        return self.sources[self._rows[index][6]]

    def __reduce__(self) -> tuple:
        return DefectLibrary, (str(self.folder),)

    @property
    def classes(self) -> list[int]:
        """Defect classes that have at least one donor, ascending."""
        return np.unique(self.table['class_id']).tolist()

    def census(self, names: Mapping[int, str] | None = None) -> str:
        """Return a table: donors per class, and how many have which size."""
        edges = [0, 8, 16, 32, 64, 128, np.inf]
        titles = ['<=8', '<=16', '<=32', '<=64', '<=128', '>128']
        lines = [
            f'{len(self)} defects of {len(set(self.table["source"].tolist()))} images; longer side in pixels:',
            f'{"class":>12} {"donors":>7} {"median area":>12} ' + ' '.join(f'{t:>6}' for t in titles),
        ]
        margin = 2 * self.rule.margin
        extent = np.maximum(self.table['height'], self.table['width']) - margin
        for class_id in self.classes:
            rows = self.table['class_id'] == class_id
            counts, _ = np.histogram(extent[rows], np.array(edges) + 0.5)
            name = (names or {}).get(class_id, str(class_id))
            lines.append(
                f'{name:>12} {rows.sum():>7} {np.median(self.table["area"][rows]):>12.0f} '
                + ' '.join(f'{c:>6}' for c in counts)
            )
        return '\n'.join([*lines, *self._left_out(names or {})])

    def _left_out(self, names: Mapping[int, str]) -> list[str]:
        """Return what was left out by reason and class, and a note on classes that pasted images will show less of."""
        reasons: dict[str, dict[int, int]] = {}
        for key, count in self.skipped.items():
            reason, _, class_id = key.rpartition(' | ')
            reasons.setdefault(reason, {})[int(class_id)] = count
        lines = []
        for reason, counts in sorted(reasons.items()):
            each = ', '.join(f'{names.get(class_id, str(class_id))} {n}' for class_id, n in sorted(counts.items()))
            lines.append(f'left out, {reason}: {each}')
        long = [
            names.get(class_id, str(class_id))
            for class_id, count in sorted(reasons.get('too long', {}).items())
            if count > int((self.table['class_id'] == class_id).sum())
        ]
        if long:
            lines.append(
                f'note: most defects of {", ".join(long)} are too long to be pasted, so pasted images show less of them '
                'than real ones; raise `max_extent`, or keep the share of real images in `synthesis.ratio`'
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
    """What the library needs of one image.

    Attributes:
        size_hw: of the image.
        cuts: its defects.
        places: ``{class: (GRID, GRID) float64}``: pixels of each class by place.
        skipped: what was left out, by reason and class.
    """

    size_hw: tuple[int, int]
    cuts: tuple[CutDefect, ...]
    places: Mapping[int, ndarray]
    skipped: Mapping[str, int]


#: Cuts all images, in order: :func:`cut_images`, or the same work done side by side.
CutAll = Callable[[list[LabelledImage], CuttingRule], Iterable[ImageCuts]]


def cut_image(source: LabelledImage, rule: CuttingRule) -> ImageCuts:
    """Load an image and cut its defects out."""
    image, label = source.load()
    label = np.asarray(label)
    found = (label > 0) & (label != IGNORE_LABEL)
    skipped: dict[str, int] = {}
    if not found.any():
        return ImageCuts(label.shape, (), {}, skipped)
    cuts = tuple(cut_defects(image, label, rule, find_foreground(image, DETAIL), skipped))
    return ImageCuts(label.shape, cuts, _places(label, found), skipped)


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

    Args:
        images: the images.
        rule: what counts as one defect.
        folder: of the library.
        cut_all: how the cutting is spread; the library does not depend on it.

    Raises:
        ValueError: if no image has a defect that fits the rule.
    """
    folder = Path(folder)
    unfinished = folder.with_name(f'{folder.name}.unfinished-{os.getpid()}')
    unfinished.mkdir(parents=True)
    try:
        _write(list(images), rule, unfinished, cut_all)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(images: list[LabelledImage], rule: CuttingRule, folder: Path, cut_all: CutAll) -> None:
    rows, defective, skipped = [], [], Counter()
    density = np.zeros((IGNORE_LABEL, GRID, GRID))
    pixel_offset = mask_offset = 0
    with open(folder / 'pixels.bin', 'wb') as pixels, open(folder / 'masks.bin', 'wb') as masks:
        for number, photo in enumerate(cut_all(images, rule)):
            defective.append(bool(photo.places))
            skipped.update(photo.skipped)
            for class_id, places in photo.places.items():
                density[class_id] += places
            for cut in photo.cuts:
                height, width = cut.mask.shape
                rows.append(
                    (
                        pixel_offset,
                        mask_offset,
                        height,
                        width,
                        cut.class_id,
                        np.count_nonzero(cut.mask == 1),
                        number,
                        *cut.top_left_rc,
                        *photo.size_hw,
                        cut.inside,
                    )
                )
                pixels.write(cut.image.tobytes())
                masks.write(cut.mask.tobytes())
                pixel_offset += cut.image.size
                mask_offset += cut.mask.size
    if not rows:
        raise ValueError(
            f'the images must show at least one defect to paste, but none of {len(images)} does '
            f'({dict(skipped) or "all labels are empty"}); label some, or use a recipe that needs none '
            '(cutpaste, perlin).'
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


def _open_map(path: Path) -> ndarray:
    return np.memmap(path, np.uint8, mode='r').view(ndarray)
