"""The classifier over several backbones: widths, classes, and errors that say what to set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.structures import BaseDataElement
from torch.nn import functional as F

import mmdefect.registration  # noqa: F401
from mmdefect.apis import load_config
from mmdefect.models.backbone_features import pool
from mmdefect.models.cutpaste_classifier import (
    BACKBONES,
    ProjectionHead,
    backbone_config,
    encoder_config,
    feature_width,
)
from mmdefect.registry import MODELS, init_default_scope
from tests.helpers.small import RESNET18_L3

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'cutpaste'


def build(backbone, hidden=(512, 128), num_classes=3):
    init_default_scope('mmseg')
    return MODELS.build(
        dict(
            type='CutPasteClassifier',
            backbone=backbone,
            head=dict(type='ProjectionHead', hidden=hidden, num_classes=num_classes),
        )
    )


@pytest.mark.parametrize(
    'backbone, width', [('resnet18', 512), ('mobilenet_v2', 1280), ('efficientnet_b4', 1792), (RESNET18_L3, 256)]
)
def test_the_head_has_the_width_of_the_backbone(backbone, width):
    model = build(backbone, hidden=(512, 512, 128))
    linear = [m for m in model.head.projection if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(width, 512), (512, 512), (512, 128)]
    assert model.head.classifier.in_features == 128
    assert sum(isinstance(m, torch.nn.BatchNorm1d) for m in model.head.projection) == 3
    model.eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_backbones_of_timm_by_name():
    pytest.importorskip('timm')
    assert build('timm/regnety_002').head.projection[0].in_features == 368


def test_unknown_backbones_are_named():
    assert backbone_config('ConvNeXt') == dict(type='mmpretrain.ConvNeXt')
    with pytest.raises(ValueError, match='resnet18, .*timm/<model>.*ResNeet'):
        backbone_config('ResNeet')
    assert 'resnet18' in BACKBONES


def samples(labels):
    return [BaseDataElement(gt_label=torch.tensor(label)) for label in labels]


def test_loss_is_cross_entropy_of_the_logits():
    head = ProjectionHead(8, 3, (6,)).eval()
    features, labels = torch.randn(4, 8, 2, 2), [0, 1, 2, 1]
    losses = head.loss((features,), samples(labels))
    torch.testing.assert_close(losses['loss'], F.cross_entropy(head(features.mean((2, 3))), torch.tensor(labels)))
    predicted = head.predict((features,), samples(labels))
    assert [int(p.pred_label) for p in predicted] == head((features,)).argmax(1).tolist()


def test_two_classes_cannot_hold_three_views():
    with pytest.raises(ValueError, match='got 2 and the label 2; set `variant`'):
        ProjectionHead(8, 2).eval().loss((torch.randn(3, 8),), samples([0, 1, 2]))


def test_pooling_takes_maps_tokens_and_vectors():
    assert pool((torch.ones(2, 4, 3, 3),)).shape == pool(torch.ones(2, 9, 4)).shape == pool(torch.ones(2, 4)).shape
    with pytest.raises(ValueError, match='maps'):
        pool(torch.ones(2))


@pytest.mark.parametrize('variant, classes', [('3way', 3), ('union', 2), ('normal', 2), ('scar', 2)])
def test_one_setting_decides_views_and_classes(variant, classes):
    cfg = load_config(CONFIGS / 'resnet18_3way_64k_mvtec-256.py', dict(variant=variant, patch=64, category='screw'))
    assert cfg.model.head.num_classes == classes
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.category == 'screw'
        assert loader.dataset.pipeline[-1].variant == variant and loader.dataset.pipeline[-1].patch == 64


def test_pastes_come_after_the_resize():
    for path in sorted(CONFIGS.glob('*.py')):
        steps = [step.type for step in load_config(path).train_dataloader.dataset.pipeline]
        assert steps.index('PackCutPasteViews') == steps.index('Resize') + 1 == len(steps) - 1


def test_views_of_all_images_become_one_batch():
    preprocessor = MODELS.build(dict(type='ViewDataPreProcessor', mean=(10, 20, 30), std=(2, 4, 5)))
    images = [torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8) for _ in range(2)]
    labels = [torch.tensor([0, 1, 2]), torch.tensor([0, 0, 2])]
    data = preprocessor(dict(inputs=images, data_samples=[BaseDataElement(gt_label=label) for label in labels]))
    assert data['inputs'].shape == (6, 3, 8, 8)
    assert [int(s.gt_label) for s in data['data_samples']] == [0, 1, 2, 0, 0, 2]
    torch.testing.assert_close(data['inputs'][4, 1], (images[1][1, 1].float() - 20) / 4)


@pytest.mark.parametrize(
    'name, width',
    [
        ('shufflenet_v2_x0_5', 1024),
        ('squeezenet1_1', 512),
        ('torchvision/efficientnet_b0', 1280),
        ('timm/regnety_002', 368),
        ('regnety_002', 368),
        ('mmpretrain/resnet18_8xb32_in1k', 512),
        ('ConvNeXt', 768),
    ],
)
def test_an_encoder_by_any_name(name, width):
    network = MODELS.build(encoder_config(name, weights=False))
    assert feature_width(network) == width
    if not name.startswith('ConvNeXt'):  # which puts out a vector
        network.eval()  # backbones of OpenMMLab return nothing here
        assert network(torch.zeros(1, 3, 96, 96))[-1].ndim == 4


def test_a_transformer_of_one_size_and_names_that_are_none():
    config = encoder_config('vit_b_32', weights=False)
    assert feature_width(MODELS.build(config)) == 768
    weights = encoder_config('resnet50')['init_cfg']
    assert weights == dict(type='Pretrained', checkpoint='torchvision://resnet50')
    assert encoder_config('timm/resnet50')['pretrained'] is True
    assert encoder_config('mmpretrain/resnet18_8xb32_in1k')['init_cfg']['checkpoint'].endswith('.pth')
    with pytest.raises(ValueError, match='similar: .*resnet50'):
        encoder_config('resnet5')
    with pytest.raises(ValueError, match='without weights'):
        encoder_config('ConvNeXt')


def test_features_are_those_of_the_whole_classifier():
    """The last map, averaged and put through the head of torchvision, is what the classifier of torchvision says."""
    from torchvision.models import get_model

    whole = get_model('regnet_x_400mf', weights=None).eval()
    network = MODELS.build(encoder_config('regnet_x_400mf', weights=False)).eval()
    missing = network.network.load_state_dict(whole.state_dict(), strict=False)
    assert not missing.missing_keys
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(whole.fc(network(image)[0].mean((2, 3))), whole(image))
