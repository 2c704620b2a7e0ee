"""Backbones of checkpoints in other networks: what matched is loaded, the rest is said, too little stops."""

from __future__ import annotations

import pytest
import torch
import torchvision
from mmseg.models.backbones import BiSeNetV1, MobileNetV2, ResNet, ResNetV1c

import mmdefect.registration  # noqa: F401
from mmdefect.models.backbone_weights import load_backbone
from mmdefect.models.cutpaste_classifier import backbone_config
from mmdefect.registry import MODELS, init_default_scope
from tests.helpers.realdata import real_data_root
from tests.helpers.small import RESNET18_L3


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """What a CutPaste training leaves: a classifier with names of mmpretrain."""
    init_default_scope('mmseg')
    torch.manual_seed(5)
    model = MODELS.build(
        dict(
            type='CutPasteClassifier',
            backbone=backbone_config('resnet18'),
            head=dict(type='ProjectionHead', num_classes=3),
        )
    )
    path = tmp_path_factory.mktemp('checkpoint') / 'iter_1.pth'
    torch.save(
        dict(meta={}, state_dict={n: v.half() if v.is_floating_point() else v for n, v in model.state_dict().items()}),
        path,
    )
    return str(path), {n: v.half() for n, v in model.backbone.state_dict().items()}


def test_the_same_network_takes_everything(checkpoint):
    path, weights = checkpoint
    network = ResNet(18)
    report = load_backbone(network, path)
    assert report.share == 1 and not report.missing and not report.mismatched and not report.unused
    assert not report.notes and len(report.matched) == len(weights)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.half(), weights[name])
        assert value.dtype != torch.float16


def test_another_stem_is_said_and_the_rest_is_loaded(checkpoint):
    path, weights = checkpoint
    network = ResNetV1c(depth=18)
    stem = network.stem[0].weight.clone()
    report = load_backbone(network, path)
    assert 0.99 < report.share < 1
    assert set(report.missing) == {n for n in network.state_dict() if n.startswith('stem.')}
    assert set(report.unused) >= {'conv1.weight', 'bn1.weight'}
    assert 'ResNetV1c' in report.text() and 'Set the type of the backbone to ResNet' in report.text()
    assert torch.equal(network.stem[0].weight, stem)
    torch.testing.assert_close(network.layer4[1].conv2.weight.half(), weights['layer4.1.conv2.weight'])


def test_a_backbone_inside_another_is_found(checkpoint):
    path, weights = checkpoint
    network = BiSeNetV1(dict(type='ResNet', in_channels=3, depth=18, num_stages=4, out_indices=(0, 1, 2, 3)))
    report = load_backbone(network, path, min_share=0.5)
    assert all(n.startswith('context_path.backbone.') for n in report.matched) and len(report.matched) == len(weights)
    torch.testing.assert_close(network.context_path.backbone.conv1.weight.half(), weights['conv1.weight'])


def test_too_little_stops_before_anything_is_loaded(checkpoint):
    network = ResNet(50)
    before = {n: v.clone() for n, v in network.state_dict().items()}
    with pytest.raises(
        ValueError, match=r'at least 90 % .* fits; take the same backbone, or lower `min_share`'
    ) as caught:
        load_backbone(network, checkpoint[0])
    assert 'other shape' in str(caught.value) and 'layer1.0.conv1.weight (64, 64, 3, 3) -> (64, 64, 1, 1)' in str(
        caught.value
    )
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())


def test_files_without_weights_are_rejected(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='no tensor'):
        load_backbone(ResNet(18), str(tmp_path / 'empty.pth'))
    with pytest.raises(FileNotFoundError):
        load_backbone(ResNet(18), str(tmp_path / 'no.pth'))
    with pytest.raises(ValueError, match='min_share'):
        load_backbone(ResNet(18), str(tmp_path / 'no.pth'), 90)


def test_init_cfg_loads_and_is_not_overwritten(checkpoint):
    path, weights = checkpoint
    init_default_scope('mmseg')
    network = MODELS.build(dict(type='ResNet', depth=18, init_cfg=dict(type='CutPasteBackbone', checkpoint=path)))
    network.init_weights()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.half(), weights[name])


@pytest.mark.parametrize(
    'file, backbone, least',
    [
        ('resnet18_imagenet_conv1-layer3_fp16.pth', RESNET18_L3, 1.0),
        ('mobilenet_v2_1.0_imagenet_qat_fp16.pth', None, 0.9),
    ],
)
def test_imagenet_files_load(file, backbone, least):
    root = real_data_root()
    path = None if root is None else root.parent / 'weights' / file
    if path is None or not path.is_file():
        pytest.skip('the ImageNet weights are not here')
    init_default_scope('mmseg')
    network = MODELS.build(backbone) if backbone else torchvision.models.mobilenet_v2(weights=None).features
    assert load_backbone(network, str(path), least).share >= least


def test_other_names_in_the_same_order_compute_the_same(tmp_path):
    torch.manual_seed(3)
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / 'theirs.pth')
    network = MobileNetV2(out_indices=(6,))
    network.eval()  # mmseg's does not return itself
    report = load_backbone(network, str(tmp_path / 'theirs.pth'))
    assert report.share == 1 and not report.mismatched and 'in their order' in report.text()
    assert {n.split('.')[0] for n in report.unused} == {'features', 'classifier'}
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), theirs.features[:18](image), rtol=0, atol=0)


@pytest.mark.parametrize('spoil', ['shape', 'kind', 'short'])
def test_an_order_that_does_not_agree_all_along_loads_nothing(tmp_path, spoil):
    network = MobileNetV2(widen_factor=0.25)
    weights = {
        f'part{i}.{n.rsplit(".", 1)[-1]}': torch.ones_like(v)
        for i, (n, v) in enumerate(network.state_dict().items())
        if not n.endswith('num_batches_tracked')
    }
    last = list(weights)[-1]
    value = weights.pop(last)
    if spoil == 'shape':
        weights[last] = torch.ones(len(value) + 1)
    elif spoil == 'kind':
        weights[f'{last}_of_another_kind'] = value
    torch.save(weights, tmp_path / 'theirs.pth')
    before = {n: v.clone() for n, v in network.state_dict().items()}
    with pytest.raises(ValueError, match='0.0 % fits'):
        load_backbone(network, str(tmp_path / 'theirs.pth'))
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())
