"""Cutting inserts of the WTA blade project.

Images in ``img_dir/{train,val,test}``, labels 0/1/2 under the same names in ``ann_dir/{train,val,test}``.
"""

import os
from typing import ClassVar

from mmseg.datasets import BaseSegDataset

from mmdefect.datasets.base import DefectDataset
from mmdefect.datasets.samples import Sample
from mmdefect.registry import DATASETS


def scan_wta(root: str, img_suffix: str = '.png', seg_map_suffix: str = '.png') -> list[Sample]:
    """List the images below ``img_dir`` with the mask of the same name below ``ann_dir``.

    The first folder below ``img_dir`` is the split. Whether a mask exists is checked by ``check_dataset``.
    """
    img_dir, ann_dir = os.path.join(root, 'img_dir'), os.path.join(root, 'ann_dir')
    for folder in (img_dir, ann_dir):
        if not os.path.isdir(folder):
            raise ValueError(
                f'{root} must hold img_dir/ and ann_dir/, but {folder} does not exist; correct '
                '`data_root`, or convert the data with tools/convert_dataset.py.'
            )
    samples = []
    for folder, folders, files in os.walk(img_dir):
        folders.sort()
        for name in sorted(files):
            if not name.endswith(img_suffix) or name.startswith('.'):
                continue
            image = os.path.join(folder, name)
            inside = os.path.relpath(image, img_dir)
            split = inside.split(os.sep)[0] if os.sep in inside else None
            mask = os.path.join(ann_dir, inside[: -len(img_suffix)] + seg_map_suffix)
            samples.append(Sample(image, mask, own_split=split))
    return samples


@DATASETS.register_module(name=['BladeWTADataset', 'WTADataset'])
class BladeWTADataset(DefectDataset):
    """The cutting-insert data set; any other data in its folder layout works too, with its own class names.

    Folders are chosen with ``split`` (``'train'``, ``'val'``, ``'test'``) or, as in existing mmseg configs, with
    ``data_prefix`` and ``ann_file``. Labels are class indices in 8-bit files, one for every image, clean ones too.

    Args:
        img_suffix: suffix of the images.
        seg_map_suffix: suffix of the label files.
        data_prefix: folders of images and labels below ``data_root``; ``None`` takes ``img_dir`` and ``ann_dir``.
        **kwargs: see :class:`~mmdefect.datasets.base.DefectDataset`.
    """

    METAINFO: ClassVar = dict(classes=('normal', 'attached', 'broken'), palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0]])

    def __init__(
        self, img_suffix: str = '.png', seg_map_suffix: str = '.png', data_prefix: dict | None = None, **kwargs
    ) -> None:
        if data_prefix is not None and kwargs.get('split') is not None and kwargs.get('split_file') is None:
            raise ValueError(
                f'either `split` or `data_prefix` must choose the folder, got split={kwargs["split"]!r} '
                f'and data_prefix={data_prefix!r}; remove one.'
            )
        self._has_prefix = data_prefix is not None or bool(kwargs.get('ann_file'))
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            data_prefix=data_prefix or dict(img_path='img_dir', seg_map_path='ann_dir'),
            **kwargs,
        )

    def scan(self) -> list[Sample]:
        """List the images: of ``data_prefix`` as mmseg does, otherwise of all of ``img_dir``."""
        if not self._has_prefix:
            return scan_wta(self.data_root or '.', self.img_suffix, self.seg_map_suffix)
        folder = self.data_prefix['img_path']
        if not os.path.isdir(folder):
            raise ValueError(
                f'`data_prefix` must name a folder of images, but {folder} does not exist; correct '
                '`data_root` or `data_prefix`.'
            )
        return [Sample(info['img_path'], info['seg_map_path']) for info in BaseSegDataset.load_data_list(self)]
