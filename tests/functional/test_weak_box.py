"""Which pixels of a box count, when, and what the mean divides by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmdefect.functional.focal import softmax_focal_loss
from mmdefect.functional.weak_box import BoxSchedule, counted_in_boxes, weak_box_loss
from tests.functional.loss_cases import random_case


def box_case():
    """One row: normal, box of class 1 (three pixels: sure defect, sure normal, other defect), ignored."""
    logits = torch.tensor([[[0.0, -4.0, 4.0, -4.0, 0.0]], [[0.0, 4.0, -4.0, -4.0, 0.0]], [[0.0, -4.0, -4.0, 4.0, 0.0]]])
    return logits.movedim(0, 1), torch.tensor([[0, 1, 1, 1, 255]])


def test_only_pixels_of_the_box_that_look_defective_count():
    logits, label = box_case()
    assert counted_in_boxes(logits, label, 0.5)[0, :4].tolist() == [True, True, False, True]
    each = F.cross_entropy(logits, label, reduction='none', ignore_index=255)
    found = weak_box_loss(logits, label, tau=0.5, gamma=0.0)
    torch.testing.assert_close(found, (each[0, 0] + each[0, 1] + each[0, 3]) / 3)


def test_warm_up_counts_every_pixel_and_a_threshold_of_one_none_inside():
    logits, label = random_case(1)
    torch.testing.assert_close(weak_box_loss(logits, label, tau=None), softmax_focal_loss(logits, label))
    outside = label.masked_fill(label > 0, 255)
    torch.testing.assert_close(weak_box_loss(logits, label, tau=1.0), softmax_focal_loss(logits, outside))


def test_labels_outside_the_marked_boxes_are_exact():
    logits, label = box_case()
    boxes = torch.tensor([[False, False, False, True, False]])
    assert counted_in_boxes(logits, label, 1.0, boxes).tolist() == [[True, True, True, False, True]]


def test_the_choice_of_pixels_has_no_gradient_of_its_own():
    logits, label = random_case(2)
    counted = counted_in_boxes(logits, label, 0.5)
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weak_box_loss(mine, label, tau=0.5).backward()
    softmax_focal_loss(theirs, label.masked_fill(~counted, 255)).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_class_weights_count_in_the_mean():
    logits, label = random_case(3)
    masked = label.masked_fill(~counted_in_boxes(logits, label, 0.4), 255)
    expected = F.cross_entropy(logits, masked, weight=torch.tensor([0.1, 1.0, 2.0]).double(), ignore_index=255)
    torch.testing.assert_close(weak_box_loss(logits, label, tau=0.4, gamma=0.0, class_weight=[0.1, 1.0, 2.0]), expected)


def test_the_schedule_warms_up_and_then_moves():
    schedule = BoxSchedule(tau=0.5, start=0.1, warmup=10, ramp=4)
    assert [schedule.at(i) for i in (0, 9)] == [None, None]
    assert [schedule.at(i) for i in (10, 12, 14, 99)] == pytest.approx([0.1, 0.3, 0.5, 0.5])
    assert BoxSchedule(tau=0.2).at(0) == 0.2


@pytest.mark.parametrize('kwargs', [dict(tau=1.5), dict(start=-1), dict(warmup=-1), dict(ramp=-1)])
def test_a_schedule_outside_the_probabilities_is_rejected(kwargs):
    with pytest.raises(ValueError, match='must'):
        BoxSchedule(**kwargs)


def test_one_channel_is_rejected():
    with pytest.raises(ValueError, match='at least one defect class'):
        weak_box_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
