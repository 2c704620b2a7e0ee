"""Find the real data sets; tests that need one skip with the reason when it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = 'MMDEFECT_DATA'


def real_data_root() -> Path | None:
    """Return ``$MMDEFECT_DATA``, or ``../shared/data`` beside the repository when it exists."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    beside = Path(__file__).resolve().parents[3] / 'shared' / 'data'
    return beside if beside.is_dir() else None


def real_data(*parts: str) -> Path:
    """Return a folder or file of the real data, or skip the test."""
    root = real_data_root()
    if root is None:
        pytest.skip(f'real data are not here: set {VARIABLE} to their folder')
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f'real data have no {"/".join(parts)}: {path} does not exist')
    return path
