"""Dice, Tversky, centre-line and boundary losses against loops in NumPy, kornia, and cases one can count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdefect.functional.region_losses import (
    centerline_dice_loss,
    defect_dice_loss,
    signed_distance,
    signed_distance_loss,
    soft_skeleton,
    tversky_focal_loss,
)
from tests.functional.loss_cases import random_case


def softmax(logits):
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def masks_of(logits, label, weight):
    """Yield class, probabilities, truth and weights of the labelled pixels of the batch, flat."""
    p, label, weight = softmax(logits.numpy()), label.numpy(), weight.numpy()
    keep = label != 255
    for k in range(p.shape[1]):
        yield k, p[:, k][keep], (label == k)[keep].astype(float), weight[keep]


@pytest.mark.parametrize('gamma', [0.75, 1.0, 2.0])
@pytest.mark.parametrize('defects_only', [False, True])
@pytest.mark.parametrize('class_weight', [None, [0.1, 0.3, 0.6]])
def test_tversky_is_its_formula(gamma, defects_only, class_weight):
    logits, label = random_case(1)
    weight = torch.rand(label.shape, dtype=torch.float64)
    losses, weights = [], []
    for k, p, y, v in masks_of(logits, label, weight):
        tp, fp, fn = (v * p * y).sum(), (v * p * (1 - y)).sum(), (v * (1 - p) * y).sum()
        losses.append((1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)) ** gamma)
        weights.append(1 if class_weight is None else class_weight[k])
    first = int(defects_only)
    expected = np.average(losses[first:], weights=weights[first:])
    found = tversky_focal_loss(
        logits, label, gamma=gamma, defects_only=defects_only, class_weight=class_weight, weight=weight
    )
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('exponent', [1, 2])
def test_dice_is_its_formula(exponent):
    logits, label = random_case(2)
    weight = torch.rand(label.shape, dtype=torch.float64)
    losses = [
        1 - (2 * (v * p * y).sum() + 0.5) / ((v * p**exponent).sum() + (v * y).sum() + 0.5)
        for _, p, y, v in masks_of(logits, label, weight)
    ]
    found = defect_dice_loss(logits, label, exponent=exponent, smooth=0.5, weight=weight)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-10)
    found = defect_dice_loss(logits, label, exponent=exponent, smooth=0.5, weight=weight, defects_only=True)
    assert found.item() == pytest.approx(np.mean(losses[1:]), rel=1e-10)


def test_tversky_with_equal_prices_is_dice():
    logits, label = random_case(3)
    dice = defect_dice_loss(logits, label, smooth=2.0)
    torch.testing.assert_close(tversky_focal_loss(logits, label, alpha=0.5, beta=0.5, gamma=1.0, smooth=1.0), dice)


def test_areas_of_each_image_are_those_of_kornia():
    from kornia.losses import dice_loss, tversky_loss

    logits, label = random_case(4, (3, 3, 9, 8))
    dice = defect_dice_loss(logits, label, smooth=1e-8, per_image=True)
    theirs = dice_loss(logits, label, average='macro', eps=1e-8, ignore_index=255)
    torch.testing.assert_close(dice, theirs, atol=1e-6, rtol=1e-6)
    tversky = tversky_focal_loss(logits, label, alpha=0.3, beta=0.7, gamma=1.0, smooth=1e-8, per_image=True)
    theirs = tversky_loss(logits, label, alpha=0.3, beta=0.7, eps=1e-8, ignore_index=255)
    torch.testing.assert_close(tversky, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('function', [tversky_focal_loss, defect_dice_loss, centerline_dice_loss])
def test_a_perfect_prediction_costs_nothing_and_an_inverted_one_everything(function):
    label = torch.zeros(2, 24, 24, dtype=torch.long)
    label[0, 3:9, 2:20], label[1, 15:20, 5:9] = 1, 2
    logits = 200 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    assert function(logits, label) < 1e-4
    assert function(-logits, label, smooth=1e-3) > 0.8


@pytest.mark.parametrize('function', [tversky_focal_loss, defect_dice_loss, centerline_dice_loss])
def test_classes_without_pixels_can_be_left_out(function):
    label = torch.zeros(1, 12, 12, dtype=torch.long)
    label[0, 4:6, 4:9] = 1
    logits = random_case(5, (1, 3, 12, 12))[0]
    each = function(logits, label, reduction='none')
    present = [k for k, class_id in enumerate(range(3 - len(each), 3)) if class_id < 2]
    torch.testing.assert_close(function(logits, label, present_only=True), each[present].mean())
    empty = torch.zeros_like(label)
    if function is centerline_dice_loss:
        assert function(logits, empty, present_only=True) == 0


def test_one_output_channel_is_the_defect():
    logits, label = random_case(6, (2, 1, 6, 6))
    label = torch.where(label == 255, label, label.new_ones(()).expand_as(label) * (torch.rand(label.shape) > 0.5))
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    for function in (tversky_focal_loss, defect_dice_loss, centerline_dice_loss, signed_distance_loss):
        kwargs = {} if function in (centerline_dice_loss, signed_distance_loss) else dict(defects_only=True)
        torch.testing.assert_close(function(logits, label), function(two, label, **kwargs))


def slow_skeleton(image, iterations):
    """The same from grey morphology of SciPy, borders without neighbours."""
    from scipy import ndimage

    plus = ndimage.generate_binary_structure(2, 1)

    def erode(x):
        return ndimage.grey_erosion(x, footprint=plus, mode='constant', cval=np.inf)

    def opened(x):
        return ndimage.grey_dilation(erode(x), size=(3, 3), mode='constant', cval=-np.inf)

    skeleton = np.maximum(image - opened(image), 0)
    for _ in range(iterations):
        image = erode(image)
        ridge = np.maximum(image - opened(image), 0)
        skeleton = skeleton + np.maximum(ridge - skeleton * ridge, 0)
    return skeleton


@pytest.mark.parametrize('iterations', [0, 1, 4])
def test_the_skeleton_is_that_of_grey_morphology(iterations):
    values = torch.rand(2, 2, 13, 17, dtype=torch.float64)
    found = soft_skeleton(values, iterations)
    for b in range(2):
        for k in range(2):
            np.testing.assert_allclose(found[b, k], slow_skeleton(values[b, k].numpy(), iterations), atol=1e-12)


def test_the_skeleton_of_a_bar_is_its_middle_line_and_small_defects_stay():
    image = torch.zeros(1, 1, 15, 30)
    image[..., 5:10, 3:27] = 1  # five wide
    middle = soft_skeleton(image, 3)[0, 0]
    assert (middle[7, 6:24] == 1).all() and middle.sum(0)[8:22].max() == 1
    pair = torch.zeros(1, 1, 8, 8)
    pair[..., 3, 3:5] = 1
    assert torch.equal(soft_skeleton(pair, 3), pair)


def test_a_cut_scratch_costs_more_on_its_centre_line_than_thinner_edges():
    label = torch.zeros(1, 20, 60, dtype=torch.long)
    label[0, 8:13, 5:55] = 1

    def logits_of(mask):
        return 40.0 * torch.stack([~mask, mask], 1).float()

    thin, cut = label == 1, label == 1
    thin[0, 8], thin[0, 12] = False, False  # 100 pixels missing, the line is whole
    cut[0, :, 25:45] = False  # as many missing, and a gap in the line
    by_area = [defect_dice_loss(logits_of(m), label, defects_only=True) for m in (thin, cut)]
    by_line = [centerline_dice_loss(logits_of(m), label) for m in (thin, cut)]
    assert by_area[0] == pytest.approx(by_area[1])
    assert by_line[0] < 0.02 and by_line[1] > 0.2


def test_signed_distance_of_a_square_can_be_counted():
    truth = np.zeros((9, 9), bool)
    truth[3:6, 3:6] = True
    phi = signed_distance(truth, 4.0) * 4
    assert phi[4].tolist() == pytest.approx([2.5, 1.5, 0.5, -0.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert phi[0, 0] == pytest.approx(np.hypot(3, 3) - 0.5)
    assert (signed_distance(np.zeros((3, 3), bool), 4.0) == 1).all()
    assert (signed_distance(np.ones((3, 3), bool), 4.0) == -1).all()


def test_the_boundary_term_is_its_formula_and_prefers_near_mistakes():
    logits, label = random_case(7)
    weight = torch.rand(label.shape, dtype=torch.float64)
    p, total = softmax(logits.numpy()), 0.0
    v = weight.numpy() * (label.numpy() != 255)
    for b in range(2):
        for k in (1, 2):
            inside = np.argwhere(label[b].numpy() == k)
            outside = np.argwhere(label[b].numpy() != k)
            for index in np.ndindex(*label.shape[1:]):
                here = label[(b, *index)] == k
                far = np.linalg.norm((outside if here else inside) - index, axis=1).min() - 0.5
                total += v[(b, *index)] * np.clip(-far if here else far, -3, 3) / 3 * p[(b, k, *index)]
    found = signed_distance_loss(logits, label, max_distance=3.0, weight=weight)
    assert found.item() == pytest.approx(total / (2 * v.sum()), rel=1e-6)


@pytest.mark.parametrize(
    ('function', 'kwargs'),
    [
        (tversky_focal_loss, dict(gamma=0)),
        (tversky_focal_loss, dict(smooth=0)),
        (defect_dice_loss, dict(exponent=3)),
        (centerline_dice_loss, dict(iterations=-1)),
        (signed_distance_loss, dict(max_distance=0)),
    ],
)
def test_numbers_that_make_no_sense_are_rejected(function, kwargs):
    with pytest.raises(ValueError, match='must'):
        function(*random_case(), **kwargs)
