"""From a data set to its library of defects."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log
from numpy import ndarray

from mmdefect.datasets.checks import check_donors
from mmdefect.datasets.file_facts import cache_folder, find_hashes
from mmdefect.datasets.samples import iter_data_infos
from mmdefect.registry import DATASETS
from mmdefect.synthesis.library import CutAll, CuttingRule, DefectLibrary, LabelledImage, cut_images, open_library

_SHOWN: set[str] = set()


def library_of(
    dataset: dict | Any,
    held_out: Mapping[str, dict | Any] | None = None,
    rule: Mapping[str, Any] | None = None,
    folder: str | None = None,
    cut_all: CutAll = cut_images,
) -> DefectLibrary:
    """Return the library of the defects of a data set, from the cache or built now; its census is printed once.

    Args:
        dataset: the training data set or its config; the pipeline is not used.
        held_out: validation and test data sets, or configs, by name: no donor may come from one of their images.
        rule: settings of :class:`~mmdefect.synthesis.library.CuttingRule`.
        folder: where libraries are kept; by default ``donors`` in the cache folder (``$MMDEFECT_CACHE``).
        cut_all: how the cutting is spread, see :func:`~mmdefect.synthesis.library.build_library`.
    """
    built = _build(dataset)
    images = labelled_images(built)
    check_donors([i.name for i in images], {name: _build(other) for name, other in (held_out or {}).items()})
    library = open_library(images, CuttingRule(**(rule or {})), folder or cache_folder() / 'donors', cut_all)
    if str(library.folder) not in _SHOWN:
        _SHOWN.add(str(library.folder))
        classes = dict(enumerate(built.metainfo.get('classes') or ()))
        print_log(f'library of defects in {library.folder}:\n{library.census(classes)}', logger='current')
    return library


def labelled_images(dataset: Any) -> list[LabelledImage]:
    """Return every image of a data set once, with the hash of what is in its files."""
    infos = list({info['img_path']: info for info in iter_data_infos(dataset)}.values())
    paths = [p for info in infos for p in (info['img_path'], info.get('seg_map_path')) if p is not None]
    hashes = find_hashes(paths, 'reading training images')
    images = []
    for info in infos:
        image, mask = info['img_path'], info.get('seg_map_path')
        parts = [repr([info.get(k) for k in ('mask_encoding', 'class_id', 'palette', 'label_map')])]
        parts += [hashes[image], str(hashes.get(mask))]
        images.append(LabelledImage(image, partial(_load, info), hashlib.sha256('\0'.join(parts).encode()).hexdigest()))
    return images


def _load(info: dict) -> tuple[ndarray, ndarray]:
    from mmdefect.datasets.transforms.loading import LoadDefectAnnotations  # the transforms import this module

    image = cv2.imdecode(np.fromfile(info['img_path'], np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'the image {info["img_path"]} must be readable, but decoding fails; replace the file.')
    results = LoadDefectAnnotations().transform(dict(info, ori_shape=image.shape[:2], seg_fields=[]))
    return np.ascontiguousarray(image[..., ::-1]), results['gt_seg_map']


def _build(dataset: dict | Any) -> Any:
    return DATASETS.build(without_pipeline(dataset)) if isinstance(dataset, dict) else dataset


def without_pipeline(dataset: Any) -> Any:
    """Return a data set config, wrapped ones included, that loads nothing."""
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        return [without_pipeline(d) for d in dataset]
    bare = dict(dataset)
    for key in ('dataset', 'datasets'):
        if key in bare:
            bare[key] = without_pipeline(bare[key])
    if 'pipeline' in bare:
        bare['pipeline'] = []
    return bare
