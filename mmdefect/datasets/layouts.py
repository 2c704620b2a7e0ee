"""Folder layouts by name, for tools that take a folder instead of a config."""

import difflib

from mmdefect.datasets.base import DefectDataset
from mmdefect.registry import DATASETS

#: Name of a layout and the data set that reads it.
LAYOUTS = {
    'mvtec': 'MVTecDataset',
    'visa': 'MVTecDataset',
    'wta': 'BladeWTADataset',
    'combined': 'CombinedDefectDataset',
    'folder': 'FolderDefectDataset',
}


def build_layout(layout: str, data_root: str, **options) -> DefectDataset:
    """Build the data set of a folder, without listing its images yet.

    Args:
        layout: a name in :data:`LAYOUTS`, or the registered name of a data set class.
        data_root: the folder.
        **options: further arguments of the class.
    """
    name = LAYOUTS.get(layout, layout)
    if layout not in LAYOUTS and DATASETS.get(name) is None:
        close = difflib.get_close_matches(layout, LAYOUTS, 1)
        raise ValueError(
            f'`layout` must be one of {sorted(LAYOUTS)} or the name of a registered data set, got '
            f'{layout!r}{f"; did you mean {close[0]!r}?" if close else "."}'
        )
    dataset = DATASETS.build(dict(type=name, data_root=data_root, lazy_init=True, **options))
    if not isinstance(dataset, DefectDataset):
        raise ValueError(f'`layout` must name a data set that derives from DefectDataset, got {name}.')
    return dataset
