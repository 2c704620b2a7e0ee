"""All defect metrics of a segmentation in one pass, as groups that can be left out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdefect.functional.calibration import FOLDS, Calibration, MarginCounter, binned_confusion, cross_fit, decide
from mmdefect.functional.metrics.components import SIZE_EDGES, SIZES, ComponentCounter
from mmdefect.functional.metrics.counting import Counter, LabelMap, read_label, read_prediction
from mmdefect.functional.metrics.pixel import (
    MEASURES,
    PixelCounter,
    TolerantCounter,
    any_defect,
    measures,
    nan_mean,
    summarize,
)
from mmdefect.functional.metrics.ranking import image_ranking
from mmdefect.functional.metrics.scores import ScoreBins, ScoreCounter, ScoreKeeper, log_odds, log_scores
from mmdefect.functional.parts import PartRule, Region, any_region, counted_verdicts, telling_regions

GROUPS = ('pixel', 'tolerant', 'components', 'ranking', 'pro', 'image', 'parts')
NEED_SCORES = ('ranking', 'pro', 'image', 'parts')
PRO_LIMITS = {'AUPRO30': 0.3, 'AUPRO5': 0.05}


@dataclass(eq=False)
class DefectCounters:
    """Counters of the chosen groups; sees one image after the other."""

    classes: tuple[str, ...]  # names, background first
    #: Some of ``pixel`` (always counted), ``tolerant``, ``components``; the others need scores.
    groups: tuple[str, ...] = ('pixel',)
    ignore_index: int = 255  # label value that is left out
    kind: str = 'logits'  # what the scores are, or 'probabilities'
    bins: int = 32768  # of the scores, at most 32768
    exact: bool = False  # keep all scores instead of binning them; memory then grows with the images
    tolerance: float = 2.0  # radius of ``tolerant``, in pixels
    size_edges: tuple[int, int, int] = SIZE_EDGES  # areas in pixels where small, medium and large components begin
    min_coverage: float = 0.25  # share of a component that must be predicted for it to be found
    min_alarm_area: int = 1  # smallest predicted component that is an alarm, in pixels
    fit: str | None = None  # objective of the calibration fitted on what is seen, 'IoU', 'F1' or 'recall'
    recall_floor: float = 0.8  # see :func:`~mmdefect.functional.calibration.fit_offsets`
    offsets: tuple[float, ...] | None = None  # fitted elsewhere, one a class, to be applied
    keep_images: bool = False  # have :meth:`update` also say what an image adds, for intervals over images
    part_rule: PartRule | None = None  # which predicted regions reject a part; any if left out

    def __post_init__(self) -> None:
        check_groups(self.groups)
        classes, groups = list(self.classes), self.groups
        if self.offsets is not None and len(self.offsets) != len(classes):
            raise ValueError(f'`offsets` must have one value for each class of {classes}, got {len(self.offsets)}.')
        count = len(classes)
        self.pixel = PixelCounter(count)
        self.tolerant = self.components = self.scores = None
        if 'tolerant' in groups:
            self.tolerant = TolerantCounter(count, self.tolerance)
        if 'components' in groups:
            self.components = ComponentCounter(count, self.size_edges, self.min_coverage, self.min_alarm_area)
        if 'ranking' in groups or 'pro' in groups:
            bins, overlap = ScoreBins(self.bins), 'pro' in groups
            self.scores = ScoreKeeper(count, overlap) if self.exact else ScoreCounter(count, bins, overlap)
        self.margins = MarginCounter(count, FOLDS) if self.fit is not None else None
        self.decided = PixelCounter(count) if self.offsets is not None else None
        self.plain = PixelCounter(count) if self.offsets is not None else None  # argmax, whatever is judged
        self.images: list[dict] = []
        self.calibration: Calibration | None = None

    @property
    def needs_scores(self) -> bool:
        """Whether :meth:`update` needs scores."""
        return bool(set(self.groups) & set(NEED_SCORES)) or self.margins is not None or self.decided is not None

    def _parts(self) -> list:
        every = (self.pixel, self.tolerant, self.components, self.scores, self.margins, self.decided, self.plain)
        return [part for part in every if part is not None]

    def counters(self) -> list[Counter]:
        """Return the counters whose sums add up over shards, in a fixed order."""
        return [part for part in self._parts() if isinstance(part, Counter)]

    def update(self, prediction: Tensor, label: Tensor, scores: Tensor | None = None, name: str = '') -> dict:
        """Count one image.

        Args:
            prediction: ``(H, W)`` class ids, any number type.
            label: ``(H, W)`` integer class ids, or the ignored value.
            scores: ``(C, H, W)`` float, one channel a class or one for a single defect class; may be left out when no
                group needs them.
            name: of the image; says in which fold of the cross-fit it is. Without one its content does.

        Returns:
            What is known of this image: ``confusion`` ``(K, K)``, ``defective`` (``None`` if all is ignored) and
            where asked ``score`` (largest log-odds of any defect), ``calibrated`` (confusion with the offsets),
            ``regions`` (those of the prediction that tell, see :mod:`mmdefect.functional.parts`), ``rejected``
            and ``added`` (what the image adds to components and to the histograms of any defect).
        """
        before = self._sums_of_any() if self.keep_images else {}
        truth = read_label(label, len(self.classes), self.ignore_index)
        chosen = read_prediction(prediction, truth)
        image = dict(confusion=self.pixel.update(chosen, truth), defective=None)
        if truth.valid:
            image['defective'] = not truth.clean
        if self.tolerant is not None:
            self.tolerant.update(chosen, truth)
        if self.components is not None:
            self.components.update(chosen, truth)
        if self.needs_scores:
            self._update_scores(scores, chosen, truth, image, name)
        kept = ('defective', 'score', 'regions', 'rejected', 'labelled')
        self.images.append({key: image[key] for key in kept if key in image})
        if self.keep_images:
            image['added'] = {key: value - before[key] for key, value in self._sums_of_any().items()}
        return image

    def _sums_of_any(self) -> dict[str, np.ndarray]:
        """Return copies of the sums of components and of the histograms of any defect, where they are counted."""
        found = {}
        if self.components is not None:
            sums = self.components.sums
            found |= {name: sums[name][0].sum().numpy() for name in ('components', 'found')}
            found |= {name: sums[name].numpy().copy() for name in ('alarms', 'alarm_images', 'clean_images')}
        if isinstance(self.scores, ScoreCounter):
            names = [n for n in ('pixels', 'positives', 'overlap', 'regions') if n in self.scores.sums]
            found |= {name: self.scores.sums[name][-1].cpu().numpy().copy() for name in names}
        return found

    def _update_scores(self, scores: Tensor | None, chosen: LabelMap, truth: LabelMap, image: dict, name: str) -> None:
        scores = _checked(scores, truth.size_hw, len(self.classes), self.kind)
        if set(self.groups) & set(NEED_SCORES):
            odds = log_odds(scores)
            if self.scores is not None:
                self.scores.update(odds, truth)
            if 'image' in self.groups and truth.valid:
                some = odds[-1]
                if truth.ignored.numel():
                    some = some.index_fill(0, truth.ignored.to(some.device), -torch.inf)
                image['score'] = float(some.max())
        if 'parts' in self.groups:
            image['regions'] = telling_regions(scored_regions(chosen, scores))
            image['rejected'] = (self.part_rule or any_region(len(self.classes))).rejects(image['regions'])
            image['labelled'] = truth.present, int(truth.regions_of(None)[1].max()) if truth.present else 0
        if self.margins is not None:
            content = name.encode() if name else truth.values.numpy().tobytes() + chosen.values.numpy().tobytes()
            self.margins.update(scores, truth, zlib.crc32(content) % FOLDS)
        if self.decided is not None:
            plain = read_prediction(decide(scores, torch.zeros(len(scores))), truth)
            image['argmax'] = self.plain.update(plain, truth)
            decided = read_prediction(decide(scores, torch.tensor(self.offsets, dtype=torch.float64)), truth)
            image['calibrated'] = self.decided.update(decided, truth)

    def merge(self, other: DefectCounters) -> None:
        """Add what counters of the same settings saw."""
        for own, theirs in zip(self._parts(), other._parts(), strict=True):
            own.merge(theirs)
        self.images += other.images

    def rest(self) -> dict:
        """Return what does not add up in :meth:`counters`: one entry an image, kept scores, sparse margins."""
        sparse = self.margins if self.margins is not None and not self.margins.dense else None
        return dict(images=self.images, kept=getattr(self.scores, 'kept', None), margins=sparse)

    def join(self, rests: list[dict]) -> None:
        """Take over the :meth:`rest` of all shards, this one included; the sums of :meth:`counters` are added apart."""
        self.images = [image for rest in rests for image in rest['images']]
        if isinstance(self.scores, ScoreKeeper):
            self.scores.kept = [entry for rest in rests for entry in rest['kept']]
        if self.margins is not None and not self.margins.dense:
            self.margins = MarginCounter(len(self.classes), FOLDS)
            for rest in rests:
                self.margins.merge(rest['margins'])

    def compute(self) -> dict[str, float]:
        """Return all metrics by key (docs/evaluation.md); shares in percent, NaN where nothing was counted."""
        result = self._pixel_keys(self.pixel.sums['confusion'].numpy())
        if self.tolerant is not None:
            iou, f1 = self.tolerant.compute()
            result |= self._class_keys('tIoU', iou) | self._class_keys('tF1', f1)
        if self.components is not None:
            result |= self._component_keys(self.components.compute())
        if self.scores is not None:
            result |= self._score_keys()
        if 'image' in self.groups:
            seen = [i for i in self.images if i['defective'] is not None]
            values = image_ranking(np.array([i['score'] for i in seen]), np.array([i['defective'] for i in seen], bool))
            result |= {f'image_{name}': value * (1 if name == 'threshold' else 100) for name, value in values.items()}
        if 'parts' in self.groups:
            result |= self._part_keys()
        return result | self._calibrated_keys()

    def parts(self) -> list[tuple[bool, list[Region]]]:
        """Return of each image that counts whether it is bad, and its regions: what a part rule is fitted on."""
        return [(image['defective'], image['regions']) for image in self.images if image['defective'] is not None]

    def _part_keys(self) -> dict[str, float]:
        seen = [image for image in self.images if image['defective'] is not None]
        counted = counted_verdicts((image['defective'], image['rejected']) for image in seen)
        found, accepted = counted['found'], counted['good'] - counted['rejected']
        result = {}
        for name, right, count in (('partRecall', found, counted['bad']), ('partAccepted', accepted, counted['good'])):
            result |= {name: 100.0 * right / count if count else float('nan'), f'{name}_of': float(count)}
        groups = {
            f'.{name}': (lambda image, k=k: k in image['labelled'][0]) for k, name in enumerate(self.classes) if k
        }
        edges = (1, *self.size_edges, float('inf'))
        for size, low, high in zip(SIZES, edges, edges[1:], strict=False):
            groups[f'_{size}'] = lambda image, low=low, high=high: low <= image['labelled'][1] < high
        for name, belongs in groups.items():
            own = [100.0 * image['rejected'] for image in seen if belongs(image)]
            result[f'partRecall{name}'] = float(np.mean(own)) if own else float('nan')
        return result

    def _pixel_keys(self, confusion: np.ndarray) -> dict[str, float]:
        result = summarize(confusion)
        both, rows, means = measures(any_defect(confusion)), measures(confusion), self.pixel.image_means()
        for name in MEASURES:
            result |= self._named(name, rows[name])
            result[f'any_{name}'] = 100 * float(both[name][1])
        result |= {f'fg_m{name}': 100 * nan_mean(rows[name][1:]) for name in ('Precision', 'F1')}
        for name in MEASURES:
            result |= self._class_keys(f'i{name}', means[name])
        return result

    def _named(self, name: str, rows, first: int = 0) -> dict[str, float]:
        """Keys ``name.class`` in percent, from the class number ``first`` on."""
        return {f'{name}.{c}': 100 * float(v) for c, v in zip(self.classes[first:], rows[first:], strict=True)}

    def _class_keys(self, name: str, rows) -> dict[str, float]:
        """Keys of rows with any defect first: ``name.class``, ``fg_name``, ``any_name``, in percent."""
        foreground = 100 * nan_mean(np.asarray(rows[1:], float))
        return self._named(name, rows, 1) | {f'fg_{name}': foreground, f'any_{name}': 100 * float(rows[0])}

    def _component_keys(self, found: dict[str, float]) -> dict[str, float]:
        result = {'cRecall': 100 * found['all']} | {f'cRecall_{s}': 100 * found[s] for s in SIZES}
        result |= {f'cRecall.{c}': 100 * found[f'class.{k}'] for k, c in enumerate(self.classes) if k}
        alarms = dict(FA_per_image=found['alarms_per_image'], FA_per_Mpx=found['alarms_per_megapixel'])
        return result | alarms | {'FA_images': 100 * found['alarm_images']}

    def _score_keys(self) -> dict[str, float]:
        curves = [self.scores.curve(k) for k in self.scores.channels]
        curves = [curves[-1], *curves[: len(self.classes) - 1]]  # any defect first
        result = {}
        if 'ranking' in self.groups:
            values = [curve.ranking() for curve in curves]
            for name in ('AP', 'AUROC', 'F1max', 'IoUmax'):
                result |= self._class_keys(name, [v[name] for v in values])
            result |= {f'threshold.{c}': v['threshold'] for c, v in zip(self.classes[1:], values[1:], strict=True)}
            result['any_threshold'] = values[0]['threshold']
        if 'pro' in self.groups:
            for name, limit in PRO_LIMITS.items():
                rows = [curve.aupro(limit) for curve in curves]
                result |= {name: 100 * rows[0]} | self._named(name, rows, 1)
        return result

    def curves(self) -> dict[str, dict[str, list[float]]]:
        """Return the points of the precision-recall and overlap curves by class; empty without scores."""
        if self.scores is None:
            return {}
        return {name: self.scores.curve(k).points() for k, name in enumerate(self.classes) if k}

    def _calibrated_keys(self) -> dict[str, float]:
        if self.margins is not None:
            margins, folds = self.margins.fold_table()
            self.calibration = cross_fit(margins, folds, self.fit, self.recall_floor)
            offsets = self.calibration.offsets
            confusion = binned_confusion(margins, folds.sum(0), offsets)
        elif self.decided is not None:
            confusion, offsets = self.decided.sums['confusion'].numpy(), self.offsets
        else:
            return {}
        rows = measures(confusion)
        result = {f'cal_{k}': v for k, v in summarize(confusion).items() if k != 'aAcc'}
        for name in MEASURES:
            result |= self._named(f'cal_{name}', rows[name], 1)
        result |= {f'cal_fg_m{name}': 100 * nan_mean(rows[name][1:]) for name in ('Precision', 'F1')}
        result['cal_any_IoU'] = 100 * float(measures(any_defect(confusion))['IoU'][1])
        if self.plain is not None:
            plain = self.plain.sums['confusion'].numpy()
            result |= self._named('argmax_IoU', measures(plain)['IoU'], 1)
            result['argmax_fg_mIoU'] = summarize(plain)['fg_mIoU']
        elif self.calibration is not None:
            result[f'cal_crossed_{self.calibration.objective}'] = 100 * self.calibration.crossed_value
        return result | {f'offset.{c}': float(o) for c, o in zip(self.classes[1:], offsets[1:], strict=True)}


def scored_regions(chosen: LabelMap, scores: Tensor) -> list[Region]:
    """Return class, area and mean probability of every region of a prediction; ``scores`` are ``(K, H, W)`` logits."""
    found: list[Region] = []
    flat = scores.reshape(len(scores), -1)
    for class_id in chosen.present:
        region, areas = chosen.regions_of(class_id)
        probability = flat[:, chosen.pixels_of(class_id).to(flat.device)].double().softmax(0)[class_id].cpu()
        means = torch.bincount(region, probability) / areas
        found += [(class_id, int(area), float(mean)) for area, mean in zip(areas, means, strict=True)]
    return found


def check_groups(groups: tuple[str, ...]) -> None:
    """Reject an unknown group."""
    unknown = [group for group in groups if group not in GROUPS]
    if isinstance(groups, str) or unknown:
        raise ValueError(f'`groups` must be some of {GROUPS}, got {groups!r}.')


def _checked(scores: Tensor | None, size_hw: tuple[int, int], classes: int, kind: str) -> Tensor:
    if scores is None:
        raise ValueError(
            f'the chosen groups need scores, got none; pass the logits, or leave out the groups {NEED_SCORES} and the '
            'calibration.'
        )
    if tuple(scores.shape[-2:]) != tuple(size_hw):
        raise ValueError(
            f'`scores` must have the size of the label {tuple(size_hw)}, got {tuple(scores.shape)}; predict at the '
            'resolution of the label.'
        )
    if scores.ndim != 3 or scores.shape[0] not in (classes, *([1] if classes == 2 else [])):
        one = ' or 1' if classes == 2 else ''
        raise ValueError(f'`scores` must have {classes} channels{one}, got {tuple(scores.shape)}.')
    # One sum finds any NaN or infinity; only then every score is looked at.
    if not bool(torch.isfinite(scores.sum())) and not bool(torch.isfinite(scores).all()):
        raise ValueError(
            f'`scores` must be finite, but {int((~torch.isfinite(scores)).sum())} of {scores.numel()} are not; '
            'the network has diverged or overflowed in half precision.'
        )
    return log_scores(scores, kind)
