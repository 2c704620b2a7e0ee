"""The manifest of a generated set: what was made, from what, with which settings; the basis of going on after a stop.

A set is a folder::

    settings.json      what all its images share; going on with other settings is refused
    manifest.jsonl     one line a finished image, see :class:`Record`
    images/ID.png      images
    masks/ID.png       where something was generated (0/255); sets made by prompt edits have none

An image is written first (beside its place, then renamed) and recorded after that. So whatever happens, a recorded
image is complete, and one that is not recorded is made again. Several processes may append: lines are added under a
lock.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from mmdefect.diffusion.images import disk_full, write_bytes

FORMAT = 'mmdefect-generated/1'


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
        seed: of this image.
        prompt: text it was made with.
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
    """The manifest of one set.

    Args:
        folder: folder of the set; made if it does not exist.
    """

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
            if not place.is_file():
                if self.path.is_file():
                    raise ValueError(
                        f'{self.folder} must hold settings.json beside manifest.jsonl, but it does not; '
                        'name another folder.'
                    )
                write_bytes(place, (json.dumps(settings, indent=1) + '\n').encode())
                return
            known = self.settings()
        different = [k for k in {**known, **settings} if known.get(k) != settings.get(k)]
        if different:
            key = different[0]
            raise ValueError(
                f'{self.folder} must be gone on with in the settings it was begun with, but `{key}` was '
                f'{known.get(key)!r} and is {settings.get(key)!r} now; name another folder, or repeat the '
                'old settings.'
            )

    def settings(self) -> dict:
        """Return the settings of the set.

        Raises:
            ValueError: if there are none or they are of another format.
        """
        place = self.folder / 'settings.json'
        try:
            settings = json.loads(place.read_text(encoding='utf-8'))
        except (FileNotFoundError, NotADirectoryError) as err:
            raise ValueError(
                f'{self.folder} must be a generated set with settings.json and manifest.jsonl, but it is '
                'not; make one with tools/generate.py.'
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
                    f'{self.path}:{number} must be a record of a generated image, but it is not ({err})'
                    '; remove the line, the image will be made again.'
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
                raise (disk_full(self.path, err) if err.errno in (errno.ENOSPC, errno.EDQUOT) else err) from err

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / '.manifest.lock')
