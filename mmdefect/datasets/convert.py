"""Convert labelled images into a layout that our data sets read.

That is ``img_dir``/``ann_dir`` with class indices, or the folders of MVTec AD with 0/255 masks. Readers
(:func:`read_folder`, :func:`read_ksdd2`, :func:`read_magnetic_tile`, :func:`mmdefect.datasets.coco.read_coco`) return a
:class:`Source`, whose labels are made when they are asked for; :func:`convert` writes it.

The new folder appears all at once. It holds a ``dataset.json`` with the classes, which ``FolderDefectDataset`` and
``tools/init_project.py`` read.
"""

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mmdefect.datasets.folder import DESCRIPTION_FILE, FolderDescription, describe_folder
from mmdefect.datasets.folder_scan import FolderPair, FolderScan, scan_folder
from mmdefect.datasets.masks import IGNORE, describe_wrong_size, image_size_hw, read_label
from mmdefect.datasets.samples import GOOD
from mmdefect.files import new_folder

LAYOUTS = ('index', 'mvtec')
COMBINED = 'combined'
#: Key in ``dataset.json`` by which a folder is known to be a conversion and may be replaced.
MARK = 'converted_from'


@dataclass(frozen=True)
class SourceImage:
    """One image to convert.

    ``read_label`` returns the ``(H, W)`` uint8 label map, 0 normal, 1..K defects, 255 ignore; it counts what it had to
    decide in the counter it is given.
    """

    path: str
    place: str  # path inside the source without suffix, forward slashes; keeps names apart
    split: str | None
    read_label: Callable[[Counter], np.ndarray]
    type_hint: str | None = None  # defect type that the source names


@dataclass(frozen=True)
class Source:
    """A data set to convert: images in a stable order, class names with the normal one first, and what was left out."""

    images: tuple[SourceImage, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass
class ConversionReport:
    """What was written."""

    folder: str
    images: dict[str, Counter] = field(default_factory=dict)  # by split ('all' without splits), then by type
    decisions: Counter = field(default_factory=Counter)  # how often the converter had to decide what the phrase says
    notes: tuple[str, ...] = ()  # what was left out and why


def convert(
    source: Source,
    out: str | os.PathLike,
    layout: str = 'index',
    link: str = 'copy',
    overwrite: bool = False,
    origin: str = '',
    track: Callable[[Iterable, str, int], Iterable] = lambda items, text, total: items,
) -> ConversionReport:
    """Write a data set; after an error, such as an image or label that cannot be used, nothing is left behind.

    Args:
        source: what one of the ``read_...`` functions returned.
        out: folder to make.
        layout: ``'index'``: ``img_dir/<split>`` and ``ann_dir/<split>`` with class indices. ``'mvtec'``:
            ``train/good``, ``test/<class>`` and ``ground_truth/<class>`` with 0/255 masks; images with several classes
            go to ``combined``, and defect images of the training split to ``test``.
        link: ``'copy'`` or ``'hard'``: copy image files, or give them a second name on the same disk.
        overwrite: replace ``out`` if it is an earlier conversion.
        origin: recorded in ``dataset.json``.
        track: ``track(items, text, total)`` wraps the loop, for a progress bar.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'`layout` must be one of {LAYOUTS}, got {layout!r}.')
    if link not in ('copy', 'hard'):
        raise ValueError(f"`link` must be 'copy' or 'hard', got {link!r}.")
    out = Path(out).absolute()
    _check_target(source, out, overwrite)
    report = ConversionReport(str(out), notes=source.notes)
    names = unique_names(source.images, per_split=layout == 'index')
    old = None
    try:
        with new_folder(out) as staging:
            for image, name in track(zip(source.images, names, strict=True), 'converting', len(source.images)):
                _write(image, name, staging, layout, link, source.classes, report)
            combined = any(COMBINED in kinds for kinds in report.images.values())
            body = {**_describe(layout, source.classes, combined, origin).to_dict(), MARK: origin}
            text = json.dumps(body, indent=1, ensure_ascii=False) + '\n'
            (staging / DESCRIPTION_FILE).write_text(text, 'utf-8')
            if out.exists():  # aside only now, and back again should the renaming fail
                old = Path(tempfile.mkdtemp(prefix=f'.{out.name}.old.', dir=out.parent)) / 'old'
                os.rename(out, old)
    except OSError:
        if old is not None and old.exists():
            os.rename(old, out)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old.parent)
    return report


def unique_names(images: Sequence[SourceImage], per_split: bool) -> list[str]:
    """Name every image: its stem; where two share one, with the type in front; else the whole path joined by ``__``.

    With ``per_split`` names need to differ only inside a split.
    """
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
    twice = [image.path for image, name in zip(images, names, strict=True) if not name]
    if twice:
        raise ValueError(f'each image must be listed once, but {twice[0]} is listed {len(twice)} times.')
    return names


def paint(label: np.ndarray, regions: list[tuple[np.ndarray, int]], decisions: Counter) -> np.ndarray:
    """Draw regions into a label map, large ones first, so that a small defect on a large one stays visible.

    Args:
        label: ``(H, W)`` uint8 to start from; not modified.
        regions: ``(H, W)`` bool masks with their class.
        decisions: counts the pixels that two classes claimed.
    """
    label = label.copy()
    for mask, value in sorted(regions, key=lambda region: -int(region[0].sum())):
        claimed = int((mask & (label != 0) & (label != value)).sum())
        if claimed:
            decisions['pixels claimed by two classes, given to the smaller region'] += claimed
        label[mask] = value
    return label


def read_folder(
    root: str | os.PathLike,
    encoding: str | None = None,
    class_names: Sequence[str] | None = None,
    types: str = 'auto',
    unmasked: str = 'skip',
) -> Source:
    """Read a folder in any of the arrangements of :mod:`mmdefect.datasets.folder_scan`.

    Several class masks of one image become one label map. See :func:`~mmdefect.datasets.folder.describe_folder` for
    ``encoding`` and ``class_names``.
    """
    return _from_scan(scan_folder(root, types, unmasked), encoding, class_names)


def read_ksdd2(root: str | os.PathLike, class_names: Sequence[str] | None = None) -> Source:
    """Read ``train/10000.png`` + ``train/10000_GT.png``, and the same in ``test``: one class, clean masks are black.

    Raises:
        ValueError: if an image has no mask, because then one is missing.
    """
    scan = scan_folder(root, 'none')
    if scan.unmasked:
        raise ValueError(
            f'every image of {root} must have a mask named <image>_GT, but {scan.unmasked[0]} has none '
            f'({len(scan.unmasked)} in all); restore it, or convert with the format folder.'
        )
    return _from_scan(scan, 'binary', class_names or ['defect'])


def read_magnetic_tile(root: str | os.PathLike, class_names: Sequence[str] | None = None) -> Source:
    """Read magnetic tiles as published or regrouped.

    As published: ``MT_Blowhole/Imgs/x.jpg`` + ``x.png`` and so on, clean ones in ``MT_Free``. Regrouped:
    ``images/blowhole__x.jpg`` + ``masks/blowhole__x.png``, clean ones in ``good``. Classes are the types, lower case,
    without ``MT_``, in alphabetical order.
    """
    scan = scan_folder(root)
    if scan.types_from == 'none':
        raise ValueError(
            f'{root} must hold folders MT_<type> or files <type>__<stem>, but it has neither; convert it with the '
            'format folder.'
        )
    pairs = tuple(replace(p, types=tuple(t and re.sub('^mt_', '', t.lower()) for t in p.types)) for p in scan.pairs)
    return _from_scan(replace(scan, pairs=pairs), 'binary', class_names)


def _left_out(names: Sequence[str], what: str) -> list[str]:
    """Say in a sentence what was left out, if anything was."""
    shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
    return [f'{len(names)} {what}, left out: {shown}.'] if names else []


def _from_scan(scan: FolderScan, encoding: str | None, class_names: Sequence[str] | None) -> Source:
    description = describe_folder(scan, encoding, class_names)
    images = []
    for pair in scan.pairs:
        path, place = os.path.join(scan.root, pair.image), os.path.splitext(pair.image)[0]
        read = partial(_read_pair, scan.root, pair, description)
        images.append(SourceImage(path, place, pair.split, read, pair.types[0] if pair.types else None))
    notes = _left_out(scan.unmasked, 'images without a mask')
    notes += _left_out(scan.orphan_masks, 'masks without an image')
    return Source(tuple(images), description.classes, tuple(notes))


def _read_pair(root: str, pair: FolderPair, d: FolderDescription, decisions: Counter) -> np.ndarray:
    """Read and merge the masks of one image."""
    image = os.path.join(root, pair.image)
    size_hw = image_size_hw(image)
    labels = []
    for mask, defect_type in zip(pair.masks, pair.types, strict=True):
        path = os.path.join(root, mask)
        class_id = d.class_id_of(defect_type, path)
        label = read_label(path, d.mask_encoding, len(d.classes), class_id, d.mask_palette)
        if label.shape != size_hw:
            raise ValueError(describe_wrong_size(path, image, label.shape, size_hw))
        labels.append(label)
    if len(labels) == 1:
        return labels[0]
    regions = [(label == value, int(value)) for label in labels for value in np.unique(label) if value]
    return paint(np.zeros(size_hw, np.uint8), regions, decisions)


def _write(
    image: SourceImage,
    name: str,
    root: Path,
    layout: str,
    link: str,
    classes: tuple[str, ...],
    report: ConversionReport,
) -> None:
    """Write one image with its label and count it."""
    label = image.read_label(report.decisions)
    values = [v for v in np.unique(label) if v not in (0, IGNORE)]
    kind = GOOD if not values else classes[values[0]] if len(values) == 1 else COMBINED
    if layout == 'index':
        split, folder = image.split or 'all', image.split or ''
        _save(root / 'ann_dir' / folder / f'{name}.png', label)
        folder = root / 'img_dir' / folder
    else:
        split = 'train' if kind == GOOD and image.split in ('train', None) else 'test'
        folder = root / split / kind
        if kind != GOOD:
            _save(root / 'ground_truth' / kind / f'{name}_mask.png', ((label > 0) & (label < IGNORE)) * np.uint8(255))
        for happened, what in (
            (kind != GOOD and image.split == 'train', 'defect images of the training split, moved to test/'),
            (
                kind == COMBINED,
                'images with several classes, which one 0/255 mask cannot tell apart, put into combined/',
            ),
            ((label == IGNORE).any(), 'images whose ignored pixels became normal'),
        ):
            if happened:
                report.decisions[what] += 1
    target = folder / (name + os.path.splitext(image.path)[1].lower())
    target.parent.mkdir(parents=True, exist_ok=True)
    if link == 'copy':
        shutil.copyfile(image.path, target)
    else:
        try:
            os.link(os.path.realpath(image.path), target)
        except OSError as err:
            raise ValueError(
                f'{image.path} must be on the same disk as {folder} for --link hard, but linking fails '
                f'({err.strerror}); take --link copy.'
            ) from err
    report.images.setdefault(split, Counter())[kind] += 1


def _save(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(mask, np.uint8)).save(path)


def _describe(layout: str, classes: tuple[str, ...], combined: bool, origin: str) -> FolderDescription:
    reason = f'converted from {origin}'
    if layout == 'index':
        return FolderDescription(classes, 'index', types_from='none', reason=reason)
    names = (*classes, COMBINED) if combined else classes
    ids = {name: i for i, name in enumerate(names) if i}
    return FolderDescription(names, 'binary', class_of_type=ids, types_from='folder', reason=reason)


def _check_target(source: Source, out: Path, overwrite: bool) -> None:
    inside = next((i.path for i in source.images if Path(i.path).absolute().is_relative_to(out)), None)
    if inside is not None:
        raise ValueError(f'`OUT` must be another folder than the source, but {inside} lies in it; name a new folder.')
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(
            f'{out} must be a new folder, but it exists; choose another one, or replace an earlier conversion with '
            '--overwrite.'
        )
    try:
        converted = MARK in json.loads((out / DESCRIPTION_FILE).read_text('utf-8'))
    except (OSError, ValueError):
        converted = False
    if not converted:
        raise FileExistsError(
            f'{out} must be an earlier conversion to be replaced, but it has no {DESCRIPTION_FILE} that says so; '
            'choose another folder, or remove this one yourself.'
        )
