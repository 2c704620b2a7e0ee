"""bash/setup_env.sh says what is missing before it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout without .venv, in which ``df`` says what the file ``free`` holds."""
    (tmp_path / 'bash').mkdir()
    for name in ('bash/setup_env.sh', 'setup.py', 'constraints.txt'):
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / 'programs'
    programs.mkdir()
    (programs / 'df').write_text(
        '#!/bin/sh\necho "Filesystem 1048576-blocks Used Available Capacity Mounted"\n'
        f'echo "/dev/disk 9000 0 $(cat {tmp_path}/free) 0% /"\n'
    )
    (programs / 'df').chmod(0o755)
    return tmp_path


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess:
    path = f'{checkout / "programs"}:{os.environ["PATH"]}'
    return subprocess.run(
        ['bash', 'bash/setup_env.sh'],
        cwd=checkout,
        env={**os.environ, 'PATH': path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_full_disk_is_reported_before_anything_is_made(checkout):
    (checkout / 'free').write_text('6999')
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr == (
        f'setup_env: error: 7000 MB must be free for .venv, but {checkout} has 6999 MB; make room, or take '
        'another disk.\n'
    )
    assert not (checkout / '.venv').exists()


def test_room_enough_goes_on_to_the_next_question(checkout):
    (checkout / 'free').write_text('7000')
    done = set_up(checkout, PYTHON='/bin/false')
    assert done.returncode == 1
    assert done.stderr.startswith("setup_env: error: PYTHON must be an interpreter >= 3.10, but '/bin/false' is not")
