"""The packages of the extra ``serve``, asked for where they are needed."""

from __future__ import annotations

from importlib import import_module

PACKAGES = ('fastapi', 'uvicorn', 'prometheus_client', 'python_multipart')


def require_packages() -> None:
    """Import what the server needs.

    Raises:
        ImportError: naming the extra, if a package is missing.
    """
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as err:
            raise ImportError(
                f'the server needs the package {name}, which cannot be imported ({err}); '
                "install the extra: pip install 'mmdefect[serve]'."
            ) from err
