"""Softmax and sigmoid focal loss against a loop over pixels, PyTorch and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from mmdefect.functional import focal as focal_module
from mmdefect.functional.focal import sigmoid_focal_loss, softmax_focal_loss
from tests.functional.loss_cases import random_case


def loop_over_pixels(logits, label, gamma, alpha, class_weight, weight, avg_non_ignore):
    """The formula, pixel by pixel, in float64 NumPy."""
    total = count = 0.0
    for index in np.ndindex(*label.shape):
        target = label[index]
        if target == 255:
            count += 0 if avg_non_ignore or class_weight is not None else 1
            continue
        z = logits[index[0], :, index[1], index[2]]
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        w = 1.0 if class_weight is None else class_weight[target]
        total += weight[index] * w * alpha[target] * (1 - p[target]) ** gamma * -np.log(p[target])
        count += w
    return total / count


@pytest.mark.parametrize('gamma', [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize('class_weight', [None, [0.1, 2.0, 3.0]])
@pytest.mark.parametrize('avg_non_ignore', [True, False])
@pytest.mark.parametrize('fused', [True, False])
def test_softmax_focal_is_its_formula(gamma, class_weight, avg_non_ignore, fused):
    logits, label = random_case(int(10 * gamma))
    weight = torch.rand(label.shape, dtype=torch.float64)
    alpha = [0.1, 0.3, 0.6]
    expected = loop_over_pixels(
        logits.numpy(), label.numpy(), gamma, alpha, class_weight, weight.numpy(), avg_non_ignore
    )
    found = softmax_focal_loss(
        logits,
        label,
        gamma=gamma,
        alpha=alpha,
        class_weight=class_weight,
        weight=weight,
        avg_non_ignore=avg_non_ignore,
        fused=fused,
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('class_weight', [None, [0.1, 2.0, 3.0]])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_without_gamma_and_alpha_it_is_the_cross_entropy_of_pytorch(class_weight, smoothing):
    logits, label = random_case(2, (3, 3, 7, 5), dtype=torch.float32)
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = softmax_focal_loss(mine, label, gamma=0, class_weight=class_weight, label_smoothing=smoothing)
    weight = None if class_weight is None else torch.tensor(class_weight)
    expected = F.cross_entropy(theirs, label, weight=weight, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_without_gamma_the_map_is_that_of_pytorch_to_the_bit():
    logits, label = random_case(3, (2, 3, 9, 9), dtype=torch.float32)
    expected = F.cross_entropy(logits, label, ignore_index=255, reduction='none')
    assert torch.equal(softmax_focal_loss(logits, label, gamma=0, reduction='none'), expected)


def test_it_is_the_focal_loss_of_kornia():
    from kornia.losses import focal_loss

    logits, label = random_case(4, ignored=0)
    expected = focal_loss(logits, label, alpha=None, gamma=1.5, reduction='none').sum(1)  # one slice per class
    torch.testing.assert_close(softmax_focal_loss(logits, label, gamma=1.5, reduction='none'), expected)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0, 3.5])
def test_both_gradients_agree_also_in_pieces(gamma, monkeypatch):
    logits, label = random_case(5, (5, 3, 6, 7))
    weight = torch.rand(5, dtype=torch.float64)
    grads = []
    for piece, fused in ((2**18, True), (2 * 3 * 6 * 7, True), (1, True), (1, False)):
        monkeypatch.setattr(focal_module, '_PIECE', piece)
        x = logits.clone().requires_grad_()
        softmax_focal_loss(x, label, gamma=gamma, alpha=[0.1, 0.3, 0.6], weight=weight, fused=fused).backward()
        grads.append(x.grad)
    for other in grads[:-1]:
        torch.testing.assert_close(other, grads[-1])


@pytest.mark.parametrize('gamma', [0.5, 1.0, 2.0])
def test_a_certain_prediction_costs_nothing_and_a_wrong_one_its_distance(gamma):
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0]]).requires_grad_()
    loss = softmax_focal_loss(logits, torch.tensor([0, 0]), gamma=gamma, reduction='none')
    assert loss.tolist() == pytest.approx([0, 120])
    loss.sum().backward()
    assert logits.grad.flatten().tolist() == pytest.approx([0, 0, -1, 1])


def test_gradients_reach_alpha_and_class_weights():
    logits, label = random_case(6)
    alpha = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, w: softmax_focal_loss(logits, label, alpha=a, class_weight=w), (alpha, weight)
    )


def test_functional_transforms_and_graphs_of_gradients_agree():
    logits, label = random_case(7, (1, 3, 2, 2))

    def loss(x):
        return softmax_focal_loss(x, label, gamma=1.5, alpha=[0.1, 0.3, 0.6])

    plain = torch.autograd.functional.hessian(
        lambda x: softmax_focal_loss(x, label, gamma=1.5, alpha=[0.1, 0.3, 0.6], fused=False), logits
    )
    torch.testing.assert_close(torch.autograd.functional.hessian(loss, logits), plain)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(loss))(logits), plain)


def test_the_graph_does_not_keep_a_second_copy_of_the_logits():
    kept = {}

    def remember(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def saved(function):
        kept.clear()
        logits, label = random_case(8, (2, 3, 64, 64), dtype=torch.float32)
        logits.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(remember, lambda t: t):
            function(logits, label)
        kept.pop(logits.untyped_storage().data_ptr(), None)
        kept.pop(label.untyped_storage().data_ptr(), None)
        return sum(kept.values())

    theirs = saved(lambda x, y: F.cross_entropy(x, y, ignore_index=255))
    ours = saved(lambda x, y: softmax_focal_loss(x, y, alpha=[0.1, 0.3, 0.6]))
    assert ours <= 0.5 * theirs  # one map against three


def test_one_dimension_of_pixels_and_two_classes():
    logits, label = torch.tensor([[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]]), torch.tensor([1, 0, 255])
    p = torch.tensor([1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-2.0))])
    expected = ((1 - p) ** 2 * -p.log()).mean()
    assert softmax_focal_loss(logits, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_negative_gamma_is_rejected():
    for function in (softmax_focal_loss, sigmoid_focal_loss):
        with pytest.raises(ValueError, match='`gamma` must be at least 0'):
            function(*random_case(), gamma=-1.0)


@pytest.mark.parametrize('gamma', [0.0, 2.0])
@pytest.mark.parametrize('alpha', [None, 0.25])
@pytest.mark.parametrize('channels', [1, 3])
def test_sigmoid_focal_is_that_of_torchvision(gamma, alpha, channels):
    logits, label = random_case(9, (2, channels, 5, 6), ignored=0)
    label = torch.randint(0, max(channels, 2), label.shape)
    onehot = label.unsqueeze(1) == 1 if channels == 1 else F.one_hot(label, channels).movedim(-1, 1)
    expected = torchvision_focal(logits, onehot.double(), -1 if alpha is None else alpha, gamma, 'none')
    found = sigmoid_focal_loss(logits, label, gamma=gamma, alpha=alpha, reduction='none')
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(sigmoid_focal_loss(logits, label, gamma=gamma, alpha=alpha), expected.mean())


def test_sigmoid_focal_takes_one_alpha_and_weight_per_class():
    logits, label = random_case(10)
    alpha, weight = [0.1, 0.5, 0.9], [1.0, 2.0, 0.0]
    found = sigmoid_focal_loss(logits, label, alpha=alpha, class_weight=weight, reduction='none')
    for channel in range(3):
        one = (label == channel).long().masked_fill(label == 255, 255)
        expected = sigmoid_focal_loss(logits[:, channel : channel + 1], one, alpha=alpha[channel], reduction='none')
        torch.testing.assert_close(found[:, channel], weight[channel] * expected[:, 0])


def test_the_sigmoid_mean_is_over_channels_and_labelled_pixels():
    logits, label = random_case(11)
    each = sigmoid_focal_loss(logits, label, reduction='none')
    labelled = (label != 255).sum()
    torch.testing.assert_close(sigmoid_focal_loss(logits, label), each.sum() / (3 * labelled))
    over_all = sigmoid_focal_loss(logits, label, avg_non_ignore=False)
    torch.testing.assert_close(over_all, each.sum() / (3 * label.numel()))


def test_one_output_channel_means_two_classes():
    with pytest.raises(ValueError, match='One output channel means two classes'):
        sigmoid_focal_loss(torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), 2))
