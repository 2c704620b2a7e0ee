"""The JSON file that says which image belongs to which split.

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
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mmdefect.datasets.samples import GOOD, Sample, relative_path
from mmdefect.files import write_text

FORMAT = 'mmdefect-split/1'


@dataclass(frozen=True)
class SplitEntry:
    """One image of a split: paths relative to the data root, defect type and hash of the image file."""

    image: str
    mask: str | None
    type: str
    sha256: str

    @classmethod
    def of(cls, sample: Sample, root: str, sha256: str) -> SplitEntry:
        """Return the entry of one image of a data set."""
        mask = None if sample.seg_map_path is None else relative_path(sample.seg_map_path, root)
        return cls(relative_path(sample.img_path, root), mask, sample.stratum, sha256)

    @property
    def is_clean(self) -> bool:
        """Whether the image is known to have no defect; its type is ``good``, or ``screw/good`` of several products."""
        return self.type.rpartition('/')[2] == GOOD


@dataclass(frozen=True)
class Split:
    """A division of a data set."""

    splits: dict[str, list[SplitEntry]]
    protocol: dict  # name and settings of the protocol that made it
    seed: int
    notes: dict = field(default_factory=dict)  # what was left out and why, and which data set was read

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images by split and defect type."""
        return {name: dict(sorted(Counter(e.type for e in entries).items())) for name, entries in self.splits.items()}

    def entries_of(self, name: str, file: str = 'the split') -> list[SplitEntry]:
        """Return the entries of one split; raise if there is none, or it is empty."""
        if name not in self.splits:
            raise ValueError(
                f'{file} has no split {name!r}; it holds {sorted(self.splits)}. Name one of them, or make the split '
                'again with tools/split_dataset.py.'
            )
        if not self.splits[name]:
            raise ValueError(
                f'the split {name!r} of {file} must hold at least one image, but it is empty; make it again with '
                'tools/split_dataset.py and another share.'
            )
        return self.splits[name]

    def types_without_training(self) -> list[str]:
        """Return the defect types that have images in other splits but not in training."""
        counts = self.counts()
        found = {t for by_type in counts.values() for t in by_type} - counts.get('train', {}).keys()
        return sorted(t for t in found if t.rpartition('/')[2] != GOOD)

    def to_json(self) -> str:
        """Return the content of the file."""
        body = {
            'format': FORMAT,
            'protocol': self.protocol,
            'seed': self.seed,
            'counts': self.counts(),
            'notes': self.notes,
            'splits': {name: [vars(e) for e in entries] for name, entries in self.splits.items()},
        }
        return json.dumps(body, indent=1, ensure_ascii=False) + '\n'


def check_no_overlap(split: Split, file: str = 'the split') -> None:
    """Raise a ``ValueError`` naming files and splits if one image, or one content, is in two splits."""
    by_path: dict[str, str] = {}
    by_content: dict[str, tuple[str, str]] = {}
    for name, entries in split.splits.items():
        for entry in entries:
            if entry.image in by_path:
                raise ValueError(
                    f'{file} must name each image once, but {entry.image} is in {by_path[entry.image]!r} and in '
                    f'{name!r}; remove one of them.'
                )
            by_path[entry.image] = name
            other_image, other_name = by_content.setdefault(entry.sha256, (entry.image, name))
            if other_name != name:
                raise ValueError(
                    f'no image content may be in two splits, but {other_image} ({other_name!r}) and {entry.image} '
                    f'({name!r}) in {file} are the same file content; remove one, or keep them together with '
                    '--keep-duplicates-together or a group file.'
                )


def check_new(paths: Iterable[str | Path], overwrite: bool) -> None:
    """Raise a ``FileExistsError`` if one of the files exists and may not be overwritten."""
    there = [str(path) for path in paths if os.path.exists(path)]
    if there and not overwrite:
        raise FileExistsError(
            f'{", ".join(there)} must not exist yet, for it would be lost; name another file or add --overwrite.'
        )


def write_split(split: Split, path: str | Path, overwrite: bool = False) -> None:
    """Write a division as JSON; raise if two splits share an image or its content."""
    check_new([path], overwrite)
    check_no_overlap(split, str(path))
    write_text(path, split.to_json())


def read_split(path: str | Path) -> Split:
    """Read a division and check that no image is on two sides; a ``ValueError`` says what is wrong with the file."""
    try:
        body = json.loads(Path(path).read_text(encoding='utf-8'))
    except FileNotFoundError as err:
        raise ValueError(f'the split file {path} does not exist; make it with tools/split_dataset.py.') from err
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as err:
        raise ValueError(
            f'the split file {path} must be JSON as tools/split_dataset.py writes it, but reading it fails ({err}); '
            'make it again.'
        ) from err
    found = body.get('format') if isinstance(body, dict) else type(body).__name__
    if found != FORMAT:
        raise ValueError(
            f'the split file {path} must have format {FORMAT!r}, got {found!r}; make it with tools/split_dataset.py.'
        )
    try:
        splits = {name: [SplitEntry(**entry) for entry in entries] for name, entries in body['splits'].items()}
        split = Split(splits, body['protocol'], body['seed'], body.get('notes', {}))
    except (KeyError, TypeError, AttributeError) as err:
        raise ValueError(
            f'the split file {path} must hold protocol, seed and splits with image, mask, type and sha256 per entry, '
            f'but it does not ({err}); make it again with tools/split_dataset.py.'
        ) from err
    check_no_overlap(split, str(path))
    return split
