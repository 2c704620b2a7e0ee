"""Files and folders that are either absent, old or complete: written beside their place, then renamed."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; what was written there takes its place at the end.

    A reader sees the old content or the new one, never half of it. After an error nothing is left behind. The temporary
    name keeps the suffix, by which many writers choose a format.

    Raises:
        OSError: if it cannot be written; a full disk and a folder without permission are named with what to do.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name[:60]}.', suffix=f'.tmp{path.suffix}')
        os.close(handle)
    except OSError as err:
        raise _explained(path, err) from err
    try:
        yield Path(name)
        with open(name, 'rb+') as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException as err:
        Path(name).unlink(missing_ok=True)
        if isinstance(err, OSError):
            raise _explained(path, err) from err
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file in one step, see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text in UTF-8 in one step, see :func:`replacing`."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON in one step, see :func:`replacing`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if the file is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except ValueError as err:
        raise ValueError(f'{path} must be a JSON file, but {err}. Move it away to start anew.') from err


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that is renamed to it at the end; after an error nothing is left behind.

    Raises:
        OSError: if it cannot be written, or ``path`` is there and not empty.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(dir=path.parent, prefix=f'.{path.name[:60]}.', suffix='.tmp')
    except OSError as err:
        raise _explained(path, err) from err
    try:
        yield Path(name)
        os.chmod(name, 0o755)
        os.rename(name, path)
    except BaseException as err:
        shutil.rmtree(name, ignore_errors=True)
        if isinstance(err, OSError):
            raise _explained(path, err) from err
        raise


def _explained(path: Path, err: OSError) -> OSError:
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(
            err.errno,
            f'the disk must have room for {path}, but it is full; free some space and start the same command again: '
            'what is finished is kept and not made twice',
        )
    if isinstance(err, (PermissionError, NotADirectoryError, FileExistsError)):  # the last two: a file is in the way
        return PermissionError(
            err.errno, f'{path.parent} must be writable to hold {path.name}, but writing fails; name another place'
        )
    return err
