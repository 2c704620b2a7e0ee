"""The study files of configs/studies: their bases are there, their arms compose, differ, and name files that exist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmdefect.apis.study import compose_settings, read_settings
from mmdefect.compat import config_root
from mmdefect.experiments.study import Composer, expand, read_study

ROOT = config_root('mmdefect').parent
STUDIES = sorted((ROOT / 'configs' / 'studies').glob('*.py'))


@pytest.mark.parametrize('file', STUDIES, ids=lambda f: f.stem)
def test_a_shipped_study_expands(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = read_study(file)
    assert study.title and study.text and study.metrics and study.factor_keys and study.reference
    # Arms whose settings another command makes first are left out: learned recipes and packed sets of generated images.
    ready = [
        arm
        for arm in study.arms
        if all(base.startswith('configs/') for base in arm.bases)
        and not any(key.startswith('generated') for key in arm.overrides)
    ]
    assert ready
    runs = expand(replace(study, seeds=(0,)), Composer(read_settings, compose_settings), ROOT, arms=ready)
    keys = {run.key for run in runs}
    assert len(keys) == len(ready), 'two arms are the same run'
    for run in runs:
        assert run.settings['train_cfg']['max_iters'] == (study.iterations or run.settings['train_cfg']['max_iters'])
        if study.val_interval:
            assert run.settings['train_cfg']['val_interval'] == study.val_interval


def test_names_are_different():
    assert len({read_study(file).name for file in STUDIES}) == len(STUDIES)
