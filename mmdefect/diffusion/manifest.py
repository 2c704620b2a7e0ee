"""The manifest of a generated set: what was made, from what, with which settings; the basis of going on after a stop.

A set is a folder::

    settings.json      what all its images share; going on with other settings is an error
    manifest.jsonl     one line for each finished image, see :class:`Record`
    images/ID.png      images
    masks/ID.png       where something was generated (0/255); sets made by prompt edits have none

An image is written first and recorded after that. So a recorded image is complete, and one that is not recorded is
made again. Several processes may append: lines are added under a lock. Seeds, the share of each process and batches of
the images of a set are here as well.
"""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from mmdefect.files import read_json, write_json

FORMAT = 'mmdefect-generated/1'
Entry = TypeVar('Entry')
Job = TypeVar('Job')


@dataclass(frozen=True)
class Record:
    """One generated image."""

    id: str  # name within the set, unique; also the stem of its files
    image: str  # file, relative to the set
    source: str  # image it was made from
    seed: int
    prompt: str
    model: str  # folder or hub id of the pipeline
    mask: str | None = None  # file of the generated part, relative to the set; `None`: the whole image may have changed
    mask_kind: str | None = None  # `box`, `perlin`, `scratch`, `donor`, `given`; `None` without a mask
    source_label: str | None = None  # label file of the source, if one is known
    defect_type: str | None = None  # what it should show; `None` when the prompt alone says it
    class_id: int | None = None  # class of that type in a label map, 1..K, if known
    source_prompt: str | None = None  # text of the source in an edit
    negative_prompt: str | None = None  # text it was kept away from
    scores: dict[str, float] = field(default_factory=dict)  # numbers about it, such as `psnr_edit`
    extra: dict = field(default_factory=dict)  # anything else worth keeping


class Manifest:
    """The manifest of the set in ``folder``."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.path = self.folder / 'manifest.jsonl'

    def start(self, settings: dict) -> None:
        """Store the settings of the set, JSON values, or raise ``ValueError`` if it was begun with others."""
        settings = json.loads(json.dumps(dict(settings, format=FORMAT)))
        place = self.folder / 'settings.json'
        with self._lock():
            if place.is_file():
                check_same_settings(self.folder, self.settings(), settings)
            elif self.path.is_file():
                raise ValueError(f'{self.folder} must hold settings.json beside manifest.jsonl; name another folder.')
            else:
                write_json(place, settings)

    def settings(self) -> dict:
        """Return the settings of the set; ``ValueError`` if there are none or they are of another format."""
        place = self.folder / 'settings.json'
        if not place.is_file():
            raise ValueError(
                f'{self.folder} must be a generated set with settings.json; make one with tools/generate.py.'
            )
        settings = read_json(place)
        if settings.get('format') != FORMAT:
            raise ValueError(
                f'{place} must have format {FORMAT!r}, got {settings.get("format")!r}; make the set again.'
            )
        return settings

    def records(self) -> list[Record]:
        """Return what is recorded, in order; a last line cut off by a crash is not counted, nor a lost image."""
        if not self.path.is_file():
            return []
        records: dict[str, Record] = {}
        lines = self.path.read_bytes().split(b'\n')
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError) as err:
                if number == len(lines):  # no line break behind it: the process died while it wrote
                    continue
                raise ValueError(
                    f'{self.path}:{number} must be a record, but it is not ({err}); remove the line to make it again.'
                ) from err
            records[record.id] = record
        return [r for r in records.values() if (self.folder / r.image).is_file()]

    def done(self) -> set[str]:
        """Return the ids of the finished images."""
        return {r.id for r in self.records()}

    def append(self, record: Record) -> None:
        """Record a finished image."""
        line = json.dumps(asdict(record), ensure_ascii=False).encode() + b'\n'
        with self._lock(), open(self.path, 'ab+') as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if size:
                    file.seek(size - 1)
                    if file.read(1) != b'\n':  # the rest of a line that a crash cut off
                        file.seek(0)
                        size = file.read().rfind(b'\n') + 1
                        file.truncate(size)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError as err:
                file.truncate(size)
                raise OSError(
                    err.errno,
                    f'{self.path} must take a line, but writing fails ({err.strerror}); free space and start again',
                ) from err

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / '.manifest.lock')


def check_same_settings(folder: Path, known: dict, now: dict) -> None:
    """Raise ``ValueError`` naming the first setting in which a run differs from the one that its folder holds."""
    for key in {**known, **now}:
        if known.get(key) != now.get(key):
            raise ValueError(
                f'{folder} must be continued with the settings it was begun with, but `{key}` was {known.get(key)!r} '
                f'and is {now.get(key)!r} now; name another folder, or repeat the old settings.'
            )


def read_entries(path: Path, form: str, key: str, entry: type[Entry], advice: str) -> tuple[dict, list[Entry]]:
    """Return the JSON of a set that lists entries under ``key``, and the entries; ``ValueError`` with ``advice``."""
    try:
        body = json.loads(path.read_text(encoding='utf-8'))
        entries = [entry(**e) for e in body[key]]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ValueError(f'{path} must list {key}, but it cannot be read ({err}); {advice}') from err
    if body.get('format') != form or not entries:
        found = f'{body.get("format")!r} with {len(entries)}'
        raise ValueError(f'{path} must have format {form!r} and list {key}, got {found}; {advice}')
    return body, entries


def seed_of(seed: int, name: str) -> int:
    """Return the seed of one image: it depends on its name, not on what else is made."""
    return int.from_bytes(hashlib.sha256(f'{seed}/{name}'.encode()).digest()[:4], 'big')


def check_unique(names: Sequence[str]) -> None:
    """Raise ``ValueError`` when two images would get one name."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(
            f'each image of a set must have its own name, but {twice!r} comes twice; rename one, or make two sets.'
        )


def batches(jobs: Sequence[Job], size: int, key: Callable[[Job], object]) -> Iterator[list[Job]]:
    """Yield batches of at most ``size`` neighbours that agree in ``key``, for example in the size of their image."""
    if size < 1:
        raise ValueError(f'`batch_size` must be at least 1, got {size}.')
    for _, group in itertools.groupby(jobs, key):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))
