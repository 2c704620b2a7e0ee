"""The hooks of CutPaste in a real Runner, on a two-layer model."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmdefect.registration  # noqa: F401
from mmdefect.engine.hooks import CutPasteBackboneHook, FreezeBackboneHook
from mmdefect.registry import HOOKS


class Noise(Dataset):
    metainfo: ClassVar[dict] = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index)), y=index % 2)


class TwoLayers(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.seen = []

    def forward(self, x, y, mode='loss'):
        self.seen.append(
            (
                self.backbone[0].weight.detach().clone(),
                self.head.weight.detach().clone(),
                self.backbone[1].running_mean.clone(),
                self.backbone.training,
            )
        )
        x, y = torch.stack(list(x)), torch.as_tensor(y)
        return dict(loss=nn.functional.cross_entropy(self.head(self.backbone(x).mean((2, 3))), y))


def run(tmp_path, hooks, iters=6, **options):
    model = TwoLayers()
    runner = Runner(
        model,
        str(tmp_path / 'run'),
        train_dataloader=dict(
            dataset=Noise(), batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        custom_hooks=hooks,
        default_scope='mmseg',
        experiment_name=f'{tmp_path.name}_{len(list(tmp_path.iterdir()))}',
        **dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5))) | options,
    )
    runner.train()
    return model


def test_a_frozen_backbone_moves_after_its_time_and_not_before(tmp_path):
    model = run(tmp_path, [dict(type='FreezeBackboneHook', updates=3)])
    backbones, heads, means, training = zip(*model.seen, strict=True)
    assert all(torch.equal(backbones[0], w) for w in backbones[:4]), 'three updates leave it as it was'
    assert not torch.equal(backbones[3], backbones[4])
    assert not torch.equal(heads[0], heads[1])
    assert all(torch.equal(means[0], m) for m in means[:4]) and not torch.equal(means[3], means[5])
    assert training == (False, False, False, True, True, True)
    assert all(p.requires_grad for p in model.backbone.parameters())


def test_a_random_backbone_is_not_frozen(tmp_path):
    model = run(tmp_path, [dict(type='FreezeBackboneHook', updates=3)], 2, cfg=dict(random_initialisation=['said']))
    assert not torch.equal(model.seen[0][0], model.seen[1][0])


def test_parameters_frozen_by_others_stay_frozen():
    model = TwoLayers()
    model.backbone[0].weight.requires_grad_(False)
    hook, runner = FreezeBackboneHook(1), SimpleNamespace(model=model, iter=0, cfg={})
    hook.before_train_iter(runner, 0)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    runner.iter = 1
    hook.before_train_iter(runner, 1)
    assert [p.requires_grad for p in model.backbone.parameters()] == [False, True, True, True]


@pytest.fixture
def checkpoint(tmp_path):
    source = TwoLayers()
    nn.init.constant_(source.backbone[0].weight, 0.25)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'source.pth')
    return str(tmp_path / 'source.pth')


def test_the_backbone_is_there_at_the_first_update(tmp_path, checkpoint):
    model = run(tmp_path, [dict(type='CutPasteBackboneHook', checkpoint=checkpoint)], 2)
    assert torch.all(model.seen[0][0] == 0.25)
    log = next((tmp_path / 'run').rglob('*.log')).read_text()
    assert '100.0 % of the parameters loaded' in log and 'missing (0): none' in log


def test_a_resumed_run_keeps_its_own(tmp_path, checkpoint):
    hooks = [dict(type='CutPasteBackboneHook', checkpoint=checkpoint)]
    first = run(
        tmp_path, hooks, 2, default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
    )
    again = run(tmp_path, hooks, 4, resume=True)
    torch.testing.assert_close(again.seen[0][0], first.backbone[0].weight.detach())
    assert len(again.seen) == 2


@pytest.mark.parametrize(
    'options, load_from, words',
    [
        (dict(target='neck'), None, '`target` must be a part of TwoLayers, got .neck.; it has .*backbone, head'),
        (dict(), 'other.pth', 'got both: other.pth'),
        (dict(min_share=1.0, target='head'), None, 'at least 100 % of the backbone'),
    ],
)
def test_what_cannot_work_stops_before_the_first_update(checkpoint, options, load_from, words):
    runner = SimpleNamespace(model=TwoLayers(), iter=0, _resume=False, _load_from=load_from)
    with pytest.raises(ValueError, match=words):
        CutPasteBackboneHook(checkpoint, **options).before_train(runner)


@HOOKS.register_module()
class RatesHook(Hook):
    """Notes the rate and momentum of each update."""

    def __init__(self, kept):
        self.kept = kept

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        group = runner.optim_wrapper.param_groups[0]
        self.kept.append((group['lr'], group['momentum']))


def rates(tmp_path, updates, hooks=(), **options):
    """Train with warm-up, cosine and a falling momentum of that many updates; return rate and momentum of each."""
    kept = []
    schedule = [
        dict(type='LinearLR', start_factor=0.1, begin=0, end=2, by_epoch=False),
        dict(type='CosineAnnealingLR', T_max=updates - 2, eta_min=0.001, begin=2, end=updates, by_epoch=False),
        dict(type='CosineAnnealingMomentum', T_max=updates, begin=0, end=updates, by_epoch=False),
    ]
    saving = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
    optimizer = dict(optimizer=dict(type='SGD', lr=0.5, momentum=0.9))
    run(
        tmp_path,
        [*hooks, RatesHook(kept)],
        updates,
        **{'param_scheduler': schedule, 'cfg': dict(param_scheduler=schedule), 'default_hooks': saving}
        | dict(optim_wrapper=optimizer, **options),
    )
    return kept


def test_a_longer_run_has_the_rates_of_its_length_from_where_it_goes_on(tmp_path):
    (tmp_path / 'whole').mkdir()
    whole = rates(tmp_path / 'whole', 9)
    short = rates(tmp_path, 4)
    longer = rates(tmp_path, 9, [dict(type='LongerScheduleHook')], resume=True)
    assert len(longer) == 5 and whole[3] != pytest.approx(short[3])
    for ours, fresh in zip(longer, whole[4:], strict=True):
        assert ours == pytest.approx(fresh, rel=1e-6)


def test_a_run_of_the_same_length_goes_on_to_the_bit(tmp_path):
    for name in ('whole', 'plain'):
        (tmp_path / name).mkdir()
    rates(tmp_path / 'whole', 6)
    for name in ('5', '6'):
        (tmp_path / 'whole' / 'run' / f'iter_{name}.pth').unlink()
    (tmp_path / 'whole' / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'whole' / 'run' / 'iter_4.pth'))
    copied = shutil.copytree(tmp_path / 'whole' / 'run', tmp_path / 'plain' / 'run')
    (copied / 'last_checkpoint').write_text(str(copied / 'iter_4.pth'))
    hooked = rates(tmp_path / 'whole', 6, [dict(type='LongerScheduleHook')], resume=True)
    assert hooked == rates(tmp_path / 'plain', 6, resume=True) and len(hooked) == 2
