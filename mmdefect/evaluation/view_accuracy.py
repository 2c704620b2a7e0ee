"""How well CutPaste views of held-out normal images are told apart: the only validation that needs no defect."""

from collections.abc import Sequence

import numpy as np
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric

from mmdefect.functional.metrics.ranking import image_ranking
from mmdefect.registry import METRICS


@METRICS.register_module()
class ViewAccuracy(BaseMetric):
    """``accuracy`` over views, ``accuracy_class`` (mean over classes), ``AUROC`` of pasted or not; all in percent."""

    default_prefix = 'views'

    def process(self, data_batch: dict, data_samples: Sequence) -> None:
        """Keep label, prediction and score of every view."""
        for sample in data_samples:
            get = sample.get if isinstance(sample, dict) else sample.__getattribute__
            self.results.append((int(get('gt_label')), int(get('pred_label')), 1 - float(get('pred_score')[0])))

    def evaluate(self, size: int) -> dict[str, float]:
        """Count over all ranks; ``size``, the number of images, limits nothing: each has several views."""
        results = sorted(row for part in all_gather_object(self.results) for row in part)
        self.results.clear()
        return {f'{self.prefix}/{name}': value for name, value in self.compute_metrics(results).items()}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the metrics of (label, prediction, score) rows."""
        labels, predicted, scores = (np.array(column) for column in zip(*results, strict=True))
        right = labels == predicted
        per_class = [right[labels == k].mean() for k in np.unique(labels)]
        return {
            'accuracy': 100 * float(right.mean()),
            'accuracy_class': 100 * float(np.mean(per_class)),
            'AUROC': 100 * image_ranking(scores, labels > 0)['AUROC'],
        }
