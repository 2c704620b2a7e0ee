"""A batch over the stand-in tools."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmdefect.experiments.batch import Batch, Tools, find_jobs
from mmdefect.experiments.select import Rule

HERE = Path(__file__).parent
FIND_BEST = HERE.parents[1] / 'bash' / 'find_best.py'


@pytest.fixture
def make_config(tmp_path):
    """Write a config of the stand-in training and return its path."""

    def write(name: str, text: str = '') -> Path:
        path = tmp_path / 'configs' / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def make_batch(tmp_path):
    """Make a batch of configs in one project."""

    def make(*configs, **kwargs) -> Batch:
        programs = HERE / 'stand_ins'
        find_best = kwargs.pop('find_best', FIND_BEST)
        tools = Tools(programs / 'train.py', programs / 'evaluate.py', find_best, sys.executable)
        values = {'gpu_count': 0, 'rule': Rule(), **kwargs}
        return Batch(tmp_path / 'work', 'blades', find_jobs(map(str, configs), []), tools=tools, **values)

    return make
