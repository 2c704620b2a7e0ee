"""The layers of the package, in one place for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'mmdefect'

PURE = ('functional', 'synthesis', 'diffusion', 'deployment', 'experiments', 'visualization', 'demo')
ADAPTERS = ('datasets', 'models', 'engine', 'evaluation', 'inference')
FACES = ('apis',)
#: Modules of the standard library alone (``ranks``: and torch) that any layer may use.
SHARED = ('extras', 'files', 'progress', 'ranks', 'recipes')
#: Single modules (and the doctor) beside the layers.
FOUNDATION = (*SHARED, 'command_line', 'compat', 'registry', 'registration', 'doctor', '__main__')

MM_PACKAGES = ('mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmdet')


def module_name(path: Path) -> str:
    """``mmdefect/a/b.py`` -> ``mmdefect.a.b``; a package's ``__init__`` is the package."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def layer_of(module: str) -> str:
    """``mmdefect.a.b`` -> ``a``; ``mmdefect`` itself -> the empty text."""
    parts = module.split('.')
    return parts[1] if len(parts) > 1 else ''


def imports(path: Path, top_level_only: bool = False) -> Iterator[tuple[str, int]]:
    """Yield every imported module of a file, absolute, with its line; also imports inside functions.

    ``from a import b`` yields ``a.b`` where that is a module of this package, else ``a``.
    """
    tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
    package = module_name(path).split('.')
    if path.name != '__init__.py':
        package = package[:-1]
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = '.'.join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f'{origin}.{alias.name}'
                yield (target if _is_module(target) else origin), node.lineno


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split('.'))
    return name.startswith('mmdefect.') and (path.is_dir() or path.with_suffix('.py').is_file())


def modules(*layers: str) -> list[Path]:
    """All Python files of these layers; a layer is a package or a single module."""
    files: list[Path] = []
    for layer in layers:
        single = PACKAGE / f'{layer}.py'
        files += [single] if single.is_file() else sorted((PACKAGE / layer).rglob('*.py'))
    return files
