from pathlib import Path

import pytest
from mmengine.config import Config

from mmdefect.apis import load_config
from mmdefect.apis.config import compose, iter_transforms
from mmdefect.apis.synthesis import fading, mixing
from tests.helpers.data import write_wta

REPO = Path(__file__).resolve().parents[2]
LEAVES = sorted(
    p
    for p in (REPO / 'configs' / 'fast_scnn').glob('*.py')
    if any(r in p.stem for r in ('cutpaste', 'paste-', 'perlin', 'mixed'))
)


@pytest.mark.parametrize(
    ('ratio', 'backgrounds', 'share', 'clean', 'defective'),
    [
        (dict(real=1, synthetic=1, clean=1), None, 1 / 3, 0.5, 0.0),
        (dict(real=1, synthetic=2, clean=1), dict(clean=0, defective=1), 0.75, 0.0, 2 / 3),
        (dict(real=2, synthetic=1, clean=1), dict(clean=1, defective=1), 0.625, 1 / 3, 0.2),
        (dict(real=0, synthetic=1, clean=0), None, 0.0, 1.0, 0.0),
        (dict(real=1, synthetic=0, clean=3), None, 0.25, 0.0, 0.0),
    ],
)
def test_a_ratio_becomes_shares(ratio, backgrounds, share, clean, defective):
    found_share, probability = mixing(ratio, backgrounds, 0.5)
    assert found_share == pytest.approx(share)
    assert probability == dict(clean=pytest.approx(clean), defective=pytest.approx(defective))
    # What comes out again: the three shares of the ratio.
    total = sum(ratio.values())
    synthetic = (1 - share) * clean + share * defective
    assert synthetic == pytest.approx(ratio['synthetic'] / total)
    assert share * (1 - defective) == pytest.approx(ratio['real'] / total)


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda p: p.stem)
def test_every_leaf_becomes_a_plain_config(leaf):
    cfg = load_config(leaf)
    assert 'synthesis' not in cfg and cfg.train_dataloader.sampler.type == 'MixingSampler'
    names = [t['type'] for t in cfg.train_dataloader.dataset.pipeline]
    assert names.index('LoadLocationMap') == names.index('LoadDefectAnnotations') + 1
    assert names.index('RandomFlip') < names.index('SynthesizeDefects') < names.index('PhotoMetricDistortion')
    for split in ('val', 'test'):
        assert 'SynthesizeDefects' not in [t['type'] for t in cfg[f'{split}_dataloader'].dataset.pipeline]
    for transform in iter_transforms(cfg.train_dataloader.dataset.pipeline):
        if transform['type'] == 'PasteDefects':
            donors = transform['donors']
            assert donors['dataset']['pipeline'] == [] and set(donors['held_out']) == {'val', 'test'}
    before = cfg.pretty_text
    compose(cfg)
    assert cfg.pretty_text == before


def test_the_device_takes_the_recipe(tmp_path):
    write_wta(tmp_path)
    cfg = load_config(
        REPO / 'configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py',
        {'data_root': str(tmp_path), 'synthesis.where': 'device', 'synthesis.ratio.synthetic': 2},
    )
    names = [t['type'] for t in cfg.train_dataloader.dataset.pipeline]
    assert names[-1] == 'PackSynthesisInputs' and 'SynthesizeDefects' not in names
    assert cfg.model.data_preprocessor.type == 'SynthesisDataPreProcessor'
    assert cfg.model.data_preprocessor.synthesis.probability.clean == pytest.approx(2 / 3)


@pytest.mark.parametrize('where', ['worker', 'device'])
def test_a_fade_becomes_draws(tmp_path, where):
    write_wta(tmp_path)
    cfg = load_config(
        REPO / 'configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py',
        {
            'data_root': str(tmp_path),
            'synthesis.where': where,
            'synthesis.fade': dict(begin=0.5, end=0.75),
            'train_dataloader.batch_size': 4,
        },
    )
    step = (
        cfg.model.data_preprocessor.synthesis
        if where == 'device'
        else next(t for t in cfg.train_dataloader.dataset.pipeline if t['type'] == 'SynthesizeDefects')
    )
    assert list(step['fade']) == [4000, 6000]
    with pytest.raises(ValueError, match='shares of the training'):
        fading(dict(begin=0.8, end=0.5), 100, 2)
    with pytest.raises(ValueError, match='max_iters'):
        fading(dict(begin=0.5, end=0.8), None, 2)


def tiny(**synthesis):
    loader = dict(dataset=dict(type='X', pipeline=[dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
    return Config(dict(train_dataloader=loader, synthesis=synthesis))


def test_mistakes_are_said():
    paste = [dict(type='CutPaste')]
    for cfg, words in [
        (tiny(transforms=paste, colour=1), 'transforms'),
        (tiny(transforms=[]), 'transforms'),
        (tiny(transforms=paste, ratio=dict(real=1)), 'real, synthetic and clean'),
        (tiny(transforms=paste, ratio=dict(real=1, synthetic=1, clean=0), backgrounds=dict(clean=0)), 'backgrounds'),
    ]:
        with pytest.raises(ValueError, match=words):
            compose(cfg)
    cfg = tiny(transforms=paste)
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackSegInputs')]
    with pytest.raises(ValueError, match='load labels'):
        compose(cfg)
    cfg = tiny(transforms=paste, ratio=dict(real=1, synthetic=1, clean=1))
    cfg.train_dataloader.sampler = dict(type='WeightedSampler')
    with pytest.raises(ValueError, match='WeightedSampler'):
        compose(cfg)
