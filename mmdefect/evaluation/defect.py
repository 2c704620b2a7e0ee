"""Adapter: :mod:`mmdefect.functional.metrics` as an mmengine metric."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from PIL import Image
from prettytable import PrettyTable

from mmdefect.files import write_json
from mmdefect.functional.calibration import OBJECTIVES, decide
from mmdefect.functional.metrics.components import SIZE_EDGES
from mmdefect.functional.metrics.counting import pack, unpack
from mmdefect.functional.metrics.defect import GROUPS, DefectCounters, check_groups
from mmdefect.functional.metrics.images import write_evidence
from mmdefect.functional.metrics.scores import KINDS, log_scores
from mmdefect.functional.parts import PartRule
from mmdefect.registry import METRICS

CALIBRATIONS, DECISIONS = (None, 'fit', 'apply'), ('argmax', 'calibrated', 'delivered')
#: Columns of the printed table, where their group is counted; the first two are those of mmseg.
COLUMNS = ('IoU', 'Acc', 'Precision', 'F1', 'tIoU', 'AP', 'F1max', 'AUPRO30', 'cRecall', 'partRecall')
COLUMNS += ('cal_IoU', 'cal_Acc', 'argmax_IoU')


@METRICS.register_module()
class DefectMetric(BaseMetric):
    """Segmentation metrics of a defect data set in one streaming pass; docs/evaluation.md says what each key means.

    Memory does not grow with the number of images, but for one number an image: ranks add up their counts. Use a
    sampler without padding (``round_up=False``) so that no image counts twice. Class 0 is the background.

    Args:
        groups: some of ``pixel``, ``tolerant``, ``components``, ``ranking``, ``pro``, ``image``, ``parts``, or
            ``'all'``.
        calibration: ``'fit'`` fits offsets on the images seen (validation) and reports ``cal_*`` with them;
            ``'apply'`` reports ``cal_*`` with offsets fitted before, which
            :class:`~mmdefect.engine.hooks.CalibrationHook` takes from the checkpoint; ``None`` does neither.
        objective: what a fit maximises, ``IoU``, ``F1`` or ``recall``.
        recall_floor: least recall of every class under ``recall``.
        offsets: offsets by class name to apply instead of those of the checkpoint.
        decision: what is judged, written and drawn: ``'argmax'``, ``'calibrated'`` (with offsets, which there must be),
            or ``'delivered'``: what predicting delivers, with the offsets where there are any.
        part_rule: which regions reject a part; the hook takes it from the checkpoint, or fits it on validation.
        scores: what ``seg_logits`` holds, ``'logits'`` or ``'probabilities'``. mmseg applies the sigmoid of heads with
            one channel itself: those are always taken as probabilities.
        bins, exact, ignore_index, tolerance, size_edges, min_coverage, min_alarm_area: see ``DefectCounters``.
        per_image: CSV file for one line an image; ``None`` writes none.
        evidence: NPZ file for what each image adds to the metrics (:mod:`mmdefect.functional.metrics.images`), from
            which intervals over images are made; ``None`` writes none.
        curves: JSON file for the precision-recall and overlap curves of each class; ``None`` writes none.
        output_dir: folder for the predicted label maps, as PNG of class ids; ``None`` writes none.
        output_root: folder of the images that ``output_dir`` replaces in names; ``None`` uses the bare file name.
        **kwargs: see :class:`mmengine.evaluator.BaseMetric`.
    """

    def __init__(
        self,
        groups: str | Sequence[str] = ('pixel',),
        calibration: str | None = None,
        objective: str = 'IoU',
        recall_floor: float = 0.8,
        offsets: dict[str, float] | None = None,
        decision: str = 'argmax',
        scores: str = 'logits',
        bins: int = 32768,
        exact: bool = False,
        ignore_index: int = 255,
        tolerance: float = 2.0,
        size_edges: Sequence[int] = SIZE_EDGES,
        min_coverage: float = 0.25,
        min_alarm_area: int = 1,
        part_rule: PartRule | None = None,
        per_image: str | None = None,
        evidence: str | None = None,
        curves: str | None = None,
        output_dir: str | None = None,
        output_root: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.groups = GROUPS if groups == 'all' else tuple(groups) if not isinstance(groups, str) else groups
        check_groups(self.groups)
        choices = dict(calibration=CALIBRATIONS, objective=OBJECTIVES, decision=DECISIONS, scores=KINDS)
        values = dict(calibration=calibration, objective=objective, decision=decision, scores=scores)
        for name, value in values.items():
            if value not in choices[name]:
                raise ValueError(f'`{name}` must be one of {choices[name]}, got {value!r}.')
        if calibration == 'fit' and (offsets is not None or decision != 'argmax'):
            raise ValueError(
                '`calibration="fit"` knows its offsets only when all images are seen; `offsets` and '
                'other decisions than argmax need `calibration="apply"`.'
            )
        self.calibration_mode, self.objective, self.recall_floor = calibration, objective, recall_floor
        self.offsets, self.decision, self.scores = offsets, decision, scores
        self.settings = dict(ignore_index=ignore_index, bins=bins, exact=exact, tolerance=tolerance)
        self.settings |= dict(size_edges=tuple(size_edges), min_coverage=min_coverage, min_alarm_area=min_alarm_area)
        self.per_image, self.curves, self.part_rule = per_image, curves, part_rule
        self.evidence = evidence
        self.output_dir, self.output_root = output_dir, output_root
        self.calibration: dict | None = None
        self._counters: DefectCounters | None = None
        self._rows: list[dict] = []
        self._evidence: list[dict] = []

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add the counts of one batch, and write its predictions if asked."""
        for sample in data_samples:
            prediction, label = (sample[name]['data'].squeeze(0) for name in ('pred_sem_seg', 'gt_sem_seg'))
            scores = sample['seg_logits']['data'] if 'seg_logits' in sample else None
            if self._counters is None:
                self._counters = self._new_counters(scores)
            try:
                prediction, name = self.decide(prediction, scores), '/'.join(Path(sample['img_path']).parts[-2:])
                needed = scores if self._counters.needs_scores else None
                image = self._counters.update(prediction, label, needed, name)
                if self.output_dir is not None:
                    self._write(sample['img_path'], prediction)
            except ValueError as err:
                raise ValueError(f'{sample.get("img_path", "an image")}: {err}') from err
            if self.per_image is not None:
                self._rows.append(self._row(sample, image))
            if self.evidence is not None:
                self._evidence.append({**image, **image.pop('added'), 'name': self._relative(sample['img_path'])})

    def evaluate(self, size: int) -> dict[str, float]:
        """Reduce the counts over all ranks, print the table and return the metrics."""
        counters, rows, evidence = self._counters or self._new_counters(None), self._rows, self._evidence
        self._counters, self._rows, self._evidence = None, [], []
        if get_world_size() > 1:
            vector = pack(counters.counters())
            all_reduce(vector, op='sum')
            unpack(vector, counters.counters())
            counters.join(all_gather_object(counters.rest()))
            rows, evidence = ([row for part in all_gather_object(own) for row in part] for own in (rows, evidence))
        metrics = self.compute_metrics(counters)
        if self.per_image is not None and is_main_process():
            write_rows(Path(self.per_image), rows)
        if self.evidence is not None and is_main_process():
            write_evidence(Path(self.evidence), evidence)
        if self.curves is not None and is_main_process():
            write_json(Path(self.curves), {'classes': counters.curves()})
        return {f'{self.prefix}/{k}': v for k, v in metrics.items()} if self.prefix else metrics

    def parts(self) -> list[tuple[bool, list]]:
        """Return whether each part seen is bad, and its regions: what a part rule is fitted on."""
        return [] if self._counters is None else self._counters.parts()

    def keys(self) -> list[str]:
        """Return the names of the metrics; they do not depend on the images."""
        names = self._new_counters(None).compute()
        return [f'{self.prefix}/{name}' if self.prefix else name for name in names]

    def compute_metrics(self, results: DefectCounters) -> dict[str, float]:
        """Return the metrics, shares in percent, and print the per-class table."""
        metrics, names = results.compute(), self.dataset_meta['classes']
        if results.calibration is not None:
            self.calibration = {**results.calibration.to_dict(), 'classes': list(names)}
        more = [c for c in COLUMNS if any(f'{c}.{name}' in metrics for name in names)]
        if len(more) > 2:
            print_log('all measures per class:\n' + per_class_table(metrics, names, more), 'current')
        print_log('per class results:', 'current')  # the table and the line after it are those of mmseg
        print_log('\n' + per_class_table(metrics, names, COLUMNS[:2]), 'current')
        return metrics

    def decide(self, prediction: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
        """Return the label map that was chosen, from that by argmax ``(H, W)`` and ``seg_logits`` ``(C, H, W)``."""
        offsets = self._offset_tuple()
        if self.decision == 'argmax' or (self.decision == 'delivered' and not any(offsets or ())):
            return prediction
        if offsets is None or scores is None:
            raise ValueError(
                f'`decision="calibrated"` needs {"scores" if offsets else "offsets"}, but there are none; '
                'validate with `calibration="fit"` while training, or decide by argmax.'
            )
        return decide(log_scores(scores, self._kind(scores)), torch.tensor(offsets))

    def _new_counters(self, scores: torch.Tensor | None) -> DefectCounters:
        fit = self.objective if self.calibration_mode == 'fit' else None
        offsets = self._offset_tuple() if self.calibration_mode == 'apply' else None
        options = dict(self.settings, fit=fit, recall_floor=self.recall_floor, offsets=offsets)
        options |= dict(part_rule=self.part_rule, keep_images=self.evidence is not None)
        return DefectCounters(tuple(self.dataset_meta['classes']), self.groups, kind=self._kind(scores), **options)

    def _kind(self, scores: torch.Tensor | None) -> str:
        return 'probabilities' if scores is not None and scores.shape[0] == 1 else self.scores

    def _offset_tuple(self) -> tuple[float, ...] | None:
        if self.offsets is None:
            return None
        names = self.dataset_meta['classes']
        unknown = set(self.offsets) - set(names[1:])
        if unknown:
            raise ValueError(f'`offsets` must name defect classes, some of {list(names[1:])}, got {sorted(unknown)}.')
        return (0.0, *(float(self.offsets.get(name, 0.0)) for name in names[1:]))

    def _row(self, sample: dict, image: dict) -> dict:
        row = {'image': sample['img_path']} | {
            name: image[name] for name in ('defective', 'rejected', 'score') if name in image
        }
        for prefix, matrix in (
            ('', image['confusion']),
            ('cal_', image.get('calibrated')),
            ('argmax_', image.get('argmax')),
        ):
            for k, name in enumerate(self.dataset_meta['classes'] if matrix is not None else ()):
                row[f'{prefix}hit.{name}'] = int(matrix[k, k])
                row[f'{prefix}predicted.{name}'] = int(matrix[:, k].sum())
                row[f'labelled.{name}'] = int(matrix[k].sum())
        return row

    def _relative(self, image_path: str) -> str:
        """Return the name of an image without suffix, below ``output_root`` if that is given."""
        source = Path(image_path)
        relative = source.relative_to(self.output_root) if self.output_root else Path(source.name)
        return relative.with_suffix('').as_posix()

    def _write(self, image_path: str, prediction: torch.Tensor) -> None:
        target = Path(self.output_dir) / f'{self._relative(image_path)}.png'
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(prediction.cpu().numpy().astype(np.uint8)).save(target)


def per_class_table(metrics: dict[str, float], names: Sequence[str], columns: Sequence[str]) -> str:
    """Return a text table with one line a class; NaN where a class has no such measure."""
    table = PrettyTable()
    table.add_column('Class', list(names))
    for column in columns:
        table.add_column(column, [np.round(metrics.get(f'{column}.{name}', np.nan), 2) for name in names])
    return table.get_string()


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write one line an image, ordered by name: counts of pixels from which all pixel measures follow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ['image']
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row['image']))
