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

from __future__ import annotations

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

from mmdefect.files import write_json

FORMAT = 'mmdefect-generated/1'
Job = TypeVar('Job')


@dataclass(frozen=True)
class Record:
    """One generated image.

    Attributes:
        id: name within the set, unique; also the stem of its files.
        image: file, relative to the set.
        source: image it was made from.
        mask: file of the generated part, relative to the set; ``None``: the whole image may have changed.
        mask_kind: ``box``, ``perlin``, ``scratch``, ``donor``, ``given``; ``None`` without a mask.
        source_label: label file of the source, if one is known.
        defect_type: what it should show; ``None`` when the prompt alone says it.
        class_id: class of that type in a label map, 1..K, if known.
        source_prompt: text of the source in an edit.
        negative_prompt: text it was kept away from.
        model: folder or hub id of the pipeline.
        scores: numbers about it, such as ``psnr_edit``.
        extra: anything else worth keeping.
    """

    id: str
    image: str
    source: str
    seed: int
    prompt: str
    model: str
    mask: str | None = None
    mask_kind: str | None = None
    source_label: str | None = None
    defect_type: str | None = None
    class_id: int | None = None
    source_prompt: str | None = None
    negative_prompt: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    extra: dict = field(default_factory=dict)


class Manifest:
    """The manifest of the set in ``folder``."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.path = self.folder / 'manifest.jsonl'

    def start(self, settings: dict) -> None:
        """Open the set for writing: store its settings, or compare them with those it was begun with.

        Args:
            settings: JSON values; whatever changes an image.

        Raises:
            ValueError: if the folder holds images of other settings.
        """
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
        try:
            settings = json.loads(place.read_text(encoding='utf-8'))
        except FileNotFoundError as err:
            raise ValueError(
                f'{self.folder} must be a generated set with settings.json, but it has none; '
                'make one with tools/generate.py.'
            ) from err
        except json.JSONDecodeError as err:
            raise ValueError(f'{place} must be JSON, but it cannot be read ({err}); make the set again.') from err
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
                    f'{self.path}:{number} must be a record of a generated image, but it is not ({err}); '
                    'remove the line, the image will be made again.'
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
                    f'{self.path} must take one more line, but writing fails ({err.strerror}); make room and start the '
                    'same command again: what is finished is kept and not made twice',
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


def seed_of(seed: int, name: str) -> int:
    """Return the seed of one image: it depends on its name, not on what else is made."""
    return int.from_bytes(hashlib.sha256(f'{seed}/{name}'.encode()).digest()[:4], 'big')


def check_unique(names: Sequence[str]) -> None:
    """Raise ``ValueError`` when two images would get one name."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(
            f'each generated image must have its own name, but {twice!r} comes twice; images or masks of one name '
            'lie in several folders. Rename them, or make two sets.'
        )


def batches(jobs: Sequence[Job], size: int, key: Callable[[Job], object]) -> Iterator[list[Job]]:
    """Yield batches of at most ``size`` neighbours that agree in ``key``, for example in the size of their image."""
    if size < 1:
        raise ValueError(f'`batch_size` must be at least 1, got {size}.')
    for _, group in itertools.groupby(jobs, key):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))
