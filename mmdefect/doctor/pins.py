"""The versions that were measured together, and pip commands made of them."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

#: What every installation has, and what training needs beside OpenMMLab (the extra ``train``).
BASE = ('numpy', 'opencv-python')
TRAIN = ('torch', 'torchvision', 'scipy', 'pillow', 'matplotlib', 'prettytable', 'rich', 'filelock')
CORE = (*BASE, *TRAIN)

#: Distributions of each optional part; equal to the extras of setup.py without ``train``, which several of them bring.
PARTS = {
    'pretrain': ('scikit-learn', 'tensorboard', 'timm'),
    'generation': ('accelerate', 'diffusers', 'pyyaml', 'safetensors', 'transformers'),
    'runtime': ('onnxruntime',),
    'export': ('onnxruntime', 'onnx', 'onnxscript'),
    'serve': ('onnxruntime', 'fastapi', 'prometheus-client', 'python-multipart', 'uvicorn'),
    'ray': ('pandas', 'pyarrow', 'ray'),
}

#: Upstream OpenMMLab is not in constraints.txt; these are the versions the test suite was run with.
UPSTREAM = {'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'mmsegmentation': '1.2.2', 'mmpretrain': '1.2.0'}
#: Imported by upstream mmsegmentation, but not among its requirements.
UPSTREAM_UNDECLARED = ('ftfy', 'regex')
ONEDL = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmpretrain')

#: One of these serves where ``opencv-python`` is asked for.
OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')


def read_pins(python: tuple[int, int] = sys.version_info[:2]) -> dict[str, str]:
    """Return ``{distribution: version}`` of constraints.txt for a Python version; empty if the file is not there."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / '.mim' / 'constraints.txt', package.parent / 'constraints.txt'):
        if path.is_file():
            return parse_pins(path.read_text(encoding='utf-8'), python)
    return {}


def parse_pins(text: str, python: tuple[int, int]) -> dict[str, str]:
    """Parse ``name==version`` lines; the only marker in use compares ``python_version``."""
    pins = {}
    for line in text.splitlines():
        match = re.match(r'([\w.-]+)==([\w.+-]+)\s*(?:;\s*python_version\s*(<|>=)\s*"(\d+)\.(\d+)")?\s*$', line)
        if match:
            name, version, operator, *bound = match.groups()
            if operator is None or (python < tuple(map(int, bound))) == (operator == '<'):
                pins[name] = version
    return pins


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, or ``None``."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def pip_install(*names: str, options: str = '') -> str:
    """Return the command that installs these distributions in the measured versions."""
    pins = {**UPSTREAM, **read_pins()}
    for name in OPENCV:  # one release, several builds
        pins.setdefault(name, pins.get('opencv-python', installed_version('opencv-python') or '4.11.0.86'))
    wanted = ' '.join(f'{name}=={pins[name]}' if name in pins else name for name in names)
    return f'{pip()} install {options + " " if options else ""}{wanted}'


def pip() -> str:
    """The pip of the interpreter that runs now, as the user would type it."""
    return f'{Path(sys.executable).name or "python"} -m pip'
