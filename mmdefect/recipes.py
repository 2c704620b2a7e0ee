"""Recipes: files of ``configs/_base_`` that are laid over a leaf config by their name, such as ``paste_poisson``."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

#: Folder of the recipes below a folder of configs.
BASES = '_base_'


def list_recipes(root: Path) -> dict[str, list[Path]]:
    """Return the files of ``root/_base_`` by kind: the folder they lie in, ``general`` for those in none."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted((root / BASES).rglob('*.py')):
        kinds.setdefault(path.parent.relative_to(root / BASES).as_posix().replace('.', 'general'), []).append(path)
    return kinds


def find_recipe(name: str, roots: Sequence[Path]) -> Path:
    """Return the file of a recipe: a path that ends in .py, or the name of a file below ``_base_`` of one of ``roots``.

    Raises:
        ValueError: if there is none of that name, or several; the message lists the close ones.
    """
    if name.endswith('.py') and Path(name).is_file():
        return Path(name).absolute()
    files = {
        p.relative_to(root / BASES).with_suffix(''): p for root in roots[::-1] for p in (root / BASES).rglob('*.py')
    }
    found = {key: path for key, path in files.items() if name in (key.name, key.as_posix())}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        choices = f'which may be {" or ".join(sorted(key.as_posix() for key in found))}; write the folder too.'
    else:
        close = get_close_matches(name, {key.name for key in files}, n=3, cutoff=0.4)
        choices = f'did you mean {", ".join(close)}?' if close else 'tools/list_configs.py lists them.'
    raise ValueError(f'a recipe must be a file, or the name of one in configs/{BASES}, got {name!r}; {choices}')


def is_candidate(path: Path, folder: Path) -> bool:
    """Whether a config may be suggested in place of one in ``folder``: no base, and not of somebody else's project."""
    return BASES not in path.parts and (path.parent == folder or not (path.parent / 'split.json').is_file())


def first_comment(path: Path) -> str:
    """Return the first sentence of the comment that a config begins with, or an empty text."""
    lines = []
    for line in path.read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'):
            break
        lines.append(line.lstrip('# '))
    return ' '.join(lines).split('. ')[0].removesuffix('.')
