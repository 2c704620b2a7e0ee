"""From a folder of photographs and masks to a split file and two leaf configs.

:func:`init_project` is what ``tools/init_project.py`` calls: look, print the census, divide, write. Everything is
checked before the first file is written, and the files appear all at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mmdefect.datasets.census_report import print_census
from mmdefect.datasets.groups import read_groups
from mmdefect.datasets.project_config import LEAVES, render_config
from mmdefect.datasets.project_split import plan_split
from mmdefect.datasets.samples import GOOD
from mmdefect.datasets.split_file import Split, write_split
from mmdefect.datasets.splits import types_without_training
from mmdefect.datasets.survey import Survey, survey_folder

SPLIT_FILE, CENSUS_FILE = 'split.json', 'census.json'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]*')


@dataclass(frozen=True)
class Project:
    """The files of a project."""

    folder: Path
    split_file: Path
    census_file: Path
    configs: tuple[Path, ...]


def init_project(
    data_dir: str | os.PathLike,
    name: str,
    out: str | os.PathLike = 'configs',
    seed: int = 0,
    fractions: Sequence[float] | None = None,
    encoding: str | None = None,
    class_names: Sequence[str] | None = None,
    types_from: str | None = None,
    unmasked: str | None = None,
    group_file: str | os.PathLike | None = None,
    keep_look_alikes: bool = True,
    overwrite: bool = False,
    console: Console | None = None,
    track: Callable[[Iterable, str, int], Iterable] = lambda items, text, total: items,
) -> Project:
    """Look at a folder, print its census, divide it, and write ``<out>/<name>/``.

    Args:
        data_dir: folder of images and masks, see :mod:`mmdefect.datasets.folder_scan`.
        name: name of the project and of the folder below ``out``.
        out: folder of leaf configs.
        seed: seed of the division.
        fractions: shares of train, val and test; ``None`` takes the folders' own split if it has one that can be
            trained on, else .6, .2, .2.
        encoding: overrides how masks are read.
        class_names: names of the defect classes.
        types_from: where defect types are written; ``None`` takes ``dataset.json`` or finds out.
        unmasked: what an image without a mask is: ``'skip'`` or ``'clean'``.
        group_file: JSON list of lists of images that stay on one side, in place of the look-alikes found.
        keep_look_alikes: keep near duplicates on one side.
        overwrite: replace the files of an earlier project of this name.
        console: where to print; nothing is printed without one.
        track: ``track(items, text, total)`` wraps long loops, for progress bars.

    Raises:
        FileExistsError: if the project exists and ``overwrite`` is false.
        PermissionError: if ``out`` cannot be written to.
        ValueError: if the data cannot be used as they are; the message names the file and the mend.
    """
    folder = _check_target(name, out, overwrite)
    survey = survey_folder(data_dir, encoding, class_names, types_from, unmasked, track)
    if console is not None:
        print_census(survey.census, console, survey.description)
    groups = (
        read_groups(group_file, survey.samples, survey.root)
        if group_file is not None
        else survey.census.near_duplicates
        if keep_look_alikes
        else ()
    )
    split = plan_split(survey, seed, fractions, groups)
    return write_project(folder, survey, split, console)


def write_project(folder: Path, survey: Survey, split: Split, console: Console | None = None) -> Project:
    """Write split, census and leaf configs into ``folder``, all of them or none, and print what comes next.

    Raises:
        PermissionError: if the folder cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        write_split(split, staging / SPLIT_FILE)
        census = json.dumps(survey.census.to_dict(), indent=1, ensure_ascii=False)
        (staging / CENSUS_FILE).write_text(census + '\n', 'utf-8')
        for name in LEAVES:
            text = render_config(folder.name, survey.root, survey.description.classes, survey.census, name)
            (staging / name).write_text(text, 'utf-8')
        staging.chmod(0o755)
        if folder.exists():
            for file in sorted(staging.iterdir()):
                os.replace(file, folder / file.name)
        else:
            os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    project = Project(folder, folder / SPLIT_FILE, folder / CENSUS_FILE, tuple(folder / name for name in LEAVES))
    if console is not None:
        _print_next(project, split, console)
    return project


def _check_target(name: str, out: str | os.PathLike, overwrite: bool) -> Path:
    """Find out before the work whether its result can be written.

    Raises:
        FileExistsError, PermissionError, ValueError: naming the folder and the mend.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f'`--name` must consist of letters, digits, - and _, got {name!r}; it names a folder.')
    folder = Path(out) / name
    written = [folder / f for f in (SPLIT_FILE, CENSUS_FILE, *LEAVES) if (folder / f).exists()]
    if written and not overwrite:
        raise FileExistsError(
            f'{folder} must be new, but {written[0]} exists; choose another --name, or replace it with --overwrite.'
        )
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f'`--out` must be a folder, but {existing} is a file; name another place.')
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as err:
        raise PermissionError(
            f'{folder} must be writable, but writing into {existing} fails ({err.strerror}); name '
            'another place with --out.'
        ) from err
    return folder


def _print_next(project: Project, split: Split, console: Console) -> None:
    counts = split.counts()
    sizes = ', '.join(f'{name} {sum(types.values())} ({types.get(GOOD, 0)} clean)' for name, types in counts.items())
    how = {'folders': 'as the folders have it', 'fractions': f'drawn with seed {split.seed}'}[split.protocol['name']]
    drawn = split.protocol.get('drawn_from_train')
    console.print(f'[bold]split[/] {how}{", " + " and ".join(drawn) + " drawn from train" if drawn else ""}: {sizes}')
    missing = types_without_training(split)
    if missing:
        console.print(f'[bold]note[/] no training image of {", ".join(missing)}: another --seed, or more images.')
    console.print('[bold]wrote')
    for path in (project.split_file, project.census_file, *project.configs):
        console.print(f' - {path}', soft_wrap=True)
    configs = ' '.join(str(c) for c in project.configs)
    console.print('[bold]next[/], on a GPU with GPU_COUNT=1:')
    console.print(
        f'PROJECT_NAME={project.folder.name} GPU_COUNT=0 bash bash/run_main.sh {configs}', soft_wrap=True, markup=False
    )
    console.print(f'or one model: python tools/train.py {project.configs[-1]}', soft_wrap=True, markup=False)
