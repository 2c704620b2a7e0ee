"""What importing a part of the package loads, tried in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .layers import MM_PACKAGES, PURE, ROOT, module_name, modules

LOADED = 'import json, sys; print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))'


def loaded_after(*names: str) -> set[str]:
    """Top-level modules in ``sys.modules`` after importing ``names`` in a fresh interpreter."""
    code = ''.join(f'import {name}\n' for name in names) + LOADED
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def names_of(*layers: str) -> list[str]:
    return [module_name(path) for path in modules(*layers) if path.name != '__main__.py']


@pytest.mark.parametrize(
    'name', ['mmdefect', 'mmdefect.extras', 'mmdefect.compat', 'mmdefect.doctor', 'mmdefect.__main__']
)
def test_light_modules_load_nothing_heavy(name):
    heavy = loaded_after(name) & {*MM_PACKAGES, 'torch', 'torchvision', 'kornia', 'cv2', 'numpy', 'scipy', 'matplotlib'}
    assert not heavy


def test_pure_packages_load_no_openmmlab():
    """All of them in one interpreter: what none of them loads together, none loads alone."""
    assert not loaded_after(*names_of(*PURE)) & set(MM_PACKAGES)


def test_these_run_where_there_is_no_torch():
    """The runtime on the line needs NumPy and ONNX Runtime; batches of models are commands and JSON."""
    assert not loaded_after(*names_of('deployment', 'experiments')) & {'torch', 'torchvision', 'kornia'}
