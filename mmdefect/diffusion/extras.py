"""Optional packages, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(name: str) -> ModuleType:
    """Import a module of the extra ``generation``.

    Raises:
        ImportError: saying what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise ImportError(
            f'generation needs {name.split(".")[0]}, which cannot be imported ({err}); install it with '
            '`pip install "mmdefect[generation]"`.'
        ) from err
