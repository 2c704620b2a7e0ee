"""What every loss must do: derivatives, ignored pixels, half precision, weights, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.functional.loss_cases import LOSSES, random_case

EACH = pytest.mark.parametrize('name', LOSSES)
#: Losses that are a sum over pixels, each pixel for itself.
OVER_PIXELS = [n for n in LOSSES if n.startswith(('focal', 'sigmoid', 'weak'))]


@EACH
def test_the_gradient_is_that_of_finite_differences(name):
    logits, label = random_case()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, label), logits.requires_grad_())


@pytest.mark.parametrize('name', OVER_PIXELS)
def test_the_second_derivative_is_that_of_finite_differences(name):
    logits, label = random_case(size=(1, 3, 2, 3))
    assert torch.autograd.gradgradcheck(lambda x: LOSSES[name](x, label), logits.requires_grad_())


@EACH
def test_ignored_pixels_have_no_gradient_and_their_logits_change_nothing(name):
    logits, label = random_case(1)
    logits.requires_grad_()
    loss = LOSSES[name](logits, label)
    loss.backward()
    ignored = (label == 255).unsqueeze(1).expand_as(logits)
    assert ignored.any() and (logits.grad[ignored] == 0).all() and logits.grad.abs().sum() > 0
    other = torch.where(ignored, -3 * logits.detach() + 1, logits.detach())
    torch.testing.assert_close(LOSSES[name](other, label), loss.detach())


@EACH
def test_a_batch_without_labels_gives_zero_with_a_gradient(name):
    logits, label = random_case()
    logits.requires_grad_()
    loss = LOSSES[name](logits, torch.full_like(label, 255))
    assert loss.item() == 0 and loss.requires_grad and loss.device == logits.device
    loss.backward()
    assert (logits.grad == 0).all()


@EACH
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_give_finite_losses_and_gradients(name, dtype):
    logits, label = random_case(size=(2, 3, 8, 8))
    logits = (logits * 2e4).clamp(-6e4, 6e4).to(dtype).requires_grad_()
    loss = LOSSES[name](logits, label)
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite() and logits.grad.dtype == dtype and logits.grad.isfinite().all()


@EACH
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_changes_no_more_than_the_rounding_of_the_logits(name, dtype):
    logits, label = random_case(size=(2, 3, 8, 8), dtype=torch.float32)
    layer = torch.nn.Conv2d(3, 3, 1)
    plain = LOSSES[name](layer(logits), label)
    with torch.autocast('cpu', dtype=dtype):
        mixed = LOSSES[name](layer(logits), label)
    mixed.backward()
    assert layer.weight.grad.isfinite().all()
    # logits of up to 4 are rounded to 8 (bfloat16) bits; a rounded logit may also move over the threshold of the boxes
    torch.testing.assert_close(mixed, plain, atol=0.05 if name == 'weak_box' else 0.02, rtol=0.02)


@EACH
@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_reductions_agree(name, reduction):
    logits, label = random_case(3)
    total = LOSSES[name](logits, label, reduction='sum')
    if reduction == 'none':
        torch.testing.assert_close(LOSSES[name](logits, label, reduction='none').sum(), total)
    torch.testing.assert_close(LOSSES[name](logits, label, avg_factor=7.0), total / 7)
    with pytest.raises(ValueError, match='avg_factor'):
        LOSSES[name](logits, label, reduction='sum', avg_factor=7.0)


@pytest.mark.parametrize('name', OVER_PIXELS)
def test_weights_multiply_the_loss_of_their_pixels(name):
    logits, label = random_case(4)
    weight = torch.rand(label.shape, dtype=torch.float64)
    each = LOSSES[name](logits, label, reduction='none')
    expected = each * (weight if each.dim() == 3 else weight.unsqueeze(1))
    torch.testing.assert_close(LOSSES[name](logits, label, weight=weight, reduction='none'), expected)
    samples = torch.tensor([0.5, 3.0], dtype=torch.float64)
    by_sample = LOSSES[name](logits, label, weight=samples, reduction='sum')
    torch.testing.assert_close(by_sample, 0.5 * each[0].sum() + 3 * each[1].sum())


@pytest.mark.parametrize(
    'name', [n for n in LOSSES if n not in OVER_PIXELS]
)  # a mean over pixels keeps its denominator
def test_a_sample_of_weight_zero_counts_as_ignored(name):
    logits, label = random_case(5)
    ignored = label.clone()
    ignored[1] = 255
    if name == 'tversky':  # counted image by image: the second image is left out of the mean either way
        assert LOSSES[name](logits, ignored) == LOSSES[name](logits, label, weight=torch.tensor([1.0, 0.0]))
    weighted = LOSSES[name](logits, label, weight=torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(weighted, LOSSES[name](logits, ignored))


@EACH
def test_gradients_reach_the_weights(name):
    logits, label = random_case(6)
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    LOSSES[name](logits, label, weight=weight).backward()
    assert weight.grad.isfinite().all()


@EACH
def test_inputs_are_not_modified(name):
    logits, label = random_case(7)
    before = logits.clone(), label.clone()
    LOSSES[name](logits.requires_grad_(), label).backward()
    assert torch.equal(logits.detach(), before[0]) and torch.equal(label, before[1])


@EACH
def test_a_label_of_another_size_is_rejected(name):
    logits, label = random_case()
    with pytest.raises(ValueError, match='shape of `logits`'):
        LOSSES[name](logits, label[:, 1:])


@pytest.mark.parametrize('name', ['focal', 'focal_cross_entropy', 'focal_plain', 'sigmoid_focal', 'weak_box'])
@pytest.mark.parametrize('wrong', [3, 254, 300, -1])
def test_a_label_of_no_class_is_rejected(name, wrong):
    logits, label = random_case()
    label[0, 0, 0] = wrong
    with pytest.raises(ValueError, match=r'must be 0\.\.2 or 255'):
        LOSSES[name](logits, label)


@pytest.mark.parametrize('name', [n for n in LOSSES if n not in ('focal_cross_entropy', 'focal_smoothed')])  # have them
def test_class_weights_of_another_number_of_classes_are_rejected(name):
    logits, label = random_case()
    with pytest.raises(ValueError, match='one number per class'):
        LOSSES[name](logits, label, class_weight=[1.0, 2.0])


@pytest.mark.parametrize('name', [n for n in LOSSES if n != 'signed_distance'])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), ignore_index=st.sampled_from([255, -100, 3, 10**6]))
def test_losses_are_not_negative_and_do_not_depend_on_the_ignored_value(name, seed, ignore_index):
    logits, label = random_case(seed)
    loss = LOSSES[name](logits, label)
    assert loss >= 0
    other = LOSSES[name](logits, label.masked_fill(label == 255, ignore_index), ignore_index=ignore_index)
    torch.testing.assert_close(other, loss)


@pytest.mark.gpu
@EACH
def test_a_gpu_gives_the_same(name):
    logits, label = random_case(8, (2, 3, 16, 16), dtype=torch.float32)
    results = []
    for device in ('cpu', 'cuda'):
        x = logits.to(device).requires_grad_()
        loss = LOSSES[name](x, label.to(device))
        loss.backward()
        results.append((loss.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)
