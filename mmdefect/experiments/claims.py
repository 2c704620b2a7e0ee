"""Who may run a job: numbered claims, each a file that only one process can create.

A lock of the file system is a local affair on many network drives; the creation of a file is not. Who wants a job
creates the claim after the last one there is. Of all who try, on any machine, one succeeds. A claim ends when its
holder says so or dies (on another machine: gives no sign of life any more). A holder that was taken for dead, because its
machine slept, finds a higher number than its own when it wakes, and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from mmdefect.experiments import states

FOLDER = 'claims'


class Superseded(RuntimeError):
    """Another process has taken the job over; what this one does with it is worth nothing any more."""


def take(job_dir: Path, owner: dict[str, Any]) -> int | None:
    """Claim a job.

    Args:
        job_dir: folder of the job; its state must be one that may be claimed.
        owner: record of the process that wants it.

    Returns:
        The number of the claim; ``None`` if somebody else holds the job or was faster.
    """
    last = last_number(job_dir)
    if last and _is_held(job_dir, last):
        return None
    number = last + 1
    path = _path(job_dir, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**owner, 'claimed': time.time()})
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    with os.fdopen(handle, 'w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return number if last_number(job_dir) == number else None


def last_number(job_dir: Path) -> int:
    """Return the number of the last claim; 0 if there is none."""
    return max((int(path.stem) for path in (job_dir / FOLDER).glob('[0-9]*.json')), default=0)


def holder(job_dir: Path) -> dict[str, Any]:
    """Return the record of the last claim; empty while it is being written."""
    return _read(_path(job_dir, last_number(job_dir)))


def check_last(job_dir: Path, number: int) -> None:
    """Raise :class:`Superseded` if there is a claim after this one."""
    last = last_number(job_dir)
    if last != number:
        raise Superseded(f'{job_dir} was taken over by claim {last} while this process held claim {number}.')


def release(job_dir: Path, number: int) -> None:
    """End a claim. The file stays: its number must not be given away again."""
    path = _path(job_dir, number)
    if path.is_file():
        states.write_json(path, {**_read(path), 'released': time.time()})


def _is_held(job_dir: Path, number: int) -> bool:
    record = _read(_path(job_dir, number))
    if not record:  # created a moment ago, or its writer died between the creation and the first byte
        with contextlib.suppress(FileNotFoundError):
            return time.time() - _path(job_dir, number).stat().st_mtime < states.STALE_SECONDS
        return False
    return 'released' not in record and states.is_alive(record, record['claimed'])


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return {}


def _path(job_dir: Path, number: int) -> Path:
    return job_dir / FOLDER / f'{number:04d}.json'
