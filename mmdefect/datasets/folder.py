"""The user's own folder of images and masks, in the arrangements of :mod:`mmdefect.datasets.folder_scan`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from mmdefect.datasets.base import DefectDataset
from mmdefect.datasets.folder_labels import (
    NOTE,
    FolderDescription,
    describe_folder,
    description_from_dict,
    label_samples,
    read_description,
)
from mmdefect.datasets.folder_scan import FolderScan, scan_folder
from mmdefect.datasets.samples import Sample, relative_path
from mmdefect.datasets.split_file import Split, read_split
from mmdefect.registry import DATASETS

__all__ = ['FolderDefectDataset', 'FolderScan', 'scan_folder']


@DATASETS.register_module()
class FolderDefectDataset(DefectDataset):
    """Images and masks that a user arranged, paired by stem.

    How the masks are to be read comes from, in this order: the arguments; the notes of ``split_file``, written by
    ``tools/init_project.py``; ``dataset.json`` in ``data_root``, written by ``tools/convert_dataset.py``; the mask
    files themselves, all of which are then read once.

    Args:
        data_root: folder to look into.
        mask_encoding: ``'index'``, ``'binary'`` or ``'palette'``; ``None`` as described above.
        types_from: where defect types are written: ``'auto'``, ``'folder'``, ``'prefix'``, ``'none'``; ``None`` as
            above.
        unmasked: an image without a mask outside ``good/`` and the like is left out (``'skip'``) or ``'clean'``;
            ``None`` as above.
        metainfo: ``classes`` must be as many as the masks have; the normal class is the first.
        **kwargs: see :class:`~mmdefect.datasets.base.DefectDataset`.
    """

    def __init__(
        self,
        data_root: str,
        mask_encoding: str | None = None,
        types_from: str | None = None,
        unmasked: str | None = None,
        metainfo: dict | None = None,
        split_file: str | None = None,
        **kwargs,
    ) -> None:
        if not os.path.isdir(data_root):
            raise ValueError(f'`data_root` must be a folder, but {data_root} does not exist; correct the path.')
        self.data_root, self.split_file = data_root, split_file
        self.types: dict[str, str] = {}
        stored = self._stored_description()
        self.folder_scan = scan_folder(
            data_root,
            types_from or (stored.types_from if stored else 'auto'),
            unmasked or (stored.unmasked if stored else 'skip'),
        )
        metainfo = dict(metainfo or {})
        if stored is None or mask_encoding is not None:
            stored = describe_folder(self.folder_scan, mask_encoding, _defect_names(metainfo.get('classes')))
        self.description = stored
        classes = metainfo.setdefault('classes', stored.classes)
        if len(classes) != len(stored.classes):
            raise ValueError(
                f'`classes` must name the {len(stored.classes)} classes that the masks of {data_root} '
                f'have ({", ".join(stored.classes)}), got {list(classes)}; correct the config.'
            )
        super().__init__(data_root=data_root, metainfo=metainfo, split_file=split_file, **kwargs)

    def scan(self) -> list[Sample]:
        """List every pair of the folder; defect types come from the split file where it has them."""
        return [
            replace(s, defect_type=self.types.get(relative_path(s.img_path, self.data_root), s.defect_type))
            for s in label_samples(self.folder_scan, self.description)
        ]

    def split_notes(self) -> dict:
        """Record how the masks are read, so that a data set with the split file need not find out again."""
        return {NOTE: self.description.to_dict()}

    def _stored_description(self) -> FolderDescription | None:
        if self.split_file is not None:
            file = self.resolve_split_file()
            split = read_split(file)
            self.types = _types_of(split)
            if NOTE in split.notes:
                return description_from_dict(split.notes[NOTE], file)
        return read_description(self.data_root)


def _types_of(split: Split) -> dict[str, str]:
    return {entry.image: entry.type for entries in split.splits.values() for entry in entries}


def _defect_names(classes: Sequence[str] | None) -> list[str] | None:
    return None if classes is None else list(classes)[1:]
