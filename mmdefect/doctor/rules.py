"""Recognise what is wrong from versions and error texts, and name the command that mends it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from mmdefect import compat

from .pins import CORE, ONEDL, OPENCV, PARTS, UPSTREAM, UPSTREAM_UNDECLARED, installed_version, pip, pip_install
from .probes import Outcome


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: ``level`` is ``error`` (the core cannot run) or ``warning``."""

    level: str
    what: str
    mend: str


def family() -> str:
    """Where most of the installed modules come from, ``onedl`` or ``upstream``; ``onedl`` if none is there."""
    upstream = sum(bool(set(compat.installed_distributions(m)) - set(ONEDL)) for m in compat.DISTRIBUTIONS)
    onedl = sum(bool(set(compat.installed_distributions(m)) & set(ONEDL)) for m in compat.DISTRIBUTIONS)
    return 'upstream' if upstream > onedl else 'onedl'


def is_for_prediction_only() -> bool:
    """Whether NumPy and OpenCV are here, and nothing of torch and OpenMMLab: a machine on the line."""
    trains = installed_version('torch') or any(compat.installed_distributions(m) for m in compat.DISTRIBUTIONS)
    return not trains and installed_version('numpy') is not None and any(installed_version(n) for n in OPENCV)


def check_metadata() -> list[Finding]:
    """Everything that can be said without importing anything."""
    if is_for_prediction_only():
        return [finding for check in (_python, _two_opencv) for finding in check()]
    checks = (
        _python,
        _doubled,
        _mixed_families,
        _missing,
        _torch_pair,
        _mmcv_window,
        _undeclared,
        _two_opencv,
        _shared_memory,
    )
    return [finding for check in checks for finding in check()]


def explain(name: str, outcome: Outcome) -> Finding:
    """Turn a failed probe into a finding; a failure that no rule knows keeps its own last line."""
    for pattern, rule in _TEXT_RULES:
        match = re.search(pattern, outcome.error)
        if match:
            return rule(name, match)[0]
    return Finding(
        'error',
        f'{name} cannot be used: {outcome.last_line}',
        pip_install(*_distributions(name), options='--force-reinstall --no-deps'),
    )


def check_device(device: dict) -> list[Finding]:
    """A GPU that the driver shows and torch cannot use."""
    if device.get('gpus') or shutil.which('nvidia-smi') is None:
        return []
    if device.get('built_for') == 'CPU':
        return _warning('this machine has an NVIDIA driver, but torch is a CPU build', _reinstall_torch())
    return _warning(
        f'torch is built for CUDA {device.get("built_for")}, but finds no usable GPU although an NVIDIA '
        f'driver is installed ({device.get("error", "no device")})',
        _FIT_DRIVER,
    )


def _error(what: str, mend: str) -> list[Finding]:
    return [Finding('error', what, mend)]


def _warning(what: str, mend: str) -> list[Finding]:
    return [Finding('warning', what, mend)]


def _distributions(name: str) -> list[str]:
    """The installed distributions behind what a probe is called."""
    if name in compat.DISTRIBUTIONS:
        return list(compat.installed_distributions(name))
    return list(PARTS.get(name, (name,)))


def _reinstall_torch() -> str:
    return pip_install('torch', 'torchvision', options='--force-reinstall')


def _python() -> list[Finding]:
    if sys.version_info >= (3, 10):
        return []
    return _error(
        f'Python must be 3.10 or newer, this is {sys.version.split()[0]}',
        'make the environment with another interpreter: PYTHON=python3.11 bash bash/setup_env.sh',
    )


def _doubled() -> list[Finding]:
    doubled = compat.doubled_modules()
    if not doubled:
        return []
    names = [name for found in doubled.values() for name in found]
    keep = [name for name in names if name in ONEDL] or [name for name in names if name in UPSTREAM]
    what = '; '.join(f'{module} comes from {" and ".join(found)}' for module, found in doubled.items())
    # Both put files into one folder, so removing one of them leaves the other with holes: remove both.
    return _error(
        f'two distributions overwrite each other: {what}',
        f'{pip()} uninstall -y {" ".join(names)} && {pip_install(*keep)}',
    )


def _mixed_families() -> list[Finding]:
    found = {m: list(compat.installed_distributions(m)) for m in compat.DISTRIBUTIONS}
    single = [names[0] for names in found.values() if len(names) == 1]
    upstream = [name for name in single if name not in ONEDL]
    if not upstream or len(upstream) == len(single):
        return []
    return _warning(
        f'the OpenMMLab packages are a mixture of two distributions ({", ".join(single)}); they are '
        'released and tested separately',
        f'{pip()} uninstall -y {" ".join(upstream)} && {pip_install(*ONEDL)}',
    )


def _missing() -> list[Finding]:
    names = [n for n in CORE if n not in OPENCV and installed_version(n) is None]
    if not any(installed_version(n) for n in OPENCV):
        names.append('opencv-python')
    wanted = UPSTREAM if family() == 'upstream' else ONEDL
    # Both lists follow the order of the modules; another distribution of the same module serves as well.
    names += [n for n, module in zip(wanted, compat.DISTRIBUTIONS) if not compat.installed_distributions(module)]
    if not names:
        return []
    optional = all(n in compat.DISTRIBUTIONS['mmpretrain'] for n in names)
    return [Finding('warning' if optional else 'error', f'not installed: {", ".join(names)}', pip_install(*names))]


def _torch_pair() -> list[Finding]:
    """torchvision names the torch it was built for; a local label (``+cpu``) on one of them only is another build."""
    torch, vision = installed_version('torch'), installed_version('torchvision')
    if torch is None or vision is None:
        return []
    for requirement in metadata.requires('torchvision') or ():
        match = re.match(r'torch\s*\(?\s*(==|>=)\s*([\d.]+)', requirement)
        if match:
            operator, wanted = match.groups()
            have, need = (tuple(map(int, re.findall(r'\d+', v)[:3])) for v in (torch, wanted))
            if have != need if operator == '==' else have < need:
                return _warning(
                    f'torchvision {vision} was built for torch {operator} {wanted}, but torch is {torch}',
                    _reinstall_torch(),
                )
    if torch.partition('+')[2] != vision.partition('+')[2]:
        return _warning(f'torch {torch} and torchvision {vision} come from different builds', _reinstall_torch())
    return []


def _mmcv_window() -> list[Finding]:
    name, version = next(iter(compat.installed_distributions('mmcv').items()), (None, None))
    if name is None or name in ONEDL or installed_version('mmsegmentation') is None:
        return []
    numbers = tuple(int(n) for n in re.findall(r'\d+', version)[:2])
    mend = f'{pip()} uninstall -y {name} && {pip_install("mmcv-lite")}'
    if numbers < (2, 0) or numbers > (2, 2):
        return _error(f'mmsegmentation needs mmcv 2.0 to 2.2, but {name} is {version}', mend)
    if numbers == (2, 2):
        return _warning(
            f'mmsegmentation refuses {name} {version} when it is imported by itself; mmdefect lets it '
            'pass, other programs do not',
            mend,
        )
    return []


def _undeclared() -> list[Finding]:
    missing = [n for n in UPSTREAM_UNDECLARED if installed_version(n) is None]
    if not missing or installed_version('mmsegmentation') is None:
        return []
    return _error(f'mmsegmentation imports {", ".join(missing)} without requiring it', pip_install(*missing))


def _two_opencv() -> list[Finding]:
    found = [n for n in OPENCV if installed_version(n)]
    if len(found) < 2:
        return []
    return _warning(
        f'several OpenCV packages overwrite each other: {", ".join(found)}',
        f'{pip()} uninstall -y {" ".join(found)} && {pip_install("opencv-python")}',
    )


def _shared_memory() -> list[Finding]:
    try:
        size = shutil.disk_usage('/dev/shm').total
    except OSError:  # not Linux
        return []
    if size >= 256 << 20:
        return []
    return _warning(
        f'shared memory is only {size >> 20} MiB, in which workers of a data loader die with a bus error',
        'start the container with --shm-size=2g, or train with --cfg-options '
        'train_dataloader.num_workers=0 train_dataloader.persistent_workers=False',
    )


#: Names under which a distribution is imported, where they differ.
_DISTRIBUTION_OF = {
    'cv2': 'opencv-python',
    'PIL': 'pillow',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
    'prometheus_client': 'prometheus-client',
}


def _absent_module(name: str, match: re.Match) -> list[Finding]:
    module = match.group(1).split('.')[0]
    if module in compat.DISTRIBUTIONS:
        distributions = UPSTREAM if family() == 'upstream' else ONEDL
        distribution = list(distributions)[list(compat.DISTRIBUTIONS).index(module)]
    else:
        distribution = _DISTRIBUTION_OF.get(module, module)
    reinstall = '--force-reinstall --no-deps' if installed_version(distribution) else ''
    return _error(
        f'{name} needs the module {match.group(1)}, which cannot be found', pip_install(distribution, options=reinstall)
    )


def _pkg_resources(name: str, match: re.Match) -> list[Finding]:
    return _error(
        f'{name} needs pkg_resources, which newer releases of setuptools no longer bring', pip_install('setuptools')
    )


def _different_builds(name: str, match: re.Match) -> list[Finding]:
    return _error('torch and torchvision come from different builds', _reinstall_torch())


def _system_library(name: str, match: re.Match) -> list[Finding]:
    return _error(
        f'OpenCV needs the system library {match.group(1)}, which this machine lacks',
        f'{pip()} uninstall -y opencv-python && {pip_install("opencv-python-headless")}',
    )


def _other_numpy(name: str, match: re.Match) -> list[Finding]:
    return _error(
        f'{name} was compiled for another NumPy than {installed_version("numpy")}',
        pip_install('numpy', *_distributions(name), options='--force-reinstall --no-deps'),
    )


def _version_window(name: str, match: re.Match) -> list[Finding]:
    return _error(
        f'the installed mmseg or mmpretrain refuses mmcv {match.group(1)}',
        pip_install(*(UPSTREAM if family() == 'upstream' else ONEDL)),
    )


def _old_driver(name: str, match: re.Match) -> list[Finding]:
    return _error(f'the NVIDIA driver does not fit this torch: {match.group(0)[:150]}', _FIT_DRIVER)


_FIT_DRIVER = 'update the driver, or install the torch build for its CUDA version (docs/install.md, "GPU")'

#: The first pattern that is found in the traceback decides.
_TEXT_RULES: tuple[tuple[str, Callable[[str, re.Match], list[Finding]]], ...] = (
    (r'torchvision::nms does not exist', _different_builds),
    (r'torchvision[^\n]*undefined symbol|undefined symbol[^\n]*(?:c10|torch)', _different_builds),
    (r'(lib(?:GL|gthread|glib|SM|Xext|Xrender)[\w.-]*\.so[.\d]*): cannot open', _system_library),
    (r'compiled using NumPy 1\.x|_ARRAY_API not found|numpy\.dtype size changed', _other_numpy),
    (r'numpy\.core\.multiarray failed to import', _other_numpy),
    (r"No module named 'pkg_resources'", _pkg_resources),
    (r"No module named '([\w.]+)'", _absent_module),
    (r'MMCV==(\S+) is used but incompatible', _version_window),
    (r'(?:CUDA|NVIDIA) driver[^\n]*(?:too old|insufficient)[^\n]*', _old_driver),
)
