"""Facts about files that are slow to find out, found out in parallel threads and remembered.

A fact is remembered under the path, the size and the modification time of its file, one small JSON file per folder, in
``$MMDEFECT_CACHE`` or ``$XDG_CACHE_HOME/mmdefect`` (default ``~/.cache/mmdefect``). A file changed less than two
seconds ago is not remembered: a second change in the same tick of the clock would go unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmdefect.datasets.masks import decode_mask, image_size_hw, pack_rgb
from mmdefect.datasets.split_file import write_text_atomically

#: Raise it when the meaning of a remembered fact changes.
VERSION = 1
#: More different values than this in one mask are not listed; by then some of them are no class.
MAX_VALUES = 300
_FRESH_NS = 2_000_000_000


def cache_folder() -> Path:
    """Return the folder of the remembered facts."""
    if 'MMDEFECT_CACHE' in os.environ:
        return Path(os.environ['MMDEFECT_CACHE'])
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmdefect'


def find_facts(
    kind: str, paths: Iterable[str], num_threads: int = 8, progress: bool | None = None, description: str = ''
) -> dict[str, Any]:
    """Find out one fact about every file, from memory where the file has not changed.

    Args:
        kind: ``'sha256'``: hash of the content. ``'image'``: ``[height, width]``. ``'mask/<encoding>'``:
            ``{'size': [height, width], 'values': [...]}`` with the values (packed RGB for a palette) that occur.
        paths: files; repeated ones are looked at once.
        num_threads: files read at a time.
        progress: whether to show a progress bar; ``None`` shows one on a terminal when many files are to be read.
        description: text of the progress bar.

    Returns:
        The fact by path, or the ``ValueError`` that finding it out raised.
    """
    function = _FACTS[kind]
    by_folder = defaultdict(list)
    for path in dict.fromkeys(paths):
        by_folder[os.path.dirname(os.path.abspath(path))].append(path)
    remembered = {folder: _load(folder) for folder in by_folder}
    facts: dict[str, Any] = {}
    stamps: dict[str, list[int]] = {}
    open_paths = []
    for folder, folder_paths in by_folder.items():
        for path in folder_paths:
            stamps[path] = _stamp(path)
            entry = remembered[folder].get(os.path.basename(path), {}).get(kind)
            if entry is not None and entry[0] == stamps[path]:
                facts[path] = entry[1]
            else:
                open_paths.append(path)
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(lambda p: _try(function, p), open_paths)
        for path, fact in zip(open_paths, _track(results, len(open_paths), progress, description), strict=True):
            facts[path] = fact
    _remember(kind, open_paths, facts, stamps, remembered)
    return facts


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    Raises:
        ValueError: if the file cannot be read.
    """
    try:
        with open(path, 'rb') as stream:
            return (
                hashlib.file_digest(stream, 'sha256').hexdigest()
                if hasattr(hashlib, 'file_digest')
                else hashlib.sha256(stream.read()).hexdigest()
            )
    except OSError as err:
        raise ValueError(
            f'{path} must be readable, but reading it fails ({err.strerror}); restore the file or its permissions.'
        ) from err


def image_facts(path: str) -> list[int]:
    """Return height and width; a file whose end looks cut off is decoded in full to be sure.

    Raises:
        ValueError: if the file is missing, no image, or truncated.
    """
    size = image_size_hw(path)
    with open(path, 'rb') as stream:
        head = stream.read(8)
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 64))
        tail = stream.read()
    complete = (head.startswith(b'\x89PNG') and b'IEND' in tail) or (
        head.startswith(b'\xff\xd8') and b'\xff\xd9' in tail
    )
    if not complete:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as err:
            raise ValueError(
                f'the image {path} must be complete, but decoding fails ({err}); replace the file.'
            ) from err
    return list(size)


def mask_facts(path: str, encoding: str) -> dict:
    """Return size and occurring values of a mask.

    Raises:
        ValueError: if the file is missing or cannot be decoded as ``encoding``.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as err:
        raise ValueError(
            f'the mask {path} must be readable, but reading it fails ({err.strerror}); restore it, or '
            'take its image out of the data set.'
        ) from err
    raw = decode_mask(data, encoding, path)
    size = list(raw.shape[:2])
    if encoding == 'palette':
        raw = pack_rgb(raw)
    if encoding == 'binary':
        values = [v for v, found in ((0, (raw == 0).any()), (1, raw.any())) if found]
    elif raw.dtype == np.uint8:
        values = np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist()
    else:
        values = np.unique(raw)[:MAX_VALUES].tolist()
    return {'size': size, 'values': values}


_FACTS: dict[str, Callable[[str], Any]] = {
    'sha256': sha256_of,
    'image': image_facts,
    'mask/index': lambda path: mask_facts(path, 'index'),
    'mask/binary': lambda path: mask_facts(path, 'binary'),
    'mask/palette': lambda path: mask_facts(path, 'palette'),
}


def _try(function: Callable[[str], Any], path: str) -> Any:
    try:
        return function(path)
    except ValueError as err:
        return err


def _stamp(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _file_of(folder: str) -> Path:
    return cache_folder() / 'files' / f'{hashlib.sha256(folder.encode()).hexdigest()[:24]}.json'


def _load(folder: str) -> dict[str, dict]:
    try:
        body = json.loads(_file_of(folder).read_text(encoding='utf-8'))
    except (OSError, ValueError):  # nothing remembered yet, or not by us: find out again
        return {}
    return body['files'] if isinstance(body, dict) and body.get('version') == VERSION else {}


def _remember(kind: str, paths: list[str], facts: dict, stamps: dict, remembered: dict[str, dict]) -> None:
    now, changed = time.time_ns(), set()
    for path in paths:
        stamp = stamps[path]
        if isinstance(facts[path], ValueError) or stamp is None or now - stamp[1] < _FRESH_NS:
            continue
        folder, name = os.path.split(os.path.abspath(path))
        remembered[folder].setdefault(name, {})[kind] = [stamp, facts[path]]
        changed.add(folder)
    for folder in sorted(changed):
        body = {'version': VERSION, 'folder': folder, 'files': remembered[folder]}
        try:
            write_text_atomically(_file_of(folder), json.dumps(body, ensure_ascii=False))
        except PermissionError as err:
            warnings.warn(
                f'what was found out about the files cannot be remembered, the next check takes as long: '
                f'{err} Set MMDEFECT_CACHE to a folder that can be written to.',
                stacklevel=3,
            )
            return


def _track(results: Iterable, total: int, progress: bool | None, description: str) -> Iterable:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    show = (console.is_terminal and total > 500) if progress is None else progress
    return track(results, description, total=total, console=console, transient=True) if show else results
