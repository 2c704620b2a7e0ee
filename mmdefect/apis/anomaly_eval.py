"""Test anomaly detectors: image and pixel metrics of a category, with the untrained backbone beside the trained one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from mmdefect.apis.anomaly_fit import iter_batches
from mmdefect.datasets.masks import decode_mask
from mmdefect.datasets.mvtec import find_categories, scan_mvtec
from mmdefect.datasets.samples import Sample
from mmdefect.experiments.tables import markdown_table
from mmdefect.functional.metrics.counting import read_label
from mmdefect.functional.metrics.ranking import image_ranking
from mmdefect.functional.metrics.scores import ScoreKeeper
from mmdefect.models.anomaly_detector import AnomalyDetector

#: Mean image AUROC over MVTec AD of an ImageNet ResNet-18 without CutPaste.
UNTRAINED_AVERAGE = 90.8
#: Categories of MVTec AD.
CATEGORIES = ('bottle', 'cable', 'capsule', 'carpet', 'grid', 'hazelnut', 'leather', 'metal_nut', 'pill', 'screw')
CATEGORIES += ('tile', 'toothbrush', 'transistor', 'wood', 'zipper')
#: Published image AUROC in percent of CutPaste 3-way on MVTec AD, in this order: Li et al. (CVPR 2021), and the tables
#: of the repositories liuxtakeoff/cutpaste_paddle (chosen on the test images), Lieberk and Runinho/pytorch-cutpaste.
PUBLISHED = {
    'paper': (98.3, 80.6, 96.2, 93.1, 99.9, 97.3, 100.0, 99.3, 92.4, 86.3, 93.4, 98.3, 95.5, 98.6, 99.4),
    'paddle': (90.7, 91.7, 93.2, 97.3, 100.0, 99.0, 100.0, 98.6, 97.3, 88.4, 98.8, 98.6, 98.7, 99.3, 100.0),
    'Lieberk': (100.0, 94.7, 89.9, 94.3, 98.4, 98.8, 100.0, 95.9, 91.7, 82.3, 99.5, 97.7, 93.6, 99.1, 99.9),
    'pytorch-cutpaste': (99.6, 77.2, 92.4, 60.1, 100.0, 86.8, 100.0, 87.8, 91.7, 86.8, 97.2, 94.7, 93.0, 99.4, 98.8),
}
METRICS = ('AUROC', 'AP', 'pixel_AUROC', 'pixel_AP', 'AUPRO')


@dataclass(frozen=True)
class DetectorResult:
    """What a detector gave on the test images of a category."""

    category: str
    arm: str  # name of the detector, such as 'untrained backbone'
    samples: list[Sample]
    scores: np.ndarray  # (N,) float64 on the scale of the detector
    heat: np.ndarray | None  # (N, H, W) float16 on its scale
    #: In percent, those of METRICS that could be had; `found` and `false_alarms`: shares of the defective and of the
    #: good images above the threshold.
    metrics: dict[str, float] = field(default_factory=dict)
    threshold: float = 1.0  # scores above it are anomalies

    @property
    def defective(self) -> np.ndarray:
        """``(N,)`` bool."""
        return np.array([not s.is_clean for s in self.samples])


def choose_categories(root: str, wanted: Sequence[str]) -> list[str]:
    """Return category names; ``all`` means every one found."""
    found = list(find_categories(root))
    chosen = found if list(wanted) == ['all'] else list(wanted)
    missing = [name for name in chosen if name not in found]
    if missing or not chosen:
        raise ValueError(
            f'`categories` must be folders of {root} with train/good and test, got {missing or list(wanted)}; '
            f'found: {", ".join(found) or "none"}.'
        )
    return chosen


def test_images(root: str, category: str, division: str | None = None) -> list[Sample]:
    """Return the test images of a category, which must be good and defective ones."""
    samples = [s for s in scan_mvtec(root, [category], division=division) if s.own_split == 'test']
    if len({s.is_clean for s in samples}) != 2:
        raise ValueError(
            f'the test images of {root}/{category} must be good and defective ones, got {len(samples)} of one kind; '
            'without both there is no AUROC. Of VisA, name a division such as 2cls_highshot.'
        )
    return samples


def run_test(
    detector: AnomalyDetector, samples: Sequence[Sample], category: str, arm: str, precision: str = 'fp32'
) -> DetectorResult:
    """Score test images once and compute the metrics."""
    scores, maps = [], []
    title = f'{category}: {arm}'
    for _, images in iter_batches([s.img_path for s in samples], detector.settings.size_hw, 16, title):
        raw, heat = detector.score_images(images, precision=precision)
        value, heat = detector.on_scale(raw, heat)
        scores.append(value)
        if heat is not None:
            maps.append(heat.half())
    values = torch.cat(scores).double().numpy()
    defective = np.array([not s.is_clean for s in samples])
    ranking = image_ranking(values, defective)
    metrics = {'AUROC': 100 * ranking['AUROC'], 'AP': 100 * ranking['AP']}
    threshold = detector.scales['score'].threshold
    above = values > threshold
    metrics['found'], metrics['false_alarms'] = 100 * above[defective].mean(), 100 * above[~defective].mean()
    heat = torch.cat(maps).numpy() if maps else None
    if heat is not None and all(s.is_clean or s.seg_map_path for s in samples):
        metrics.update(pixel_metrics(heat, samples))
    metrics = {k: float(v) for k, v in metrics.items()}
    return DetectorResult(category, arm, list(samples), values, heat, metrics, threshold)


def pixel_metrics(heat: np.ndarray, samples: Sequence[Sample]) -> dict[str, float]:
    """Return pixel AUROC, AP and AUPRO (up to 30 % false positives) in percent, exactly.

    ``heat`` is ``(N, H, W)`` float; it is resized to masks of another size.
    """
    keeper = ScoreKeeper(2)
    for own, sample in zip(heat, samples, strict=True):
        own = own.astype(np.float32)
        mask = np.zeros(own.shape, np.uint8)
        if sample.seg_map_path is not None:
            data = Path(sample.seg_map_path).read_bytes()
            mask = (decode_mask(data, 'binary', sample.seg_map_path) != 0).astype(np.uint8)
        if own.shape != mask.shape:
            own = cv2.resize(own, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        keeper.update(torch.from_numpy(own).view(1, -1), read_label(torch.from_numpy(mask), 2))
    curve = keeper.curve(1)
    ranking = curve.ranking()
    return {'pixel_AUROC': 100 * ranking['AUROC'], 'pixel_AP': 100 * ranking['AP'], 'AUPRO': 100 * curve.aupro(0.3)}


def roc_points(scores: np.ndarray, defective: np.ndarray) -> list[tuple[float, float]]:
    """Return false and true positive rates from the highest score down; equal scores come at once."""
    order = np.argsort(-scores, kind='stable')
    last = np.append(np.diff(scores[order]) != 0, True)
    rates = [np.cumsum(hit[order])[last] / max(1, int(hit.sum())) for hit in (~defective, defective)]
    return [(0.0, 0.0), *zip(rates[0].tolist(), rates[1].tolist(), strict=True)]


def rows_of(results: Sequence[DetectorResult]) -> list[dict[str, object]]:
    """Return the table: a row for each category and arm, then the average of each arm."""
    return with_averages([row_of(result) for result in results])


def row_of(result: DetectorResult) -> dict[str, object]:
    """Return the row of a category and arm, with what was published for it; None for what there is not."""
    numbers = {name: result.metrics.get(name) for name in (*METRICS, 'found', 'false_alarms')}
    place = CATEGORIES.index(result.category) if result.category in CATEGORIES else None
    published = {name: None if place is None else values[place] for name, values in PUBLISHED.items()}
    return dict(category=result.category, arm=result.arm, images=len(result.samples), **numbers, **published)


def with_averages(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows of categories and the average of each arm, without columns of which nobody has a number."""
    known = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    rows = [{key: row[key] for key in known} for row in rows]
    for arm in dict.fromkeys(row['arm'] for row in rows):
        own = [row for row in rows if row['arm'] == arm]
        columns = {key: [row[key] for row in own] for key in known[3:]}
        means = {key: None if None in values else float(np.mean(values)) for key, values in columns.items()}
        rows.append(dict(category='average', arm=arm, images=sum(row['images'] for row in own), **means))
    return rows


def table_text(rows: Sequence[dict[str, object]]) -> str:
    """Return rows as a Markdown table; numbers with two decimals, a dash for none."""

    def cell(value: object) -> str:
        return '–' if value is None else f'{value:.2f}' if isinstance(value, float) else str(value)

    heads = [head.replace('_', ' ') for head in rows[0]]
    return markdown_table(heads, [[cell(value) for value in row.values()] for row in rows], text=(0, 1))
