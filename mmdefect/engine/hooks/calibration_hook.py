"""Carry what validation fitted, offsets and part rule, in the checkpoint it judged, and from there into the test."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner

from mmdefect.files import replacing, write_json
from mmdefect.functional.calibration import read_offsets
from mmdefect.functional.parts import PartRule, any_region, fit_part_rule, read_part_rule, verdict
from mmdefect.registry import HOOKS, METRICS

KEY, PART_KEY = 'calibration', 'part_rule'
#: Metrics that are stored beside the offsets.
STORED = ('fg_mIoU', 'fg_mAcc', 'fg_mF1', 'fg_AP', 'cal_fg_mIoU', 'cal_fg_mAcc', 'cal_fg_mF1')


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Keep offsets and weights together.

    Training by iterations saves a checkpoint before it validates. So after each validation whose metric fits
    offsets, they are written to ``calibration/iter_N.json`` of the work dir, and the checkpoint of the same iteration
    gets them as ``meta['calibration']``: the one saved already is rewritten in one step, those saved from then on
    (``best_*.pth``) carry them from the start. A test takes them from the checkpoint; it never fits on the test set.

    Which parts are rejected is asked of the delivered decision, so its rule can be fitted only when the offsets are
    known: the first test of a checkpoint that holds no rule goes through the validation set once more, fits it, and
    writes it into the checkpoint as ``meta['part_rule']``. The test ends with the verdict on parts.
    """

    priority = 'ABOVE_NORMAL'  # before the checkpoint hook saves the best, and before hooks that draw predictions

    fitted: dict | None = None  # offsets of the last validation
    loaded: dict | None = None  # offsets of the loaded checkpoint
    loaded_rule: dict | None = None  # part rule of the loaded checkpoint

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
        meta = checkpoint.get('meta') or {}
        self.loaded, self.loaded_rule = meta.get(KEY), meta.get(PART_KEY)

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
            calibrated = metric.decision != 'argmax' and any((metric.offsets or {}).values())
            runner.logger.info(f'decision: {"calibrated" if calibrated else "argmax"}')
            if 'parts' in metric.groups and metric.part_rule is None:
                metric.part_rule = self._part_rule(runner, metric)
                runner.logger.info(metric.part_rule.in_words(runner.test_dataloader.dataset.metainfo['classes']))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keep what the closing sentence needs."""
        self.tested = metrics or {}

    def after_test(self, runner: Runner) -> None:
        """Say how many parts were found and rejected, with exact intervals."""
        if 'partRecall_of' in self.tested:
            bad, good = (int(self.tested[f'{name}_of']) for name in ('partRecall', 'partAccepted'))
            found = round(self.tested['partRecall'] * bad / 100) if bad else 0
            accepted = round(self.tested['partAccepted'] * good / 100) if good else 0
            counts = dict(bad=bad, found=found, good=good, rejected=good - accepted)
            classes = runner.test_dataloader.dataset.metainfo['classes']
            runner.logger.info(verdict(**counts, ious={name: self.tested[f'IoU.{name}'] for name in classes[1:]}))

    def _part_rule(self, runner: Runner, metric) -> PartRule:
        """Return the part rule of the checkpoint; fit and store it where there is none."""
        classes = list(runner.test_dataloader.dataset.metainfo['classes'])
        delivered = metric.decision != 'argmax' or not any((metric.offsets or {}).values())
        if delivered and self.loaded_rule is not None:
            return read_part_rule(self.loaded_rule, classes)
        if runner._val_loop is None:
            runner.logger.warning('there is no validation set: a part is rejected for any pixel of a defect.')
            return any_region(len(classes))
        parts = _regions_of_validation(runner, metric)
        rule = fit_part_rule(parts, len(classes))
        if delivered and self.loaded is not None and runner._load_from is not None and is_main_process():
            record = {**rule.to_dict(), 'classes': classes, 'iter': self.loaded['iter']}
            try:
                add_to_checkpoint(runner._load_from, record, PART_KEY)
            except OSError as err:
                text = f'the part rule should be kept in {runner._load_from}, but it cannot be written ({err.strerror})'
                runner.logger.warning(f'{text}; predicting with this file rejects a part for any pixel of a defect.')
        return rule

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Put the calibrated label maps in the place of those by argmax, for whoever draws or saves them next."""
        for metric in _defect_metrics(runner.test_loop):
            if metric.decision != 'argmax' and metric.offsets is not None:
                for sample in outputs:
                    field = sample.pred_sem_seg
                    decided = metric.decide(field.data.squeeze(0), sample.seg_logits.data)
                    field.data = decided.reshape(field.data.shape).to(field.data.dtype)


def _regions_of_validation(runner: Runner, metric) -> list[tuple[bool, list]]:
    """Return of each part of the validation set whether it is bad, and its regions by the decision of ``metric``."""
    loop, model = runner.val_loop, runner.model
    bare = model.module if is_model_wrapper(model) else model
    if isinstance(bare, BaseTTAModel):
        model = bare.module  # the validation has no views to average
    settings = dict(groups=('parts',), calibration='apply', decision=metric.decision, offsets=metric.offsets)
    judge = METRICS.build(dict(settings, type='DefectMetric', scores='logits'))
    judge.dataset_meta = loop.dataloader.dataset.metainfo
    model.eval()
    with torch.no_grad():
        for batch in loop.dataloader:
            judge.process(batch, [sample.to_dict() for sample in model.val_step(batch)])
    own = judge.parts()
    return [part for shard in all_gather_object(own) for part in shard] if get_world_size() > 1 else own


def add_to_checkpoint(path: str | Path, record: dict, key: str = KEY) -> bool:
    """Write ``record`` into the meta of a checkpoint of the same iteration, in one step; return whether it is one."""
    # Mapped, so that a checkpoint of another iteration costs nothing.
    checkpoint = torch.load(path, map_location='cpu', weights_only=False, mmap=True)
    if checkpoint.get('meta', {}).get('iter') != record['iter']:
        return False
    checkpoint['meta'][key] = record
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)
    return True


def _defect_metrics(loop) -> list:
    """The metrics that know of calibrations: ``DefectMetric`` and what has its attributes."""
    return [metric for metric in loop.evaluator.metrics if hasattr(metric, 'calibration_mode')]
