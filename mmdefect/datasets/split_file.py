"""The JSON file that says which image belongs to which split: reading, writing and its leakage guard.

Layout of the file::

    {"format": "mmdefect-split/1", "protocol": {"name": "third", ...}, "seed": 0,
     "counts": {"train": {"crack": 12, ...}, ...}, "notes": {...},
     "splits": {"train": [{"image": "a/b.png", "mask": "c/b.png", "type": "crack", "sha256": "..."}, ...], ...}}

Paths are relative to the root of the data set, with forward slashes; ``mask`` is ``null`` for a clean image without a
file. A file that puts the same image, or the same content, into two splits can be neither written nor read.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mmdefect.datasets.samples import GOOD

FORMAT = 'mmdefect-split/1'


@dataclass(frozen=True)
class SplitEntry:
    """One image of a split: paths relative to the data root, defect type and hash of the image file."""

    image: str
    mask: str | None
    type: str
    sha256: str

    @property
    def is_clean(self) -> bool:
        """Whether the image is known to have no defect; its type is ``good``, or ``screw/good`` of several products."""
        return self.type.rpartition('/')[2] == GOOD


@dataclass(frozen=True)
class Split:
    """A division of a data set.

    Attributes:
        splits: entries by split name, in the order of the file.
        protocol: name and settings of the protocol that made it.
        seed: seed of the division.
        notes: what was left out and why, and which data set was read.
    """

    splits: dict[str, list[SplitEntry]]
    protocol: dict
    seed: int
    notes: dict = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images by split and defect type."""
        return {name: dict(sorted(Counter(e.type for e in entries).items())) for name, entries in self.splits.items()}

    def entries_of(self, name: str, file: str = 'the split') -> list[SplitEntry]:
        """Return the entries of one split.

        Raises:
            ValueError: if there is no such split, listing the ones found, or if it is empty.
        """
        if name not in self.splits:
            raise ValueError(
                f'{file} has no split {name!r}; it holds {sorted(self.splits)}. Name one of them, or make '
                'the split again with tools/split_dataset.py.'
            )
        if not self.splits[name]:
            raise ValueError(
                f'the split {name!r} of {file} must hold at least one image, but it is empty; make it '
                'again with tools/split_dataset.py and another share.'
            )
        return self.splits[name]


def check_no_overlap(split: Split, file: str = 'the split') -> None:
    """Refuse a division that puts one image or one content on two sides.

    Raises:
        ValueError: naming both files and both splits.
    """
    by_path: dict[str, str] = {}
    by_content: dict[str, tuple[str, str]] = {}
    for name, entries in split.splits.items():
        for entry in entries:
            if entry.image in by_path:
                raise ValueError(
                    f'{file} must name each image once, but {entry.image} is in {by_path[entry.image]!r} '
                    f'and in {name!r}; remove one of them.'
                )
            by_path[entry.image] = name
            other_image, other_name = by_content.setdefault(entry.sha256, (entry.image, name))
            if other_name != name:
                raise ValueError(
                    f'no image content may be in two splits, but {other_image} ({other_name!r}) and {entry.image} '
                    f'({name!r}) in {file} are the same file content; remove one, or keep them together with '
                    '--keep-duplicates-together or a group file.'
                )


def write_split(split: Split, path: str | Path, overwrite: bool = False) -> None:
    """Write a division as JSON: the whole file or nothing.

    Raises:
        FileExistsError: if ``path`` exists and ``overwrite`` is false.
        ValueError: if two splits share an image or its content.
        PermissionError: if the folder cannot be written to.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists and would be lost; name another file or allow it with --overwrite.')
    check_no_overlap(split, str(path))
    body = {
        'format': FORMAT,
        'protocol': split.protocol,
        'seed': split.seed,
        'counts': split.counts(),
        'notes': split.notes,
        'splits': {name: [vars(e) for e in entries] for name, entries in split.splits.items()},
    }
    write_text_atomically(path, json.dumps(body, indent=1, ensure_ascii=False) + '\n')


def read_split(path: str | Path) -> Split:
    """Read a division and check that no image is on two sides.

    Raises:
        ValueError: if the file is missing, is not a split file, or two splits share an image or its content.
    """
    path = Path(path)
    try:
        body = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as err:
        raise ValueError(f'the split file {path} does not exist; make it with tools/split_dataset.py.') from err
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as err:
        raise ValueError(
            f'the split file {path} must be JSON as tools/split_dataset.py writes it, but reading it '
            f'fails ({err}); make it again.'
        ) from err
    if not isinstance(body, dict) or body.get('format') != FORMAT:
        found = body.get('format') if isinstance(body, dict) else type(body).__name__
        raise ValueError(
            f'the split file {path} must have format {FORMAT!r}, got {found!r}; make it again with '
            'tools/split_dataset.py.'
        )
    try:
        splits = {name: [SplitEntry(**entry) for entry in entries] for name, entries in body['splits'].items()}
        split = Split(splits, body['protocol'], body['seed'], body.get('notes', {}))
    except (KeyError, TypeError, AttributeError) as err:
        raise ValueError(
            f'the split file {path} must hold protocol, seed and splits with image, mask, type and sha256 '
            f'per entry, but it does not ({err}); make it again with tools/split_dataset.py.'
        ) from err
    check_no_overlap(split, str(path))
    return split


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` beside ``path`` and rename it: a reader sees the old file or the new one, never half of one.

    Raises:
        PermissionError: naming the folder that cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
    except (PermissionError, OSError) as err:
        raise PermissionError(
            f'{path.parent} must be writable to hold {path.name}, but writing fails ({err.strerror}'
            '); name another place.'
        ) from err
    try:
        with os.fdopen(handle, 'w', encoding='utf-8') as stream:
            stream.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
