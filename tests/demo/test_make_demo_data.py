"""The command line of the demo data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2

TOOL = Path(__file__).parents[2] / 'tools' / 'make_demo_data.py'


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)


def test_command_writes_and_refuses(tmp_path):
    out = tmp_path / 'demo'
    done = run(str(out), '--layout', 'wta', '--images', '10', '--size', '128', '160', '--seed', '4')
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(out / 'wta' / 'img_dir' / 'train' / 'part_0001.png')).shape == (128, 160, 3)
    again = run(str(out), '--layout', 'wta', '--images', '10')
    assert again.returncode == 1 and '--overwrite' in again.stderr and 'Traceback' not in again.stderr
    few = run(str(tmp_path / 'few'), '--layout', 'mvtec', '--images', '5')
    assert few.returncode == 1 and 'at least 21' in few.stderr
