"""What each test image adds to the metrics of a data set, compactly: for intervals over images, long after the test.

The scores of any defect keep some hundred bins, with edges where the positives and the first negatives of all images
lie; a metric that is made anew from them misses that of all scores by some hundredths of a percent.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from mmdefect.functional.metrics.ranking import Curve, image_ranking

#: Beside the test log of a run.
EVIDENCE_NAME = 'images.npz'
HISTOGRAMS = ('pixels', 'positives', 'overlap')
COMPONENTS = ('components', 'found', 'alarms', 'alarm_images', 'clean_images')
#: A share of 1 in the ``overlap`` of records.
_SHARE = 10**6


def write_evidence(path: Path, images: Sequence[Mapping[str, Any]]) -> None:
    """Write what :meth:`DefectCounters.update` returned of each image, with its ``name`` and what it ``added``."""
    from mmdefect.functional.metrics.counting import UNIT  # needs torch, which who reads evidence may not have

    images = sorted(images, key=lambda image: image['name'])
    table: dict[str, ndarray] = {'names': np.array([image['name'] for image in images])}
    for name in ('confusion', 'calibrated'):
        if images and name in images[0]:
            table[name] = np.stack([_counts(np.asarray(image[name])) for image in images])
    if images and 'score' in images[0]:
        table['score'] = np.array([image['score'] for image in images])
        table['defective'] = np.array([bool(image['defective']) for image in images])
    for name in (*COMPONENTS, 'regions'):
        if images and name in images[0]:
            table[name] = np.array([int(image[name]) for image in images])
    if images and 'pixels' in images[0]:
        histograms = {n: np.stack([image[n][::-1] for image in images]) for n in HISTOGRAMS if n in images[0]}
        positive = histograms['positives'].sum(0)
        starts = _starts(positive, histograms['pixels'].sum(0) - positive)
        for name, rows in histograms.items():
            joined = np.add.reduceat(rows, starts, axis=1)
            table[name] = np.rint(joined * (_SHARE / UNIT)) if name == 'overlap' else joined
            table[name] = table[name].astype(np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **table)


def _counts(matrix: ndarray) -> ndarray:
    """Intersection, predicted, labelled of every class and, last, of any defect: ``(K + 1, 3)``."""
    from mmdefect.functional.metrics.pixel import any_defect

    rows = [np.stack([np.diagonal(m), m.sum(0), m.sum(1)], axis=-1) for m in (matrix, np.asarray(any_defect(matrix)))]
    return np.concatenate([rows[0], rows[1][1:]])


def _starts(positive: ndarray, negative: ndarray, count: int = 100) -> ndarray:
    """First bins of the groups: even in the positives, and even in the logarithm of the negatives, from the top."""
    found = [np.zeros(1, np.int64)]
    for values, shares in ((positive, np.arange(1, count) / count), (negative, np.logspace(-6, 0, 60)[:-1])):
        if values.sum():
            cumulated = np.cumsum(values)
            found.append(np.searchsorted(cumulated, shares * cumulated[-1]) + 1)
    starts = np.unique(np.concatenate(found))
    return starts[starts < len(positive)]


def pack_evidence(path: Path) -> dict[str, Any]:
    """Return the evidence of a test as plain data for a record."""
    with np.load(path) as table:
        packed = {name: _pack(table[name]) for name in table.files if name != 'names'}
        return {'names': table['names'].tolist(), **packed}


def _pack(values: ndarray) -> dict[str, Any]:
    data = values.astype('<f4' if values.dtype.kind == 'f' else '<i4')
    text = base64.b64encode(zlib.compress(data.tobytes(), 9)).decode()
    return {'shape': list(data.shape), 'type': data.dtype.str, 'zlib': text}


def unpack_evidence(packed: Mapping[str, Any]) -> dict[str, ndarray]:
    """Invert :func:`pack_evidence`."""
    arrays = {
        name: np.frombuffer(zlib.decompress(base64.b64decode(v['zlib'])), v['type']).reshape(v['shape'])
        for name, v in packed.items()
        if name != 'names'
    }
    return {'names': np.array(packed['names']), **arrays}


def without_each(evidence: Mapping[str, ndarray], metric: str) -> tuple[float, ndarray] | None:
    """Return a metric of all images, and ``(N,)`` without each one, in percent; ``None`` where it does not follow."""
    parts, measure = _measure(evidence, metric)
    if measure is None:
        return None
    if parts.ndim == 1:  # indices of images: no sum says enough
        return measure(parts), np.array([measure(np.delete(parts, k)) for k in range(len(parts))])
    parts = parts.astype(np.float64)
    total = parts.sum(0)
    return measure(total), np.array([measure(total - part) for part in parts])


def _measure(evidence: Mapping[str, ndarray], metric: str) -> tuple[ndarray, Callable[[ndarray], float] | None]:
    """Return what images add up to a metric, ``(N, ...)``, and the function of the sum."""
    prefix, kind = ('calibrated', metric[4:]) if metric.startswith('cal_') else ('confusion', metric)
    if kind == 'any_IoU' and prefix in evidence:
        return evidence[prefix][:, -1], lambda c: _percent(c[0], c[1] + c[2] - c[0])
    if kind == 'fg_mIoU' and prefix in evidence:
        return evidence[prefix][:, 1:-1].reshape(len(evidence['names']), -1), _mean_iou
    ratios = {
        'cRecall': ('found', 'components', 100),
        'FA_per_image': ('alarms', 'clean_images', 1),
        'FA_images': ('alarm_images', 'clean_images', 100),
    }
    if metric in ratios and 'components' in evidence:
        part, whole, scale = ratios[metric]
        pair = np.stack([evidence[part], evidence[whole]], axis=1)
        return pair, lambda c: _percent(c[0], c[1]) * scale / 100
    if metric in ('any_AP', 'any_AUROC', 'any_F1max', 'any_IoUmax') and 'positives' in evidence:
        rows = np.stack([evidence['positives'], evidence['pixels'] - evidence['positives']], axis=1)
        return rows, lambda c: 100 * Curve(*c, c[0], tied=False).ranking()[metric[4:]]
    if metric in ('AUPRO30', 'AUPRO5') and 'overlap' in evidence:
        rows = np.stack([evidence['overlap'], evidence['pixels'] - evidence['positives']], axis=1)
        regions = np.broadcast_to(evidence['regions'][:, None, None], (len(rows), 1, rows.shape[2]))
        limit = int(metric[5:]) / 100
        return np.concatenate([rows, regions], axis=1), lambda c: 100 * _curve(c).aupro(limit)
    if metric in ('image_AUROC', 'image_AP', 'image_F1max') and 'score' in evidence:
        score, defective = evidence['score'], evidence['defective'].astype(bool)
        return np.arange(len(score)), lambda k: 100 * image_ranking(score[k], defective[k])[metric[6:]]
    return np.zeros(0), None


def _curve(c: ndarray) -> Curve:
    return Curve(c[0], c[1], c[0], overlap=c[0] / _SHARE, regions=float(c[2, 0]))


def _mean_iou(flat: ndarray) -> float:
    hit, predicted, labelled = flat.reshape(-1, 3).T
    known = predicted + labelled > 0
    return float(100 * (hit[known] / (predicted + labelled - hit)[known]).mean()) if known.any() else float('nan')


def _percent(part: float, whole: float) -> float:
    return float(100 * part / whole) if whole else float('nan')
