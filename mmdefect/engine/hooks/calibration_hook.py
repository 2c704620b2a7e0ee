"""Carry the offsets that a validation fitted into the checkpoint it judged, and from there into the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdefect.files import replacing, write_json
from mmdefect.functional.calibration import read_offsets
from mmdefect.registry import HOOKS

KEY = 'calibration'
#: Metrics that are stored beside the offsets.
STORED = ('fg_mIoU', 'fg_mAcc', 'fg_mF1', 'fg_AP', 'cal_fg_mIoU', 'cal_fg_mAcc', 'cal_fg_mF1')


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Keep offsets and weights together.

    Training by iterations saves a checkpoint before it validates. So after each validation whose metric fits
    offsets, they are written to ``calibration/iter_N.json`` of the work dir, and the checkpoint of the same iteration
    gets them as ``meta['calibration']``: the one saved already is rewritten in one step, those saved from then on
    (``best_*.pth``) carry them from the start. A test takes them from the checkpoint; it never fits.
    """

    priority = 'ABOVE_NORMAL'  # before the checkpoint hook saves the best, and before hooks that draw predictions

    fitted: dict | None = None  # offsets of the last validation
    loaded: dict | None = None  # offsets of the loaded checkpoint

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Take the offsets of this validation."""
        fits = [m.calibration for m in _defect_metrics(runner.val_loop) if m.calibration is not None]
        if not fits:
            return
        scores = {key: float(metrics[key]) for key in STORED if key in (metrics or {})}
        self.fitted = {**fits[0], 'iter': runner.iter, 'metrics': scores}
        if not isinstance(runner._train_loop, dict) and runner._train_loop is not None and is_main_process():
            write_json(Path(runner.work_dir) / KEY / f'iter_{runner.iter}.json', self.fitted)
            last = runner.message_hub.runtime_info.get('last_ckpt')
            if last is not None and Path(last).is_file():
                add_to_checkpoint(last, self.fitted)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the offsets to a checkpoint of the iteration they were fitted at."""
        if self.fitted is not None and checkpoint['meta'].get('iter') == self.fitted['iter']:
            checkpoint['meta'][KEY] = self.fitted

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the offsets of a checkpoint."""
        self.loaded = (checkpoint.get('meta') or {}).get(KEY)

    def before_test(self, runner: Runner) -> None:
        """Hand the offsets of the checkpoint to the metrics of the test."""
        for metric in _defect_metrics(runner.test_loop):
            if metric.calibration_mode == 'fit':
                raise ValueError(
                    'a test must not fit offsets: its metric must have `calibration="apply"` (or none), got `"fit"`; '
                    'fit on the validation set.'
                )
            if metric.calibration_mode == 'apply' and metric.offsets is None:
                if self.loaded is None:
                    runner.logger.warning('the checkpoint holds no fitted offsets: the test reports argmax only.')
                else:
                    metric.offsets = read_offsets(self.loaded, runner.test_dataloader.dataset.metainfo['classes'])
                    runner.logger.info(f'offsets of the checkpoint, fitted on validation: {metric.offsets}')
            if metric.decision == 'calibrated' and metric.offsets is None:
                raise ValueError(
                    'the decision "calibrated" needs offsets, but the checkpoint holds none; take one that was '
                    'validated with `calibration="fit"`, or decide by argmax.'
                )

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Put the calibrated label maps in the place of those by argmax, for whoever draws or saves them next."""
        for metric in _defect_metrics(runner.test_loop):
            if metric.decision == 'calibrated':
                for sample in outputs:
                    field = sample.pred_sem_seg
                    decided = metric.decide(field.data.squeeze(0), sample.seg_logits.data)
                    field.data = decided.reshape(field.data.shape).to(field.data.dtype)


def add_to_checkpoint(path: str | Path, record: dict) -> bool:
    """Write ``record`` into the meta of a checkpoint of the same iteration, in one step; return whether it is one."""
    # Mapped, so that a checkpoint of another iteration costs nothing.
    checkpoint = torch.load(path, map_location='cpu', weights_only=False, mmap=True)
    if checkpoint.get('meta', {}).get('iter') != record['iter']:
        return False
    checkpoint['meta'][KEY] = record
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)
    return True


def _defect_metrics(loop) -> list:
    """The metrics that know of calibrations: ``DefectMetric`` and what has its attributes."""
    return [metric for metric in loop.evaluator.metrics if hasattr(metric, 'calibration_mode')]
