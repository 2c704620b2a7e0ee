"""What a run ran on: versions, hardware, commit; without importing what it names."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = (
    'mmdefect',
    'torch',
    'torchvision',
    'numpy',
    'opencv-python',
    'mmengine',
    'mmcv',
    'mmsegmentation',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmsegmentation',
)


def versions() -> dict[str, str]:
    """Return the versions of what trains a model, as far as installed."""
    found = {'python': platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(log: str = '') -> dict[str, str | int]:
    """Return processor, cores, and the GPUs that a training log names."""
    gpus = sorted(set(re.findall(r'^\s*GPU [\d,]+: (.+?)\s*$', log, re.MULTILINE)))
    found: dict[str, str | int] = {'cpu': _processor(), 'cores': len(os.sched_getaffinity(0))}
    if gpus:
        found['gpu'] = ', '.join(gpus)
    return found


def commit(folder: Path) -> dict[str, str | bool]:
    """Return ``commit`` and ``modified`` (whether tracked files differ from it); empty outside a repository."""
    answers = []
    for arguments in (('rev-parse', '--short=12', 'HEAD'), ('status', '--porcelain', '--untracked-files=no')):
        try:
            answer = subprocess.run(['git', '-C', str(folder), *arguments], capture_output=True, text=True)
        except FileNotFoundError:
            return {}
        if answer.returncode:
            return {}
        answers.append(answer.stdout.strip())
    return {'commit': answers[0], 'modified': bool(answers[1])}


def _processor() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass  # no such file outside Linux
    return platform.processor() or platform.machine()
