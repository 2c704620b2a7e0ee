"""Weights and box marks from the pipeline through a real segmentor to the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import mmdefect.registration  # noqa: F401
from mmdefect.datasets.transforms import PackDefectInputs
from mmdefect.models.losses import LabelExtras, attach_label_extras
from mmdefect.registry import MODELS
from tests.helpers.small import TINY_UNET, tiny_head

SIZE = (32, 32)


@pytest.fixture(autouse=True)
def mmseg_scope():
    """Config names without a scope are those of mmseg, as in a run."""
    init_default_scope('mmseg')


def segmentor(loss):
    """A two-layer FCN of mmseg with a main and an auxiliary head."""
    head = tiny_head(num_convs=0, dropout_ratio=0, loss_decode=loss)
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=SIZE, mean=[128] * 3, std=[60] * 3),
            backbone=TINY_UNET,
            decode_head=head,
            auxiliary_head=dict(head),
        )
    )
    return model.train()


def batch(pack, **extras):
    """Two packed samples; ``extras`` go into the second."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(2):
        results = dict(
            img=rng.integers(0, 256, (*SIZE, 3), np.uint8),
            gt_seg_map=rng.integers(0, 3, SIZE, np.uint8),
            img_shape=SIZE,
            **(extras if index else {}),
        )
        samples.append(pack.transform(results))
    return dict(inputs=[s['inputs'] for s in samples], data_samples=[s['data_samples'] for s in samples])


def losses_of(model, data):
    data = model.data_preprocessor(data, True)
    return model(**data, mode='loss')


WEIGHTED = dict(type='WeightedSampleLoss', loss=dict(type='SoftmaxFocalLoss', gamma=1.0))


def test_a_weight_per_sample_scales_its_part_of_both_heads():
    pack, model = PackDefectInputs(), segmentor(WEIGHTED)
    attach_label_extras(model)
    plain = losses_of(model, batch(pack))
    without = losses_of(model, batch(pack, sample_weight=0.0))
    triple = losses_of(model, batch(pack, sample_weight=3.0))
    for key in ('decode.loss_focal', 'aux.loss_focal'):
        second = plain[key] - without[key]
        assert second > 0
        torch.testing.assert_close(triple[key], without[key] + 3 * second)


def test_a_weight_per_pixel_reaches_its_pixel_and_its_gradient():
    pack, model = PackDefectInputs(), segmentor(WEIGHTED)
    attach_label_extras(model)
    weight = np.zeros(SIZE, np.float32)
    weight[5:9, 7:20] = 2.0
    data = batch(pack, gt_weight_map=weight, sample_weight=0.5)
    data = model.data_preprocessor(data, True)
    logits = torch.randn(2, 3, *SIZE, requires_grad=True)
    label = torch.stack([s.gt_sem_seg.data[0] for s in data['data_samples']])
    loss = model.decode_head.loss_decode(logits, label, weight=None, ignore_index=255)
    loss.backward()
    touched = logits.grad[1].abs().sum(0) > 0
    assert torch.equal(touched, torch.from_numpy(weight > 0)) and (logits.grad[0].abs().sum(0) > 0).all()
    each = MODELS.build(dict(WEIGHTED['loss'], reduction='none'))(logits, label)
    expected = (each[0].sum() + (each[1] * torch.from_numpy(weight)).sum() * 0.5) / label.numel()
    torch.testing.assert_close(loss, expected)


def test_normalised_weights_do_not_change_the_scale():
    model = segmentor(dict(WEIGHTED, normalize=True, loss_weight=0.5))
    extras = attach_label_extras(model)
    loss = model.decode_head.loss_decode
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    label[0, 0] = 255
    plain = loss(logits, label)
    torch.testing.assert_close(plain, 0.5 * loss.loss(logits, label))
    extras.weight = torch.full((2, 1, 1), 7.0)
    torch.testing.assert_close(loss(logits, label), plain)


def test_losses_of_mmseg_can_be_weighted_and_the_class_weights_get_through():
    loss = dict(type='WeightedSampleLoss', loss=dict(type='CrossEntropyLoss'), class_weight=[0.1, 1.0, 2.0])
    model = segmentor(loss)
    attach_label_extras(model)
    pack = PackDefectInputs()
    one, two = losses_of(model, batch(pack)), losses_of(model, batch(pack, sample_weight=2.0))
    assert model.decode_head.loss_decode.loss.class_weight == [0.1, 1.0, 2.0]
    assert two['decode.loss_ce'] > one['decode.loss_ce']


def test_boxes_of_mixed_labels_come_from_the_pipeline():
    model = segmentor(dict(type='WeakBoxLoss', tau=1.0, mixed=True))
    attach_label_extras(model)
    boxes = np.ones(SIZE, np.uint8)
    pack = PackDefectInputs()
    exact, boxed = losses_of(model, batch(pack)), losses_of(model, batch(pack, gt_box_map=boxes))
    data = batch(pack)
    label = data['data_samples'][1].gt_sem_seg.data
    data['data_samples'][1].gt_sem_seg.data = torch.full_like(label, 255)
    neither = losses_of(model, data)
    assert exact['decode.loss_weak_box'] != boxed['decode.loss_weak_box']
    torch.testing.assert_close(boxed['decode.loss_weak_box'], neither['decode.loss_weak_box'])


def test_maps_are_padded_with_the_label_and_missing_ones_count_as_one():
    samples = []
    for size, fields in (((4, 6), {}), ((3, 4), dict(gt_weight_map=PixelData(data=torch.full((1, 3, 4), 5.0))))):
        sample = SegDataSample(metainfo=dict(img_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, 4, 6, dtype=torch.long))
        sample.set_data(fields)
        samples.append(sample)
    extras = LabelExtras()
    extras.read(samples)
    assert extras.weight.shape == (2, 4, 6) and extras.boxes is None
    assert (extras.weight[0] == 1).all() and (extras.weight[1, :3, :4] == 5).all()
    assert extras.weight[1].sum() == 5 * 12 + 12
    extras.read(None)
    assert extras.weight is None


def test_a_map_that_the_crop_missed_is_rejected():
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 4, 6, dtype=torch.long))
    sample.set_data(dict(gt_weight_map=PixelData(data=torch.ones(1, 8, 8))))
    with pytest.raises(ValueError, match='seg_fields'):
        LabelExtras().read([sample])
    with pytest.raises(ValueError, match='size of the label'):
        PackDefectInputs().transform(
            dict(
                img=np.zeros((4, 6, 3), np.uint8), gt_seg_map=np.zeros((4, 6), np.uint8), gt_weight_map=np.ones((8, 8))
            )
        )


def test_packing_without_extras_is_that_of_mmseg():
    from mmseg.datasets.transforms import PackSegInputs

    results = dict(img=np.zeros((4, 6, 3), np.uint8), gt_seg_map=np.ones((4, 6), np.uint8), img_shape=(4, 6))
    ours, theirs = PackDefectInputs().transform(dict(results)), PackSegInputs().transform(dict(results))
    assert torch.equal(ours['inputs'], theirs['inputs'])
    assert ours['data_samples'].all_keys() == theirs['data_samples'].all_keys()


def test_attaching_twice_shares_one_object_and_reads_once():
    model = segmentor(WEIGHTED)
    assert attach_label_extras(model) is attach_label_extras(model)
    assert len(model.data_preprocessor._forward_hooks) == 1
    assert model.decode_head.loss_decode.label_extras is model.auxiliary_head.loss_decode.label_extras


def test_a_loss_that_nothing_is_brought_to_says_so():
    model = segmentor(WEIGHTED)
    with pytest.raises(RuntimeError, match='LabelExtrasHook'):
        losses_of(model, batch(PackDefectInputs()))
    model = segmentor(dict(type='WeakBoxLoss', mixed=True))
    with pytest.raises(RuntimeError, match='LabelExtrasHook'):
        losses_of(model, batch(PackDefectInputs()))


def test_a_model_that_needs_nothing_is_left_alone():
    model = segmentor(dict(type='SoftmaxFocalLoss'))
    assert attach_label_extras(model) is None and not model.data_preprocessor._forward_hooks
