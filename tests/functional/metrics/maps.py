"""Random label maps and logits for the tests of metrics, and what is read off them."""

from __future__ import annotations

import numpy as np
import torch

from mmdefect.functional.metrics.counting import read_label, read_prediction
from mmdefect.functional.metrics.pixel import image_confusion


def random_maps(seed, count=4, size_hw=(48, 64), classes=3, ignore=False, separation=3.0, clean_every=3):
    """Return a list of (prediction, label, logits); defects are rectangles, every ``clean_every``-th map has none."""
    rng = np.random.default_rng(seed)
    maps = []
    for index in range(count):
        label = np.zeros(size_hw, np.int64)
        for _ in range(0 if index % clean_every == clean_every - 1 else int(rng.integers(1, 5))):
            top, left = rng.integers(0, size_hw[0] - 8), rng.integers(0, size_hw[1] - 8)
            label[top : top + rng.integers(1, 8), left : left + rng.integers(1, 8)] = rng.integers(1, classes)
        logits = rng.normal(0, 2, (classes, *size_hw)).astype(np.float32)
        logits[0] += 3
        for k in range(1, classes):
            logits[k][label == k] += separation
        if ignore:
            label[rng.random(size_hw) < 0.05] = 255
        logits = torch.from_numpy(logits)
        maps.append((logits.argmax(0), torch.from_numpy(label), logits))
    return maps


def confusion(prediction, label, classes):
    """Return the ``(K, K)`` counts of label (row) and prediction (column) that a counter sees in one image."""
    truth = read_label(label, classes)
    return image_confusion(read_prediction(prediction, truth), truth)


def flatten(maps, class_id):
    """Return labels and probabilities of one class (``None``: any defect) of all counted pixels, in float64."""
    truths, scores = [], []
    for _, label, logits in maps:
        keep = label != 255
        probability = logits.double().softmax(0)
        score = 1 - probability[0] if class_id is None else probability[class_id]
        truths.append(((label > 0) if class_id is None else (label == class_id))[keep].numpy())
        scores.append(score[keep].numpy())
    return np.concatenate(truths), np.concatenate(scores)
