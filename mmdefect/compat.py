"""Everything that depends on which OpenMMLab distribution is installed, and nothing else.

Two distributions provide the same import names: upstream (``mmengine``, ``mmcv``, ``mmsegmentation``,
``mmpretrain``) and its maintained continuation (``onedl-mmengine``, ...). The code of mmdefect imports
only the shared module names. Importing this module loads no ``mm*`` package; :func:`apply` does.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: Modules whose configs can be named as ``module::path`` in ``_base_``.
CONFIG_PACKAGES = ('mmdefect', 'mmseg', 'mmpretrain')


def config_root(module: str) -> Path:
    """Return the folder that holds the configs of an installed module.

    Raises:
        ModuleNotFoundError: if the module is not installed.
        FileNotFoundError: if it is installed without configs.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'`{module}::` needs the package {module}, which is not installed; run '
                                  '`python -m mmdefect doctor` for the exact pip command.')
    package = Path(spec.origin).parent
    candidates = [package / '.mim' / 'configs', package.parent / 'configs']
    for candidate in candidates:
        if (candidate / '_base_').is_dir():
            return candidate
    raise FileNotFoundError(f'the configs of `{module}` must lie in one of {[str(c) for c in candidates]}, but neither '
                            'exists; reinstall the package.')


def apply() -> None:
    """Make ``module::path`` bases resolve on both distributions. Safe to call more than once.

    Shim for mmengine <= 0.10.12: ``MODULE2PACKAGE`` maps ``mmseg`` to the distribution name ``mmsegmentation``,
    which is absent when ``onedl-mmsegmentation`` provides the module, and lists no third-party package at all.
    Delete it when mmengine resolves configs by module. Test: ``tests/test_compat.py``.
    """
    from mmengine.config import Config

    original = Config._get_cfg_path
    if getattr(original, 'mmdefect_shim', False):
        return

    def get_cfg_path(cfg_path: str, filename: str):
        module, sep, relative = cfg_path.partition('::')
        if not sep or module not in CONFIG_PACKAGES:
            return original(cfg_path, filename)
        path = config_root(module) / relative
        if not path.is_file():
            raise FileNotFoundError(f'`_base_` names {cfg_path!r}, but {path} does not exist.')
        # No scope: every name of ours and of mmseg is looked up in the default scope ``mmseg``.
        return str(path), ('mmpretrain' if module == 'mmpretrain' else None)

    get_cfg_path.mmdefect_shim = True
    Config._get_cfg_path = staticmethod(get_cfg_path)
