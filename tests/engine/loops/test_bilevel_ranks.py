"""Two processes with half of the batch each, on the CPU with gloo."""

from pathlib import Path

import numpy as np
import pytest

from tests.engine.loops import ranks
from tests.helpers.bilevel import write_parts
from tests.helpers.ranks import run_two_ranks

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_two_ranks_learn_the_policy_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    root = write_parts(tmp_path / 'data')
    alone = ranks.train(root, tmp_path / 'one', 'none', 4)
    first, second = run_two_ranks('tests.engine.loops.ranks', tmp_path, root)
    assert first == second  # bit for bit
    np.testing.assert_allclose(first['outer'], alone['outer'], rtol=1e-4)
    np.testing.assert_allclose(first['policy'], alone['policy'], atol=2e-4)  # Adam moves by up to 1e-3 a step
    for name, values in alone['weights'].items():
        np.testing.assert_allclose(first['weights'][name], values, rtol=1e-3, atol=1e-5, err_msg=name)
