"""Which packages belong together in which versions, what can be wrong with them, and the pip command that fixes it.

Nothing that is examined is imported here: it is recognised by the metadata of distributions and by texts of errors.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from mmdefect import compat

#: What every installation has, and what training needs beside OpenMMLab (the extra ``train``).
BASE = ('numpy', 'opencv-python')
_TRAIN = 'torch torchvision scipy pillow matplotlib prettytable rich filelock jinja2 threadpoolctl'
TRAIN = tuple(_TRAIN.split())
CORE = (*BASE, *TRAIN)

#: Distributions of each optional part; equal to the extras of setup.py without ``train``, which several of them bring.
PARTS = {
    'pretrain': ('scikit-learn', 'tensorboard', 'timm'),
    'generation': ('accelerate', 'diffusers', 'kornia', 'pyyaml', 'safetensors', 'transformers'),
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
#: Names under which a distribution is imported, where they differ.
_DISTRIBUTION_OF = {
    'cv2': 'opencv-python',
    'PIL': 'pillow',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
    'prometheus_client': 'prometheus-client',
    'pkg_resources': 'setuptools',  # newer releases no longer bring it
}
_FIT_DRIVER = 'update the driver, or install the torch build for its CUDA version (docs/install.md, "GPU")'
_REINSTALL = '--force-reinstall --no-deps'


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
    """Return the version of an installed distribution, or ``None``."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_opencv() -> list[str]:
    """Return the distributions of OpenCV that are installed."""
    return [name for name in OPENCV if installed_version(name)]


def pip(*arguments: str) -> str:
    """Return a call of the pip of the interpreter that runs now, as the user would type it."""
    return ' '.join([f'{Path(sys.executable).name or "python"} -m pip', *filter(None, arguments)])


def pip_install(*names: str, options: str = '') -> str:
    """Return the command that installs these distributions in the measured versions."""
    pins = {**UPSTREAM, **read_pins()}
    for name in OPENCV:  # one release, several builds
        pins.setdefault(name, pins.get('opencv-python', installed_version('opencv-python') or '4.11.0.86'))
    return pip('install', options, *(f'{name}=={pins[name]}' if name in pins else name for name in names))


def _replace(old: list[str], *new: str) -> str:
    return f'{pip("uninstall -y", *old)} && {pip_install(*new)}'


def _reinstall_torch() -> str:
    return pip_install('torch', 'torchvision', options='--force-reinstall')


def family() -> dict[str, str]:
    """Return ``{module: distribution}`` of OpenMMLab: of upstream if most modules come from there, else of onedl."""
    found = [set(compat.installed_distributions(module)) for module in compat.DISTRIBUTIONS]
    upstream, onedl = sum(bool(names - set(ONEDL)) for names in found), sum(bool(names & set(ONEDL)) for names in found)
    names = list(UPSTREAM if upstream > onedl else ONEDL)
    return {module: names[i] for i, module in enumerate(compat.DISTRIBUTIONS)}


def is_for_prediction_only() -> bool:
    """Whether NumPy and OpenCV are here, and nothing of torch and OpenMMLab: a machine on the line."""
    trains = installed_version('torch') or any(compat.installed_distributions(m) for m in compat.DISTRIBUTIONS)
    return not trains and installed_version('numpy') is not None and bool(installed_opencv())


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: ``level`` is ``error`` (the core cannot run) or ``warning``."""

    level: str
    what: str
    fix: str


_error, _warning = partial(Finding, 'error'), partial(Finding, 'warning')


def check_metadata() -> list[Finding]:
    """Return everything that can be said without importing anything."""
    checks = [_python, _two_opencv]
    if not is_for_prediction_only():
        more = (_doubled, _mixed_families, _missing, _torch_pair, _mmcv_window, _undeclared)
        checks = [_python, *more, _two_opencv, _shared_memory]
    return [finding for check in checks if (finding := check()) is not None]


def check_device(device: dict) -> list[Finding]:
    """Return what is wrong with a GPU that the driver shows and torch cannot use."""
    if device.get('gpus') or shutil.which('nvidia-smi') is None:
        return []
    if device.get('built_for') == 'CPU':
        return [_warning('this machine has an NVIDIA driver, but torch is a CPU build', _reinstall_torch())]
    fact = f'although an NVIDIA driver is installed ({device.get("error", "no device")})'
    return [_warning(f'torch is built for CUDA {device.get("built_for")}, but finds no usable GPU {fact}', _FIT_DRIVER)]


def _python() -> Finding | None:
    if sys.version_info >= (3, 10):  # noqa: UP036  (a checkout can be run by an older one)
        return None
    fix = 'make the environment with another interpreter: PYTHON=python3.11 bash bash/setup_env.sh'
    return _error(f'Python must be 3.10 or newer, this is {sys.version.split()[0]}', fix)


def _doubled() -> Finding | None:
    doubled = compat.doubled_modules()
    if not doubled:
        return None
    names = [name for found in doubled.values() for name in found]
    keep = [name for name in names if name in ONEDL] or [name for name in names if name in UPSTREAM]
    what = '; '.join(f'{module} comes from {" and ".join(found)}' for module, found in doubled.items())
    # Both put files into one folder, so removing one of them leaves the other with holes: remove both.
    return _error(f'two distributions overwrite each other: {what}', _replace(names, *keep))


def _mixed_families() -> Finding | None:
    found = [list(compat.installed_distributions(module)) for module in compat.DISTRIBUTIONS]
    single = [names[0] for names in found if len(names) == 1]
    upstream = [name for name in single if name not in ONEDL]
    if not upstream or len(upstream) == len(single):
        return None
    what = f'the OpenMMLab packages are a mixture of two distributions ({", ".join(single)})'
    return _warning(f'{what}; they are released and tested separately', _replace(upstream, *ONEDL))


def _missing() -> Finding | None:
    names = [n for n in CORE if n not in OPENCV and installed_version(n) is None]
    names += [] if installed_opencv() else ['opencv-python']
    # another distribution of the same module serves as well
    names += [name for module, name in family().items() if not compat.installed_distributions(module)]
    if not names:
        return None
    optional = set(names) <= set(compat.DISTRIBUTIONS['mmpretrain'])
    return Finding('warning' if optional else 'error', f'not installed: {", ".join(names)}', pip_install(*names))


def _torch_pair() -> Finding | None:
    """torchvision names the torch it was built for; a local label (``+cpu``) on one of them only is another build."""
    torch, vision = installed_version('torch'), installed_version('torchvision')
    if torch is None or vision is None:
        return None
    for requirement in metadata.requires('torchvision') or ():
        match = re.match(r'torch\s*\(?\s*(==|>=)\s*([\d.]+)', requirement)
        if match:
            operator, wanted = match.groups()
            have, need = (tuple(map(int, re.findall(r'\d+', v)[:3])) for v in (torch, wanted))
            if have != need if operator == '==' else have < need:
                what = f'torchvision {vision} was built for torch {operator} {wanted}, but torch is {torch}'
                return _warning(what, _reinstall_torch())
    if torch.partition('+')[2] != vision.partition('+')[2]:
        return _warning(f'torch {torch} and torchvision {vision} come from different builds', _reinstall_torch())
    return None


def _mmcv_window() -> Finding | None:
    name, version = next(iter(compat.installed_distributions('mmcv').items()), (None, None))
    if name is None or name in ONEDL or installed_version('mmsegmentation') is None:
        return None
    numbers = tuple(int(n) for n in re.findall(r'\d+', version)[:2])
    fix = _replace([name], 'mmcv-lite')
    if numbers < (2, 0) or numbers > (2, 2):
        return _error(f'mmsegmentation needs mmcv 2.0 to 2.2, but {name} is {version}', fix)
    what = (
        f'mmsegmentation rejects {name} {version} when imported by itself; mmdefect lets it pass, other programs do not'
    )
    return _warning(what, fix) if numbers == (2, 2) else None


def _undeclared() -> Finding | None:
    missing = [n for n in UPSTREAM_UNDECLARED if installed_version(n) is None]
    if not missing or installed_version('mmsegmentation') is None:
        return None
    return _error(f'mmsegmentation imports {", ".join(missing)} without requiring it', pip_install(*missing))


def _two_opencv() -> Finding | None:
    found = installed_opencv()
    what = f'several OpenCV packages overwrite each other: {", ".join(found)}'
    return _warning(what, _replace(found, 'opencv-python')) if len(found) > 1 else None


def _shared_memory() -> Finding | None:
    try:
        size = shutil.disk_usage('/dev/shm').total
    except OSError:  # not Linux
        return None
    what = f'shared memory is only {size >> 20} MiB, in which workers of a data loader die with a bus error'
    fix = 'start the container with --shm-size=2g, or train with --cfg-options train_dataloader.num_workers=0 '
    return _warning(what, f'{fix}train_dataloader.persistent_workers=False') if size < 256 << 20 else None


def explain(name: str, error: str) -> Finding:
    """Turn the traceback of a failed import into a finding; a failure that no rule knows keeps its own last line."""
    own = compat.installed_distributions(name) if name in compat.DISTRIBUTIONS else PARTS.get(name, (name,))
    for pattern, rule in _RULES.items():
        match = re.search(pattern, error)
        if match:
            return _error(*rule(name, own, match.group(match.lastindex or 0)))
    return _error(f'{name} cannot be used: {last_line(error)}', pip_install(*own, options=_REINSTALL))


def last_line(error: str) -> str:
    """Return the last line of a traceback."""
    lines = [line for line in error.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else 'no message'


def _absent_module(name: str, own: Iterable[str], found: str) -> tuple[str, str]:
    module = found.split('.')[0]
    distribution = {**_DISTRIBUTION_OF, **family()}.get(module, module)
    fix = pip_install(distribution, options=_REINSTALL if installed_version(distribution) else '')
    return f'{name} needs the module {found}, which cannot be found', fix


#: What is wrong and the fix by a pattern of the traceback, for a name, its distributions and what the pattern found.
_RULES: dict[str, Callable[[str, Iterable[str], str], tuple[str, str]]] = {
    r'torchvision::nms does not exist|torchvision[^\n]*undefined symbol|undefined symbol[^\n]*(?:c10|torch)': (
        lambda name, own, found: ('torch and torchvision come from different builds', _reinstall_torch())
    ),
    r'(lib(?:GL|gthread|glib|SM|Xext|Xrender)[\w.-]*\.so[.\d]*): cannot open': lambda name, own, found: (
        f'OpenCV needs the system library {found}, which this machine lacks',
        _replace(['opencv-python'], 'opencv-python-headless'),
    ),
    r'compiled using NumPy 1\.x|_ARRAY_API not found|numpy\.(?:dtype size changed|core\.multiarray failed to import)': (
        lambda name, own, found: (
            f'{name} was compiled for another NumPy than {installed_version("numpy")}',
            pip_install('numpy', *own, options=_REINSTALL),
        )
    ),
    r"No module named '([\w.]+)'": _absent_module,
    r'MMCV==(\S+) is used but incompatible': lambda name, own, found: (
        f'the installed mmseg or mmpretrain rejects mmcv {found}',
        pip_install(*family().values()),
    ),
    r'(?:CUDA|NVIDIA) driver[^\n]*(?:too old|insufficient)[^\n]*': lambda name, own, found: (
        f'the NVIDIA driver does not fit this torch: {found[:150]}',
        _FIT_DRIVER,
    ),
}
