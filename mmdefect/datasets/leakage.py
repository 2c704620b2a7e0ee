"""The leakage guard: no image content on two sides, and no donor from a held-out image."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mmdefect.datasets.file_facts import find_facts
from mmdefect.datasets.samples import iter_data_infos


def check_disjoint(datasets: Mapping[str, Any], num_threads: int = 8, progress: bool | None = None) -> None:
    """Check that no image content is in two of the data sets.

    Only files of equal size are compared, by the hash of their content.

    Args:
        datasets: data sets by name, for example ``{'train': ..., 'val': ..., 'test': ...}``.
        num_threads: files read at a time.
        progress: whether to show a progress bar; ``None`` decides by the number of files.

    Raises:
        ValueError: naming two such files and their data sets, and how many more there are.
    """
    paths = {name: _image_paths(dataset) for name, dataset in datasets.items()}
    shared = _shared_content(paths, num_threads, progress)
    if shared:
        (name, path), (other_name, other_path) = shared[0]
        if path == other_path:
            raise ValueError(
                f'no image may be in two splits, but {name} and {other_name} both read {path}'
                f'{_and_more(len(shared) - 1, "shared image", "shared images")}; give each its own images '
                'in the config (`split`, `split_file` or `data_prefix`).'
            )
        raise ValueError(
            f'no image may be in two splits, but {path} ({name}) and {other_path} ({other_name}) have the same content'
            f'{_and_more(len(shared) - 1, "pair", "pairs")}; take one out, or make the split again with '
            'tools/split_dataset.py.'
        )


def check_donors(
    sources: Sequence[str] | Mapping[str, str],
    held_out: Mapping[str, Any],
    num_threads: int = 8,
    progress: bool | None = None,
) -> None:
    """Check that donors come only from training images: none of their source images is in a held-out data set.

    Args:
        sources: paths of the images the donors were cut from; or a mapping from their names to the SHA-256 of their
            content, when the files themselves are not at hand.
        held_out: validation and test data sets by name.
        num_threads: files read at a time.
        progress: whether to show a progress bar; ``None`` decides by the number of files.

    Raises:
        ValueError: naming the donor image and the held-out file with the same content, or a source that is missing.
    """
    paths = {name: _image_paths(dataset) for name, dataset in held_out.items()}
    if isinstance(sources, Mapping):
        flat = [(name, path) for name, group in paths.items() for path in group]
        hashes = _hashes([path for _, path in flat], num_threads, progress)
        held = {hashes[path]: (name, path) for name, path in flat}
        shared = [(source, *held[digest]) for source, digest in sources.items() if digest in held]
    else:
        pairs = _shared_content({'donors': list(sources), **paths}, num_threads, progress, only='donors')
        shared = [(donor, name, path) for (_, donor), (name, path) in pairs]
    if shared:
        donor, name, path = shared[0]
        raise ValueError(
            f'donors may come only from the training split, but the donor image {donor} has the content '
            f'of {path} ({name}){_and_more(len(shared) - 1, "donor image", "donor images")}; collect the '
            'donors again from the training split.'
        )


def _image_paths(dataset) -> list[str]:
    return list(dict.fromkeys(info['img_path'] for info in iter_data_infos(dataset)))


def _shared_content(
    paths: dict[str, list[str]], num_threads: int, progress: bool | None, only: str | None = None
) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return pairs of (group, path) with equal content in two groups; with ``only``, pairs that start in it."""
    by_size = defaultdict(list)
    for name, group in paths.items():
        for path in dict.fromkeys(group):
            by_size[_size(path)].append((name, path))
    candidates = [files for files in by_size.values() if len({name for name, _ in files}) > 1]
    hashes = _hashes([path for files in candidates for _, path in files], num_threads, progress)
    shared = []
    for files in candidates:
        first: dict[str, tuple[str, str]] = {}
        for name, path in files:
            other = first.setdefault(hashes[path], (name, path))
            if other[0] != name and only in (None, other[0]):
                shared.append((other, (name, path)))
    return shared


def _hashes(paths: list[str], num_threads: int, progress: bool | None) -> dict[str, str]:
    hashes = find_facts('sha256', paths, num_threads, progress, 'comparing contents')
    for fact in hashes.values():
        if isinstance(fact, ValueError):
            raise fact
    return hashes


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as err:
        raise ValueError(f'{path} must be readable, but it is not ({err.strerror}); restore the file.') from err


def _and_more(count: int, one: str, many: str) -> str:
    return '' if count == 0 else f' ({count} more {one if count == 1 else many})'
