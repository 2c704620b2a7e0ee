"""Count what a set of labelled images holds, and derive crop size and class weights from it.

Nothing of a framework is used here: files in, numbers out. Components are 8-connected. The printed form is in
:mod:`mmdefect.datasets.census_report`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np

from mmdefect.datasets.census_suggestions import Suggestion, suggest_crop, suggest_weights
from mmdefect.datasets.image_record import ImageRecord, take_record
from mmdefect.datasets.near_duplicates import exact_duplicates, merge_groups, near_duplicates
from mmdefect.datasets.samples import GOOD, UNKNOWN, Sample

#: Components up to this many pixels count as tiny: a stride-4 feature map hardly sees them.
TINY_AREA = 16
QUANTILES = (0, 10, 50, 90, 95, 100)


@dataclass(frozen=True)
class ClassCensus:
    """One defect class: in how many images, how many pixels, how many components of which size.

    ``area_px``, ``area_share`` (of the image) and ``longest_side_px`` (of the bounding box) hold the quantiles of
    ``QUANTILES``; they are empty for a class without components.
    """

    name: str
    images: int
    pixels: int
    share: float
    components: int
    tiny: int
    area_px: tuple[float, ...]
    area_share: tuple[float, ...]
    longest_side_px: tuple[float, ...]


@dataclass(frozen=True)
class Census:
    """The whole count; see :func:`take_census`.

    Attributes:
        root: folder that all paths are relative to.
        images: number of images.
        with_mask: number of images that have a mask file.
        clean: number of images without a defect pixel.
        sizes_wh: number of images by width and height, the most frequent first.
        median_size_hw: median height and median width.
        normal_share: share of the normal class among the pixels that are not ignored.
        ignored_share: share of the ignored pixels.
        classes: the defect classes in order.
        imbalance: normal pixels for one pixel of the rarest class that occurs; infinite without defects.
        odd_masks: by mask, the values of black-and-white masks besides the two main ones, with their pixel counts.
        exact_duplicates: groups of images with the same file content.
        near_duplicates: groups of images that look the same; they contain the exact ones they touch.
        splits: number of images in each split that the folders make.
        groups_across_splits: groups of either kind whose images lie in different ones of these splits.
        suggestion: settings derived from all this.
        orphan_masks: masks without an image.
        unmasked_images: images without a mask that were left out.
        types: by image, its defect type: of its folder or name, else the rarest class in it, ``'good'`` without
            defects.
        hashes: by image, the SHA-256 of the file.
    """

    root: str
    images: int
    with_mask: int
    clean: int
    sizes_wh: dict[tuple[int, int], int]
    median_size_hw: tuple[int, int]
    normal_share: float
    ignored_share: float
    classes: tuple[ClassCensus, ...]
    imbalance: float
    odd_masks: dict[str, dict[int, int]]
    exact_duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: tuple[tuple[str, ...], ...]
    splits: dict[str, int]
    groups_across_splits: tuple[tuple[str, ...], ...]
    suggestion: Suggestion
    orphan_masks: tuple[str, ...] = ()
    unmasked_images: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Return the census as JSON can hold it; per-image types and hashes are left out."""
        body = asdict(self)
        for key in ('types', 'hashes'):
            body.pop(key)
        body['sizes_wh'] = [{'width': w, 'height': h, 'images': n} for (w, h), n in self.sizes_wh.items()]
        body['odd_masks'] = {file: {str(v): n for v, n in values.items()} for file, values in self.odd_masks.items()}
        body['quantiles'] = list(QUANTILES)
        return body


def take_census(
    samples: Sequence[Sample],
    classes: Sequence[str],
    root: str | os.PathLike,
    orphan_masks: Sequence[str] = (),
    unmasked_images: Sequence[str] = (),
    track: Callable[[Iterable], Iterable] = iter,
    workers: int = 2,
) -> Census:
    """Read every image and mask once and count.

    Args:
        samples: images with their label sources.
        classes: class names, the normal class first.
        root: folder that paths are given relative to.
        orphan_masks: masks without an image, reported only.
        unmasked_images: images without a mask that are not among ``samples``, reported only.
        track: wraps the loop over the images, for a progress bar.
        workers: threads that decode.

    Raises:
        ValueError: if a file cannot be read, sizes differ, or a mask holds values outside the classes; the message
            names the first such file and how many there are.
    """
    with ThreadPoolExecutor(workers) as pool:
        results = list(track(pool.map(lambda s: _try_record(s, len(classes), root), samples)))
    errors = [r for r in results if isinstance(r, ValueError)]
    if errors:
        more = f' ({len(errors) - 1} more files of {len(samples)} have such a problem, too.)' if len(errors) > 1 else ''
        raise ValueError(f'{errors[0]}{more}') from errors[0]
    return summarise(results, classes, root, orphan_masks, unmasked_images)


def summarise(
    records: Sequence[ImageRecord],
    classes: Sequence[str],
    root: str | os.PathLike = '.',
    orphan_masks: Sequence[str] = (),
    unmasked_images: Sequence[str] = (),
) -> Census:
    """Turn the records of single images into a census."""
    pixels = np.array([r.pixels for r in records], np.int64).sum(axis=0)
    counted, ignored = int(pixels.sum()), sum(r.ignored for r in records)
    components = _stack_components(records)
    per_class = tuple(_class_census(name, k, records, pixels, components) for k, name in enumerate(classes) if k > 0)
    median_hw = tuple(int(v) for v in np.median([r.size_hw for r in records], axis=0))
    same, alike = _duplicates(records)
    defects = [p for p in pixels[1:] if p > 0]
    return Census(
        root=str(root),
        images=len(records),
        with_mask=sum(r.mask is not None for r in records),
        clean=sum(not any(r.pixels[1:]) for r in records),
        sizes_wh=dict(Counter((r.size_hw[1], r.size_hw[0]) for r in records).most_common()),
        median_size_hw=median_hw,
        normal_share=float(pixels[0] / max(counted, 1)),
        ignored_share=ignored / max(counted + ignored, 1),
        classes=per_class,
        imbalance=float(pixels[0] / min(defects)) if defects else float('inf'),
        odd_masks={r.mask: r.odd_values for r in records if r.odd_values},
        exact_duplicates=same,
        near_duplicates=alike,
        splits=dict(Counter(r.split for r in records if r.split is not None)),
        groups_across_splits=_across_splits(records, (*same, *alike)),
        suggestion=Suggestion(*suggest_crop(components[:, 2:4], median_hw), *suggest_weights(pixels)),
        orphan_masks=tuple(orphan_masks),
        unmasked_images=tuple(unmasked_images),
        types=_types(records, classes),
        hashes={r.image: r.sha256 for r in records},
    )


def _try_record(sample: Sample, num_classes: int, root: str | os.PathLike) -> ImageRecord | ValueError:
    """Collect data errors instead of stopping at the first: the user mends them in one go."""
    try:
        return take_record(sample, num_classes, root)
    except ValueError as err:
        return err


def _stack_components(records: Sequence[ImageRecord]) -> np.ndarray:
    """Return ``(n, 5)`` rows of class, area, height, width and pixels of the image."""
    rows = [np.column_stack([r.components, np.full(len(r.components), r.size_hw[0] * r.size_hw[1])]) for r in records]
    return np.concatenate(rows)


def _class_census(
    name: str, index: int, records: Sequence[ImageRecord], pixels: np.ndarray, components: np.ndarray
) -> ClassCensus:
    own = components[components[:, 0] == index]
    area, longest = own[:, 1], own[:, 2:4].max(axis=1) if len(own) else own[:, 2]
    return ClassCensus(
        name,
        sum(r.pixels[index] > 0 for r in records),
        int(pixels[index]),
        float(pixels[index] / max(pixels.sum(), 1)),
        len(own),
        int((area <= TINY_AREA).sum()),
        _quantiles(area),
        _quantiles(area / own[:, 4]),
        _quantiles(longest),
    )


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.percentile(values, QUANTILES)) if len(values) else ()


def _duplicates(records: Sequence[ImageRecord]) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """Group exact and near duplicates; a near group contains the exact ones it touches."""
    same = exact_duplicates([r.sha256 for r in records])
    alike = near_duplicates(np.stack([r.thumbnail for r in records]))
    alike = [g for g in merge_groups(len(records), same, alike) if g not in set(same)]
    return tuple(tuple(tuple(records[i].image for i in group) for group in groups) for groups in (same, alike))


def _across_splits(records: Sequence[ImageRecord], groups: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    split = {r.image: r.split for r in records}
    return tuple(g for g in groups if len({split[i] for i in g} - {None}) > 1)


def _types(records: Sequence[ImageRecord], classes: Sequence[str]) -> dict[str, str]:
    """Name the type of each image. The rarest class of several is what a stratified split must spread."""
    images = np.array([[p > 0 for p in r.pixels] for r in records]).sum(axis=0)
    types = {}
    for record in records:
        present = [k for k in range(1, len(classes)) if record.pixels[k]]
        rarest = classes[min(present, key=lambda k: (images[k], k))] if present else GOOD
        types[record.image] = record.defect_type if present and record.defect_type not in (UNKNOWN, GOOD) else rarest
    return types
