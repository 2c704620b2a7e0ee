"""Which labels deserve a second look: two folders of label maps compared, ranked, and drawn."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.experiments.evidence.counts import find_images, read_labels
from mmdefect.experiments.evidence.gallery import CONFUSED, FALSE, HIT, MISS, draw_error, read_rgb, window
from mmdefect.experiments.tables import csv_table
from mmdefect.functional.agreement import Agreement, compare_labels, total
from mmdefect.visualization.grid import image_grid, legend

#: Columns of the table after the name of the image and the kind of difference.
COLUMNS = (
    *('unconfirmed', 'iou', 'coverage_first', 'coverage_second', 'class_agreement'),
    *('first', 'second', 'both', 'first_alone', 'second_alone'),
)


@dataclass(frozen=True)
class Compared:
    """One image: its name without suffix, both label files, and how far they agree."""

    name: str
    first: Path
    second: Path
    agreement: Agreement

    @property
    def doubt(self) -> int:
        """Pixels that the other map does not confirm, or calls otherwise."""
        return self.agreement.unconfirmed + self.agreement.both - self.agreement.same_class


def find_pairs(first: Path, seconds: Sequence[Path]) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Return ``(name, first file, second file)`` of maps of one name, and the names that only the first folder has.

    An image may be in one of ``seconds`` only, which are the predictions of every fold, for example.
    """
    for folder in (first, *seconds):
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder} must be a folder of label maps, but there is none.')
    known = find_images(first)
    others: dict[str, Path] = {}
    for folder in seconds:
        for name, path in find_images(folder).items():
            if name in others:
                raise ValueError(
                    f'an image must be predicted by one fold only, but {name} is in {others[name].parent} and '
                    f'{path.parent}; predict it with the model that did not train on it.'
                )
            others[name] = path
    pairs = [(name, path, others[name]) for name, path in known.items() if name in others]
    if not pairs:
        raise FileNotFoundError(
            f'{first} and {", ".join(map(str, seconds))} must hold label maps of the same names, but have '
            f'none in common; the first ones are {sorted(known)[:1]} and {sorted(others)[:1]}.'
        )
    return pairs, [name for name in known if name not in others]


def compare_folders(first: Path, seconds: Sequence[Path], tolerance: float, binary: bool = False) -> list[Compared]:
    """Compare all pairs, the most suspicious first.

    A defect pixel is confirmed by one of the other map within ``tolerance`` pixels. ``binary`` reads masks of 0 and 255
    as class 0 and 1 (255 means "ignore" in label maps).
    """
    results = []
    for name, path_1, path_2 in find_pairs(first, seconds)[0]:
        maps = [_read(path, binary) for path in (path_1, path_2)]
        try:
            results.append(Compared(name, path_1, path_2, compare_labels(*maps, tolerance)))
        except ValueError as err:
            raise ValueError(f'{path_1} and {path_2}: {err}') from err
    return sorted(results, key=lambda r: (-r.doubt, r.name))


def to_csv(results: Sequence[Compared]) -> str:
    """Return one row an image."""
    rows = []
    for r in results:
        values = {key: getattr(r.agreement, key) for key in COLUMNS}
        known = {key: None if math.isnan(value) else round(value, 4) for key, value in values.items()}
        rows.append({'image': r.name, 'kind': r.agreement.kind(), **known})
    return csv_table(rows)


def summary(results: Sequence[Compared], tolerance: float) -> str:
    """Return a paragraph on all images together."""
    whole = total([r.agreement for r in results])
    ious = [r.agreement.iou for r in results if r.agreement.first or r.agreement.second]
    median = f'{np.median(ious):.2f}' if ious else 'undefined'
    kinds = ', '.join(f'{number} {kind}' for kind, number in Counter(r.agreement.kind() for r in results).most_common())
    return (
        f'{len(results)} images, {len(ious)} with a defect in either. Any defect: IoU {whole.iou:.3f} over all pixels '
        f'({whole.first:,} and {whole.second:,}), median {median} over images. Within {tolerance:g} px the second '
        f'confirms {whole.coverage_first:.2f} of the first, and the first {whole.coverage_second:.2f} of the second. '
        f'Same class where both see a defect: {whole.class_agreement:.2f}. Images: {kinds}.'
    )


def review_page(results: Sequence[Compared], images: Path | None, binary: bool, count: int) -> ndarray:
    """Return the most suspicious images, ``(H, W, 3)`` uint8 RGB: the place, enlarged, and both maps in it.

    Without a folder of ``images`` the maps are drawn on grey.
    """
    found = find_images(images) if images is not None else {}
    rows, captions = [], []
    for r in [r for r in results if r.doubt][:count]:
        maps = [_read(path, binary) for path in (r.first, r.second)]
        size_hw = maps[0].shape
        image = read_rgb(found[r.name], size_hw) if r.name in found else np.full((*size_hw, 3), 128, np.uint8)
        top, left, side = window(*maps)
        part = (slice(top, top + side), slice(left, left + side))
        crop, first, second = (cv2.resize(a[part], (224, 224), interpolation=cv2.INTER_NEAREST) for a in (image, *maps))
        none = np.zeros_like(first)
        rows.append([crop, *(draw_error(crop, *pair) for pair in ((first, none), (none, second), (first, second)))])
        captions.append([r.name, f'{r.agreement.first} px', f'{r.agreement.second} px', r.agreement.kind()])
    if not rows:
        raise ValueError('the label maps agree everywhere within the tolerance; there is nothing to review.')
    strip = legend(['both', 'first only', 'second only', 'other class'], [HIT, MISS, FALSE, CONFUSED], width=900)
    return image_grid(rows, column_titles=['image', 'first', 'second', 'both'], captions=captions, footer=strip)


def _read(path: Path, binary: bool) -> ndarray:
    label = read_labels(path)
    return (label > 0).astype(np.uint8) if binary else label
