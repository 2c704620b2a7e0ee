"""Find images and masks in a folder as people arrange them, and pair them by stem.

Plain functions on paths; nothing is decoded except where two files share a stem and one of them may be the mask.
These arrangements are understood, mixed if need be, with or without ``train``/``val``/``test`` folders anywhere:

* ``images/a.jpg`` + ``masks/a.png``; also ``img_dir/ann_dir``, ``imgs/gt``, ``train/train_gt`` and the like;
* ``a.png`` + ``a_mask.png`` (``_GT``, ``-mask``, ``_label``, ...) beside it;
* ``a.jpg`` + ``a.png`` beside it, when exactly one of them looks like a mask;
* masks in one folder per class: ``masks/scratch/a.png`` + ``images/a.jpg``, also several classes for one image;
* images and masks in one folder per type, as MVTec AD has them;
* ``good/``, ``ok/`` or ``clean/``: images without defects, which need no mask.

Not covered: annotations that are no pictures (COCO, labelme; see ``tools/convert_dataset.py``) and video.
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

IMAGE_FOLDERS = frozenset('image images img imgs img_dir imgs_dir jpegimages photo photos picture pictures rgb'.split())
MASK_FOLDERS = frozenset('ann ann_dir annotation annotations anns ground_truth groundtruth gt gts label labels mask masks '
                         'seg segmentation segmentation_masks segmentationclass segmentations'.split())
CLEAN_FOLDERS = frozenset('clean defect_free defectfree good no_defect no_defects normal ok'.split())
SPLIT_NAMES = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val',
               'test': 'test', 'testing': 'test'}
TYPE_SOURCES = ('auto', 'folder', 'prefix', 'none')

_MASK_WORD = 'masks?|gt|ground_?truth|labels?|anns?|annotations?|seg|segmentation'
_IMAGE_WORD = 'images?|imgs?|rgb'
_MASK_STEM = re.compile(rf'(.+?)[ _.-]+(?:{_MASK_WORD})$', re.IGNORECASE)
_IMAGE_STEM = re.compile(rf'(.+?)[ _.-]+(?:{_IMAGE_WORD})$', re.IGNORECASE)
_TYPE_PREFIX = re.compile(r'([A-Za-z][A-Za-z0-9 _-]*?)__.+')
_FEW_VALUES = 16


@dataclass(frozen=True)
class FolderPair:
    """One image with the masks that belong to it.

    Attributes:
        image: path relative to the scanned root, with forward slashes.
        masks: paths of its masks; empty for a clean image; more than one only for masks in one folder per class.
        types: defect type of each mask as folders or names say it; ``None`` where they say nothing.
        split: split that the folders put it in, or ``None``.
    """

    image: str
    masks: tuple[str, ...] = ()
    types: tuple[str | None, ...] = ()
    split: str | None = None


@dataclass(frozen=True)
class FolderScan:
    """What :func:`scan_folder` found.

    Attributes:
        root: the scanned folder.
        pairs: images with masks and clean images, sorted by path.
        unmasked: images outside clean folders that have no mask; they belong to ``pairs`` only if asked for.
        orphan_masks: masks without an image.
        types_from: where the defect types come from: ``'folder'``, ``'prefix'`` or ``'none'``.
    """

    root: str
    pairs: tuple[FolderPair, ...]
    unmasked: tuple[str, ...]
    orphan_masks: tuple[str, ...]
    types_from: str

    @property
    def types(self) -> tuple[str, ...]:
        """Defect types in alphabetical order."""
        return tuple(sorted({t for pair in self.pairs for t in pair.types if t is not None}))

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the folders themselves make, in the order train, val, test."""
        found = {pair.split for pair in self.pairs}
        return tuple(s for s in ('train', 'val', 'test') if s in found)


@dataclass(frozen=True)
class _Entry:
    path: str
    role: str  # 'image' or 'mask'
    split: str | None
    folders: tuple[str, ...]  # without the folders that only say the role, the split or "clean"
    stems: tuple[str, ...]  # the file name as it is, and without words like _mask and _image
    clean: bool


def scan_folder(root: str | os.PathLike, types: str = 'auto', unmasked: str = 'skip') -> FolderScan:
    """Find the images and masks below ``root`` and pair them.

    Args:
        root: folder to look into, with all folders below it except hidden ones.
        types: where the defect type of a mask is written: ``'folder'``, ``'prefix'`` (``<type>__<stem>``), ``'none'``,
            or ``'auto'``: folders if there are any, else prefixes if every image with a mask has one, else none.
        unmasked: what an image without a mask outside a clean folder is: ``'skip'`` leaves it out (its defects may
            just not be drawn yet), ``'clean'`` takes it as free of defects.

    Raises:
        FileNotFoundError: if ``root`` is no folder.
        ValueError: if it holds no images, or no pair, or a pair is ambiguous; the message names the files.
    """
    if types not in TYPE_SOURCES:
        raise ValueError(f'`types` must be one of {TYPE_SOURCES}, got {types!r}.')
    if unmasked not in ('skip', 'clean'):
        raise ValueError(f"`unmasked` must be 'skip' or 'clean', got {unmasked!r}.")
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'`root` must be a folder with images and masks, but {root} is none; check the path.')
    entries = _classify(list_images_below(root), root)
    images = [e for e in entries if e.role == 'image']
    masks = [e for e in entries if e.role == 'mask']
    if not images:
        what = f'only masks ({masks[0].path})' if masks else 'no image file'
        raise ValueError(f'`root` must hold images ({", ".join(IMAGE_SUFFIXES)}), but {root} has {what}; give the folder '
                         'that holds images and masks, for example with images/ and masks/ in it.')
    found, orphans = _match(images, masks)
    if not found and not any(e.clean for e in images):
        raise ValueError(_nothing_paired(root, images, masks))
    source = _type_source(types, found)
    pairs, bare = [], []
    for entry in images:
        if entry.path in found or entry.clean or unmasked == 'clean':
            pairs.append(_make_pair(entry, found.get(entry.path, []), source))
        else:
            bare.append(entry.path)
    return FolderScan(str(root), tuple(pairs), tuple(bare), tuple(orphans), source)


def list_images_below(root: str | os.PathLike) -> list[str]:
    """Return the picture files below ``root``, sorted, relative with forward slashes; hidden files are left out."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(d for d in subfolders if not d.startswith('.'))
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found += [str(relative / f) for f in files
                  if not f.startswith('.') and os.path.splitext(f)[1].lower() in IMAGE_SUFFIXES]
    return sorted(found)


def looks_like_mask(path: str | os.PathLike) -> bool:
    """Tell whether a picture has at most 16 distinct values or colours, as masks have and photographs do not.

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


def _classify(paths: Sequence[str], root: Path) -> list[_Entry]:
    """Say of every file whether it is an image or a mask, by folder name, file name, or as the last resort content."""
    by_place = defaultdict(list)
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
            role = 'mask' if _is_the_mask(path, by_place[folder, stem.lower()], root) else role
        short = suffixed.group(1) if role == 'mask' and suffixed else stem
        bare = _IMAGE_STEM.fullmatch(short)
        entries.append(_Entry(path, role or 'image', split, folders, (stem, bare.group(1) if bare else short), clean))
    return entries


def _read_folders(parts: Iterable[str]) -> tuple[str | None, str | None, bool, tuple[str, ...]]:
    """Return role, split, whether a folder says "clean", and the folders that say something else."""
    role, split, clean, rest = None, None, False, []
    for part in parts:
        name = part.lower().replace(' ', '_').replace('-', '_')
        for word, suffix in (('mask', _MASK_STEM), ('image', _IMAGE_STEM)):  # train_gt, test_images
            match = suffix.fullmatch(name)
            if match and name not in MASK_FOLDERS | IMAGE_FOLDERS:
                role, name = word, match.group(1)
                part = part[:len(name)]
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


def _is_the_mask(path: str, twins: Sequence[str], root: Path) -> bool:
    """Of two files that differ in their suffix alone, tell whether ``path`` is the mask of the other."""
    flat = [p for p in twins if looks_like_mask(root / p)]
    return flat == [path]


def _match(images: list[_Entry], masks: list[_Entry]) -> tuple[dict[str, list[tuple[_Entry, bool]]], list[str]]:
    """Give every mask its image.

    Returns:
        For each image path its masks, each with whether its last folder names a class; and the masks without an image.
    """
    by_stem = defaultdict(list)
    for image in images:
        for stem in dict.fromkeys(image.stems):
            by_stem[stem].append(image)
    found, orphans = defaultdict(list), []
    for mask in masks:
        image, class_folder = _find_image(mask, by_stem[mask.stems[0]])
        if image is None:
            image, class_folder = _find_image(mask, by_stem[mask.stems[1]])
        if image is None:
            orphans.append(mask.path)
        else:
            found[image.path].append((mask, class_folder))
    for path, its_masks in found.items():
        names = [mask.folders[-1] if class_folder else '' for mask, class_folder in its_masks]
        if len(set(names)) < len(names) or (len(names) > 1 and '' in names):
            raise ValueError(f'an image must have one mask, or one in each class folder, but {path} has '
                             f'{" and ".join(mask.path for mask, _ in its_masks)}; remove one of them.')
    return dict(found), orphans


def _find_image(mask: _Entry, candidates: list[_Entry]) -> tuple[_Entry | None, bool]:
    """Find the image of a mask among those with its stem, the closest kind of agreement first."""
    alike = [c for c in candidates if c.clean == mask.clean]
    pools = ([c for c in alike if c.split == mask.split], [c for c in alike if c.split is None or mask.split is None])
    for pool in pools:
        hits = [c for c in pool if c.folders == mask.folders]
        if hits:
            return _only(mask, hits), False
    for pool in pools:
        hits = [c for c in pool if mask.folders and c.folders == mask.folders[:-1]]
        if hits:
            return _only(mask, hits), True
    for pool in (*pools, [c for c in candidates if c.folders == mask.folders]):  # the last one: a mask of a clean image
        if pool:
            return _only(mask, pool), False
    return None, False


def _only(mask: _Entry, hits: list[_Entry]) -> _Entry:
    if len(hits) > 1:
        raise ValueError(f'the mask {mask.path} must belong to one image, but {hits[0].path} and {hits[1].path} both have '
                         'its name; rename one image and its mask, or put each mask into a folder like its image.')
    return hits[0]


def _type_source(types: str, found: dict[str, list[tuple[_Entry, bool]]]) -> str:
    """Decide where defect types come from when the caller leaves it open."""
    if types != 'auto':
        return types
    if any(mask.folders for masks in found.values() for mask, _ in masks):
        return 'folder'
    if found and all(_TYPE_PREFIX.fullmatch(os.path.basename(path)) for path in found):
        return 'prefix'
    return 'none'


def _make_pair(image: _Entry, masks: list[tuple[_Entry, bool]], source: str) -> FolderPair:
    ordered = sorted((mask for mask, _ in masks), key=lambda m: m.path)
    return FolderPair(image.path, tuple(m.path for m in ordered), tuple(_type_of(image, m, source) for m in ordered),
                      image.split)


def _type_of(image: _Entry, mask: _Entry, source: str) -> str | None:
    if source == 'folder' and mask.folders:
        return mask.folders[-1]
    if source == 'prefix':
        match = _TYPE_PREFIX.fullmatch(os.path.basename(image.path))
        return match.group(1) if match else None
    return None


def _nothing_paired(root: Path, images: list[_Entry], masks: list[_Entry]) -> str:
    if not masks:
        return (f'at least one image of {root} must have a mask, but its {len(images)} images (first: {images[0].path}) '
                'have none; put masks of the same name into masks/ beside images/, or name them <image>_mask.png.')
    return (f'images and masks of {root} must share their names, but none of {len(images)} images (first: '
            f'{images[0].path}) matches one of {len(masks)} masks (first: {masks[0].path}); rename them alike.')
