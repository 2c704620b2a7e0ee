"""Facts about files that are slow to find out, found out in parallel threads and remembered.

A fact is remembered under the path, the size and the modification time of its file, one small JSON file per folder, in
``$MMDEFECT_CACHE`` or ``$XDG_CACHE_HOME/mmdefect`` (default ``~/.cache/mmdefect``). A file changed less than two
seconds ago is not remembered: a second change in the same tick of the clock would go unnoticed.
"""

import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmdefect.datasets.masks import ENCODINGS, decode_mask, image_size_hw, pack_rgb
from mmdefect.files import write_text
from mmdefect.progress import track

#: Raise it when the meaning of a remembered fact changes.
VERSION = 1
#: More different values than this in one mask are not listed; by then some of them are no class.
MAX_VALUES = 300
THREADS = 8
_FRESH_NS = 2_000_000_000
_MANY_FILES = 500  # from here on progress is shown, on a terminal


def cache_folder() -> Path:
    """Return the folder of the remembered facts."""
    if 'MMDEFECT_CACHE' in os.environ:
        return Path(os.environ['MMDEFECT_CACHE'])
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmdefect'


def find_facts(kind: str, paths: Iterable[str], text: str = '') -> dict[str, Any]:
    """Find out one fact about every file, from memory where the file has not changed.

    Args:
        kind: ``'sha256'``: hash of the content. ``'image'``: ``[height, width]``. ``'mask/<encoding>'``:
            ``{'size': [height, width], 'values': [...]}`` with the values (packed RGB for a palette) that occur.
        paths: files; repeated ones are looked at once.
        text: what is done, for the progress that a terminal shows when many files are to be read.

    Returns:
        The fact by path, or the ``ValueError`` that finding it out raised.
    """
    function = _FACTS[kind]
    places = {path: os.path.split(os.path.abspath(path)) for path in paths}
    remembered = {folder: _load(folder) for folder in {folder for folder, _ in places.values()}}
    stamps = {path: _stamp(path) for path in places}
    facts: dict[str, Any] = {}
    for path, (folder, name) in places.items():
        entry = remembered[folder].get(name, {}).get(kind)
        if entry is not None and entry[0] == stamps[path]:
            facts[path] = entry[1]
    unknown = [path for path in places if path not in facts]

    def look(path: str) -> Any:
        try:
            return function(path)
        except ValueError as err:
            return err

    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(look, unknown)
        if len(unknown) > _MANY_FILES and sys.stderr.isatty():
            found = track(found, text, len(unknown), 'files')
        facts.update(zip(unknown, found, strict=True))
    now, changed = time.time_ns(), set()
    for path in unknown:
        stamp, (folder, name) = stamps[path], places[path]
        if stamp is not None and now - stamp[1] >= _FRESH_NS and not isinstance(facts[path], ValueError):
            remembered[folder].setdefault(name, {})[kind] = [stamp, facts[path]]
            changed.add(folder)
    _remember({folder: remembered[folder] for folder in sorted(changed)})
    return facts


def find_hashes(paths: Iterable[str], text: str = '') -> dict[str, str]:
    """Return the SHA-256 of every file, see :func:`find_facts`; raise if one cannot be read."""
    hashes = find_facts('sha256', paths, text)
    for fact in hashes.values():
        if isinstance(fact, ValueError):
            raise fact
    return hashes


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as err:
        raise ValueError(
            f'{path} must be readable, but reading it fails ({err.strerror}); restore the file or its permissions.'
        ) from err


def image_facts(path: str) -> list[int]:
    """Return height and width; a file whose end looks cut off is decoded in full to be sure."""
    size = image_size_hw(path)
    with open(path, 'rb') as stream:
        head = stream.read(8)
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 64))
        tail = stream.read()
    is_png = head.startswith(b'\x89PNG') and b'IEND' in tail
    if not is_png and not (head.startswith(b'\xff\xd8') and b'\xff\xd9' in tail):
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as err:
            raise ValueError(f'the image {path} must be complete, but decoding fails ({err}); replace it.') from err
    return list(size)


def mask_facts(encoding: str, path: str) -> dict:
    """Return size and occurring values of a mask."""
    try:
        data = Path(path).read_bytes()
    except OSError as err:
        raise ValueError(
            f'the mask {path} must be readable, but reading it fails ({err.strerror}); restore it, or take its image '
            'out of the data set.'
        ) from err
    raw = decode_mask(data, encoding, path)
    size = list(raw.shape[:2])
    if encoding == 'binary':
        values = [v for v, found in ((0, (raw == 0).any()), (1, raw.any())) if found]
    elif encoding == 'index' and raw.dtype == np.uint8:
        values = np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist()
    else:
        values = np.unique(pack_rgb(raw) if encoding == 'palette' else raw)[:MAX_VALUES].tolist()
    return {'size': size, 'values': values}


_FACTS: dict[str, Callable[[str], Any]] = {
    'sha256': sha256_of,
    'image': image_facts,
    **{f'mask/{encoding}': partial(mask_facts, encoding) for encoding in ENCODINGS},
}


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


def _remember(by_folder: dict[str, dict[str, dict]]) -> None:
    for folder, files in by_folder.items():
        body = {'version': VERSION, 'folder': folder, 'files': files}
        try:
            write_text(_file_of(folder), json.dumps(body, ensure_ascii=False))
        except OSError as err:
            warnings.warn(
                f'what was found out about the files cannot be remembered, the next check takes as long: {err} Set '
                'MMDEFECT_CACHE to a folder that can be written to.',
                stacklevel=3,
            )
            return
