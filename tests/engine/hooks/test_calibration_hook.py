"""Offsets travel from the validation into its own checkpoint and on into the test, in a real Runner."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
import torch
from scipy import ndimage

import mmdefect.registration  # noqa: F401
from mmdefect.engine.hooks.calibration_hook import add_to_checkpoint
from mmdefect.functional.parts import fit_part_rule
from tests.helpers.toy_segmentation import CLASSES, ToyData, toy_runner

HOOK = dict(type='CalibrationHook')


def runner(work_dir, **kwargs):
    kwargs = {'hooks': [HOOK], **kwargs}
    return toy_runner(work_dir, name=uuid.uuid4().hex, **kwargs)  # mmengine keeps one runner per name


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('run')
    runner(work_dir, checkpoint=dict(save_best='cal_fg_mIoU', rule='greater')).train()
    return work_dir


def test_every_checkpoint_holds_the_offsets_of_its_own_validation(trained):
    logged = {}
    for line in next(trained.glob('*/vis_data/scalars.json')).read_text().splitlines():
        record = json.loads(line)
        if 'cal_fg_mIoU' in record:
            logged[record['step']] = record
    assert sorted(logged) == [2, 4]
    for step, values in logged.items():
        checkpoint = load(trained / f'iter_{step}.pth')
        record = checkpoint['meta']['calibration']
        assert record['iter'] == checkpoint['meta']['iter'] == step and tuple(record['classes']) == CLASSES
        assert record == json.loads((trained / 'calibration' / f'iter_{step}.json').read_text())
        assert record['offsets'][1:] == pytest.approx([values['offset.attached'], values['offset.broken']])
        assert record['metrics']['cal_fg_mIoU'] == pytest.approx(values['cal_fg_mIoU'])
        assert values['cal_fg_mIoU'] > values['fg_mIoU'] and record['objective'] == 'IoU'
        assert 'optimizer' in checkpoint
    best = next(trained.glob('best_cal_fg_mIoU_iter_*.pth'))
    chosen = max(logged, key=lambda step: logged[step]['cal_fg_mIoU'])
    assert best.stem.endswith(f'iter_{chosen}') and load(best)['meta']['calibration']['iter'] == chosen


def test_the_test_applies_the_offsets_and_reports_both(trained):
    apply = dict(type='DefectMetric', groups='all', calibration='apply')
    got = runner(trained / 'test', load_from=str(trained / 'iter_4.pth'), test_evaluator=apply).test()
    checkpoint = load(trained / 'iter_4.pth')
    offsets = torch.tensor(checkpoint['meta']['calibration']['offsets'])
    hit = union = 0
    weight, bias = (checkpoint['state_dict'][f'conv.{name}'] for name in ('weight', 'bias'))
    for image, label in ToyData(seed=2).items:
        logits = torch.nn.functional.conv2d(image[None], weight, bias, padding=1)[0] + offsets[:, None, None]
        one, two = logits.argmax(0) == 1, label == 1
        hit, union = hit + int((one & two).sum()), union + int((one | two).sum())
    assert got['cal_IoU.attached'] == pytest.approx(100 * hit / union)
    assert got['IoU.attached'] != got['cal_IoU.attached'] and got['offset.attached'] == pytest.approx(float(offsets[1]))


def test_the_calibrated_decision_reaches_later_hooks(trained):
    from mmengine.hooks import Hook

    seen = []

    class Look(Hook):
        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.extend((s.pred_sem_seg.data.clone(), s.seg_logits.data) for s in outputs)

    for decision in ('argmax', 'calibrated', 'delivered'):
        seen.clear()
        metric = dict(type='DefectMetric', calibration='apply', decision=decision)
        hooks = [Look(), HOOK]
        runner(trained / decision, load_from=str(trained / 'iter_4.pth'), test_evaluator=metric, hooks=hooks).test()
        offsets = torch.tensor(load(trained / 'iter_4.pth')['meta']['calibration']['offsets'])
        offsets = offsets * 0 if decision == 'argmax' else offsets
        for chosen, logits in seen:
            assert chosen.shape == (1, 24, 24) and torch.equal(chosen[0], (logits + offsets[:, None, None]).argmax(0))


def test_the_delivered_decision_is_what_is_judged_and_argmax_stands_beside_it(trained):
    """The plain keys are those of what predicting delivers; by argmax they were far off and nothing said so."""
    metric = dict(type='DefectMetric', groups='all', calibration='apply')
    path = str(trained / 'iter_4.pth')
    got, plain = (
        runner(trained / f'judge_{decision}', load_from=path, test_evaluator={**metric, 'decision': decision}).test()
        for decision in ('delivered', 'argmax')
    )
    assert load(path)['meta']['calibration']['decision'] == 'calibrated'
    for key in ('fg_mIoU', 'IoU.attached', 'IoU.broken'):
        assert got[key] == got[f'cal_{key}'] == plain[f'cal_{key}'] != plain[key] == got[f'argmax_{key}']


def slow_parts(checkpoint, seed):
    """Of each image of a toy set whether it is bad, and class, area and score of its regions, in plain NumPy."""
    weight, bias = (checkpoint['state_dict'][f'conv.{name}'] for name in ('weight', 'bias'))
    offsets = torch.tensor(checkpoint['meta']['calibration']['offsets'])[:, None, None]
    parts = []
    for image, label in ToyData(seed=seed).items:
        logits = torch.nn.functional.conv2d(image[None], weight, bias, padding=1)[0]
        chosen, probabilities = (logits + offsets).argmax(0).numpy(), logits.softmax(0).numpy()
        regions = []
        for k in (1, 2):
            marks, count = ndimage.label(chosen == k, np.ones((3, 3)))
            regions += [
                (k, int((marks == m).sum()), float(probabilities[k][marks == m].mean())) for m in range(1, count + 1)
            ]
        parts.append((bool((label > 0).any()), regions))
    return parts


def test_the_part_rule_is_fitted_on_validation_kept_in_the_checkpoint_and_applied(trained, tmp_path, caplog):
    path = tmp_path / 'own.pth'
    path.write_bytes((trained / 'iter_4.pth').read_bytes())
    metric = dict(type='DefectMetric', groups='all', calibration='apply', decision='delivered')
    got = runner(tmp_path, load_from=str(path), test_evaluator=metric).test()
    checkpoint = load(path)
    record = checkpoint['meta']['part_rule']
    rule = fit_part_rule(slow_parts(checkpoint, seed=1), 3)
    assert record['min_areas'] == list(rule.min_areas) and record['min_score'] == pytest.approx(
        rule.min_score, abs=1e-5
    )
    assert record['classes'] == list(CLASSES) and record['iter'] == 4 and record['basis'] == 'bad and good parts'
    tested = slow_parts(checkpoint, seed=2)
    found = sum(bad and rule.rejects(regions) for bad, regions in tested)
    accepted = sum(not bad and not rule.rejects(regions) for bad, regions in tested)
    assert (got['partRecall'], got['partRecall_of']) == (100 * found / 4, 4)
    assert (got['partAccepted'], got['partAccepted_of']) == (100 * accepted / 2, 2)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'Test: {found} of 4 bad parts found (95 %: ' in log and 'decision: calibrated' in log
    checkpoint['meta']['part_rule']['min_areas'] = [500, 500]  # the rule of the checkpoint is taken, not fitted anew
    torch.save(checkpoint, path)
    got = runner(tmp_path, load_from=str(path), test_evaluator=metric).test()
    assert (got['partRecall'], got['partAccepted']) == (0, 100)


def test_a_test_never_fits(trained):
    with pytest.raises(ValueError, match='must not fit offsets'):
        runner(
            trained / 'fit',
            load_from=str(trained / 'iter_4.pth'),
            test_evaluator=dict(type='DefectMetric', calibration='fit'),
        ).test()


def test_a_checkpoint_without_offsets_is_tested_by_argmax_only(trained, tmp_path):
    checkpoint = load(trained / 'iter_4.pth')
    del checkpoint['meta']['calibration']
    torch.save(checkpoint, tmp_path / 'plain.pth')
    metric = dict(type='DefectMetric', calibration='apply')
    got = runner(tmp_path, load_from=str(tmp_path / 'plain.pth'), test_evaluator=metric).test()
    assert 'fg_mIoU' in got and not [key for key in got if key.startswith('cal_')]
    with pytest.raises(ValueError, match='needs offsets, but the checkpoint holds none'):
        calibrated = {**metric, 'decision': 'calibrated'}
        runner(tmp_path, load_from=str(tmp_path / 'plain.pth'), test_evaluator=calibrated).test()


def test_training_goes_on_from_a_rewritten_checkpoint(trained, tmp_path):
    first = runner(tmp_path, max_iters=2)
    first.train()
    second = runner(tmp_path, max_iters=4, resume=True)
    second.train()
    whole = load(trained / 'iter_4.pth')
    for name, value in load(tmp_path / 'iter_4.pth')['state_dict'].items():
        assert torch.allclose(value, whole['state_dict'][name])
    assert load(tmp_path / 'iter_4.pth')['meta']['calibration']['iter'] == 4


def test_averaged_weights_are_what_is_validated_saved_and_resumed(tmp_path):
    hooks = [HOOK, dict(type='EMAHook', momentum=0.3)]
    runner(tmp_path / 'whole', hooks=hooks).train()
    runner(tmp_path / 'parts', max_iters=2, hooks=hooks).train()
    resumed = runner(tmp_path / 'parts', hooks=hooks, resume=True)
    resumed.train()
    whole, parts = (load(tmp_path / name / 'iter_4.pth') for name in ('whole', 'parts'))
    for name, value in whole['state_dict'].items():
        assert torch.allclose(value, parts['state_dict'][name], atol=1e-6)
        assert not torch.allclose(value, whole['ema_state_dict'][f'module.{name}'])  # the weights that went on training
    assert parts['meta']['calibration']['offsets'] == pytest.approx(whole['meta']['calibration']['offsets'], abs=1e-4)


def test_a_checkpoint_of_another_iteration_is_left_alone(trained):
    path = trained / 'iter_2.pth'
    before = path.read_bytes()
    assert not add_to_checkpoint(path, dict(iter=4))
    assert path.read_bytes() == before and not list(trained.glob('*.calibrating'))
