"""Every leaf config builds, trains a step and predicts, on two small images on the CPU."""

from __future__ import annotations

import json
import math
from operator import attrgetter

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmdefect.apis.compose import iter_dicts, iter_heads
from mmdefect.apis.config import load_config
from mmdefect.apis.train import fit_to_device
from mmdefect.compat import config_root

ROOT = config_root('mmdefect')
#: Folders of leaves that are no plain segmentation trainings; their own tests run them.
OTHER = ('bilevel', 'cutpaste', 'studies')
#: Small networks for short studies: no published schedule, so no leaves for it.
SHORT = {'fpn-r18-l3', 'fpn-r18-l3-frozen', 'fpn-mobilenetv2-frozen', 'deeplabv3plus-r18-l3-frozen'}
LEAVES = sorted(p for p in ROOT.glob('[!_]*/*.py') if p.parent.name not in OTHER and '_boxes_' not in p.stem)
STEM = attrgetter('stem')
QUICK = ('fast-scnn', 'bisenetv2', 'segformer-b0', 'lraspp', 'pidnet', 'ddrnet')
CROP = 64
_done: dict[str, None] = {}


def leaf_cases():
    for leaf in LEAVES:
        marks = () if leaf.stem.startswith(QUICK) else (pytest.mark.slow,)
        yield pytest.param(leaf, id=leaf.stem, marks=marks)


def batch(num_classes):
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        label = torch.zeros(1, CROP, CROP, dtype=torch.long)
        label[:, 5:20, 5:30] = 1
        label[:, 40:44, 40:44] = num_classes - 1
        label[:, :, -3:] = 255
        shape = (CROP, CROP)
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
        sample.gt_sem_seg = PixelData(data=label)
        sample.gt_edge_map = PixelData(data=(label == 1).long())
        samples.append(sample)
    images = [torch.randint(0, 256, (3, CROP, CROP), dtype=torch.uint8, generator=generator) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


def drop_pretrained(node):
    """Weights are not what is tested here, and downloading them is slow."""
    if isinstance(node, dict):
        if (
            (node.get('init_cfg') or {})
            and isinstance(node['init_cfg'], dict)
            and node['init_cfg'].get('type') == 'Pretrained'
        ):
            node.pop('init_cfg')
        for value in node.values():
            drop_pretrained(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            drop_pretrained(value)


@pytest.mark.parametrize('loss', ['plain', 'focal'])
@pytest.mark.parametrize('leaf', list(leaf_cases()))
def test_leaf_trains_a_step_and_predicts(leaf, loss):
    focal = 'focal_published' if '_wta-' in leaf.stem else 'focal'  # the former weighs three classes
    recipes = [focal] if loss == 'focal' else []
    cfg = load_config(leaf, {'crop_size': (CROP, CROP)}, recipes)
    cfg.model.pop('pretrained', None)
    drop_pretrained(cfg.model)
    fit_to_device(cfg)
    key = json.dumps(cfg.model.to_dict(), sort_keys=True, default=str)
    if key in _done:
        return  # the same network with the same loss has just run for another data set or schedule
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    data = batch(cfg.num_classes)
    inputs = model.data_preprocessor(data, training=True)
    value, logged = model.parse_losses(model(**inputs, mode='loss'))
    assert math.isfinite(value.item()), dict(logged)
    value.backward()
    gradients = [p.grad for p in model.decode_head.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients) and any(g.abs().sum() > 0 for g in gradients)
    model.eval()
    with torch.no_grad():
        outputs = model.predict(inputs['inputs'], data['data_samples'])
    assert outputs[0].seg_logits.data.shape == (cfg.num_classes, CROP, CROP)
    _done[key] = None


@pytest.mark.parametrize('leaf', [pytest.param(leaf, id=leaf.stem) for leaf in LEAVES])
def test_leaf_is_composed(leaf):
    cfg = load_config(leaf)
    assert all(head.num_classes == cfg.num_classes for head in iter_heads(cfg))
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval


def test_every_model_of_the_zoo_has_its_leaves():
    models = {leaf.stem.split('_')[0] for leaf in LEAVES} - SHORT
    assert len(models) == 24
    stems = {leaf.stem for leaf in LEAVES}
    assert {f'{model}_baseline_40k_{data}' for model in models for data in ('wta-256', 'mvtec-256')} <= stems


@pytest.mark.parametrize('leaf', [leaf for leaf in LEAVES if leaf.stem.endswith('_baseline_40k_wta-256')], ids=STEM)
@pytest.mark.parametrize('recipes', [('paste_poisson', 'focal'), ('wta_published',)], ids='+'.join)
def test_recipes_reach_every_model(leaf, recipes):
    plain, cfg = load_config(leaf), load_config(leaf, None, recipes)
    published = 'wta_published' in recipes
    for head, before in zip(iter_heads(cfg), iter_heads(plain), strict=True):
        losses = [d for d in iter_dicts(head.loss_decode) if d.get('type') == 'SoftmaxFocalLoss']
        assert losses and all(loss.alpha == ([0.1, 0.3, 0.6] if published else None) for loss in losses)
        assert head.num_classes == before.num_classes
    types = [t['type'] for t in cfg.train_dataloader.dataset.pipeline]
    assert ('SynthesizeDefects' in types) == (not published)
    assert tuple(cfg.model.data_preprocessor.size) == ((512, 512) if published else (256, 256))
    assert cfg.optim_wrapper.optimizer.type == ('AdamW' if published or 'own_optimizer' in cfg else 'SGD')


def test_transformers_keep_their_own_learning_rate_and_an_override_is_the_last_word():
    leaf = ROOT / 'vit' / 'vit-upernet_baseline_40k_wta-256.py'
    cfg = load_config(leaf, None, ['wta_published'])
    assert (
        cfg.optim_wrapper.optimizer.lr == 6e-5 and cfg.optim_wrapper.paramwise_cfg.custom_keys.pos_embed.decay_mult == 0
    )
    assert cfg.model.backbone.img_size == (512, 512)
    options = {'optim_wrapper.optimizer.lr': 1e-3}
    assert load_config(leaf, options, ['wta_published']).optim_wrapper.optimizer.lr == 1e-3
