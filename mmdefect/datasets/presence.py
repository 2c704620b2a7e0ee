"""Which classes an image shows, and how often, from the label files of a data set."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmdefect.datasets.checks import classes_of, mask_facts_of
from mmdefect.datasets.file_facts import THREADS
from mmdefect.datasets.samples import iter_data_infos
from mmdefect.datasets.transforms.loading import LoadDefectAnnotations


def class_presence(dataset) -> list[set[int]]:
    """Return the ids of the classes that each image shows, in the order of the data set; ``{0}`` without a label file.

    The data set may be mmseg's or ours, also inside wrappers that keep the number of images. Which values a file
    holds is remembered between runs (:mod:`mmdefect.datasets.file_facts`).

    Raises:
        ValueError: if a label file cannot be read or holds values of no class, or a wrapper changes the number of
            images.
    """
    infos = _infos(dataset)
    facts = mask_facts_of(infos)
    presence = []
    for info in infos:
        if info.get('seg_map_path') is None:
            presence.append({0})
            continue
        fact = facts[info.get('mask_encoding', 'index'), info['seg_map_path']]
        if isinstance(fact, ValueError):
            raise fact
        problem, classes = classes_of(fact['values'], info)
        if problem:
            raise ValueError(problem)
        presence.append(classes)
    return presence


def class_frequencies(dataset, num_classes: int, max_images: int = 500) -> list[float]:
    """Return the share of the labelled pixels of each class, the normal one included.

    At most ``max_images`` files are read, spread evenly over the set, which is as in :func:`class_presence`.
    """
    infos = _infos(dataset)
    chosen = np.unique(np.linspace(0, len(infos) - 1, min(max_images, len(infos))).round().astype(int))
    load = LoadDefectAnnotations()

    def count(index: int) -> np.ndarray:
        label = load.transform(dict(infos[index]))['gt_seg_map']
        return np.bincount(label.ravel(), minlength=256)[:num_classes]

    with ThreadPoolExecutor(THREADS) as pool:
        counts = sum(pool.map(count, chosen), np.zeros(num_classes, np.int64))
    if counts.sum() == 0:
        raise ValueError(
            f'the data set must have labelled pixels, but {len(chosen)} label files have none; check that its masks '
            'are not all 255 (ignore).'
        )
    return (counts / counts.sum()).tolist()


def _infos(dataset) -> list[dict]:
    infos = list(iter_data_infos(dataset))
    if len(infos) != len(dataset):
        raise ValueError(
            f'`dataset` must have one image per index, got {len(infos)} images for {len(dataset)} indices; leave out '
            'wrappers that repeat or mix images.'
        )
    return infos
