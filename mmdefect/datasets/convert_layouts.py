"""Write a converted data set: class indices in ``img_dir``/``ann_dir``, or 0/255 masks in the folders of MVTec AD."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from mmdefect.datasets.conversion import ConversionReport, Source, SourceImage
from mmdefect.datasets.folder_labels import DESCRIPTION_FILE, FolderDescription
from mmdefect.datasets.masks import IGNORE
from mmdefect.datasets.samples import GOOD

COMBINED = 'combined'
#: Key in ``dataset.json`` by which a folder is known to be a conversion and may be replaced.
MARK = 'converted_from'
LAYOUTS = ('index', 'mvtec')


def write_data_set(
    source: Source,
    out: Path,
    layout: str,
    link: str,
    overwrite: bool,
    origin: str,
    track: Callable[[Iterable, str, int], Iterable],
) -> ConversionReport:
    """Write ``source`` to ``out``; see :func:`mmdefect.datasets.convert.convert`."""
    out = out.absolute()
    _check_target(source, out, overwrite)
    report = ConversionReport(str(out), notes=source.notes)
    names = unique_names(source.images, per_split=layout == 'index')
    staging = _make_staging(out)
    try:
        write = {'index': _write_index, 'mvtec': _write_mvtec}[layout]
        found: set[str] = set()
        for image, name in track(zip(source.images, names, strict=True), 'converting', len(source.images)):
            label = image.read_label(report.decisions)
            found.add(write(staging, image, name, label, source.classes, link, report))
        description = _describe(layout, source.classes, COMBINED in found, origin)
        text = json.dumps({**description.to_dict(), MARK: origin}, indent=1, ensure_ascii=False)
        (staging / DESCRIPTION_FILE).write_text(text + '\n', 'utf-8')
        staging.chmod(0o755)
        _put_in_place(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def unique_names(images: Iterable[SourceImage], per_split: bool) -> list[str]:
    """Name every image: its stem; where two share one, with the type in front; else the whole path joined by ``__``.

    Args:
        images: the images.
        per_split: whether names need to differ only inside a split.
    """
    images = list(images)
    scopes = [image.split if per_split else None for image in images]
    stems = [image.place.rsplit('/', 1)[-1] for image in images]
    typed = [f'{i.type_hint or GOOD}__{stem}' for i, stem in zip(images, stems, strict=True)]
    whole = [i.place.replace('/', '__') for i in images]
    suffixed = [f'{w}_{os.path.splitext(i.path)[1][1:].lower()}' for i, w in zip(images, whole, strict=True)]
    names = [''] * len(images)
    taken: set[tuple] = set()
    for candidates in (stems, typed, whole, suffixed):
        keys = [(s, c.lower()) for s, c in zip(scopes, candidates, strict=True)]
        counts = Counter(k for k, name in zip(keys, names, strict=True) if not name)
        for index, key in enumerate(keys):
            if not names[index] and counts[key] == 1 and key not in taken:
                names[index] = candidates[index]
                taken.add(key)
    if not all(names):
        twice = [image.path for image, name in zip(images, names, strict=True) if not name]
        raise ValueError(
            f'each image must be listed once, but {twice[0]} is listed {len(twice)} times; correct the source.'
        )
    return names


def _write_index(
    root: Path,
    image: SourceImage,
    name: str,
    label: np.ndarray,
    classes: tuple[str, ...],
    link: str,
    report: ConversionReport,
) -> str:
    folder = image.split or ''
    _place(image.path, root / 'img_dir' / folder / (name + os.path.splitext(image.path)[1].lower()), link)
    _save(root / 'ann_dir' / folder / f'{name}.png', label)
    kind = _type_of(label, classes)
    report.images.setdefault(image.split or 'all', Counter())[kind] += 1
    return kind


def _write_mvtec(
    root: Path,
    image: SourceImage,
    name: str,
    label: np.ndarray,
    classes: tuple[str, ...],
    link: str,
    report: ConversionReport,
) -> str:
    kind = _type_of(label, classes)
    split = 'train' if kind == GOOD and image.split in ('train', None) else 'test'
    if kind != GOOD:
        _save(root / 'ground_truth' / kind / f'{name}_mask.png', ((label > 0) & (label < IGNORE)) * np.uint8(255))
    if kind != GOOD and image.split == 'train':
        report.decisions['defect images of the training split, moved to test/'] += 1
    if kind == COMBINED:
        report.decisions['images with several classes, which one 0/255 mask cannot tell apart, put into combined/'] += 1
    if (label == IGNORE).any():
        report.decisions['images whose ignored pixels became normal'] += 1
    _place(image.path, root / split / kind / (name + os.path.splitext(image.path)[1].lower()), link)
    report.images.setdefault(split, Counter())[kind] += 1
    return kind


def _type_of(label: np.ndarray, classes: tuple[str, ...]) -> str:
    values = [v for v in np.unique(label) if v not in (0, IGNORE)]
    return GOOD if not values else classes[values[0]] if len(values) == 1 else COMBINED


def _describe(layout: str, classes: tuple[str, ...], combined: bool, origin: str) -> FolderDescription:
    if layout == 'index':
        return FolderDescription(classes, 'index', types_from='none', reason=f'converted from {origin}')
    names = (*classes[1:], COMBINED) if combined else classes[1:]
    return FolderDescription(
        (classes[0], *names),
        'binary',
        class_of_type={n: i + 1 for i, n in enumerate(names)},
        types_from='folder',
        reason=f'converted from {origin}',
    )


def _check_target(source: Source, out: Path, overwrite: bool) -> None:
    inside = next((i.path for i in source.images if Path(i.path).absolute().is_relative_to(out)), None)
    if inside is not None:
        raise ValueError(
            f'`OUT` must be another folder than the source, but {inside} lies in {out}; name a new folder.'
        )
    if not out.exists():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f'{out} must be a new folder, but it exists; choose another one, or replace an earlier '
            'conversion with --overwrite.'
        )
    if not _is_conversion(out):
        raise FileExistsError(
            f'{out} must be an earlier conversion to be replaced, but it has no {DESCRIPTION_FILE} '
            'that says so; choose another folder, or remove this one yourself.'
        )


def _is_conversion(out: Path) -> bool:
    try:
        return MARK in json.loads((out / DESCRIPTION_FILE).read_text('utf-8'))
    except (OSError, ValueError):
        return False


def _make_staging(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    except OSError as err:
        raise PermissionError(
            f'{out.parent} must be writable to hold {out.name}, but writing fails ({err.strerror}); name another place.'
        ) from err


def _put_in_place(staging: Path, out: Path) -> None:
    """Rename the finished folder; an earlier one is moved aside first and removed last."""
    if not out.exists():
        os.rename(staging, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f'.{out.name}.old.', dir=out.parent))
    os.rename(out, aside / 'old')
    try:
        os.rename(staging, out)
    except OSError:
        os.rename(aside / 'old', out)
        raise
    shutil.rmtree(aside)


def _place(path: str, target: Path, link: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link == 'copy':
        shutil.copyfile(path, target)
        return
    try:
        os.link(os.path.realpath(path), target)
    except OSError as err:
        raise ValueError(
            f'{path} must be on the same disk as {target.parent} for --link hard, but linking fails '
            f'({err.strerror}); take --link copy.'
        ) from err


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(array, np.uint8)).save(path)
