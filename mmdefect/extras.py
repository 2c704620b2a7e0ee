"""Which extra of the installation brings what, said in one sentence where it is missing. Standard library only."""

import importlib.util
import sys
from pathlib import Path

_OPENMMLAB = ('mmengine', 'mmcv', 'mmseg')
_TRAIN_TEXT = 'torch torchvision filelock jinja2 matplotlib PIL prettytable rich scipy threadpoolctl'
_TRAIN = tuple(_TRAIN_TEXT.split())
#: Modules by which an extra is known. Upstream OpenMMLab provides those of ``mm`` as well.
MODULES = {
    'train': _TRAIN,
    'mm': (*_OPENMMLAB, *_TRAIN),
    'serve': ('fastapi', 'uvicorn', 'prometheus_client', 'python_multipart'),
}


def missing_modules(extra: str, *modules: str) -> list[str]:
    """Return those of the modules, or of all that an extra brings, that cannot be found; none is imported."""
    return [name for name in modules or MODULES[extra] if not _is_there(name)]


def require(extra: str, *modules: str, who: str = 'this part of mmdefect') -> None:
    """Raise ``ImportError``, naming what is missing and the extra that brings it, unless all modules are there.

    Args:
        extra: one of :data:`MODULES`.
        *modules: those that are needed; all of the extra if left out.
        who: needs them, for the message.
    """
    missing = missing_modules(extra, *modules)
    if missing:
        more = f' and {len(missing) - 4} more packages' if len(missing) > 4 else ''
        names, command = ', '.join(missing[:4]), f"pip install 'mmdefect[{extra}]'"
        raise ImportError(f'{who} needs {names}{more}, which cannot be found here; install the extra: {command}.')


def stop_without(extra: str, *modules: str) -> None:
    """End the tool that runs now with one sentence on standard error and exit code 2, unless all is there."""
    try:
        require(extra, *modules, who=Path(sys.argv[0]).name or 'this tool')
    except ImportError as err:
        print(f'error: {err}', file=sys.stderr)
        raise SystemExit(2) from None


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # `sys.modules` holds `None`, or a module without a specification
        return sys.modules.get(name) is not None
