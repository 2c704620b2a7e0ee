"""What can be known to be wrong with the data before training starts: files, labels, and images on two sides.

Files are read in parallel threads and what was found is remembered (:mod:`mmdefect.datasets.file_facts`), so that a
repeated check of unchanged files costs almost nothing. Data sets may be mmseg's or ours, also inside wrappers.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdefect.datasets.file_facts import find_facts, find_hashes
from mmdefect.datasets.masks import IGNORE, describe_outside, describe_unknown_colours, describe_wrong_size, pack_rgb
from mmdefect.datasets.samples import GOOD, UNKNOWN, iter_data_infos, relative_path
from mmdefect.datasets.split_file import read_split


@dataclass(frozen=True)
class DatasetSummary:
    """What a data set without errors holds."""

    num_images: int  # each counted once
    num_masks: int  # images that have a mask file
    images_by_class: dict[int, int]  # images in which a class occurs; one without a mask file counts as normal
    warnings: list[str] = field(default_factory=list)


def check_dataset(dataset) -> DatasetSummary:
    """Check that files exist and can be read, sizes match, and label values belong to a class.

    Images are checked by their header and their end, masks by their content. A data set with a split file is also
    compared with the content hashes in it. It need not have a pipeline.

    Raises:
        ValueError: naming the first file that is wrong, how to fix it, and how many others are wrong.
    """
    problems: list[str] = []
    warnings: list[str] = []
    by_class: Counter = Counter()
    infos = {(info['img_path'], info.get('seg_map_path')): info for info in iter_data_infos(dataset)}
    images = find_facts('image', [path for path, _ in infos], 'checking images')
    masks = mask_facts_of(list(infos.values()))
    for (path, mask_path), info in infos.items():
        fact = images[path]
        if isinstance(fact, ValueError):
            problems.append(str(fact))
        if mask_path is None:
            by_class[0] += 1
            continue
        mask = masks[_encoding(info), mask_path]
        if isinstance(mask, ValueError):
            problems.append(str(mask))
            continue
        if not isinstance(fact, ValueError) and list(fact) != list(mask['size']):
            problems.append(describe_wrong_size(mask_path, path, mask['size'], fact))
        problem, classes = classes_of(mask['values'], info)
        if problem:
            problems.append(problem)
        by_class.update(classes)
        if info.get('defect_type') not in (None, GOOD, UNKNOWN) and not any(classes):
            warnings.append(f'{path} is listed as {info["defect_type"]}, but its mask {mask_path} has no defect pixel')
    problems += _looks_binary(masks) + _changed_since_split(dataset)
    if problems:
        more = f' ({len(problems) - 1} more such problems; the next: {problems[1]})' if len(problems) > 1 else ''
        raise ValueError(f'{problems[0]}{more}')
    num_masks = sum(mask_path is not None for _, mask_path in infos)
    return DatasetSummary(len(infos), num_masks, dict(sorted(by_class.items())), warnings)


def check_disjoint(datasets: Mapping[str, Any]) -> None:
    """Check that no image content is in two of the data sets, given by name; raise a ``ValueError`` that names two.

    Only files of equal size are compared, by the hash of their content.
    """
    shared = _shared_content({name: _image_paths(dataset) for name, dataset in datasets.items()})
    if not shared:
        return
    (name, path), (other_name, other_path) = shared[0]
    if path == other_path:
        raise ValueError(
            f'no image may be in two splits, but {name} and {other_name} both read {path}'
            f'{_and_more(shared, "shared image")}; give each its own images in the config (`split`, `split_file` or '
            '`data_prefix`).'
        )
    raise ValueError(
        f'no image may be in two splits, but {path} ({name}) and {other_path} ({other_name}) have the same content'
        f'{_and_more(shared, "pair")}; take one out, or make the split again with tools/split_dataset.py.'
    )


def check_donors(sources: Sequence[str] | Mapping[str, str], held_out: Mapping[str, Any]) -> None:
    """Check that no donor comes from an image of a held-out data set; raise a ``ValueError`` that names both files.

    Args:
        sources: paths of the images the donors were cut from; or a mapping from their names to the SHA-256 of their
            content, when the files themselves are not at hand.
        held_out: validation and test data sets by name.
    """
    paths = {name: _image_paths(dataset) for name, dataset in held_out.items()}
    if isinstance(sources, Mapping):
        hashes = find_hashes([path for group in paths.values() for path in group], 'comparing contents')
        held = {hashes[path]: (name, path) for name, group in paths.items() for path in group}
        shared = [(('donors', source), held[digest]) for source, digest in sources.items() if digest in held]
    else:
        shared = [pair for pair in _shared_content({'donors': list(sources), **paths}) if pair[0][0] == 'donors']
    if shared:
        (_, donor), (name, path) = shared[0]
        raise ValueError(
            f'donors may come only from the training split, but the donor image {donor} has the content of {path} '
            f'({name}){_and_more(shared, "donor image")}; collect the donors again from the training split.'
        )


def mask_facts_of(infos: list[dict]) -> dict[tuple[str, str], Any]:
    """Return size and occurring values of every mask file by its encoding and path, or what reading it raised."""
    by_encoding = defaultdict(list)
    for info in infos:
        if info.get('seg_map_path') is not None:
            by_encoding[_encoding(info)].append(info['seg_map_path'])
    return {
        (encoding, path): fact
        for encoding, paths in by_encoding.items()
        for path, fact in find_facts(f'mask/{encoding}', paths, 'checking masks').items()
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


def _encoding(info: dict) -> str:
    return info.get('mask_encoding', 'index')


def _looks_binary(masks: dict[tuple[str, str], Any]) -> list[str]:
    """Find index masks that are all 0 and 255: read as indices, every defect would be ignored."""
    values = {
        path: set(fact['values'])
        for (encoding, path), fact in masks.items()
        if encoding == 'index' and not isinstance(fact, ValueError)
    }
    example = next((path for path, found in values.items() if IGNORE in found), None)
    if example is None or not set().union(*values.values()) <= {0, IGNORE}:
        return []
    return [
        f'class-index masks must hold a defect class, but all masks hold only 0 and 255, as {example} does, and '
        '255 means ignore; read them with FolderDefectDataset or MVTecDataset, which take 0/255 masks.'
    ]


def _changed_since_split(dataset) -> list[str]:
    """Compare the images of data sets that have a split file with the content hashes in it."""
    if hasattr(dataset, 'datasets'):
        return [problem for part in dataset.datasets for problem in _changed_since_split(part)]
    if hasattr(dataset, 'dataset'):
        return _changed_since_split(dataset.dataset)
    if getattr(dataset, 'split_file', None) is None:
        return []
    file = dataset.resolve_split_file()
    expected = {e.image: e.sha256 for e in read_split(file).entries_of(dataset.split, file)}
    hashes = find_facts('sha256', _image_paths(dataset), 'comparing with the split file')
    return [
        f'the images must be those of the split file {file}, but the content of {path} has changed; restore it or '
        'make the split again with tools/split_dataset.py.'
        for path, digest in hashes.items()
        if not isinstance(digest, ValueError) and digest != expected.get(relative_path(path, dataset.data_root or '.'))
    ]


def _image_paths(dataset) -> list[str]:
    return list(dict.fromkeys(info['img_path'] for info in iter_data_infos(dataset)))


def _shared_content(paths: dict[str, list[str]]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return pairs of (group, path) with equal content in two groups."""
    by_size = defaultdict(list)
    for name, group in paths.items():
        for path in dict.fromkeys(group):
            try:
                by_size[os.stat(path).st_size].append((name, path))
            except OSError as err:
                raise ValueError(f'{path} must be readable, but it is not ({err.strerror}); restore the file.') from err
    candidates = [files for files in by_size.values() if len({name for name, _ in files}) > 1]
    hashes = find_hashes([path for files in candidates for _, path in files], 'comparing contents')
    shared = []
    for files in candidates:
        first: dict[str, tuple[str, str]] = {}
        for name, path in files:
            other = first.setdefault(hashes[path], (name, path))
            if other[0] != name:
                shared.append((other, (name, path)))
    return shared


def _and_more(shared: list, noun: str) -> str:
    count = len(shared) - 1
    return f' ({count} more {noun}{"s" if count > 1 else ""})' if count else ''
