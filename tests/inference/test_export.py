"""Checkpoint, torch predictor and exported files predict the same, which is what mmseg's own test predicts."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmcv.image.geometric import rescale_size
from mmengine.registry import init_default_scope
from mmseg.models.backbones import VisionTransformer
from torch.nn import functional

from mmdefect.apis import load_config
from mmdefect.deployment import load_predictor
from mmdefect.deployment.decision import decide_labels
from mmdefect.deployment.predictor import METADATA_KEY
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.functional.calibration import decide
from mmdefect.functional.parts import PartRule
from mmdefect.inference.adaptation import exportable_operations, pool_by_matrices
from mmdefect.inference.export import compare_predictors, export_core, export_model
from mmdefect.inference.network import Preparation, resize_images
from mmdefect.models.decode_heads.fitted_lraspp_head import FittedAvgPool2d
from tests.helpers.deployment import CLASSES, LEAF, OFFSETS, make_images, write_checkpoint

SCALE = dict(crop_size=(64, 64), image_scale=(96, 96))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('model') / 'iter_7.pth', options=SCALE)


@pytest.fixture(scope='module')
def predictor(checkpoint):
    return load_predictor(checkpoint)


@pytest.mark.parametrize('size_hw, tolerance', [((192, 192), 1e-5), ((96, 96), 1e-5), ((130, 201), 0.2)])
def test_the_predictor_agrees_with_mmsegs_test(checkpoint, predictor, tmp_path, size_hw, tolerance):
    """To the digit where the resize halves or does nothing; elsewhere OpenCV rounds pixels a grey level differently."""
    import cv2
    from mmseg.registry import MODELS, TRANSFORMS

    image = make_images(1, *size_hw)[0]
    cv2.imwrite(str(tmp_path / 'image.png'), image[..., ::-1])
    init_default_scope('mmseg')
    cfg = load_config(LEAF, SCALE)
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=False)['state_dict'])
    sample = dict(img_path=str(tmp_path / 'image.png'))
    for step in cfg.test_dataloader.dataset.pipeline:
        sample = TRANSFORMS.build(step)(sample)
    with torch.no_grad():
        logits = model.test_step(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]))[
            0
        ].seg_logits.data
    got = predictor.predict_batch([image], return_probabilities=True)[0]
    difference = np.abs(got.probabilities - logits.softmax(0).numpy())
    assert difference.max() < tolerance and difference.mean() < 2e-3
    same = got.label_map == decide(logits, torch.tensor(OFFSETS)).numpy()
    assert same.mean() > (0.9999 if tolerance < 1e-3 else 0.99)
    assert min(np.bincount(got.label_map.ravel(), minlength=3)) > 0.02 * got.label_map.size


@pytest.mark.parametrize(
    'dynamic, batches',
    [
        ('none', [(2, 150, 120), (3, 150, 120)]),
        ('batch', [(1, 150, 120), (5, 150, 120)]),
        ('size', [(2, 150, 120), (1, 96, 96), (3, 192, 192), (1, 71, 203), (1, 333, 250)]),
    ],
)
def test_onnx_agrees(predictor, tmp_path, dynamic, batches):
    path = export_model(predictor.network, predictor.info, tmp_path / 'model.onnx', 'onnx', dynamic, (150, 120), 2)
    exported = load_predictor(path)
    assert exported.info == predictor.info
    parity = compare_predictors(predictor, exported, [make_images(*b, seed=b[1]) for b in batches])
    assert parity.holds, parity
    assert list(tmp_path.iterdir()) == [path]
    thresholds = (0.2, 0.9)  # other thresholds than those in the file
    images = make_images(2, 150, 120)
    labels, probabilities = exported.infer(images, thresholds)
    assert labels.dtype == np.uint8 and probabilities.dtype == np.float32
    np.testing.assert_array_equal(labels, np.stack([decide_labels(p, thresholds) for p in probabilities]))
    assert (labels != exported.infer(images, exported.info.thresholds)[0]).mean() > 0.02


@pytest.mark.parametrize('kind', ['bank', 'place'])
@pytest.mark.parametrize('form, dynamic', [('onnx', 'size'), ('torchscript', 'batch')])
def test_a_memory_of_what_is_normal_travels_in_the_file(tmp_path, kind, form, dynamic):
    options = {**SCALE, 'normality': dict(kind=kind, entries=256), 'augmentation': dict(scale=(1, 1))}
    predictor = load_predictor(write_checkpoint(tmp_path / 'iter_7.pth', options=options))
    path = export_model(predictor.network, predictor.info, tmp_path / f'model.{form}', form, dynamic, (96, 96), 2)
    sizes = [(2, 96, 96), (1, 150, 120)] if dynamic == 'size' else [(1, 96, 96), (3, 96, 96)]
    exported = load_predictor(path)
    parity = compare_predictors(predictor, exported, [make_images(*size, seed=size[0]) for size in sizes])
    assert parity.holds, parity
    for one in (predictor, exported):
        if kind == 'bank':
            TiledPredictor(one, TilePlan(split=2))
            continue
        with pytest.raises(ValueError, match='must see whole images, because it compares places of the part'):
            TiledPredictor(one, TilePlan(split=2))


def test_the_file_explains_itself_and_defaults_to_its_thresholds(predictor, tmp_path):
    import onnxruntime

    path = export_model(predictor.network, predictor.info, tmp_path / 'model.onnx')
    metadata = {p.key: p.value for p in onnx.load(path).metadata_props}
    facts = json.loads(metadata[METADATA_KEY])
    assert tuple(facts['classes']) == CLASSES and facts['input_size_hw'] == [96, 96] and len(facts['palette']) == 3
    assert facts['thresholds'] == pytest.approx([1 / (1 + np.exp(o)) for o in OFFSETS[1:]])
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    images = make_images(1, 100, 80)
    labels = session.run(['labels'], {'images': images})[0]
    np.testing.assert_array_equal(labels, predictor.infer(images, predictor.info.thresholds)[0])


@pytest.mark.parametrize(
    'form, dynamic',
    [('torchscript', 'none'), ('torchscript', 'batch'), pytest.param('program', 'batch', marks=pytest.mark.slow)],
)
def test_torch_formats_agree_and_say_what_they_are(predictor, tmp_path, form, dynamic):
    path = export_model(predictor.network, predictor.info, tmp_path / f'model.{form}', form, dynamic, (150, 120), 2)
    saved = load_predictor(path)
    assert saved.info.classes == CLASSES and saved.info.thresholds == predictor.info.thresholds
    parity = compare_predictors(predictor, saved, [make_images(count, 150, 120) for count in (1, 3)])
    assert parity.holds and parity.difference < 1e-5
    with pytest.raises(ValueError, match='takes images of 120 x 150'):
        saved.predict_batch([make_images(1, 120, 120)[0]])
    images = make_images(2, 150, 120)  # and without any code of ours
    loaded = torch.jit.load(path) if form == 'torchscript' else torch.export.load(path).module()
    with torch.no_grad():
        labels, _ = loaded(torch.from_numpy(images), torch.tensor(predictor.info.thresholds))
    np.testing.assert_array_equal(labels.numpy(), saved.infer(images, predictor.info.thresholds)[0])


def test_what_cannot_be_is_said(predictor, tmp_path):
    with pytest.raises(ValueError, match='a trace fixes the size'):
        export_model(predictor.network, predictor.info, tmp_path / 'a.pt', 'torchscript', 'size', (96, 96))
    with pytest.raises(ValueError, match='size_hw'):
        export_model(predictor.network, predictor.info, tmp_path / 'a.onnx', 'onnx', 'batch')
    with pytest.raises(ValueError, match='`form` must be'):
        export_model(predictor.network, predictor.info, tmp_path / 'a.onnx', 'caffe')
    assert not list(tmp_path.iterdir())
    fixed = load_predictor(
        export_model(predictor.network, predictor.info, tmp_path / 'a.onnx', 'onnx', 'batch', (96, 96))
    )
    with pytest.raises(ValueError, match='takes images of 96 x 96'):
        fixed.predict_batch([make_images(1, 100, 96)[0]])
    fixed.close()
    with pytest.raises(ValueError, match='has been closed'):
        fixed.predict_batch([make_images(1, 96, 96)[0]])
    (tmp_path / 'broken.onnx').write_bytes(b'no model')
    with pytest.raises(ValueError, match='ONNX Runtime can load'):
        load_predictor(tmp_path / 'broken.onnx')
    with pytest.raises(ValueError, match='`providers` must be among'):
        load_predictor(tmp_path / 'a.onnx', providers=['Abacus'])
    model = onnx.load(tmp_path / 'a.onnx')
    del model.metadata_props[:]
    onnx.save(model, tmp_path / 'foreign.onnx')
    with pytest.raises(ValueError, match='no mmdefect metadata'):
        load_predictor(tmp_path / 'foreign.onnx')


def test_options_of_the_other_kind_of_model_are_rejected(checkpoint, tmp_path):
    with pytest.raises(ValueError, match='options of its kind .config, device., got threads'):
        load_predictor(checkpoint, threads=2)
    (tmp_path / 'a.onnx').write_bytes(b'never opened')
    with pytest.raises(ValueError, match='options of its kind .threads, providers., got config, device'):
        load_predictor(tmp_path / 'a.onnx', config='leaf.py', device='cpu')


def test_checkpoints_that_do_not_fit_are_rejected(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=False)
    content['state_dict'].pop('decode_head.conv_seg.weight')
    torch.save(content, tmp_path / 'short.pth')
    with pytest.raises(ValueError, match='must hold all weights .*conv_seg'):
        load_predictor(tmp_path / 'short.pth')
    (tmp_path / 'text.pth').write_text('no checkpoint')
    with pytest.raises(ValueError, match='torch can load'):
        load_predictor(tmp_path / 'text.pth')
    torch.save(dict(state_dict={}, meta={}), tmp_path / 'bare.pth')
    with pytest.raises(ValueError, match='name the config'):
        load_predictor(tmp_path / 'bare.pth')


def test_the_part_rule_of_a_checkpoint_travels_into_exported_files(tmp_path):
    rule = PartRule((7, 40), 0.3, 'bad and good parts', 4, 5, 4, 1, 3, ((6, 8), (30, 50)))
    record = {**rule.to_dict(), 'classes': list(CLASSES), 'iter': 7}
    source = load_predictor(write_checkpoint(tmp_path / 'own.pth', options=SCALE, part_rule=record))
    assert source.info.part_rule == rule
    path = export_model(source.network, source.info, tmp_path / 'own.onnx')
    exported = load_predictor(path)
    assert exported.info.part_rule == rule
    for image in make_images(2, 96, 96):
        one, two = (predictor.predict_batch([image])[0] for predictor in (source, exported))
        assert (
            one.is_defective
            == two.is_defective
            == any(rule.counts((d.class_id, d.area_px, d.score)) for d in one.defects)
        )
    other = write_checkpoint(
        tmp_path / 'other.pth', options=SCALE, part_rule={**record, 'classes': ['normal', 'x', 'y']}
    )
    with pytest.raises(ValueError, match='the part rule of a checkpoint must be for the classes'):
        load_predictor(other)


def test_without_calibration_it_is_argmax_and_a_leaf_config_serves(tmp_path):
    path = write_checkpoint(tmp_path / 'plain.pth', options=SCALE, calibrated=False)
    plain = load_predictor(path, config=LEAF)
    assert plain.info.thresholds == (0.5, 0.5) and plain.info.extra['thresholds_from'] == 'argmax'
    assert plain.info.input_size_hw == (256, 256)  # of the leaf; the checkpoint's own config says 96
    labels, probabilities = plain.infer(make_images(1, 64, 64), plain.info.thresholds)
    np.testing.assert_array_equal(labels, probabilities.argmax(1))


@pytest.mark.parametrize('size_hw', [(8, 8), (7, 11), (5, 30), (1, 2)])
@pytest.mark.parametrize('output', [1, 2, 3, 6, (2, 5), (None, 3), (1, 1)])
def test_pooling_by_matrices_is_adaptive_pooling(size_hw, output):
    inputs = torch.randn(2, 4, *size_hw, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_by_matrices(inputs, output), functional.adaptive_avg_pool2d(inputs, output))


def test_attention_that_exports_is_attention():
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(24, 4).train().requires_grad_(False)  # not on the fast path of evaluation
    query, other = torch.randn(9, 2, 24), torch.randn(5, 2, 24)
    expected = layer(query, other, other)
    with exportable_operations():
        torch.testing.assert_close(layer(query, other, other), expected)
        mask = torch.zeros(9, 5, dtype=torch.bool)
        mask[:, 3:] = True
        masked = layer(query, other, other, attn_mask=mask)
    torch.testing.assert_close(masked, (*layer(query, other[:3], other[:3])[:1], masked[1]))


def check_open_size(module, size_hw, others):
    """Export a network for any size, and compare it at other sizes than the traced one."""
    onnxruntime = pytest.importorskip('onnxruntime')
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        with exportable_operations():
            model = export_core(module.eval(), size_hw, None, True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
        for other in others:
            inputs = torch.randn(2, 3, *other, generator=generator)
            (got,) = session.run(None, {'core_input': inputs.numpy()})
            torch.testing.assert_close(torch.from_numpy(got), module(inputs), atol=1e-5, rtol=1e-4)


def test_padding_and_pooling_of_mobilenet_stay_open():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        Conv2dAdaptivePadding(3, 4, 3, stride=2),
        Conv2dAdaptivePadding(4, 4, 5, stride=(2, 1)),
        Conv2dAdaptivePadding(4, 4, 3, dilation=2),
    )
    check_open_size(plain, (32, 32), [(32, 32), (31, 64), (64, 17)])
    inputs = torch.randn(1, 3, 31, 18)
    expected = plain(inputs)
    with exportable_operations():
        assert torch.equal(plain(inputs), expected)
    check_open_size(torch.nn.Sequential(plain, FittedAvgPool2d(9, (3, 2))), (16, 16), [(16, 16), (40, 100), (8, 64)])


def test_positions_of_a_vit_stay_open():
    torch.manual_seed(0)
    vit = VisionTransformer(
        (32, 32), 8, embed_dims=12, num_layers=1, num_heads=2, mlp_ratio=2, interpolate_mode='bicubic'
    )
    torch.nn.init.normal_(vit.pos_embed)

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit

        def forward(self, inputs):
            return self.vit(inputs)[-1]

    check_open_size(Features(), (32, 32), [(32, 32), (64, 32), (41, 75)])


@pytest.mark.parametrize('size_hw', [(512, 512), (300, 500), (500, 300), (33, 77), (1000, 31)])
@pytest.mark.parametrize('scale_hw', [(256, 256), (96, 200), (200, 96)])
def test_sizes_are_rounded_as_mmcv_does(size_hw, scale_hw):
    expected = rescale_size(size_hw[::-1], scale_hw[::-1])[::-1]
    assert Preparation(scale_hw, True, (0,) * 3, (1,) * 3).network_size(size_hw) == expected


@pytest.mark.parametrize('new_hw', [(64, 50), (200, 171), (128, 100), (40, 300)])
def test_resized_images_are_linear_interpolation(new_hw):
    image = torch.from_numpy(make_images(1, 128, 100))
    exact = functional.interpolate(image.permute(0, 3, 1, 2).double(), new_hw, mode='bilinear', align_corners=False)
    got = resize_images(image, new_hw).permute(0, 3, 1, 2)
    assert torch.equal(got, got.round()) and (got - exact).abs().max() < 0.75  # half a level, and weights of ten bits
    assert abs((got - exact).mean()) < 0.15  # rounded, ties up as in OpenCV; cutting would shift by half a level
