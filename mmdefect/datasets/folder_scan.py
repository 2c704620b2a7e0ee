"""Find images and masks in a folder as people arrange them, and pair them by stem.

Plain functions on paths; nothing is decoded except where two files share a stem and one of them may be the mask.
These arrangements are understood, mixed if need be, with or without ``train``/``val``/``test`` folders anywhere:

* ``images/a.jpg`` + ``masks/a.png``; also ``img_dir/ann_dir``, ``imgs/gt``, ``train/train_gt`` and the like;
* ``a.png`` + ``a_mask.png`` (``_GT``, ``-mask``, ``_label``, ...) beside it;
* ``a.jpg`` + ``a.png`` beside it, when exactly one of them looks like a mask;
* masks in one folder per class: ``masks/scratch/a.png`` + ``images/a.jpg``, also several classes for one image;
* images and masks in one folder per type, as MVTec AD has them;
* ``good/``, ``ok/`` or ``clean/``: images without defects, which need no mask.

Not covered: annotations that are no images (for COCO files see ``tools/convert_dataset.py``) and video.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mmdefect.datasets.folder_entries import FolderEntry, classify_files, list_images_below
from mmdefect.datasets.samples import IMAGE_SUFFIXES

TYPE_SOURCES = ('auto', 'folder', 'prefix', 'none')

_TYPE_PREFIX = re.compile(r'([A-Za-z][A-Za-z0-9 _-]*?)__.+')
#: For each image path its masks, each with whether its last folder names a class.
Matches = dict[str, list[tuple[FolderEntry, bool]]]


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
        treat_unmasked: what an image without a mask was taken for: ``'skip'`` or ``'clean'``.
    """

    root: str
    pairs: tuple[FolderPair, ...]
    unmasked: tuple[str, ...]
    orphan_masks: tuple[str, ...]
    types_from: str
    treat_unmasked: str = 'skip'

    @property
    def types(self) -> tuple[str, ...]:
        """Defect types in alphabetical order."""
        return tuple(sorted({t for pair in self.pairs for t in pair.types if t is not None}))

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the folders themselves make, in the order train, val, test."""
        found = {pair.split for pair in self.pairs}
        return tuple(s for s in ('train', 'val', 'test') if s in found)


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
    entries = classify_files(list_images_below(root), root)
    images = [e for e in entries if e.role == 'image']
    masks = [e for e in entries if e.role == 'mask']
    if not images:
        what = f'only masks ({masks[0].path})' if masks else 'no image file'
        raise ValueError(
            f'`root` must hold images ({", ".join(IMAGE_SUFFIXES)}), but {root} has {what}; give the '
            'folder that holds images and masks, for example with images/ and masks/ in it.'
        )
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
    return FolderScan(str(root), tuple(pairs), tuple(bare), tuple(orphans), source, unmasked)


def _match(images: list[FolderEntry], masks: list[FolderEntry]) -> tuple[Matches, list[str]]:
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
            raise ValueError(
                f'an image must have one mask, or one in each class folder, but {path} has '
                f'{" and ".join(mask.path for mask, _ in its_masks)}; remove one of them.'
            )
    return dict(found), orphans


def _find_image(mask: FolderEntry, candidates: list[FolderEntry]) -> tuple[FolderEntry | None, bool]:
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


def _only(mask: FolderEntry, hits: list[FolderEntry]) -> FolderEntry:
    if len(hits) > 1:
        raise ValueError(
            f'the mask {mask.path} must belong to one image, but {hits[0].path} and {hits[1].path} both '
            'have its name; rename one image and its mask, or put each mask into a folder like its image.'
        )
    return hits[0]


def _type_source(types: str, found: Matches) -> str:
    """Decide where defect types come from when the caller leaves it open."""
    if types != 'auto':
        return types
    if any(mask.folders for masks in found.values() for mask, _ in masks):
        return 'folder'
    if found and all(_TYPE_PREFIX.fullmatch(os.path.basename(path)) for path in found):
        return 'prefix'
    return 'none'


def _make_pair(image: FolderEntry, masks: list[tuple[FolderEntry, bool]], source: str) -> FolderPair:
    ordered = sorted((mask for mask, _ in masks), key=lambda m: m.path)
    return FolderPair(
        image.path, tuple(m.path for m in ordered), tuple(_type_of(image, m, source) for m in ordered), image.split
    )


def _type_of(image: FolderEntry, mask: FolderEntry, source: str) -> str | None:
    if source == 'folder' and mask.folders:
        return mask.folders[-1]
    if source == 'prefix':
        match = _TYPE_PREFIX.fullmatch(os.path.basename(image.path))
        return match.group(1) if match else None
    return None


def _nothing_paired(root: Path, images: list[FolderEntry], masks: list[FolderEntry]) -> str:
    if not masks:
        return (
            f'at least one image of {root} must have a mask, but its {len(images)} images (first: '
            f'{images[0].path}) have none; put masks of the same name into masks/ beside images/, or name them '
            '<image>_mask.png.'
        )
    return (
        f'images and masks of {root} must share their names, but none of {len(images)} images (first: '
        f'{images[0].path}) matches one of {len(masks)} masks (first: {masks[0].path}); rename them alike.'
    )
