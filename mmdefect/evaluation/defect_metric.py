"""Adapter: :mod:`mmdefect.functional.metrics` as an mmengine metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from PIL import Image
from prettytable import PrettyTable

from mmdefect.functional.metrics.pixel import confusion_matrix, iou_and_accuracy, summarize
from mmdefect.registry import METRICS


@METRICS.register_module()
class DefectMetric(BaseMetric):
    """Segmentation metrics of a defect data set in one streaming pass.

    Memory does not grow with the number of images: ranks add up their counts. Use a sampler without padding
    (``round_up=False``) so that no image counts twice.

    Args:
        ignore_index: label value that is left out.
        background: class left out of ``fg_mIoU`` and ``fg_mAcc``.
        output_dir: folder for the predicted label maps, as PNG of class ids; ``None`` writes none.
        output_root: folder of the images that is replaced by ``output_dir`` in the names of the PNGs; ``None``
            uses the bare file name.
        **kwargs: see :class:`mmengine.evaluator.BaseMetric`.
    """

    def __init__(self,
                 ignore_index: int = 255,
                 background: int | None = 0,
                 output_dir: str | None = None,
                 output_root: str | None = None,
                 **kwargs) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self.background = background
        self.output_dir = output_dir
        self.output_root = output_root
        self._confusion: torch.Tensor | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add the counts of one batch, and write its predictions if asked."""
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            prediction = sample['pred_sem_seg']['data'].squeeze(0)
            label = sample['gt_sem_seg']['data'].squeeze(0)
            try:
                counts = confusion_matrix(prediction, label, classes, self.ignore_index)
            except ValueError as err:
                raise ValueError(f'{sample.get("img_path", "an image")}: {err}') from err
            self._confusion = counts if self._confusion is None else self._confusion + counts
            if self.output_dir is not None:
                self._write(sample['img_path'], prediction)

    def evaluate(self, size: int) -> dict[str, float]:
        """Reduce the counts over all ranks and return the metrics."""
        classes = len(self.dataset_meta['classes'])
        confusion = self._confusion if self._confusion is not None else torch.zeros(classes, classes, dtype=torch.int64)
        all_reduce(confusion, op='sum')
        self._confusion = None
        metrics = self.compute_metrics(confusion)
        return {f'{self.prefix}/{k}': v for k, v in metrics.items()} if self.prefix else metrics

    def compute_metrics(self, results: torch.Tensor) -> dict[str, float]:
        """Return the metrics in percent and print the per-class table, from a confusion matrix."""
        names = self.dataset_meta['classes']
        iou, accuracy = (np.round(100 * values, 2) for values in iou_and_accuracy(results))
        table = PrettyTable()
        for header, column in (('Class', names), ('IoU', iou), ('Acc', accuracy)):
            table.add_column(header, list(column))
        logger = MMLogger.get_current_instance()
        print_log('per class results:', logger)
        print_log('\n' + table.get_string(), logger=logger)
        metrics = summarize(results, self.background)
        for name, class_iou, class_accuracy in zip(names, *iou_and_accuracy(results), strict=True):
            metrics[f'IoU.{name}'] = 100 * float(class_iou)
            metrics[f'Acc.{name}'] = 100 * float(class_accuracy)
        return metrics

    def _write(self, image_path: str, prediction: torch.Tensor) -> None:
        source = Path(image_path)
        relative = source.relative_to(self.output_root) if self.output_root else Path(source.name)
        target = Path(self.output_dir) / relative.with_suffix('.png')
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(prediction.cpu().numpy().astype(np.uint8)).save(target)
