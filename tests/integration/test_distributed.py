"""Several processes on the CPU with gloo: what they see, what they add up, what they learn, what they write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdefect.apis import train
from tests.helpers.ranks import run_two_ranks
from tests.helpers.small import write_labelled_parts
from tests.integration import ranks

pytestmark = pytest.mark.usefixtures('own_cache')

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    return write_labelled_parts(root, train=6, val=5, test=3)


@pytest.fixture(scope='module')
def two(data_root, tmp_path_factory):
    """Run the program of two ranks; return its folder and what each rank found."""
    folder = tmp_path_factory.mktemp('two')
    return folder, run_two_ranks('tests.integration.ranks', folder, data_root, timeout=300)


def test_no_two_ranks_see_the_same_synthetic_sample_and_together_they_see_those_of_one(two, data_root):
    first, second = (rank['draws'] for rank in two[1])
    alone = ranks.hashes_of_draws(data_root, ranks.DRAWS)
    assert len(set(alone)) == ranks.DRAWS and not set(first) & set(second)
    assert [draw for pair in zip(first, second, strict=True) for draw in pair] == alone


def test_one_rank_builds_the_library_and_the_other_waits(two):
    assert sum(rank['built'] for rank in two[1]) == 1


@pytest.mark.parametrize('sampler', ['DefectSampler', 'MixingSampler', 'ClassAwareSampler'])
def test_samplers_agree_on_a_seed_and_are_disjoint(two, sampler):
    (seed, *first), (same_seed, *second) = (rank['positions'][sampler] for rank in two[1])
    size = 6
    assert seed == same_seed and len(first) == len(second) == 40
    assert [draw // size for draw in first] == list(range(0, 80, 2))
    assert [draw // size for draw in second] == list(range(1, 80, 2))


@pytest.mark.parametrize('images', [5, 1], ids=['odd number of images', 'a rank without an image'])
def test_a_sharded_metric_equals_the_whole_bit_for_bit(two, images, tmp_path):
    folder, found = two
    alone = ranks.metric_of_shard(0, 1, images, tmp_path)
    assert len(alone) > 100 and found[0]['metrics'][str(images)] == found[1]['metrics'][str(images)] == alone
    for name in (f'images_{images}.csv', f'curves_{images}.json'):
        assert (folder / name).read_text() == (tmp_path / name).read_text()


def test_the_accuracy_of_views_counts_every_view_on_every_rank(two):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(5, 3, 3, generator=generator, dtype=torch.float64)
    right = (scores.argmax(-1) == torch.arange(3)).double()
    found = [rank['views'] for rank in two[1]]
    assert found[0] == found[1] == ranks.view_accuracy_of_shard(0, 1)
    assert float(found[0]['views/accuracy']) == pytest.approx(100 * right.mean().item())


def test_two_ranks_with_half_the_batch_learn_what_one_learns(two, tmp_path):
    weights, metrics = ranks.train_toy(tmp_path / 'toy', 2, 'none')
    found = [rank['toy'] for rank in two[1]]
    assert found[0] == found[1]  # the ranks hold the same weights, bit for bit, and the same metrics
    for name, value in weights.items():
        np.testing.assert_allclose(found[0][0][name], value, rtol=1e-5, atol=1e-6)  # the sum has another order
    assert found[0][1].keys() == metrics.keys()
    assert float(found[0][1]['fg_mIoU']) == pytest.approx(float(metrics['fg_mIoU']), abs=0.2)


@pytest.fixture
def one_thread():
    """As the ranks have: two threads sum in another order, and a pixel may change its class."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_checkpoint_is_the_network_that_all_ranks_validated(two, one_thread, tmp_path):
    """Batch norm: the statistics of the ranks are averaged before the validation and before the checkpoint."""
    found = [rank['norm'] for rank in two[1]]
    runner = ranks.toy_with_batch_norm(tmp_path, 'none', str(two[0] / 'norm' / 'iter_4.pth'))
    alone = {name: repr(float(value)) for name, value in runner.val().items()}
    assert found[0] == found[1] == alone and float(alone['aAcc']) > 0


def test_only_rank_0_logs_and_saves(two):
    folder = two[0] / 'toy'
    assert sorted(path.name for path in folder.glob('*.pth')) == ['iter_3.pth', 'iter_6.pth']
    assert len(list(folder.rglob('scalars.json'))) == 1
    (log,) = (path for path in folder.rglob('*.log') if 'Iter(train)' in path.read_text())
    assert len(re.findall(r'Saving checkpoint at 6', log.read_text())) == 1
    saved = torch.load(folder / 'iter_6.pth', map_location='cpu', weights_only=False)
    assert not any(name.startswith('module.') for name in saved['state_dict'])


def launch(script, *arguments, **environment):
    return subprocess.run(
        ['bash', str(REPO / 'tools' / script), *map(str, arguments)],
        cwd=REPO,
        text=True,
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'PYTHON': sys.executable, **environment},
        capture_output=True,
        timeout=400,
    )


@pytest.mark.slow
def test_the_launcher_starts_without_a_gpu(data_root, tmp_path):
    """Fast-SCNN with pasted defects; group norm, because the statistics of a batch norm are those of half a batch."""
    group_norm = dict(type='GN', num_groups=1, _delete_=True)
    options = {
        'data_root': str(data_root),
        **ranks.SMALL,
        'train_cfg.max_iters': 4,
        'train_cfg.val_interval': 4,
        'default_hooks.checkpoint.interval': 4,
        'default_hooks.logger.interval': 1,
        'randomness.seed': 7,
        'model.backbone.norm_cfg': group_norm,
        'model.decode_head.dropout_ratio': 0,
        'model.decode_head.norm_cfg': group_norm,
        'optim_wrapper.optimizer.lr': 0.01,
    }
    options.update(
        {
            f'model.auxiliary_head.{k}.{key}': value
            for k in (0, 1)
            for key, value in (('norm_cfg', group_norm), ('dropout_ratio', 0))
        }
    )
    config = tmp_path / 'group_norm.py'
    config.write_text(f"_base_ = ['{REPO / ranks.LEAF}']\n")
    words = [f'{key}={value}' for key, value in options.items() if not isinstance(value, dict)]
    words += [
        f'{key}.{part}={text}'
        for key, value in options.items()
        if isinstance(value, dict)
        for part, text in value.items()
    ]
    done = launch('dist_train.sh', config, 2, '--work-dir', tmp_path / 'two', '--cfg-options', *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    train(config, work_dir=tmp_path / 'one', cfg_options={**options, 'train_dataloader.batch_size': 4})
    one, two = (
        torch.load(tmp_path / name / 'iter_4.pth', map_location='cpu', weights_only=False) for name in ('one', 'two')
    )
    assert one['state_dict'].keys() == two['state_dict'].keys()
    for name, value in one['state_dict'].items():
        torch.testing.assert_close(two['state_dict'][name], value, rtol=1e-3, atol=1e-4, msg=name)
    logs = [
        [json.loads(line) for line in next((tmp_path / name).rglob('scalars.json')).read_text().splitlines()]
        for name in ('one', 'two')
    ]
    assert logs[0][-1]['fg_AP'] == pytest.approx(logs[1][-1]['fg_AP'], abs=0.5)
    assert len(list((tmp_path / 'two').rglob('scalars.json'))) == 1
    assert len(list((tmp_path / 'two').glob('*.pth'))) == 1


def test_the_launchers_say_how_they_are_called():
    for script in ('dist_train.sh', 'slurm_train.sh'):
        done = launch(script, 'config.py')
        assert done.returncode == 2 and f'bash tools/{script} CONFIG N' in done.stderr


def test_slurm_gets_one_task_for_each_gpu():
    done = launch(
        'slurm_train.sh',
        'configs/a b.py',
        8,
        '--amp',
        DRY_RUN='1',
        GPUS_PER_NODE='4',
        PARTITION='gpu',
        SRUN_ARGS='--qos high',
        PYTHON='python',
    )
    assert done.returncode == 0
    assert re.sub(r'\S*/tools/', 'tools/', done.stdout.strip()) == (
        r'srun --job-name a\ b --ntasks 8 --cpus-per-task 5 --kill-on-bad-exit=1 --partition gpu --gres gpu:4 '
        r'--ntasks-per-node 4 --qos high python -u tools/train.py configs/a\ b.py --launcher slurm --amp'
    )
