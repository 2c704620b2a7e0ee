"""Say of every image in a user's folder whether it is an image or a mask, and what its folders say.

Folder names decide first, then words in the file name, and as the last resort, where two files differ in their suffix
alone, the content.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmdefect.datasets.samples import IMAGE_SUFFIXES

IMAGE_FOLDERS = frozenset(
    ['image', 'images', 'img', 'imgs', 'img_dir', 'imgs_dir', 'jpegimages', 'photo', 'photos', 'image', 'images', 'rgb']
)
MASK_FOLDERS = frozenset(
    [
        'ann',
        'ann_dir',
        'annotation',
        'annotations',
        'anns',
        'ground_truth',
        'groundtruth',
        'gt',
        'gts',
        'label',
        'labels',
        'mask',
        'masks',
        'seg',
        'segmentation',
        'segmentation_masks',
        'segmentationclass',
        'segmentations',
    ]
)
CLEAN_FOLDERS = frozenset(
    ['clean', 'defect_free', 'defectfree', 'good', 'mt_free', 'no_defect', 'no_defects', 'normal', 'ok']
)
SPLIT_NAMES = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}

_MASK_WORD = 'masks?|gt|ground_?truth|labels?|anns?|annotations?|seg|segmentation'
_IMAGE_WORD = 'images?|imgs?|rgb'
_MASK_STEM = re.compile(rf'(.+?)[ _.-]+(?:{_MASK_WORD})$', re.IGNORECASE)
_IMAGE_STEM = re.compile(rf'(.+?)[ _.-]+(?:{_IMAGE_WORD})$', re.IGNORECASE)
_FEW_VALUES = 16


@dataclass(frozen=True)
class FolderEntry:
    """One image file.

    Attributes:
        path: relative to the root, with forward slashes.
        role: ``'image'`` or ``'mask'``.
        split: ``'train'``, ``'val'``, ``'test'`` or ``None``.
        folders: its folders without those that only say the role, the split or "clean".
        stems: the file name as it is, and without words like ``_mask`` and ``_image``.
        clean: whether a folder says that it has no defect.
    """

    path: str
    role: str
    split: str | None
    folders: tuple[str, ...]
    stems: tuple[str, ...]
    clean: bool


def classify_files(paths: Sequence[str], root: Path) -> list[FolderEntry]:
    """Say of every file whether it is an image or a mask, by folder name, file name, or as the last resort content."""
    by_place = defaultdict(list)
    flat: dict[str, bool] = {}
    for path in paths:
        folder, name = os.path.split(path)
        by_place[folder, os.path.splitext(name)[0].lower()].append(path)
    entries = []
    for path in paths:
        folder, name = os.path.split(path)
        stem = os.path.splitext(name)[0]
        role, split, clean, folders = _read_folders(PurePosixPath(folder).parts)
        suffixed = _MASK_STEM.fullmatch(stem)
        if role != 'mask' and suffixed and (role is None or _has_base(by_place, folder, suffixed.group(1))):
            role = 'mask'
        elif role != 'mask' and len(by_place[folder, stem.lower()]) == 2:
            role = 'mask' if _is_the_mask(path, by_place[folder, stem.lower()], root, flat) else role
        short = suffixed.group(1) if role == 'mask' and suffixed else stem
        bare = _IMAGE_STEM.fullmatch(short)
        stems = (stem, bare.group(1) if bare else short)
        entries.append(FolderEntry(path, role or 'image', split, folders, stems, clean))
    return entries


def list_images_below(root: str | os.PathLike) -> list[str]:
    """Return the image files below ``root``, sorted, relative with forward slashes; hidden files are left out."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(d for d in subfolders if not d.startswith('.'))
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found += [
            str(relative / f)
            for f in files
            if not f.startswith('.') and os.path.splitext(f)[1].lower() in IMAGE_SUFFIXES
        ]
    return sorted(found)


def looks_like_mask(path: str | os.PathLike) -> bool:
    """Tell whether an image has at most 16 distinct values or colours, as masks have and photographs do not.

    Raises:
        ValueError: if the file cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ('1', 'L', 'P', 'I', 'I;16'):
                image = image.convert('RGB')
            pixels = np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError) as err:
        raise ValueError(f'the image {path} must be readable, but decoding fails; replace the file.') from err
    if pixels.ndim == 3:
        pixels = pixels.astype(np.int32) @ np.array([65536, 256, 1])
    return len(np.unique(pixels)) <= _FEW_VALUES


def _read_folders(parts: Iterable[str]) -> tuple[str | None, str | None, bool, tuple[str, ...]]:
    """Return role, split, whether a folder says "clean", and the folders that say something else."""
    role, split, clean, rest = None, None, False, []
    for part in parts:
        name = part.lower().replace(' ', '_').replace('-', '_')
        for word, suffix in (('mask', _MASK_STEM), ('image', _IMAGE_STEM)):  # train_gt, test_images
            match = suffix.fullmatch(name)
            if match and name not in MASK_FOLDERS | IMAGE_FOLDERS:
                role, name = word, match.group(1)
                part = part[: len(name)]
        if name in MASK_FOLDERS:
            role = 'mask'
        elif name in IMAGE_FOLDERS:
            role = 'image'
        elif name in SPLIT_NAMES:
            split = SPLIT_NAMES[name]
        elif name in CLEAN_FOLDERS:
            clean = True
        else:
            rest.append(part)
    return role, split, clean, tuple(rest)


def _has_base(by_place: dict, folder: str, stem: str) -> bool:
    return any((folder, s.lower()) in by_place for s in (stem, f'{stem}_img', f'{stem}_image'))


def _is_the_mask(path: str, twins: Sequence[str], root: Path, flat: dict[str, bool]) -> bool:
    """Of two files that differ in their suffix alone, tell whether ``path`` is the mask of the other.

    ``flat`` remembers what files look like, because each is asked for twice.
    """
    for twin in twins:
        if twin not in flat:
            flat[twin] = looks_like_mask(root / twin)
    return [twin for twin in twins if flat[twin]] == [path]
