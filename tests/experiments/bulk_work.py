"""Makers for the tests of bulk work; functions of a module, because other processes import them."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

MADE: list[int] = []


def make_square(folder: Path, fail_at: int | None = None, die_at: int | None = None):
    """Leave a trace of having been made; return a function that squares, fails at one number, or dies there once."""
    (folder / f'made_{os.getpid()}_{len(list(folder.iterdir()))}').touch()
    return partial(square, folder, fail_at, die_at)


def square(folder: Path, fail_at: int | None, die_at: int | None, number: int) -> tuple[int, int, str | None]:
    if number == fail_at:
        raise KeyError(f'no square of {number}')
    if number == die_at and not (folder / 'died').exists():
        (folder / 'died').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2, os.getpid(), os.environ.get('OMP_NUM_THREADS')
