"""Defects as objects: which were found, by size, and false alarms on clean images."""

import numpy as np
import torch
from torch import Tensor

from mmdefect.functional.metrics.counting import Counter, LabelMap

SIZES = ('tiny', 'small', 'medium', 'large')
SIZE_EDGES = (10, 100, 1000)


class ComponentCounter(Counter):
    """Recall of labelled components by class and size, and predicted components on clean images.

    A component is a set of labelled pixels of one class (or of any defect) that touch, diagonally too. It is found
    when at least ``min_coverage`` of its pixels are predicted as its class (as any defect).

    Args:
        size_edges: areas in pixels where small, medium and large begin.
        min_coverage: share of a component that must be predicted, in (0, 1].
        min_alarm_area: predicted components below this area, in pixels, are no alarm.
    """

    def __init__(
        self, num_classes: int, size_edges=SIZE_EDGES, min_coverage: float = 0.25, min_alarm_area: int = 1
    ) -> None:
        if len(size_edges) != 3 or list(size_edges) != sorted(set(size_edges)) or size_edges[0] < 1:
            raise ValueError(f'`size_edges` must be three growing areas in pixels, got {size_edges}.')
        if not 0 < min_coverage <= 1:
            raise ValueError(f'`min_coverage` must be a share in (0, 1], got {min_coverage}.')
        self.edges = np.array(size_edges)
        self.min_coverage, self.min_alarm_area = min_coverage, min_alarm_area
        per_size = (num_classes, len(SIZES))  # row 0 is any defect, row k is class k
        scalars = dict.fromkeys(('clean_images', 'clean_pixels', 'alarms', 'alarm_images'), ())
        super().__init__(components=per_size, found=per_size, **scalars)

    def update(self, prediction: LabelMap, truth: LabelMap) -> None:
        """Count one image, given its prediction and its label."""
        if truth.clean:
            self.sums['clean_images'] += 1
            self.sums['clean_pixels'] += truth.valid
            alarms = int((prediction.regions_of(None)[1] >= self.min_alarm_area).sum())
            self.sums['alarms'] += alarms
            self.sums['alarm_images'] += int(alarms > 0)
            return
        for class_id in [None, *truth.present]:
            if class_id is None or truth.num_classes > 2:  # else the only class and any defect are the same
                components, found = self._found(prediction, truth, class_id)
            self.sums['components'][class_id or 0] += components
            self.sums['found'][class_id or 0] += found

    def _found(self, prediction: LabelMap, truth: LabelMap, class_id: int | None) -> tuple[Tensor, Tensor]:
        region, area = (part.numpy() for part in truth.regions_of(class_id))
        chosen = prediction.values.numpy()[truth.pixels_of(class_id).numpy()]
        hit = chosen > 0 if class_id is None else chosen == class_id
        covered = np.bincount(region[hit], minlength=len(area)) / np.maximum(area, 1)
        size = np.searchsorted(self.edges, area, side='right')
        sizes = (size, size[covered >= self.min_coverage])
        return tuple(torch.from_numpy(np.bincount(s, minlength=len(SIZES))) for s in sizes)

    def compute(self) -> dict[str, float]:
        """Return recall (by size for any defect, per class as ``class.<k>``) and alarms; NaN where none was counted."""
        components, found = self.sums['components'].double(), self.sums['found'].double()
        result = {'all': _ratio(found[0].sum(), components[0].sum())}
        result |= {name: _ratio(found[0, i], components[0, i]) for i, name in enumerate(SIZES)}
        result |= {f'class.{k}': _ratio(found[k].sum(), components[k].sum()) for k in range(1, len(components))}
        images, alarms = self.sums['clean_images'], self.sums['alarms']
        result['alarms_per_image'] = _ratio(alarms, images)
        result['alarms_per_megapixel'] = _ratio(1e6 * alarms, self.sums['clean_pixels'])
        result['alarm_images'] = _ratio(self.sums['alarm_images'], images)
        return result


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part) / float(whole) if float(whole) else float('nan')
