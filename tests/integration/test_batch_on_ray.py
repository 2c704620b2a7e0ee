"""A real training on Ray whose worker is killed half-way, against the same training left alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch

from mmdefect.experiments.batch import Batch, Tools, find_jobs
from mmdefect.experiments.engines import RayTasks
from mmdefect.experiments.run_batch import run_batch
from mmdefect.experiments.select import Rule
from mmdefect.experiments.states import read_state
from tests.experiments.engine_helpers import results, running_job, silent
from tests.helpers.data import write_wta
from tests.helpers.small import as_arguments, quick_options

ROOT = Path(__file__).parents[2]
OPTIONS = (
    *as_arguments({**quick_options(12), 'train_cfg.val_interval': 3, 'default_hooks.checkpoint.interval': 3}),
    'randomness.seed=3',
    # its noise depends on how often the generator was asked before, which no checkpoint holds
    'model.decode_head.dropout_ratio=0',
    'model.auxiliary_head.0.dropout_ratio=0',
    'model.auxiliary_head.1.dropout_ratio=0',
)


@pytest.mark.slow
def test_a_training_whose_worker_is_killed_ends_like_one_left_alone(tmp_path, monkeypatch):
    pytest.importorskip('ray')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    write_wta(tmp_path / 'data')
    tools = Tools(
        ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py', ROOT / 'bash' / 'find_best.py', sys.executable
    )
    jobs = find_jobs(['fast_scnn/fast-scnn_baseline_2k_wta-256'], [ROOT / 'configs'])
    batch = Batch(
        tmp_path / 'work', 'real', jobs, 0, tools, Rule('fg_AP'), (f'data_root={tmp_path / "data"}', *OPTIONS)
    )

    def kill():
        os.kill(running_job(batch, 6, 200)[1].owner['pid'], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    (state,) = run_batch(batch, silent, RayTasks(count=1, threads=1))
    thread.join()
    assert state.status == 'done', state.error_tail
    assert [attempt['resumed_from'] > 0 for attempt in state.attempts] == [False, True]
    on_ray, folder = results(batch), batch.job_dir(jobs[0])
    weights = torch.load(folder / 'train' / 'ckpt' / 'iter_12.pth', map_location='cpu', weights_only=False)[
        'state_dict'
    ]
    batch.project_dir.rename(tmp_path / 'first')
    (alone,) = run_batch(batch, silent)
    assert len(alone.attempts) == 1 and read_state(folder).best['iter'] == state.best['iter']
    saved = torch.load(folder / 'train' / 'ckpt' / 'iter_12.pth', map_location='cpu', weights_only=False)['state_dict']
    for name, value in saved.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for key, value in results(batch)[0].items():
        try:
            assert float(on_ray[0][key]) == pytest.approx(float(value), abs=0.02), key
        except ValueError:
            assert on_ray[0][key] == value, key
