"""A bi-level training in a real Runner: who owns what, what an outer step touches, resuming, splits, the recipe."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmdefect.apis import compose
from mmdefect.engine.loops.bilevel_loop import copy_batch
from mmdefect.engine.loops.sample_losses import frozen_statistics, weighted_heads
from mmdefect.functional.bilevel import make_estimator
from mmdefect.registry import DATASETS, MODELS
from tests.helpers.bilevel import leaves_of, tiny_config, write_parts

pytestmark = pytest.mark.usefixtures('own_cache')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def trained(root, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('whole')
    runner = Runner.from_cfg(tiny_config(root, work_dir, 6))
    runner.train()
    return runner


def prepared(root, work_dir, **changes):
    """A runner that is ready to train, and the batch that comes first."""
    runner = Runner.from_cfg(tiny_config(root, work_dir, 2, **changes))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    loop = runner.train_loop
    loop.preprocessor.set_synthesis(loop.synthesis)
    runner.model.train()
    runner.call_hook('before_train_epoch')
    return loop, next(iter(loop.dataloader))


def test_the_optimiser_of_the_model_never_sees_the_policy(trained):
    loop = trained.train_loop
    held = {id(p) for group in trained.optim_wrapper.optimizer.param_groups for p in group['params']}
    outer = {id(p) for group in loop.outer_optimizer.param_groups for p in group['params']}
    policy = {id(p) for p in loop.policy.parameters()}
    assert not held & policy and outer <= policy and outer == {id(p) for p in loop.policy.leaves()}
    assert not policy & {id(p) for p in trained.model.parameters()}
    assert loop.outer_steps == 2 and len(loop.history) == 2  # warm-up 1, every second of 6


def test_the_policy_moved_and_the_checkpoint_holds_it(trained):
    checkpoint = torch.load(f'{trained.work_dir}/iter_6.pth', map_location='cpu', weights_only=False)
    state = checkpoint['bilevel']
    assert state['outer_steps'] == 2 and len(state['history']) == 2
    for name, value in trained.train_loop.policy.state_dict().items():
        assert torch.equal(value, state['policy'][name])
    assert not [k for k in checkpoint['state_dict'] if 'raw_' in k or 'location' in k]
    moved = trained.train_loop.policy.scalars()
    assert moved['weight.clean'] != 1 and moved['weight.image'] == 1


def test_a_resumed_training_takes_the_same_way(trained, root, tmp_path):
    shutil.copytree(trained.work_dir, tmp_path / 'run')
    for file in (tmp_path / 'run').glob('iter_6.pth'):
        file.unlink()
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'iter_4.pth'))
    cfg = tiny_config(root, tmp_path / 'run', 6)
    cfg.resume = True
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.train_loop.outer_steps == trained.train_loop.outer_steps
    np.testing.assert_array_equal(leaves_of(runner.train_loop), leaves_of(trained.train_loop))
    for (name, one), other in zip(runner.model.state_dict().items(), trained.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert runner.train_loop.history == trained.train_loop.history


def test_resuming_without_the_state_of_the_policy_is_rejected(trained, root, tmp_path):
    checkpoint = torch.load(f'{trained.work_dir}/iter_4.pth', map_location='cpu', weights_only=False)
    del checkpoint['bilevel']
    torch.save(checkpoint, tmp_path / 'bare.pth')
    cfg = tiny_config(root, tmp_path / 'run', 6)
    cfg.resume, cfg.load_from = True, str(tmp_path / 'bare.pth')
    with pytest.raises(ValueError, match='must find the state of its policy'):
        Runner.from_cfg(cfg).train()


ESTIMATORS = [
    dict(name='neumann', terms=1, products='difference'),
    dict(name='neumann', terms=3, products='exact'),
    dict(name='cg', iterations=2, damping=1.0),
    dict(name='one_step'),
    dict(name='one_step', lookahead=True),
]


@pytest.fixture(scope='module')
def ready(root, tmp_path_factory):
    return prepared(root, tmp_path_factory.mktemp('ready'))


@pytest.mark.parametrize('settings', ESTIMATORS, ids=['neumann', 'exact', 'cg', 'one step', 'lookahead'])
def test_an_outer_step_changes_only_the_policy(ready, settings):
    """Weights, buffers, modes, gradients and the generator of torch stay bit by bit; batch norm counts nothing."""
    loop, batch = ready
    loop.estimator = make_estimator(**settings)
    model = loop.module
    loop.inner_step(copy_batch(batch))
    next(loop.outer_iterator)  # a loader draws a number when it starts
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    policy, noise = leaves_of(loop), torch.get_rng_state()
    loop.outer_step(copy_batch(batch))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())
    assert all(
        (a is None and p.grad is None) or torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True)
    )
    assert torch.equal(noise, torch.get_rng_state())
    assert np.abs(leaves_of(loop) - policy).max() > 0 and np.isfinite(leaves_of(loop)).all()
    assert loop.preprocessor._synthesize is loop.synthesis


def test_ranges_get_their_gradient_through_the_pixels(root, tmp_path):
    """A higher upper bound of the brightness makes the pasted pixels brighter: the slope by differences of images."""
    loop, batch = prepared(root, tmp_path)

    def inputs(number, differentiable, change=0.0):
        loop.synthesis.round, loop.synthesis.differentiable = number, differentiable
        again = copy_batch(batch)
        for sample in again['data_samples']:
            sample.set_metainfo(dict(shows_defect=False))
        with torch.no_grad():
            loop.policy.raw_ranges[4, 1] += change
        made = loop.preprocessor(again, True)['inputs']
        with torch.no_grad():
            loop.policy.raw_ranges[4, 1] -= change
        return made

    compared = 0
    for number in range(100, 140):  # most samples leave the brightness alone
        made = inputs(number, True)
        slope = 0.0
        if made.requires_grad:
            slope = torch.autograd.grad(made.sum(), loop.policy.raw_ranges)[0][4, 1].item()
        if slope:
            steps = [
                (inputs(number, False, h) - inputs(number, False, -h)).double().sum().item() / h / 2
                for h in (0.01, 0.0025)
            ]
            if steps[0] == pytest.approx(steps[1], rel=2e-3):  # else a pixel saturates within the step
                assert slope == pytest.approx(steps[1], rel=4e-3), number
                compared += 1
    assert compared >= 4


def test_the_gradient_of_a_stream_weight_is_that_of_one_inner_step(root, tmp_path):
    """The loop's gradient against differences: move a weight, take one SGD step, look at the outer loss."""
    loop, batch = prepared(
        root,
        tmp_path,
        estimator=dict(name='one_step', lookahead=True, radius=1e-3),
        policy=dict(learn=('weights',)),
        sparsity=0.0,
    )
    model = loop.module
    taken = []
    loop._policy_gradients = lambda made, through: (
        taken.append((made, through)) or loop.__class__._policy_gradients(loop, made, through)
    )
    loop.outer_optimizer.step = lambda: taken.append(loop.policy.raw_weights.grad.clone())
    loop.outer_step(copy_batch(batch))
    (made, _), found = taken
    weights = [p.detach().clone() for p in model.parameters()]

    def outer_after(stream, change):
        sample_weights = made.weights.detach().clone()
        for i, name in enumerate(made.streams):
            sample_weights[i] += change * (name == stream)
        with frozen_statistics(model), weighted_heads(model) as losses:
            torch.manual_seed(0)
            model(inputs=made.inputs.detach(), data_samples=list(made.samples), mode='loss')
        # real samples carry no weight of the policy; the step of the loop looks at the others only
        acted = torch.tensor([float(s != 'image') for s in made.streams])
        slopes = torch.autograd.grad((losses.values * sample_weights * acted).mean(), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), slopes, strict=True):
                p -= 0.05 * g
            with frozen_statistics(model), weighted_heads(model) as losses:
                model(inputs=made.outer_inputs, data_samples=list(made.outer_samples), mode='loss')
            for p, old in zip(model.parameters(), weights, strict=True):
                p.copy_(old)
        return losses.values.mean().item()

    checked = 0
    for place, name in enumerate(loop.policy.names):
        if name in made.streams and name != 'image':
            expected = (outer_after(name, 0.5) - outer_after(name, -0.5)) / 1.0
            assert found[place].item() == pytest.approx(expected, rel=0.1, abs=2e-5), name
            checked += 1
    assert checked >= 1


@pytest.mark.slow
def test_mixed_precision_around_it_does_not_reach_an_outer_step(root, tmp_path):
    results = []
    for enabled in (False, True):
        loop, batch = prepared(root, tmp_path / str(enabled))
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loop.outer_step(copy_batch(batch))
        results.append((leaves_of(loop), loop.history[-1]['outer_loss']))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.slow
@pytest.mark.parametrize(('inner', 'outer'), [(3, 5), (1, 1)])
def test_odd_batch_sizes(root, tmp_path, inner, outer):
    cfg = tiny_config(
        root,
        tmp_path,
        3,
        outer=dict(batch_size=outer),
        policy=dict(learn=('weights', 'location'), location=dict(type='maps', num_classes=2, size=4)),
    )
    cfg.train_dataloader.batch_size = inner
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert np.isfinite(leaves_of(runner.train_loop)).all() and runner.train_loop.outer_steps == 1
    maps = np.load(tmp_path / 'policy' / 'maps.npy')
    assert maps.shape == (3, 32, 32) and not (tmp_path / 'policy' / 'maps').exists()


@pytest.mark.parametrize('stolen', ['outer_val', 'val'])
def test_shared_images_are_rejected_by_content(root, tmp_path, stolen):
    other = tmp_path / 'data'
    shutil.copytree(root, other)
    folder = 'train' if stolen == 'outer_val' else 'val'
    shutil.copy(other / 'img_dir/train/train2.png', other / f'img_dir/{folder}/{stolen}1.png')
    # the donors of the recipe would be rejected already when it is built; the loop must find it on its own, too
    cfg = tiny_config(root, tmp_path / 'run', 2)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.outer_dataloader, cfg.train_cfg.outer_dataloader):
        loader.dataset.data_root = str(other)
    with pytest.raises(ValueError, match=f'(?s)train2.png.*{stolen}'):
        Runner.from_cfg(cfg).train()


def test_a_training_without_selection_split_is_rejected(root, tmp_path):
    cfg = tiny_config(root, tmp_path, 2)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    with pytest.raises(ValueError, match='must have a validation set'):
        Runner.from_cfg(cfg).train()


def test_maps_without_a_place_are_reported(root, tmp_path):
    loop, batch = prepared(
        root,
        tmp_path,
        policy=dict(
            learn=('location',), location=dict(type='maps', num_classes=2, size=4), proposal=dict(kind='threshold')
        ),
    )
    with pytest.raises(ValueError, match=r'(?s)place on the object of .*train\d+.png.*threshold 0.6'):
        for _ in range(8):  # a fresh map is 0.5 everywhere
            loop.run_iter(copy_batch(batch))


def test_an_empty_object_is_reported(root, tmp_path):
    loop, batch = prepared(root, tmp_path)
    loop.synthesis.patience = 5
    for sample in batch['data_samples']:
        sample.location_map.data.zero_()
        sample.set_metainfo(dict(shows_defect=False))
    with pytest.raises(ValueError, match=r'(?s)5 in a row found none, the last one in .*\.png \(no place allowed\)'):
        for _ in range(10):
            loop.run_iter(copy_batch(batch))


def test_the_recipe_trains_in_workers_and_on_the_device(trained, root, tmp_path):
    """policy/recipe.py as a base: its maps are found beside it, and both routes make defects with it."""
    folder = tmp_path / 'learned'
    shutil.copytree(f'{trained.work_dir}/policy', folder)
    assert json.loads((folder / 'policy.json').read_text())['format'] == 'mmdefect-policy/1'
    assert len((folder / 'history.jsonl').read_text().splitlines()) == 2
    assert (folder / 'curves.png').stat().st_size > 5000 and (folder / 'maps.png').stat().st_size > 5000
    assert len(list((folder / 'maps').glob('*.npy'))) == 12
    recipe = Config.fromfile(folder / 'recipe.py').synthesis
    assert recipe.location.density == f'{folder}/maps'
    for where in ('worker', 'device'):
        cfg = tiny_config(root, tmp_path / where, 2)
        train = Config(
            dict(
                train_dataloader=dict(
                    batch_size=4,
                    dataset=dict(
                        type='BladeWTADataset',
                        data_root=str(root),
                        split_file='outer_splits.json',
                        split='train',
                        pipeline=[
                            dict(type='LoadImageFromFile'),
                            dict(type='LoadDefectAnnotations'),
                            dict(type='RandomFlip', prob=0.5),
                            dict(type='PackSegInputs'),
                        ],
                    ),
                ),
                val_dataloader=cfg.val_dataloader,
                model=dict(
                    data_preprocessor=dict(type='SegDataPreProcessor', mean=[0] * 3, std=[1] * 3, size=(96, 120))
                ),
                synthesis=dict(recipe, where=where, ratio=dict(real=0, synthetic=1, clean=0)),
                train_cfg={},
            )
        )
        compose(train)
        dataset = DATASETS.build(train.train_dataloader.dataset)
        dataset.set_sample_seed(1)
        samples = [dataset[i] for i in (1, 3, 5, 7)]  # clean images
        batch = dict(inputs=[s['inputs'] for s in samples], data_samples=[s['data_samples'] for s in samples])
        made = MODELS.build(train.model.data_preprocessor)(batch, training=True)
        assert sum(bool((s.gt_sem_seg.data > 0).any()) for s in made['data_samples']) >= 2, where


def test_settings_that_cannot_be(root, tmp_path):
    for changes, message in (
        (dict(interval=0), '`interval` must be at least 1'),
        (dict(policy=dict(learn=('weights',)), sparsity=1.0), '`sparsity` must be 0'),
        (dict(policy=dict(location=dict(type='maps', num_classes=1))), '`num_classes` of the'),
        (dict(outer=dict(share=1)), 'bilevel.outer'),
    ):
        with pytest.raises(ValueError, match=message):
            prepared(root, tmp_path, **changes)
    cfg = tiny_config(root, tmp_path, 2)
    cfg.model.data_preprocessor.synthesis = None
    with pytest.raises(ValueError, match='must find one PasteDefects'):
        Runner.from_cfg(cfg).train()
