"""The folder layout of the online cut-and-paste system.

``Combined/{train,val,test}`` with masks ``Combined/{train,val,test}_gt/<stem>_mask.png``, clean images in ``good/``
and, if there are any, masks of the object in ``good_object_location_mask/``.
"""

import os
from typing import ClassVar

from mmdefect.datasets.base import DefectDataset
from mmdefect.datasets.mvtec import find_masks
from mmdefect.datasets.samples import GOOD, Sample, list_images
from mmdefect.registry import DATASETS

SPLITS = ('train', 'val', 'test')


def scan_combined(root: str, good_split: str = GOOD) -> list[Sample]:
    """List the defect images of ``Combined/`` and the clean ones of ``good/``.

    Args:
        root: folder that holds ``Combined/`` (or ``combined/``) and perhaps ``good/``.
        good_split: split the clean images are put in.

    Returns:
        Defect images with a ``'binary'`` mask of class 1; clean images with ``object_mask_path`` in ``extra``.
    """
    combined = next((c for c in (os.path.join(root, n) for n in ('Combined', 'combined')) if os.path.isdir(c)), None)
    if combined is None:
        raise ValueError(
            f'{root} must hold the folder Combined/ with train, train_gt, ..., but there is none; correct `data_root`, '
            'or read the data with FolderDefectDataset.'
        )
    samples = []
    for split in SPLITS:
        folder = os.path.join(combined, split)
        images = list_images(folder) if os.path.isdir(folder) else []
        masks = find_masks(images, f'{folder}_gt', 'take the image out')
        samples += [
            Sample(i, m, mask_encoding='binary', class_id=1, own_split=split)
            for i, m in zip(images, masks, strict=True)
        ]
    good = os.path.join(root, 'good')
    images = list_images(good) if os.path.isdir(good) else []
    objects = f'{good}_object_location_mask'
    masks = [None] * len(images)
    if os.path.isdir(objects):
        masks = find_masks(images, objects, 'take the image out')
    samples += [
        Sample(i, None, GOOD, own_split=good_split, extra=dict(object_mask_path=m))
        for i, m in zip(images, masks, strict=True)
    ]
    return samples


@DATASETS.register_module()
class CombinedDefectDataset(DefectDataset):
    """Defect images of ``Combined/`` and clean images of ``good/``; masks are 0/255 and every defect is one class.

    ``split`` is ``'train'``, ``'val'``, ``'test'`` or ``'good'`` (only the clean images). Entries of clean images carry
    ``object_mask_path``, the mask of the object or ``None``; ``LoadObjectMask`` reads it.

    Args:
        include_good: whether the clean images belong to the training split.
        **kwargs: see :class:`~mmdefect.datasets.base.DefectDataset`.
    """

    METAINFO: ClassVar = dict(classes=('normal', 'defect'), palette=[[0, 0, 0], [255, 0, 0]])

    def __init__(self, include_good: bool = False, **kwargs) -> None:
        self.include_good = include_good
        super().__init__(**kwargs)

    def scan(self) -> list[Sample]:
        """List the images of all splits and the clean ones."""
        return scan_combined(self.data_root or '.', 'train' if self.include_good else GOOD)
