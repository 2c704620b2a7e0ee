"""Two processes with half of the batch each, on the CPU with gloo."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.engine.loops import ranks
from tests.helpers.bilevel import write_parts

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_two_ranks_learn_the_policy_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    root = write_parts(tmp_path / 'data')
    alone = ranks.train(root, tmp_path / 'one', 'none', 4)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        'WORLD_SIZE': '2',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': str(REPO),
    }
    programs = [
        subprocess.Popen(
            [sys.executable, '-m', 'tests.engine.loops.ranks', str(tmp_path), str(root)],
            cwd=REPO,
            env={**environment, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [program.communicate(timeout=600)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], '\n'.join(out[-3000:] for out in outputs)
    first, second = (json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2))
    assert first == second  # bit for bit
    np.testing.assert_allclose(first['outer'], alone['outer'], rtol=1e-4)
    np.testing.assert_allclose(first['policy'], alone['policy'], atol=2e-4)  # Adam moves by up to 1e-3 a step
    for name, values in alone['weights'].items():
        np.testing.assert_allclose(first['weights'][name], values, rtol=1e-3, atol=1e-5, err_msg=name)
