"""Images without defects, to learn the normal appearance from: those that train in MVTec AD or VisA, or any folder."""

import os
from typing import ClassVar

import cv2
from mmengine.dataset import BaseDataset

from mmdefect.datasets.base import DefectDataset
from mmdefect.datasets.mvtec import find_categories, scan_mvtec
from mmdefect.datasets.samples import GOOD, index_by_stem, list_images
from mmdefect.datasets.seeding import NumberedSamples
from mmdefect.datasets.split_file import read_split
from mmdefect.functional.density import fold_of
from mmdefect.registry import DATASETS

PARTS = ('all', 'fit', 'held_out')


def list_good_images(root: str, category: str | None = None, division: str | None = None) -> list[str]:
    """Return the good training images, sorted.

    Args:
        root: folder of categories, one category, or a folder of images.
        category: name of a category below ``root``.
        division: of VisA as downloaded, see :func:`~mmdefect.datasets.mvtec.read_division`.
    """
    if not os.path.isdir(root):
        raise ValueError(f'`data_root` must be a folder, but {root} does not exist; correct the path.')
    base = root if category is None else os.path.join(root, category)
    for folder in (os.path.join(base, 'train', GOOD), os.path.join(base, GOOD), base):
        if os.path.isdir(folder) and (images := list_images(folder)):
            return images
    if os.path.isdir(os.path.join(base, 'Data')) and find_categories(base):
        samples = [s for s in scan_mvtec(base, division=division) if s.is_clean and s.own_split == 'train']
        if not samples:
            raise ValueError(
                f'`division` must say which images of {base} train, but {division or "no 1cls.csv beside it"} names '
                'none; name a division file of VisA, such as 2cls_highshot.'
            )
        return [s.img_path for s in samples]
    found = ', '.join(find_categories(root)) or 'none'
    raise ValueError(
        f'{base} must be a folder of images, or hold train/{GOOD}/ with images, but it does neither; set `category` '
        f'to one of those in {root}: {found}.'
    )


@DATASETS.register_module()
class GoodImageDataset(NumberedSamples, BaseDataset):
    """Good images only.

    Args:
        data_root, category, division: see :func:`list_good_images`.
        part: ``'all'``; ``'fit'`` and ``'held_out'`` divide the images, the same way for the same ``folds`` and seed.
        folds: one of this many parts is held out; of fewer images one image.
        split_seed: of the division.
        labels: folder of label maps of the same names: only images whose map is all 0 are taken.
        split_file: JSON of ``tools/split_dataset.py``, below ``data_root`` or by its path: only the good images of
            ``split`` are taken, so that nothing is learned from an image that a segmentation tests on.
        split: name of a split in it.
        **kwargs: arguments of mmengine's ``BaseDataset``.
    """

    METAINFO: ClassVar = dict(classes=('normal',), palette=[[0, 0, 0]])

    def __init__(
        self,
        data_root: str,
        category: str | None = None,
        part: str = 'all',
        folds: int = 10,
        split_seed: int = 0,
        labels: str | None = None,
        split_file: str | None = None,
        split: str = 'train',
        division: str | None = None,
        **kwargs,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f'`part` must be one of {", ".join(PARTS)}, got {part!r}.')
        self.category, self.part, self.folds, self.split_seed = category, part, folds, split_seed
        if split_file is not None and (labels is not None or category is not None):
            raise ValueError(
                '`split_file` names the good images by itself, but `labels` or `category` is given too; leave them out.'
            )
        self.labels, self.split_file, self.split = labels, split_file, split
        self.listed = [] if split_file is not None else list_good_images(data_root, category, division)
        super().__init__(data_root=data_root, **kwargs)

    resolve_split_file = DefectDataset.resolve_split_file

    def load_data_list(self) -> list[dict]:
        """List the images of the part."""
        if self.split_file is not None:
            paths = _listed_ones(self.data_root, self.resolve_split_file(), self.split)
        else:
            paths = self.listed if self.labels is None else _clean_ones(self.listed, self.labels)
        if self.part != 'all':
            held_out = fold_of(len(paths), min(self.folds, len(paths)), self.split_seed) == 0
            paths = [p for p, out in zip(paths, held_out.tolist(), strict=True) if out == (self.part == 'held_out')]
        return [dict(img_path=p, seg_map_path=None, defect_type=GOOD, category=self.category) for p in paths]


def _listed_ones(root: str, file: str, split: str) -> list[str]:
    """Return the good images of a split, sorted."""
    entries = read_split(file).entries_of(split, file)
    paths = sorted(os.path.join(root, e.image) for e in entries if e.is_clean)
    if not paths:
        raise ValueError(
            f'the split {split!r} of {file} must hold images of the type {GOOD!r}, but its {len(entries)} images are '
            'of others; make the split with clean images in it.'
        )
    missing = [p for p in paths if not os.path.isfile(p)]
    if missing:
        raise ValueError(f'{file} names {missing[0]}, but there is no such file; correct `data_root`.')
    return paths


def _clean_ones(paths: list[str], labels: str) -> list[str]:
    """Return the images whose label map holds nothing but 0."""
    maps = index_by_stem(list_images(labels))
    clean = []
    for path in paths:
        file = maps.get(os.path.splitext(os.path.basename(path))[0])
        label = None if file is None else cv2.imread(file, cv2.IMREAD_UNCHANGED)
        if label is None:
            raise ValueError(
                f'{path} must have a label map of its name in {labels}, but there is none that can be read; '
                'restore it, or take the image out.'
            )
        if not label.any():
            clean.append(path)
    if not clean:
        raise ValueError(
            f'{labels} must hold label maps without defects, but every one has some; give a folder of good images and '
            'leave `labels` out.'
        )
    return clean
