"""Every key can be selected on, and a wrong one is said before training, in a real Runner."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

import mmdefect.registration  # noqa: F401
from mmdefect.functional.metrics.defect import GROUPS, DefectCounters
from tests.helpers.toy_segmentation import CLASSES, toy_runner

SCHEDULE = Path(__file__).resolve().parents[3] / 'configs' / '_base_' / 'schedules' / 'schedule_40k.py'
HOOK = dict(type='SelectionCheckHook')


def test_the_rule_of_every_key_is_inferred():
    settings = Config.fromfile(str(SCHEDULE)).default_hooks.checkpoint
    settings = {k: v for k, v in settings.items() if k != 'type'}
    keys = DefectCounters(CLASSES, GROUPS, fit='IoU').compute()
    keys = [key for key in keys if 'threshold' not in key and not key.startswith('offset.')]
    assert len(keys) > 90
    for key in keys:
        rules = CheckpointHook(save_best=key, **settings).rules
        assert rules == ['less' if key.startswith('FA_') else 'greater'], key


def test_a_key_that_no_validation_reports_is_refused_before_training(tmp_path):
    checkpoint = dict(save_best='cal_fg_IoU', rule='greater')
    runner = toy_runner(tmp_path, hooks=[HOOK], checkpoint=checkpoint, name=uuid.uuid4().hex)
    with pytest.raises(ValueError, match="got 'cal_fg_IoU'; near ones are .*'cal_fg_mIoU'"):
        runner.train()
    assert runner.iter == 0 and not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('key', ['fg_AP', 'AP.attached', 'cal_fg_mIoU', 'auto'])
def test_a_known_key_passes_and_chooses(tmp_path, key):
    checkpoint = dict(save_best=key, rule='greater')
    toy_runner(tmp_path, max_iters=2, hooks=[HOOK], checkpoint=checkpoint, name=uuid.uuid4().hex).train()
    assert len(list(tmp_path.glob('best_*iter_2.pth'))) == 1
