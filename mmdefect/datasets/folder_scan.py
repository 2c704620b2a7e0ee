"""Find images and masks in a folder as people arrange them, and pair them by stem.

Plain functions on paths. Whether a file is an image or a mask is told by the names of its folders, then by words in the
file name, and only where two files differ in their suffix alone by the content. These arrangements are understood, also
mixed, with or without ``train``/``val``/``test`` folders anywhere:

* ``images/a.jpg`` + ``masks/a.png``; also ``img_dir/ann_dir``, ``imgs/gt``, ``train/train_gt`` and the like;
* ``a.png`` + ``a_mask.png`` (``_GT``, ``-mask``, ``_label``, ...) beside it;
* ``a.jpg`` + ``a.png`` beside it, when exactly one of them looks like a mask;
* masks in one folder per class: ``masks/scratch/a.png`` + ``images/a.jpg``, also several classes for one image;
* images and masks in one folder per type, as MVTec AD has them;
* ``good/``, ``ok/`` or ``clean/``: images without defects, which need no mask.

Not covered: annotations that are no images (for COCO files see ``tools/convert_dataset.py``) and video.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmdefect.datasets.masks import pack_rgb
from mmdefect.datasets.samples import IMAGE_SUFFIXES

TYPE_SOURCES = ('auto', 'folder', 'prefix', 'none')
#: Split that a word in a folder or file name means.
SPLIT_OF = dict(train='train', training='train', val='val', valid='val', validation='val', test='test', testing='test')

_IMAGE_FOLDER = re.compile('images?|imgs?|imgs?_dir|jpegimages|photos?|pictures?|rgb')
_MASK_FOLDER = re.compile(
    'anns?|ann_dir|annotations?|ground_?truth|gts?|labels?|masks?|seg|segmentations?|segmentation_masks|segmentationclass'
)
_CLEAN_FOLDER = re.compile('clean|defect_?free|good|mt_free|no_defects?|normal|ok')
_MASK_STEM = re.compile(
    '(.+?)[ _.-]+(?:masks?|gt|ground_?truth|labels?|anns?|annotations?|seg|segmentation)$', re.IGNORECASE
)
_IMAGE_STEM = re.compile('(.+?)[ _.-]+(?:images?|imgs?|rgb)$', re.IGNORECASE)
_TYPE_PREFIX = re.compile(r'([A-Za-z][A-Za-z0-9 _-]*?)__.+')
_FEW_VALUES = 16


@dataclass(frozen=True)
class FolderEntry:
    """One image file."""

    path: str  # relative to the root, with forward slashes
    role: str  # 'image' or 'mask'
    split: str | None
    folders: tuple[str, ...]  # without those that only say the role, the split or "clean"
    stems: tuple[str, ...]  # the file name as it is, and without words like _mask and _image
    clean: bool  # whether a folder says that it has no defect


#: For each image path its masks, each with whether its last folder names a class.
Matches = dict[str, list[tuple[FolderEntry, bool]]]


@dataclass(frozen=True)
class FolderPair:
    """One image with the masks that belong to it; paths are relative to the root, with forward slashes."""

    image: str
    masks: tuple[str, ...] = ()  # more than one only for masks in one folder per class
    types: tuple[str | None, ...] = ()  # defect type of each mask as folders or names say it
    split: str | None = None  # that the folders put it in


@dataclass(frozen=True)
class FolderScan:
    """What :func:`scan_folder` found."""

    root: str
    pairs: tuple[FolderPair, ...]  # images with masks and clean images, sorted by path
    unmasked: tuple[str, ...]  # images outside clean folders without a mask; in `pairs` only if asked for
    orphan_masks: tuple[str, ...]  # masks without an image
    types_from: str  # where defect types come from: 'folder', 'prefix' or 'none'
    treat_unmasked: str = 'skip'  # what an image without a mask was taken for: 'skip' or 'clean'

    @property
    def types(self) -> tuple[str, ...]:
        """Defect types in alphabetical order."""
        return tuple(sorted({t for pair in self.pairs for t in pair.types if t is not None}))


def scan_folder(root: str | os.PathLike, types: str = 'auto', unmasked: str = 'skip') -> FolderScan:
    """Find the images and masks below ``root`` and pair them.

    Args:
        root: folder to look into, with all folders below it except hidden ones.
        types: where the defect type of a mask is written: ``'folder'``, ``'prefix'`` (``<type>__<stem>``), ``'none'``,
            or ``'auto'``: folders if there are any, else prefixes if every image with a mask has one, else none.
        unmasked: what an image without a mask outside a clean folder is: ``'skip'`` leaves it out (its defects may
            just not be labelled yet), ``'clean'`` takes it as free of defects.

    Raises:
        ValueError: if ``root`` holds no images, or no pair, or a pair is ambiguous; the message names the files.
    """
    if types not in TYPE_SOURCES:
        raise ValueError(f'`types` must be one of {TYPE_SOURCES}, got {types!r}.')
    if unmasked not in ('skip', 'clean'):
        raise ValueError(f"`unmasked` must be 'skip' or 'clean', got {unmasked!r}.")
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'`root` must be a folder with images and masks, but {root} is none; check the path.')
    entries = classify_files(list_images_below(root), root)
    images = [e for e in entries if e.role == 'image']
    masks = [e for e in entries if e.role == 'mask']
    if not images:
        what = f'only masks ({masks[0].path})' if masks else 'no image file'
        raise ValueError(
            f'`root` must hold images ({", ".join(IMAGE_SUFFIXES)}), but {root} has {what}; give the folder that holds '
            'images and masks, for example with images/ and masks/ in it.'
        )
    found, orphans = _match(images, masks)
    if not found and not any(e.clean for e in images):
        raise ValueError(_nothing_paired(root, images, masks))
    if types == 'auto':
        types = _type_source(found)
    pairs, bare = [], []
    for entry in images:
        if entry.path in found or entry.clean or unmasked == 'clean':
            own = sorted((mask for mask, _ in found.get(entry.path, [])), key=lambda m: m.path)
            own_types = tuple(_type_of(entry, mask, types) for mask in own)
            pairs.append(FolderPair(entry.path, tuple(m.path for m in own), own_types, entry.split))
        else:
            bare.append(entry.path)
    return FolderScan(str(root), tuple(pairs), tuple(bare), tuple(orphans), types, unmasked)


def list_images_below(root: str | os.PathLike) -> list[str]:
    """Return the image files below ``root``, sorted, relative with forward slashes; hidden files are left out."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(d for d in subfolders if not d.startswith('.'))
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        images = [f for f in files if not f.startswith('.') and os.path.splitext(f)[1].lower() in IMAGE_SUFFIXES]
        found += [str(relative / f) for f in images]
    return sorted(found)


def classify_files(paths: Sequence[str], root: Path) -> list[FolderEntry]:
    """Say of every file whether it is an image or a mask, and what its folders say."""
    by_place = defaultdict(list)
    looks: dict[str, bool] = {}  # each of two files that differ in their suffix alone is asked for twice
    for path in paths:
        folder, name = os.path.split(path)
        by_place[folder, os.path.splitext(name)[0].lower()].append(path)

    def is_mask(path: str) -> bool:
        if path not in looks:
            looks[path] = looks_like_mask(root / path)
        return looks[path]

    entries = []
    for path in paths:
        folder, name = os.path.split(path)
        stem = os.path.splitext(name)[0]
        role, split, clean, folders = _read_folders(PurePosixPath(folder).parts)
        suffixed = _MASK_STEM.fullmatch(stem)
        twins = by_place[folder, stem.lower()]
        if role != 'mask' and suffixed:
            bare = suffixed.group(1).lower()
            if role is None or any((folder, b) in by_place for b in (bare, f'{bare}_img', f'{bare}_image')):
                role = 'mask'
        elif role != 'mask' and len(twins) == 2 and [twin for twin in twins if is_mask(twin)] == [path]:
            role = 'mask'
        short = suffixed.group(1) if role == 'mask' and suffixed else stem
        bare = _IMAGE_STEM.fullmatch(short)
        stems = (stem, bare.group(1) if bare else short)
        entries.append(FolderEntry(path, role or 'image', split, folders, stems, clean))
    return entries


def looks_like_mask(path: str | os.PathLike) -> bool:
    """Tell whether an image has at most 16 distinct values or colours, as masks have and photographs do not."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if image.mode in ('1', 'L', 'P', 'I', 'I;16') else image.convert('RGB'))
    except (OSError, UnidentifiedImageError, SyntaxError) as err:
        raise ValueError(f'the image {path} must be readable, but decoding fails; replace the file.') from err
    return len(np.unique(pack_rgb(pixels) if pixels.ndim == 3 else pixels)) <= _FEW_VALUES


def _read_folders(parts: Sequence[str]) -> tuple[str | None, str | None, bool, tuple[str, ...]]:
    """Return role, split, whether a folder says "clean", and the folders that say something else."""
    role, split, clean, rest = None, None, False, []
    for part in parts:
        name = part.lower().replace(' ', '_').replace('-', '_')
        for word, suffix in (('mask', _MASK_STEM), ('image', _IMAGE_STEM)):  # train_gt, test_images
            match = suffix.fullmatch(name)
            if match and not _MASK_FOLDER.fullmatch(name) and not _IMAGE_FOLDER.fullmatch(name):
                role, name = word, match.group(1)
                part = part[: len(name)]
        if _MASK_FOLDER.fullmatch(name):
            role = 'mask'
        elif _IMAGE_FOLDER.fullmatch(name):
            role = 'image'
        elif name in SPLIT_OF:
            split = SPLIT_OF[name]
        elif _CLEAN_FOLDER.fullmatch(name):
            clean = True
        else:
            rest.append(part)
    return role, split, clean, tuple(rest)


def _match(images: list[FolderEntry], masks: list[FolderEntry]) -> tuple[Matches, list[str]]:
    """Give every mask its image; return also the masks without one."""
    by_stem = defaultdict(list)
    for image in images:
        for stem in dict.fromkeys(image.stems):
            by_stem[stem].append(image)
    found, orphans = defaultdict(list), []
    for mask in masks:
        hits = (_find_image(mask, by_stem[stem]) for stem in mask.stems)
        image, class_folder = next((hit for hit in hits if hit[0] is not None), (None, False))
        if image is None:
            orphans.append(mask.path)
        else:
            found[image.path].append((mask, class_folder))
    for path, its_masks in found.items():
        names = [mask.folders[-1] if class_folder else '' for mask, class_folder in its_masks]
        if len(set(names)) < len(names) or (len(names) > 1 and '' in names):
            raise ValueError(
                f'an image must have one mask, or one in each class folder, but {path} has '
                f'{" and ".join(mask.path for mask, _ in its_masks)}; remove one of them.'
            )
    return dict(found), orphans


def _find_image(mask: FolderEntry, candidates: list[FolderEntry]) -> tuple[FolderEntry | None, bool]:
    """Find the image of a mask among those with its stem, the closest kind of agreement first."""
    alike = [c for c in candidates if c.clean == mask.clean]
    pools = [[c for c in alike if c.split == mask.split], [c for c in alike if c.split is None or mask.split is None]]
    tries = [([c for c in pool if c.folders == mask.folders], False) for pool in pools]
    tries += [([c for c in pool if mask.folders and c.folders == mask.folders[:-1]], True) for pool in pools]
    tries += [(pool, False) for pool in pools]
    tries += [([c for c in candidates if c.folders == mask.folders], False)]  # a mask of a clean image
    hits, class_folder = next((found for found in tries if found[0]), ([None], False))
    if len(hits) > 1:
        raise ValueError(
            f'the mask {mask.path} must belong to one image, but {hits[0].path} and {hits[1].path} both have its name; '
            'rename one image and its mask, or put each mask into a folder like its image.'
        )
    return hits[0], class_folder


def _type_source(found: Matches) -> str:
    """Decide where defect types come from when the caller leaves it open."""
    if any(mask.folders for masks in found.values() for mask, _ in masks):
        return 'folder'
    if found and all(_TYPE_PREFIX.fullmatch(os.path.basename(path)) for path in found):
        return 'prefix'
    return 'none'


def _type_of(image: FolderEntry, mask: FolderEntry, source: str) -> str | None:
    if source == 'folder' and mask.folders:
        return mask.folders[-1]
    match = _TYPE_PREFIX.fullmatch(os.path.basename(image.path)) if source == 'prefix' else None
    return match and match.group(1)


def _nothing_paired(root: Path, images: list[FolderEntry], masks: list[FolderEntry]) -> str:
    if not masks:
        return (
            f'at least one image of {root} must have a mask, but its {len(images)} images (first: {images[0].path}) '
            'have none; put masks of the same name into masks/ beside images/, or name them <image>_mask.png.'
        )
    return (
        f'images and masks of {root} must share their names, but none of {len(images)} images (first: '
        f'{images[0].path}) matches one of {len(masks)} masks (first: {masks[0].path}); rename them alike.'
    )
