"""What can be known to be wrong with the data before training starts: files and labels.

Whether an image is on two sides is checked in :mod:`mmdefect.datasets.leakage`, whose functions are found here too.

Files are read in parallel threads and what was found is remembered (:mod:`mmdefect.datasets.file_facts`), so that a
repeated check of unchanged files costs almost nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdefect.datasets.file_facts import find_facts
from mmdefect.datasets.leakage import check_disjoint, check_donors
from mmdefect.datasets.masks import IGNORE, describe_outside, describe_unknown_colours, pack_rgb
from mmdefect.datasets.samples import GOOD, UNKNOWN, iter_data_infos, relative_path
from mmdefect.datasets.split_file import read_split

__all__ = ['DatasetSummary', 'check_dataset', 'check_disjoint', 'check_donors']


@dataclass(frozen=True)
class DatasetSummary:
    """What a data set without errors holds.

    Attributes:
        num_images: images, each counted once.
        num_masks: images that have a mask file.
        images_by_class: number of images in which a class occurs; every image without a mask file counts as normal.
        warnings: what is no error but should be known.
    """

    num_images: int
    num_masks: int
    images_by_class: dict[int, int]
    warnings: list[str] = field(default_factory=list)


def check_dataset(dataset, num_threads: int = 8, progress: bool | None = None) -> DatasetSummary:
    """Check that files exist and can be read, sizes match, and label values belong to a class.

    Images are checked by their header and their end, masks by their content. A data set with a split file is also
    compared with the content hashes in it. Works for every mmseg data set and for wrappers around them.

    Args:
        dataset: the data set; it need not have a pipeline.
        num_threads: files read at a time.
        progress: whether to show a progress bar; ``None`` decides by the number of files.

    Raises:
        ValueError: naming the first file that is wrong, the mend, and how many others are wrong.
    """
    problems: list[str] = []
    warnings: list[str] = []
    by_class: Counter = Counter()
    num_masks = 0
    infos = _unique_infos(dataset)
    images = find_facts('image', [i['img_path'] for i in infos], num_threads, progress, 'checking images')
    masks = mask_facts_of(infos, num_threads, progress)
    for info in infos:
        path, mask_path = info['img_path'], info.get('seg_map_path')
        fact = images[path]
        if isinstance(fact, ValueError):
            problems.append(str(fact))
        if mask_path is None:
            by_class[0] += 1
            continue
        num_masks += 1
        mask = masks[_encoding(info), mask_path]
        if isinstance(mask, ValueError):
            problems.append(str(mask))
            continue
        if not isinstance(fact, ValueError) and list(fact) != list(mask['size']):
            problems.append(
                f'the mask {mask_path} must have the size of its image {path}, {fact[1]}x{fact[0]} (width x height), '
                f'but it has {mask["size"][1]}x{mask["size"][0]}; export it at the size of the image.'
            )
        problem, classes = classes_of(mask['values'], info)
        if problem:
            problems.append(problem)
        by_class.update(classes)
        if info.get('defect_type') not in (None, GOOD, UNKNOWN) and not any(classes):
            warnings.append(f'{path} is listed as {info["defect_type"]}, but its mask {mask_path} has no defect pixel')
    problems += _looks_binary(infos, masks) + _changed_since_split(dataset, num_threads, progress)
    if problems:
        raise ValueError(_summarise(problems))
    return DatasetSummary(len(infos), num_masks, dict(sorted(by_class.items())), warnings)


def _unique_infos(dataset) -> list[dict]:
    return list({(info['img_path'], info.get('seg_map_path')): info for info in iter_data_infos(dataset)}.values())


def _encoding(info: dict) -> str:
    return info.get('mask_encoding', 'index')


def mask_facts_of(infos: list[dict], num_threads: int, progress: bool | None) -> dict[tuple[str, str], Any]:
    """Return size and occurring values of every mask file by its encoding and path, or what reading it raised."""
    by_encoding = defaultdict(list)
    for info in infos:
        if info.get('seg_map_path') is not None:
            by_encoding[_encoding(info)].append(info['seg_map_path'])
    return {
        (encoding, path): fact
        for encoding, paths in by_encoding.items()
        for path, fact in find_facts(f'mask/{encoding}', paths, num_threads, progress, 'checking masks').items()
    }


def classes_of(values: Sequence[int], info: dict) -> tuple[str | None, set[int]]:
    """Return what is wrong with the values of a mask, and the classes they mean."""
    path, num_classes, encoding = info['seg_map_path'], info['num_classes'], _encoding(info)
    problem = None
    if encoding == 'binary':
        labels = {info['class_id'] if v else 0 for v in values}
    elif encoding == 'palette':
        index = {int(pack_rgb(colour)): i for i, colour in enumerate(info['palette'])}
        unknown = [v for v in values if v not in index]
        problem = describe_unknown_colours(path, unknown, info['palette']) if unknown else None
        labels = {index[v] for v in values if v in index}
    else:
        shift = 1 if info.get('reduce_zero_label') else 0  # mmseg: raw 0 is ignored and raw 1 is class 0
        upper = 256 if num_classes is None else num_classes + shift
        outside = [v for v in values if not 0 <= v < upper and v != IGNORE]
        problem = describe_outside(path, outside, num_classes) if outside else None
        labels = {v - shift for v in values if shift <= v < upper}
    label_map = info.get('label_map') or {}
    return problem, {label_map.get(v, v) for v in labels} - {IGNORE}


def _looks_binary(infos: list[dict], masks: dict) -> list[str]:
    """Find index masks that are all 0 and 255: read as indices, every defect would be ignored."""
    values: set[int] = set()
    example = None
    for info in infos:
        fact = masks.get((_encoding(info), info.get('seg_map_path')))
        if _encoding(info) != 'index' or fact is None or isinstance(fact, ValueError):
            continue
        values.update(fact['values'])
        if example is None and IGNORE in fact['values']:
            example = info['seg_map_path']
    if example is None or not values <= {0, IGNORE}:
        return []
    return [
        f'class-index masks must hold a defect class, but all masks hold only 0 and 255, as {example} does, and '
        '255 means ignore; read them with FolderDefectDataset or MVTecDataset, which take 0/255 masks.'
    ]


def _changed_since_split(dataset, num_threads: int, progress: bool | None) -> list[str]:
    """Compare the images of data sets that have a split file with the content hashes in it."""
    if hasattr(dataset, 'datasets'):
        return [p for part in dataset.datasets for p in _changed_since_split(part, num_threads, progress)]
    if hasattr(dataset, 'dataset'):
        return _changed_since_split(dataset.dataset, num_threads, progress)
    if getattr(dataset, 'split_file', None) is None:
        return []
    file = dataset.resolve_split_file()
    expected = {e.image: e.sha256 for e in read_split(file).entries_of(dataset.split, file)}
    paths = {
        path: relative_path(path, dataset.data_root or '.')
        for path in (info['img_path'] for info in iter_data_infos(dataset))
    }
    hashes = find_facts('sha256', paths, num_threads, progress, 'comparing with the split file')
    return [
        f'the images must be those of the split file {file}, but the content of {path} has changed; restore it or '
        'make the split again with tools/split_dataset.py.'
        for path, name in paths.items()
        if not isinstance(hashes[path], ValueError) and hashes[path] != expected.get(name)
    ]


def _summarise(problems: list[str]) -> str:
    return (
        problems[0]
        if len(problems) == 1
        else f'{problems[0]} ({len(problems) - 1} more such problems; the next: {problems[1]})'
    )
