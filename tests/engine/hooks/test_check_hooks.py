"""Runs whose model, data, checkpoint or selection disagree are stopped, with a fake runner and in a real one."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

import mmdefect.registration  # noqa: F401
from mmdefect.engine.hooks import ClassCheckHook
from mmdefect.functional.metrics.defect import GROUPS, DefectCounters
from tests.helpers.toy_segmentation import CLASSES, toy_runner

SCHEDULE = Path(__file__).resolve().parents[3] / 'configs' / '_base_' / 'schedules' / 'schedule_40k.py'
HOOK = dict(type='SelectionCheckHook')


class Head(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def runner(heads, classes, auxiliary=()):
    model = torch.nn.Module()
    model.decode_head = heads
    if auxiliary:
        model.auxiliary_head = torch.nn.ModuleList(auxiliary)
    dataset = SimpleNamespace(metainfo=dict(classes=classes))
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        test_dataloader=loader,
        _train_dataloader=loader,
        _test_dataloader=None,
        _val_dataloader=None,
        _load_from='old.pth',
    )


def test_matching_classes_pass():
    ClassCheckHook().before_train(runner(Head(3), ['normal', 'a', 'b'], [Head(3)]))


@pytest.mark.parametrize(('main', 'auxiliary', 'name'), [(19, 3, 'decode_head'), (3, 19, 'auxiliary_head.0')])
def test_a_head_with_other_classes_is_named(main, auxiliary, name):
    with pytest.raises(ValueError, match=f'`num_classes` of {name} must be 3 .* got 19'):
        ClassCheckHook().before_test(runner(Head(main), ['normal', 'a', 'b'], [Head(auxiliary)]))


def test_a_checkpoint_of_other_classes_is_rejected():
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('normal', 'dent'))))
    with pytest.raises(ValueError, match=r"old.pth has \['normal', 'dent'\]"):
        ClassCheckHook().after_load_checkpoint(runner(Head(3), ['normal', 'a', 'b']), checkpoint)


@pytest.mark.parametrize('checkpoint', [dict(), dict(meta=None), dict(meta=dict(dataset_meta=dict()))])
def test_a_checkpoint_that_promises_no_classes_passes(checkpoint):
    ClassCheckHook().after_load_checkpoint(runner(Head(3), ['normal', 'a', 'b']), checkpoint)


def test_the_rule_of_every_key_is_inferred():
    settings = Config.fromfile(str(SCHEDULE)).default_hooks.checkpoint
    settings = {k: v for k, v in settings.items() if k != 'type'}
    keys = DefectCounters(CLASSES, GROUPS, fit='IoU').compute()
    # Thresholds and offsets are no qualities.
    keys = [key for key in keys if 'threshold' not in key and not key.startswith('offset.')]
    assert len(keys) > 90
    for key in keys:
        rules = CheckpointHook(save_best=key, **settings).rules
        assert rules == ['less' if key.startswith('FA_') else 'greater'], key


def test_a_key_that_no_validation_reports_is_rejected_before_training(tmp_path):
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
