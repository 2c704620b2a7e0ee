"""From a folder of photographs and masks to a split file and two leaf configs.

:func:`init_project` is what ``tools/init_project.py`` calls: look, print the census, divide, write. Everything is checked
before the first file is written, and the files appear all at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from mmdefect.datasets.census import Census, take_census
from mmdefect.datasets.census_report import print_census
from mmdefect.datasets.folder_labels import NOTE, FolderDescription, describe_folder, label_samples, read_description
from mmdefect.datasets.folder_scan import scan_folder
from mmdefect.datasets.groups import read_groups
from mmdefect.datasets.project_config import CONFIG_NAMES, render_config
from mmdefect.datasets.samples import GOOD, Sample, relative_path
from mmdefect.datasets.split_file import Split, SplitEntry, check_no_overlap, write_split
from mmdefect.datasets.splits import Fractions, assign, types_without_training

SPLIT_FILE, CENSUS_FILE = 'split.json', 'census.json'
DEFAULT_FRACTIONS = {'train': 0.6, 'val': 0.2, 'test': 0.2}
#: Share of a given training folder that becomes a missing validation or test split.
CARVED = 0.2
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]*')


@dataclass(frozen=True)
class Survey:
    """What a look into the folder gave: how to read it, its images with known types, and the census."""

    root: str
    description: FolderDescription
    samples: tuple[Sample, ...]
    census: Census


@dataclass(frozen=True)
class Project:
    """The files of a project."""

    folder: Path
    split_file: Path
    census_file: Path
    configs: tuple[Path, ...]


def init_project(data_dir: str | os.PathLike,
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
                 track: Callable[[Iterable, str, int], Iterable] = lambda items, text, total: items) -> Project:
    """Look at a folder, print its census, divide it, and write ``<out>/<name>/``.

    Args:
        data_dir: folder of images and masks, see :mod:`mmdefect.datasets.folder_scan`.
        name: name of the project and of the folder below ``out``.
        out: folder of leaf configs.
        seed: seed of the division.
        fractions: shares of train, val and test; ``None`` takes the folders' own split if it has one that can be trained
            on, else .6, .2, .2.
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
    groups = read_groups(group_file, survey.samples, survey.root) if group_file is not None else \
        survey.census.near_duplicates if keep_look_alikes else ()
    split = plan_split(survey, seed, fractions, groups)
    return write_project(folder, survey, split, console)


def survey_folder(data_dir: str | os.PathLike,
                  encoding: str | None = None,
                  class_names: Sequence[str] | None = None,
                  types_from: str | None = None,
                  unmasked: str | None = None,
                  track: Callable[[Iterable, str, int], Iterable] = lambda items, text, total: items) -> Survey:
    """Scan a folder, decide how its masks are read, and count; see :func:`init_project` for the arguments."""
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f'`DATA_DIR` must be a folder with images and masks, but {data_dir} is none; check the path.')
    root = str(Path(data_dir).resolve())
    stored = read_description(root)
    scan = scan_folder(root, types_from or (stored.types_from if stored else 'auto'),
                       unmasked or (stored.unmasked if stored else 'skip'))
    masks = sum(len(p.masks) for p in scan.pairs)
    description = describe_folder(scan, encoding, class_names, unmasked or 'skip', lambda i: track(i, 'reading masks', masks))
    samples = label_samples(scan, description)
    census = take_census(samples, description.classes, root, scan.orphan_masks, scan.unmasked,
                         lambda i: track(i, 'counting', len(samples)))
    typed = tuple(replace(s, defect_type=census.types[relative_path(s.img_path, root)]) for s in samples)
    return Survey(root, description, typed, census)


def plan_split(survey: Survey,
               seed: int = 0,
               fractions: Sequence[float] | None = None,
               groups: Sequence[Sequence[str]] = ()) -> Split:
    """Divide the images of a survey; see :func:`init_project` for the arguments.

    Raises:
        ValueError: if a split would be empty or without defects, or two splits share a content.
    """
    groups = [*survey.census.exact_duplicates, *groups]
    if fractions is None and _own_split_is_usable(survey.samples):
        sides, protocol = _complete_own_split(survey, seed, groups)
    else:
        shares = DEFAULT_FRACTIONS if fractions is None else dict(zip(DEFAULT_FRACTIONS, fractions, strict=True))
        sides = assign(survey.samples, survey.root, Fractions(shares), seed, groups)[0]
        protocol = {'name': 'fractions', 'fractions': shares}
    for name in DEFAULT_FRACTIONS:
        _check_side(name, sides.get(name, []), len(survey.samples))
    entries = {name: [_entry(s, survey) for s in sorted(side, key=lambda s: s.img_path)] for name, side in sides.items()}
    split = Split(entries, protocol, seed, {NOTE: survey.description.to_dict()})
    try:
        check_no_overlap(split, survey.root)
    except ValueError as err:
        raise ValueError(f'{err} A new division with --split 0.6 0.2 0.2 keeps equal files on one side.') from err
    return split


def write_project(folder: Path, survey: Survey, split: Split, console: Console | None = None) -> Project:
    """Write split, census and leaf configs into ``folder``, all of them or none, and print what comes next.

    Raises:
        PermissionError: if the folder cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        write_split(split, staging / SPLIT_FILE)
        (staging / CENSUS_FILE).write_text(json.dumps(survey.census.to_dict(), indent=1, ensure_ascii=False) + '\n', 'utf-8')
        for name, recommended in CONFIG_NAMES.items():
            text = render_config(folder.name, survey.root, survey.description.classes, survey.census, recommended)
            (staging / name).write_text(text, 'utf-8')
        staging.chmod(0o755)
        if folder.exists():
            for file in sorted(staging.iterdir()):
                os.replace(file, folder / file.name)
        else:
            os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    project = Project(folder, folder / SPLIT_FILE, folder / CENSUS_FILE, tuple(folder / name for name in CONFIG_NAMES))
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
    written = [folder / f for f in (SPLIT_FILE, CENSUS_FILE, *CONFIG_NAMES) if (folder / f).exists()]
    if written and not overwrite:
        raise FileExistsError(f'{folder} must be new, but {written[0]} exists; choose another --name, or replace it with '
                              '--overwrite.')
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f'`--out` must be a folder, but {existing} is a file; name another place.')
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as err:
        raise PermissionError(f'{folder} must be writable, but writing into {existing} fails ({err.strerror}); name another '
                              'place with --out.') from err
    return folder


def _own_split_is_usable(samples: Sequence[Sample]) -> bool:
    """Tell whether the folders give every image a split, with defects to train on and images to judge by."""
    sides = {s.own_split for s in samples}
    return None not in sides and 'train' in sides and len(sides) > 1 and any(
        s.own_split == 'train' and s.defect_type != GOOD for s in samples)


def _complete_own_split(survey: Survey, seed: int,
                        groups: Sequence[Sequence[str]]) -> tuple[dict[str, list[Sample]], dict]:
    """Take the split of the folders; what it lacks of val and test is drawn from its training images."""
    sides = {name: [s for s in survey.samples if s.own_split == name] for name in DEFAULT_FRACTIONS}
    lacking = [name for name in ('val', 'test') if not sides[name]]
    if lacking:
        train = sides.pop('train')
        names = {relative_path(s.img_path, survey.root) for s in train}
        inside = [kept for group in groups if len(kept := [i for i in group if i in names]) > 1]
        shares = {'train': 1 - CARVED * len(lacking), **dict.fromkeys(lacking, CARVED)}
        sides.update(assign(train, survey.root, Fractions(shares), seed, inside)[0])
    return {name: sides[name] for name in DEFAULT_FRACTIONS}, {'name': 'folders', 'drawn_from_train': lacking}


def _check_side(name: str, side: Sequence[Sample], total: int) -> None:
    if not side:
        raise ValueError(f'the {name} split must hold at least one image, but the {total} images and their groups of '
                         'look-alikes leave it empty; give other shares with --split, or judge look-alikes yourself and '
                         'add --ignore-look-alikes.')
    if all(s.defect_type == GOOD for s in side):
        raise ValueError(f'the {name} split must hold at least one image with a defect, but its {len(side)} images are all '
                         'clean; add images with defects, give other shares with --split, or another --seed.')


def _entry(sample: Sample, survey: Survey) -> SplitEntry:
    image = relative_path(sample.img_path, survey.root)
    mask = None if sample.seg_map_path is None else relative_path(sample.seg_map_path, survey.root)
    return SplitEntry(image, mask, sample.defect_type, survey.census.hashes[image])


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
    console.print(f'PROJECT_NAME={project.folder.name} GPU_COUNT=0 bash bash/run_main.sh {configs}', soft_wrap=True,
                  markup=False)
    console.print(f'or one model: python tools/train.py {project.configs[-1]}', soft_wrap=True, markup=False)
