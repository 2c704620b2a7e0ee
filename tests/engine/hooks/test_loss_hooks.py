"""Class priors and weights of samples in a training by mmseg's Runner."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmdefect.registration  # noqa: F401
from mmdefect.datasets.presence import class_frequencies
from mmdefect.engine.hooks import set_class_prior
from mmdefect.registry import MODELS, TRANSFORMS
from tests.helpers.data import write_wta
from tests.helpers.small import TINY_UNET, tiny_head

SIZE = (40, 56)


@TRANSFORMS.register_module()
class WeighByName:
    """Stand-in for a synthesis transform: even images count three times, odd ones not at all."""

    def __call__(self, results):
        results['sample_weight'] = 0.0 if '[0001]' in results['img_path'] or '[0003]' in results['img_path'] else 3.0
        return results


@pytest.fixture(autouse=True)
def mmseg_scope():
    """Config names without a scope are those of mmseg, as in a run."""
    init_default_scope('mmseg')


def segmentor(loss, aux_loss=None, **kwargs):
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=SIZE, mean=[128] * 3, std=[60] * 3),
        backbone=TINY_UNET,
        decode_head=tiny_head(loss_decode=loss, **kwargs),
        auxiliary_head=[tiny_head(loss_decode=aux_loss or loss, **kwargs)],
    )


def runner(tmp_path, model, hooks, **kwargs):
    write_wta(tmp_path / 'data', dict(train=4))
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadDefectAnnotations'),
        dict(type='WeighByName'),
        dict(type='PackDefectInputs'),
    ]
    dataset = dict(
        type='BladeWTADataset',
        data_root=str(tmp_path / 'data'),
        pipeline=pipeline,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    )
    return Runner.from_cfg(
        Config(
            dict(
                model=model,
                work_dir=str(tmp_path / 'work'),
                default_scope='mmseg',
                custom_hooks=hooks,
                randomness=dict(seed=0),
                train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='DefectSampler'), dataset=dataset),
                train_cfg=dict(type='IterBasedTrainLoop', max_iters=2),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-12)),
                default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
                **kwargs,
            )
        )
    )


def biases(model):
    return [model.decode_head.conv_seg.bias, model.auxiliary_head[0].conv_seg.bias]


def test_priors_of_the_training_set_reach_both_heads_and_the_first_loss_is_small(tmp_path):
    run = runner(tmp_path, segmentor(dict(type='SoftmaxFocalLoss', gamma=0)), [dict(type='ClassPriorHook')])
    run.train()
    prior = class_frequencies(run.train_dataloader.dataset, 3)
    for bias in biases(run.model):
        torch.testing.assert_close(bias.detach().exp(), torch.tensor(prior), atol=1e-5, rtol=1e-5)
    entropy = -sum(p * math.log(p) for p in prior)
    losses = run.message_hub.get_scalar('train/decode.loss_focal').data[0]
    assert losses[0] == pytest.approx(entropy, abs=0.2) and losses[0] < 0.6 * math.log(3)


def test_a_run_from_a_checkpoint_keeps_its_biases(tmp_path):
    model = segmentor(dict(type='SoftmaxFocalLoss'))
    first = runner(tmp_path, model, [dict(type='ClassPriorHook', prior=[0.9, 0.05, 0.05])])
    first.train()
    second = runner(
        tmp_path,
        model,
        [dict(type='ClassPriorHook', prior=[0.2, 0.4, 0.4])],
        load_from=str(tmp_path / 'work' / 'iter_2.pth'),
        experiment_name='second',
    )
    second.train()
    for bias in biases(second.model):
        assert bias.detach().exp().tolist() == pytest.approx([0.9, 0.05, 0.05], abs=1e-4)


def test_sigmoid_heads_get_log_odds():
    model = MODELS.build(segmentor(dict(type='SigmoidFocalLoss'), dict(type='SoftmaxFocalLoss')))
    assert set_class_prior(model, [0.9, 0.08, 0.02]) == ['decode_head.conv_seg', 'auxiliary_head.0.conv_seg']
    sigmoid, softmax = biases(model)
    torch.testing.assert_close(sigmoid.detach().sigmoid(), torch.tensor([0.9, 0.08, 0.02]))
    torch.testing.assert_close(softmax.detach().softmax(0), torch.tensor([0.9, 0.08, 0.02]))


def test_one_output_channel_gets_the_log_odds_of_the_defect():
    config = segmentor(dict(type='SigmoidFocalLoss'), out_channels=1, threshold=0.5)
    config['decode_head']['num_classes'] = config['auxiliary_head'][0]['num_classes'] = 2
    model = MODELS.build(config)
    set_class_prior(model, [0.99, 0.01])
    assert biases(model)[0].detach().sigmoid().item() == pytest.approx(0.01)


def test_a_class_without_pixels_has_a_finite_bias_and_other_heads_are_rejected():
    model = MODELS.build(segmentor(dict(type='SoftmaxFocalLoss')))
    set_class_prior(model, [1.0, 0.0, 0.0], floor=1e-3)
    assert biases(model)[0].detach().exp()[1].item() == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(ValueError, match='a layer of 4 outputs'):
        set_class_prior(model, [0.25] * 4)


@pytest.mark.parametrize('kwargs', [dict(prior=[0.5, 0.1]), dict(floor=0), dict(prior=[1.5, -0.5])])
def test_priors_that_are_no_shares_are_rejected(kwargs):
    from mmdefect.engine.hooks import ClassPriorHook

    with pytest.raises(ValueError, match='must'):
        ClassPriorHook(**kwargs)


def test_weights_of_the_pipeline_scale_the_loss_of_a_training(tmp_path):
    """The same two batches: with weights 3 and 0 the loss is three times that of the images that count."""
    inner = dict(type='SoftmaxFocalLoss', gamma=0.0)
    weighted = runner(tmp_path, segmentor(dict(type='WeightedSampleLoss', loss=inner)), [dict(type='LabelExtrasHook')])
    seen = []
    loss = weighted.model.decode_head.loss_decode
    loss.register_forward_hook(
        lambda module, args, output: seen.append(
            (loss.label_extras.weight.flatten().tolist(), args[0].detach(), args[1], output.item())
        )
    )
    weighted.train()
    assert {w for weights, *_ in seen for w in weights} == {0.0, 3.0}
    for weights, logits, label, value in seen:
        each = [torch.nn.functional.cross_entropy(x[None], y[None]).item() for x, y in zip(logits, label, strict=True)]
        assert value == pytest.approx((weights[0] * each[0] + weights[1] * each[1]) / 2, rel=1e-5)


def test_the_hook_refuses_a_model_without_such_a_loss(tmp_path):
    run = runner(tmp_path, segmentor(dict(type='SoftmaxFocalLoss')), [dict(type='LabelExtrasHook')])
    with pytest.raises(ValueError, match='must have a loss to serve'):
        run.train()


@pytest.mark.parametrize(('leaf', 'layers'), [('pidnet/pidnet-s', 2), ('ddrnet/ddrnet23-slim', 2), ('stdc/stdc1', 3)])
def test_heads_with_layers_of_other_names_are_found(leaf, layers):
    from mmdefect.apis import load_config
    from mmdefect.compat import config_root

    cfg = load_config(config_root('mmdefect') / f'{leaf}_baseline_40k_wta-256.py')
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    names = set_class_prior(model, [0.99, 0.007, 0.003])
    assert len(names) == layers
    found = [
        m.bias.detach().exp()
        for m in model.modules()
        if isinstance(m, torch.nn.Conv2d) and m.bias is not None and m.out_channels == 3
    ]
    assert sum(torch.allclose(b, torch.tensor([0.99, 0.007, 0.003])) for b in found) == layers
