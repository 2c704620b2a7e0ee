"""What a study needs of the config library and of the data sets; see :mod:`mmdefect.experiments.study`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdefect import compat
from mmdefect.apis.compose import compose
from mmdefect.apis.config import plain
from mmdefect.apis.test import image_root
from mmdefect.experiments.evidence.counts import Sample, Truth
from mmdefect.registry import DATASETS, TRANSFORMS


def read_settings(path: Path) -> dict[str, Any]:
    """Return what a config file holds with its bases, as plain dicts and lists."""
    compat.apply()
    return plain(Config.fromfile(str(path)).to_dict())


def compose_settings(settings: dict[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """Compose as the training tool does; return the settings, and the text of a config that holds them alone."""
    import mmdefect.registration  # noqa: F401

    cfg = Config(settings, filename=str(path))
    compose(cfg)
    return plain(cfg.to_dict()), cfg.pretty_text


def load_truth(settings: dict[str, Any], split: str = 'test') -> Truth:
    """Return the images and labels of one loader's data set, named as ``tools/test.py --out`` names predictions."""
    import mmdefect.registration  # noqa: F401

    cfg = Config(settings)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    dataset_cfg = cfg[f'{split}_dataloader'].dataset
    dataset = DATASETS.build({**dataset_cfg, 'pipeline': []})
    load = TRANSFORMS.build(dict(type='LoadDefectAnnotations'))
    root = image_root(dataset_cfg)
    samples = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        name = Path(info['img_path']).relative_to(root).with_suffix('').as_posix()
        samples.append(Sample(name, Path(info['img_path']), partial(_read_label, load, info)))
    palette = tuple(tuple(map(int, colour)) for colour in dataset.metainfo['palette'])
    return Truth(tuple(dataset.metainfo['classes']), palette, tuple(samples))


def data_files(settings: dict[str, Any]) -> list[Path]:
    """Return the images and label maps that the loaders of a run list; empty where a data set is not there.

    Data sets that are built from other settings, such as donors, read the images of the training loader.
    """
    import mmdefect.registration  # noqa: F401

    cfg = Config(settings)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    found = set()
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build({**cfg[f'{split}_dataloader'].dataset, 'pipeline': []})
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            names = [info['img_path'], info.get('seg_map_path')]
            found |= {Path(name) for name in names if name and Path(name).is_file()}
    return sorted(found)


def _read_label(load, info: dict) -> np.ndarray:
    return np.asarray(load({**info, 'seg_fields': []})['gt_seg_map'])


def load_truth_of_config(config: Path, data_root: Path | None = None, split: str = 'test') -> Truth:
    """Return the images and labels that a config file names, in another data root if given."""
    settings = read_settings(config)
    if data_root is not None:
        settings['data_root'] = str(data_root)
    return load_truth(compose_settings(settings, config)[0], split)
