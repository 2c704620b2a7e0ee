"""Random pipelines: the full-size ones have the shapes of the published models; the benchmark that uses them."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch

from mmdefect.diffusion.random_model import build_pipeline

from .test_masks import ROOT, run

#: Parameters in millions, as published for Stable Diffusion 1.5 and SDXL 1.0.
PUBLISHED = {
    'sd': dict(unet=859.52, vae=83.65, text_encoder=123.06),
    'sdxl': dict(unet=2567.46, vae=83.65, text_encoder=123.06, text_encoder_2=694.66),
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', PUBLISHED)
def test_full_size_is_that_of_the_published_models(kind):
    with torch.device('meta'):
        pipeline = build_pipeline(kind, 'full')
    for part, millions in PUBLISHED[kind].items():
        count = sum(p.numel() for p in getattr(pipeline, part).parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.006), part


def test_command_and_wrong_names(tmp_path, capsys):
    assert run('random-model', '--kind', 'ldm', '--out', tmp_path / 'm') == 0
    assert (tmp_path / 'm' / 'model_index.json').is_file()
    assert run('random-model', '--out', tmp_path / 'm') == 2 and 'must not exist yet' in capsys.readouterr().err
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match='`kind` must be one of ldm, sd, sdxl'):
        build_pipeline('flux')
    build_pipeline('sd')
    assert torch.equal(state, torch.random.get_rng_state()), 'the generator of the caller is not touched'


@pytest.fixture()
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    sys.modules.pop('common', None)
    yield runpy.run_path(str(ROOT / 'benchmarks' / 'diffusion.py'))
    sys.modules.pop('common', None)


@pytest.mark.parametrize('kind', ['sd', pytest.param('sdxl', marks=pytest.mark.slow)])
def test_benchmark_measures_both_works(benchmark, kind):
    model = benchmark['make_model'](kind, 'tiny', 'cpu', 'fp32')
    for work in ('sample', 'edit'):
        row = benchmark['measure'](model, work, 2, (32, 32), 1, 1)
        assert row['seconds_per_image'] > 0 and row['peak_gib'] == ''
        assert row['images_per_minute'] == pytest.approx(60 / row['seconds_per_image'])


def test_benchmark_records_what_does_not_fit(benchmark, monkeypatch):
    model = benchmark['make_model']('sd', 'tiny', 'cpu', 'bf16')

    def too_much(*arguments):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(model, 'predict', too_much)
    assert benchmark['measure'](model, 'sample', 8, (32, 32), 2)['seconds_per_image'] == 'out of memory'


@pytest.mark.skipif(torch.cuda.is_available(), reason='the refusal needs a machine without a GPU')
def test_benchmark_refuses_politely(benchmark, capsys):
    assert benchmark['main']([]) == 2
    assert 'needs a CUDA device' in capsys.readouterr().err
