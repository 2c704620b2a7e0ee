"""The recipes of a config, synthesis and switches against class imbalance, from a base to a running training."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdefect.apis import compose, load_config
from mmdefect.apis.compose import fading, iter_heads, iter_transforms, mixing
from mmdefect.apis.train import prepare_train_config
from mmdefect.compat import config_root
from mmdefect.registry import HOOKS, MODELS, TRANSFORMS
from tests.helpers.data import write_wta

ROOT = config_root('mmdefect')
LOSSES = sorted((ROOT / '_base_' / 'losses').glob('*.py'))
RECIPES = sorted(path.stem for path in (ROOT / '_base_' / 'synthesis').glob('*.py'))


def leaf(tmp_path, *bases, text=''):
    """Write a leaf on top of the Fast-SCNN one, with further bases."""
    parts = ['models/fast_scnn', 'datasets/wta_256', 'schedules/schedule_2k', 'default_runtime', *bases]
    if not any(b.startswith('losses/') for b in bases):
        parts.append('losses/ce')
    paths = [str(ROOT / '_base_' / f'{b}.py') for b in parts]
    (tmp_path / 'leaf.py').write_text(f'_base_ = {paths!r}\n{text}')
    return tmp_path / 'leaf.py'


def hooks_of(cfg):
    return [h['type'] for h in cfg.custom_hooks]


def pipeline_of(cfg):
    return [t['type'] for t in cfg.train_dataloader.dataset.pipeline]


def test_every_switch_lands_in_its_place_and_composing_again_changes_nothing(tmp_path):
    plain = load_config(leaf(tmp_path))
    cfg = load_config(leaf(tmp_path, 'ema', 'amp', 'class_prior', 'class_aware', 'ignore_band'))
    assert hooks_of(cfg) == [*hooks_of(plain), 'EMAHook', 'ClassPriorHook']
    assert cfg.train_dataloader.sampler == dict(type='ClassAwareSampler', target_share=0.3)
    assert pipeline_of(cfg) == [*pipeline_of(plain)[:-1], 'IgnoreBand', pipeline_of(plain)[-1]]
    assert cfg.val_dataloader == plain.val_dataloader
    once = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    compose(cfg)
    assert json.dumps(cfg.to_dict(), sort_keys=True, default=str) == once
    assert not {'ema', 'class_prior', 'class_aware', 'ignore_band'} & set(cfg)
    init_default_scope('mmseg')
    for name in hooks_of(cfg):
        assert HOOKS.get(name) is not None
    assert TRANSFORMS.get('IgnoreBand') is not None


def test_options_reach_a_switch_and_none_turns_it_off(tmp_path):
    path = leaf(tmp_path, 'ema', 'ignore_band')
    cfg = load_config(path, {'ema.momentum': 0.01, 'ignore_band': None})
    assert cfg.custom_hooks[-1] == dict(type='EMAHook', momentum=0.01)
    assert 'IgnoreBand' not in pipeline_of(cfg) and 'ema' not in cfg


def test_crops_are_asked_for_defects_and_keep_their_size(tmp_path):
    options = {'crop_size': (192, 160), 'defect_crop.probability': 0.25}
    plain, cfg = (
        load_config(leaf(tmp_path, *bases), {k: v for k, v in options.items() if bases or '.' not in k})
        for bases in ((), ('defect_crop',))
    )
    assert [('DefectCrop' if kind == 'RandomCrop' else kind) for kind in pipeline_of(plain)] == pipeline_of(cfg)
    (crop,) = [t for t in cfg.train_dataloader.dataset.pipeline if t['type'] == 'DefectCrop']
    assert crop == dict(type='DefectCrop', crop_size=(192, 160), probability=0.25)
    assert TRANSFORMS.build(crop).probability == 0.25
    assert 'RandomCrop' in pipeline_of(load_config(leaf(tmp_path, 'defect_crop'), {'defect_crop': None}))
    path = leaf(
        tmp_path, 'defect_crop', text="train_dataloader = dict(dataset=dict(pipeline=[dict(type='PackSegInputs')]))\n"
    )
    with pytest.raises(ValueError, match='`defect_crop` must find a RandomCrop to replace'):
        load_config(path)


def test_inserts_at_full_size_are_cropped_for_training_alone(tmp_path):
    path = leaf(tmp_path)
    path.write_text(path.read_text().replace('wta_256', 'wta_512_crop256'))
    cfg = load_config(path)
    by_type = {t['type']: t for t in cfg.train_dataloader.dataset.pipeline}
    assert tuple(by_type['RandomResize']['scale']) == (512, 512)
    assert by_type['DefectCrop'] == dict(type='DefectCrop', crop_size=(256, 256), probability=0.5)
    assert cfg.model.data_preprocessor.size == (256, 256)
    assert [(t['type'], t.get('scale')) for t in cfg.test_dataloader.dataset.pipeline][1] == ('Resize', (512, 512))


def test_mixed_precision_can_be_asked_for_in_a_config(tmp_path, monkeypatch):
    path = leaf(tmp_path, 'amp')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    wrapper = prepare_train_config(path).optim_wrapper
    assert wrapper.type == 'AmpOptimWrapper' and wrapper.loss_scale == 'dynamic'
    assert prepare_train_config(path, cfg_options=dict(amp=False)).optim_wrapper.type == 'OptimWrapper'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    wrapper = prepare_train_config(path).optim_wrapper
    assert wrapper.type == 'Bfloat16OptimWrapper' and 'loss_scale' not in wrapper
    with pytest.raises(ValueError, match='on this device, Bfloat16OptimWrapper, got AmpOptimWrapper'):
        prepare_train_config(path, cfg_options={'optim_wrapper.type': 'AmpOptimWrapper'})
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    with pytest.raises(ValueError, match='needs a GPU or a CPU with bfloat16 instructions'):
        prepare_train_config(path)


def test_losses_that_ask_for_weights_get_their_hook_and_packing(tmp_path):
    cfg = load_config(leaf(tmp_path, 'losses/weighted_focal'))
    assert hooks_of(cfg)[-1] == 'LabelExtrasHook' and pipeline_of(cfg)[-1] == 'PackDefectInputs'
    box = dict(type='WeakBoxLoss', mixed=True)
    cfg = load_config(leaf(tmp_path, 'losses/weak_box', text=f'loss_decode = {box!r}\n'))
    assert 'LabelExtrasHook' in hooks_of(cfg)
    assert 'LabelExtrasHook' not in hooks_of(load_config(leaf(tmp_path, 'losses/weak_box')))


def test_two_shares_for_one_sampler_are_refused(tmp_path):
    text = "train_dataloader = dict(sampler=dict(type='MixingSampler', defective_share=0.5))\n"
    with pytest.raises(ValueError, match='plain sampler'):
        load_config(leaf(tmp_path, 'class_aware', text=text))


@pytest.mark.parametrize('path', LOSSES, ids=lambda p: p.stem)
def test_every_loss_base_reaches_the_heads_with_their_weights(tmp_path, path):
    cfg = load_config(leaf(tmp_path, f'losses/{path.stem}'), {'class_weight': [0.2, 1.0, 1.0]})
    own = Config.fromfile(str(path)).loss_decode
    own = own if isinstance(own, list) else [own]
    init_default_scope('mmseg')
    for head, factor in zip(iter_heads(cfg), (1.0, 0.4, 0.4), strict=True):
        losses = head.loss_decode if isinstance(head.loss_decode, list) else [head.loss_decode]
        assert [loss.loss_weight for loss in losses] == pytest.approx(
            [factor * loss.get('loss_weight', 1.0) for loss in own]
        )
        for loss in losses:
            built = MODELS.build(loss)
            assert built.loss_weight == pytest.approx(loss.loss_weight)
            assert list(getattr(built, 'loss', built).class_weight) == [0.2, 1.0, 1.0]


def test_the_published_recipe_is_one_file():
    cfg = Config.fromfile(str(ROOT / '_base_' / 'wta_published.py'))
    assert cfg.loss_decode.alpha == [0.1, 0.3, 0.6] and cfg.loss_decode.gamma == 2.0
    assert cfg.optim_wrapper.optimizer.type == 'AdamW' and cfg.optim_wrapper.optimizer.lr == 1e-3
    assert cfg.param_scheduler[0].end == 1500 and cfg.train_cfg.max_iters == 40000
    steps = {t.type: t for t in cfg.train_dataloader.dataset.pipeline}
    assert tuple(steps['RandomResize'].ratio_range) == (0.5, 3.0) and steps['RandomCrop'].cat_max_ratio == 0.75
    assert cfg.train_dataloader.batch_size == 8 and tuple(cfg.crop_size) == (512, 512)


def of_mmseg(tmp_path, source, *bases, text=''):
    """Write a leaf that takes its model from an mmseg config."""
    parts = ['datasets/wta_256', 'schedules/schedule_2k', 'default_runtime', *bases]
    paths = [str(ROOT / '_base_' / f'{b}.py') for b in parts]
    (tmp_path / 'leaf.py').write_text(f"_base_ = {paths!r}\nmodel_from = 'mmseg::{source}'\n{text}")
    return tmp_path / 'leaf.py'


SAN, KNET = 'san/san-vit-b16_pascal_context-640x640.py', 'knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py'


def test_a_query_head_refuses_a_loss_and_takes_those_of_its_queries(tmp_path):
    with pytest.raises(ValueError, match='matches queries to masks and trains with the losses cls CrossEntropyLoss'):
        load_config(of_mmseg(tmp_path, SAN, 'losses/focal'))
    cfg = load_config(of_mmseg(tmp_path, SAN, 'query_focal'), {'class_weight': [0.5, 1.0, 2.0]})
    classes, mask, dice = cfg.model.decode_head.loss_decode
    assert classes == dict(
        type='SoftmaxFocalLoss', gamma=2.0, loss_name='loss_cls_ce', loss_weight=2.0, class_weight=[0.5, 1, 2, 0.1]
    )
    assert (mask.type, mask.loss_weight, dice.type) == ('CrossEntropyLoss', 5.0, 'DiceLoss')
    assert cfg.model.text_encoder.vocabulary == ['normal', 'attached', 'broken']
    assert cfg.model.data_preprocessor.size == (256, 256) and 'size_divisor' not in cfg.model.data_preprocessor
    change = dict(mask=dict(loss_weight=7.0), dice=dict(type='DefectDiceLoss', smooth=1))
    cfg = load_config(of_mmseg(tmp_path, SAN, text=f'query_losses = {change!r}\n'))
    classes, mask, dice = cfg.model.decode_head.loss_decode
    assert classes.class_weight == [1.0, 1.0, 1.0, 0.1] and mask.loss_weight == 7.0 and mask.use_sigmoid
    assert dice == dict(type='DefectDiceLoss', smooth=1, loss_name='loss_mask_dice', loss_weight=5.0)
    with pytest.raises(ValueError, match='other models take `loss_decode`'):
        load_config(leaf(tmp_path, 'query_focal'))


def test_settings_reach_the_heads_inside_a_head(tmp_path):
    cfg = load_config(of_mmseg(tmp_path, KNET, 'losses/focal'))
    head = cfg.model.decode_head
    assert [h.num_classes for h in [head.kernel_generate_head, *head.kernel_update_head]] == [3] * 4
    assert head.kernel_generate_head.loss_decode.type == 'SoftmaxFocalLoss'
    assert 'num_classes' not in head and 'loss_decode' not in head
    assert not any('loss_decode' in h for h in head.kernel_update_head)


def test_the_model_of_an_mmseg_config_comes_with_what_it_needs(tmp_path):
    text = 'model = dict(decode_head=dict(channels=96))\n'
    cfg = load_config(of_mmseg(tmp_path, 'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py', text=text))
    assert pipeline_of(cfg)[-2:] == ['GenerateEdge', 'PackSegInputs']
    assert cfg.model.decode_head.channels == 96 and 'model_from' not in cfg and 'own_optimizer' not in cfg
    assert not any('class_weight' in loss for loss in cfg.model.decode_head.loss_decode)  # of Cityscapes' 19 classes
    cfg = load_config(of_mmseg(tmp_path, KNET))
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=0.0001, weight_decay=0.0005)
    assert cfg.optim_wrapper.clip_grad.max_norm == 1
    cfg.dump(tmp_path / 'plain.py')
    again = load_config(tmp_path / 'plain.py')
    assert json.dumps(again.to_dict(), sort_keys=True) == json.dumps(cfg.to_dict(), sort_keys=True)
    with pytest.raises(FileNotFoundError, match='did you mean knet/knet-s3_r50-d8_fcn'):
        load_config(of_mmseg(tmp_path, KNET.replace('fcn', 'fcm')))


def test_sliding_windows_have_the_size_that_is_trained_on(tmp_path):
    source = 'unet/unet-s5-d16_fcn_4xb4-40k_hrf-256x256.py'  # windows of 256, 170 apart
    cfg = load_config(of_mmseg(tmp_path, source), {'crop_size': (64, 128)})
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(64, 128), stride=(42, 85))
    before = cfg.pretty_text
    compose(cfg)
    assert cfg.pretty_text == before


def test_what_a_model_cannot_do_is_said(tmp_path):
    with pytest.raises(ValueError, match='predicts depths'):
        load_config(of_mmseg(tmp_path, 'vpd/vpd_sd_4xb8-25k_nyu-512x512.py'))
    with pytest.raises(ValueError, match='FittedLRASPPHead'):
        load_config(of_mmseg(tmp_path, 'mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py'))
    bases = ['mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', str(ROOT / '_base_/default_runtime.py')]
    (tmp_path / 'whole.py').write_text(f'_base_ = {bases!r}\n')
    with pytest.raises(ValueError, match='a top-level key must come from one base.*model_from'):
        load_config(tmp_path / 'whole.py')
    with pytest.raises(ValueError, match='`donors` of PasteDefects must be a library'):
        TRANSFORMS.build(dict(type='PasteDefects'))


@pytest.mark.slow
def test_a_training_with_every_switch_runs(tmp_path):
    from mmdefect.apis import train

    write_wta(tmp_path / 'data', dict(train=6, val=3, test=3), size_hw=(64, 64))
    bases = ('losses/weighted_focal', 'ema', 'class_prior', 'class_aware', 'ignore_band')
    runner = train(
        leaf(tmp_path, *bases),
        work_dir=tmp_path / 'work',
        cfg_options={
            'data_root': str(tmp_path / 'data'),
            'crop_size': (64, 64),
            'image_scale': (64, 64),
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 2,
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'class_aware.target_share': 0.4,
        },
    )
    assert runner.iter == 2
    assert (tmp_path / 'work' / 'last_checkpoint').is_file()


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


@pytest.mark.parametrize('recipe', [name for name in RECIPES if name != 'none'])
@pytest.mark.parametrize('data', ['wta', 'mvtec'])
def test_every_synthesis_recipe_becomes_a_plain_config(recipe, data):
    cfg = load_config(ROOT / f'fast_scnn/fast-scnn_baseline_2k_{data}-256.py', None, [recipe])
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
        ROOT / 'fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py',
        {'data_root': str(tmp_path), 'synthesis.where': 'device', 'synthesis.ratio.synthetic': 2},
    )
    names = [t['type'] for t in cfg.train_dataloader.dataset.pipeline]
    assert names[-1] == 'PackSynthesisInputs' and 'SynthesizeDefects' not in names
    assert cfg.model.data_preprocessor.type == 'SynthesisDataPreProcessor'
    assert cfg.model.data_preprocessor.synthesis.probability.clean == pytest.approx(2 / 3)


@pytest.mark.parametrize('where', ['worker', 'device'])
def test_a_fade_becomes_numbers_of_images(tmp_path, where):
    write_wta(tmp_path)
    cfg = load_config(
        ROOT / 'fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py',
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


def test_augmentation_narrows_what_the_pipelines_have():
    def steps(**limits):
        cfg = load_config('configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py', dict(augmentation=limits))
        return {step['type']: step for step in cfg.train_dataloader.dataset.pipeline}

    kept = steps(scale=(0.9, 1.1), light=0.5)
    assert kept['RandomResize']['ratio_range'] == (0.9, 1.1)
    assert kept['PhotoMetricDistortion']['contrast_range'] == (0.75, 1.25)
    assert 'PhotoMetricDistortion' not in steps(light=0) and 'PhotoMetricDistortion' in steps(scale=(1, 1))
    with pytest.raises(ValueError, match='`augmentation` must be dict'):
        steps(light=2)


@pytest.mark.parametrize('name', ['FocalLoss', 'SoftmaxFocalLoss'])
def test_the_published_spelling_of_the_focal_loss_is_read(monkeypatch, name):
    said = []
    monkeypatch.setattr(sys.modules['mmdefect.apis.compose'], 'print_log', lambda text, *_: said.append(text))
    loss = dict(type=name, use_sigmoid=False, alpha=[0.1, 0.3, 0.6], gamma=2.0, loss_weight=1.0, _delete_=True)
    cfg = load_config('configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py', dict(loss_decode=loss))
    init_default_scope('mmseg')
    built = MODELS.build(cfg.model.decode_head).loss_decode
    assert type(built).__name__ == 'SoftmaxFocalLoss' and list(built.options['alpha']) == [0.1, 0.3, 0.6]
    assert len(said) == 1 and 'write that name' in said[0]
