"""From a folder of images and masks to a split file and leaf configs that can be trained at once.

:func:`init_project` is what ``tools/init_project.py`` calls: look, print the census, divide, write. Everything is
checked before the first file is written.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from mmdefect.datasets.census import Census, print_census, take_census
from mmdefect.datasets.folder import NOTE, FolderDescription, describe_folder, label_samples, read_description
from mmdefect.datasets.folder_scan import scan_folder
from mmdefect.datasets.groups import read_groups
from mmdefect.datasets.mvtec import scan_mvtec
from mmdefect.datasets.protocols import Fractions
from mmdefect.datasets.samples import GOOD, Sample, relative_path
from mmdefect.datasets.split_file import Split, SplitEntry, check_no_overlap
from mmdefect.datasets.splits import assign, within
from mmdefect.files import new_folder, write_text

Track = Callable[[Iterable, str, int], Iterable]

SPLIT_FILE, CENSUS_FILE = 'split.json', 'census.json'
DEFAULT_FRACTIONS = {'train': 0.6, 'val': 0.2, 'test': 0.2}
#: Share of a given training folder that becomes a missing validation or test split.
CARVED = 0.2
#: What run_main selects by in a project of one's own; its default, `score`, counts the background (docs/evaluation.md).
SELECTED_BY = 'fg_AP'
#: Images of the rarest class up to which defects are pasted, some ten of them in training: with so few, pastes helped
#: or made no difference; with more, at full size, they did not help (docs/results/README.md).
FEW_IMAGES = 16


@dataclass(frozen=True)
class Survey:
    """What a look into the folder gave: how to read it, its images with known types, and the census."""

    root: str
    description: FolderDescription
    samples: tuple[Sample, ...]
    census: Census


@dataclass(frozen=True)
class Leaf:
    """One leaf config of a project."""

    model: str  # base, as are loss and schedule
    says: str  # what it is, for its first line
    loss: str = 'ce'
    schedule: str = 'schedule_2k'
    tuned: bool = True  # with the crop, the weights and, where images are few, the pastes that the census suggests
    focal: bool = False  # class weights are the alpha of a focal loss
    batch_size: int = 0  # 0 leaves it to the data base
    options: tuple[str, ...] = ()  # further lines


#: Leaf configs by file name; the first two start from random weights and need nothing but the images.
LEAVES = {
    'fast-scnn_baseline.py': Leaf('fast_scnn', 'plain cross entropy, to compare with.', tuned=False),
    'fast-scnn_recommended.py': Leaf('fast_scnn', 'what the census suggests; compare it with fast-scnn_baseline.py.'),
    'fpn-r18-frozen_recommended.py': Leaf(
        'fpn_r18-l3_frozen',
        'a head on a frozen ImageNet backbone, the quickest start with few images.',
        loss='focal',
        schedule='schedule_1500',
        focal=True,
        batch_size=4,
        options=(
            "# ImageNet weights are downloaded; without the internet name a file with torchvision's names:",
            "# model = dict(backbone=dict(init_cfg=dict(checkpoint='resnet18.pth')))",
        ),
    ),
}


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
    track: Track = lambda items, text, total: items,
    division: str | None = None,
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
        division: of VisA as downloaded, see :func:`~mmdefect.datasets.mvtec.read_division`; only its images count.

    Raises:
        FileExistsError: if the project exists and ``overwrite`` is false.
        PermissionError: if ``out`` cannot be written to.
        ValueError: if the data cannot be used as they are; the message names the file and how to fix it.
    """
    folder = _check_target(name, out, overwrite)
    survey = survey_folder(data_dir, encoding, class_names, types_from, unmasked, track, division)
    if console is not None:
        print_census(survey.census, console, survey.description)
    groups = survey.census.near_duplicates if keep_look_alikes else ()
    if group_file is not None:
        groups = read_groups(group_file, [relative_path(s.img_path, survey.root) for s in survey.samples], survey.root)
    split = plan_split(survey, seed, fractions, groups)
    project = _write_project(folder, survey, split)
    if console is not None:
        _print_next(project, split, console)
    return project


def survey_folder(
    data_dir: str | os.PathLike,
    encoding: str | None = None,
    class_names: Sequence[str] | None = None,
    types_from: str | None = None,
    unmasked: str | None = None,
    track: Track = lambda items, text, total: items,
    division: str | None = None,
) -> Survey:
    """Scan a folder, decide how its masks are read, and count; see :func:`init_project`."""
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(
            f'`DATA_DIR` must be a folder with images and masks, but {data_dir} is none; check the path.'
        )
    root = str(Path(data_dir).resolve())
    stored = read_description(root)
    types_from = types_from or (stored.types_from if stored else 'auto')
    scan = scan_folder(root, types_from, unmasked or (stored.unmasked if stored else 'skip'))
    masks = sum(len(p.masks) for p in scan.pairs)
    description = describe_folder(scan, encoding, class_names, lambda items: track(items, 'reading masks', masks))
    samples = label_samples(scan, description)
    if division is not None:
        sides = {s.img_path: s.own_split for s in scan_mvtec(root, division=division)}
        samples = [replace(s, own_split=sides[s.img_path]) for s in samples if sides[s.img_path] is not None]

    def counting(items: Iterable) -> Iterable:
        return track(items, 'counting', len(samples))

    census = take_census(samples, description.classes, root, scan.orphan_masks, scan.unmasked, counting)
    typed = tuple(replace(s, defect_type=census.types[relative_path(s.img_path, root)]) for s in samples)
    return Survey(root, description, typed, census)


def plan_split(
    survey: Survey, seed: int = 0, fractions: Sequence[float] | None = None, groups: Sequence[Sequence[str]] = ()
) -> Split:
    """Divide the images of a survey: by its own folders where they allow training, else by shares of every type.

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
    root, hashes, entries = survey.root, survey.census.hashes, {}
    for name, side in sides.items():
        ordered = sorted(side, key=lambda s: s.img_path)
        entries[name] = [SplitEntry.of(s, root, hashes[relative_path(s.img_path, root)]) for s in ordered]
    for name in DEFAULT_FRACTIONS:
        _check_side(name, entries.get(name, []), len(survey.samples))
    split = Split(entries, protocol, seed, {NOTE: survey.description.to_dict()})
    try:
        check_no_overlap(split, survey.root)
    except ValueError as err:
        raise ValueError(f'{err} A new division with --split 0.6 0.2 0.2 keeps equal files on one side.') from err
    return split


def render_config(name: str, data_root: str, classes: Sequence[str], census: Census, file: str) -> str:
    """Return the leaf config ``file`` of :data:`LEAVES` as text; ``classes`` are with the normal one."""
    leaf, suggestion = LEAVES[file], census.suggestion
    height, width = census.median_size_hw
    crop_hw = suggestion.crop_size_hw
    pastes = leaf.tuned and min((c.images for c in census.classes if c.images), default=0) <= FEW_IMAGES
    crops = leaf.tuned and (crop_hw[0] < height or crop_hw[1] < width)
    bases = [f'models/{leaf.model}', 'datasets/folder_256', f'losses/{leaf.loss}', f'schedules/{leaf.schedule}']
    bases += ['default_runtime', *['synthesis/paste_poisson'] * pastes, *['defect_crop'] * crops]
    lines = [
        f'# {name}: {leaf.says}',
        '_base_ = [',
        *(f"    'mmdefect::_base_/{base}.py'," for base in bases),
        ']',
        f'data_root = {data_root!r}',
        "split_file = '{{ fileDirname }}/split.json'",
        f'classes = {tuple(classes)!r}',
        f'image_scale = ({width}, {height})  # width, height: the median image, so that defects keep their size',
    ]
    loader = [f'batch_size={leaf.batch_size}'] * bool(leaf.batch_size)
    if leaf.tuned:
        lines.append(f'crop_size = {crop_hw!r}  # height, width')
        weights = f'class_weight = {list(suggestion.class_weight)!r}'
        lines.append(f'loss_decode = dict(alpha={list(suggestion.focal_alpha)!r})' if leaf.focal else weights)
    if leaf.tuned and not pastes:
        lines.append(
            '# Pasted defects did not help with as many images as these: '
            "'mmdefect::_base_/synthesis/paste_poisson.py' has them."
        )
        if 2 * census.clean > census.images:
            lines.append('# Most images have no defect: every second sampled image is one that has.')
            loader.append("sampler=dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)")
    elif leaf.tuned and census.clean == 0:
        lines += [
            '# There are no clean images: defects are pasted beside those that are there.',
            'synthesis = dict(ratio=dict(real=1, synthetic=1, clean=0), backgrounds=dict(clean=0, defective=1))',
        ]
    if loader:
        lines.append(f'train_dataloader = dict({", ".join(loader)})')
    lines += leaf.options
    return '\n'.join([*lines, f"work_dir = 'work_dirs/{name}_{file.removesuffix('.py')}'"]) + '\n'


def _check_target(name: str, out: str | os.PathLike, overwrite: bool) -> Path:
    """Find out before the work whether its result can be written; raise what :func:`init_project` says."""
    if not re.fullmatch('[A-Za-z0-9][A-Za-z0-9_-]*', name):
        raise ValueError(f'`--name` must consist of letters, digits, - and _, got {name!r}; it names a folder.')
    folder = Path(out) / name
    strangers = [] if (folder / SPLIT_FILE).exists() else [f.name for f in folder.glob('*.py') if f.name not in LEAVES]
    if strangers:
        raise FileExistsError(
            f'`--name` must be that of a new project or of one to replace, but {folder} holds other configs, such as '
            f'{min(strangers)}; choose another name.'
        )
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
            f'{folder} must be writable, but writing into {existing} fails ({err.strerror}); name another place with '
            '--out.'
        ) from err
    return folder


def _own_split_is_usable(samples: Sequence[Sample]) -> bool:
    """Tell whether the folders give every defect a split, with some to train on and images to judge by."""
    sides = {s.own_split for s in samples if s.own_split is not None or s.defect_type != GOOD}
    defects = any(s.own_split == 'train' and s.defect_type != GOOD for s in samples)
    return None not in sides and len(sides) > 1 and defects


def _complete_own_split(survey: Survey, seed: int, groups: Sequence[Sequence[str]]) -> tuple[dict, dict]:
    """Take the split of the folders; what it lacks of val and test is sampled from its training images.

    Clean images beside the split, as in ``Combined/`` and ``good/``, join it afterwards: those of a group with given
    images go where these are (test before val before train), the others by the default shares.
    """
    sides = {name: [s for s in survey.samples if s.own_split == name] for name in DEFAULT_FRACTIONS}
    given_groups, free = (
        groups,
        {relative_path(s.img_path, survey.root): s for s in survey.samples if s.own_split is None},
    )
    lacking = [name for name in ('val', 'test') if not sides[name]]
    if lacking:
        train = sides['train']
        groups = within(groups, {relative_path(s.img_path, survey.root) for s in train})
        shares = {'train': 1 - CARVED * len(lacking), **dict.fromkeys(lacking, CARVED)}
        sides |= assign(train, survey.root, Fractions(shares), seed, groups)[0]
    beside = len(free)
    joined = [set(g) for g in given_groups]
    for name in ('test', 'val', 'train'):
        reached = {relative_path(s.img_path, survey.root) for s in sides[name]}
        while more := set().union(*(g for g in joined if g & reached)) - reached:
            reached |= more
        sides[name] = [*sides[name], *(free.pop(image) for image in sorted(reached & set(free)))]
    if free:
        drawn = assign(
            list(free.values()), survey.root, Fractions(DEFAULT_FRACTIONS), seed, within(given_groups, set(free))
        )[0]
        sides = {name: [*side, *drawn.get(name, [])] for name, side in sides.items()}
    return sides, {'name': 'folders', 'drawn_from_train': lacking, 'clean_beside': beside}


def _check_side(name: str, entries: Sequence[SplitEntry], total: int) -> None:
    if not entries:
        raise ValueError(
            f'the {name} split must hold at least one image, but the {total} images and their groups of look-alikes '
            'leave it empty; give other shares with --split, or judge look-alikes yourself with --ignore-look-alikes.'
        )
    if all(entry.is_clean for entry in entries):
        raise ValueError(
            f'the {name} split must hold at least one image with a defect, but its {len(entries)} images are all '
            'clean; add images with defects, give other shares with --split, or another --seed.'
        )


def _write_project(folder: Path, survey: Survey, split: Split) -> Project:
    """Write split, census and leaf configs; a new folder appears all at once."""
    census = json.dumps(survey.census.to_dict(), indent=1, ensure_ascii=False) + '\n'
    texts = {SPLIT_FILE: split.to_json(), CENSUS_FILE: census}
    for name in LEAVES:
        texts[name] = render_config(folder.name, survey.root, survey.description.classes, survey.census, name)
    if folder.exists():
        for name, text in texts.items():
            write_text(folder / name, text)
    else:
        with new_folder(folder) as staging:
            for name, text in texts.items():
                (staging / name).write_text(text, 'utf-8')
    return Project(folder, folder / SPLIT_FILE, folder / CENSUS_FILE, tuple(folder / name for name in LEAVES))


def _print_next(project: Project, split: Split, console: Console) -> None:
    counts = split.counts()
    sizes = ', '.join(f'{name} {sum(types.values())} ({types.get(GOOD, 0)} clean)' for name, types in counts.items())
    how = {'folders': 'as the folders have it', 'fractions': f'drawn with seed {split.seed}'}[split.protocol['name']]
    drawn = split.protocol.get('drawn_from_train')
    beside = split.protocol.get('clean_beside')
    extra = f', {" and ".join(drawn)} drawn from train' if drawn else ''
    extra += f', {beside} clean images beside it divided with seed {split.seed}' if beside else ''
    console.print(f'[bold]split[/] {how}{extra}: {sizes}')
    missing = split.types_without_training()
    if missing:
        console.print(f'[bold]note[/] no training image of {", ".join(missing)}: another --seed, or more images.')
    console.print('[bold]wrote')
    for path in (project.split_file, project.census_file, *project.configs):
        console.print(f' - {path}', soft_wrap=True)
    configs = ' '.join(str(c) for c in project.configs)
    console.print(f'[bold]next[/], on a GPU with GPU_COUNT=1; the checkpoint with the best {SELECTED_BY} is kept:')
    command = f'METRIC={SELECTED_BY} PROJECT_NAME={project.folder.name} GPU_COUNT=0 bash bash/run_main.sh {configs}'
    console.print(command, soft_wrap=True, markup=False)
    console.print(f'or one model: python tools/train.py {project.configs[-1]}', soft_wrap=True, markup=False)
