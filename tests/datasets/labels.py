"""Compare what a data set loads with what the data factory drew."""

from __future__ import annotations

import numpy as np

from mmdefect.datasets.samples import relative_path

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadDefectAnnotations')]


def loaded_labels(dataset):
    """Return the label of every image by relative path."""
    return {
        relative_path(r['img_path'], dataset.data_root): r['gt_seg_map']
        for r in (dataset[i] for i in range(len(dataset)))
    }


def assert_labels(dataset, truth):
    loaded = loaded_labels(dataset)
    assert loaded.keys() == truth.keys() and truth
    for name, label in truth.items():
        np.testing.assert_array_equal(loaded[name], label, err_msg=name)


def part(truth, prefix):
    return {n: label for n, label in truth.items() if n.startswith(prefix)}
