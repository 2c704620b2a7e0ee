"""The losses as mmseg's heads use them: registered, built from configs, called with the heads' arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmdefect.registration  # noqa: F401
from mmdefect.models import losses as package
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS
from tests.functional.loss_cases import random_case

#: Every loss over logits and labels, by registered name.
LOSSES = dict(
    SoftmaxFocalLoss=dict(alpha=[0.1, 0.3, 0.6]),
    SigmoidFocalLoss=dict(),
    TverskyFocalLoss=dict(),
    DefectDiceLoss=dict(defects_only=True),
    CenterlineDiceLoss=dict(),
    SignedDistanceLoss=dict(),
    WeakBoxLoss=dict(tau=0.5),
)
EACH = pytest.mark.parametrize('name', LOSSES)


def build(name, **kwargs):
    return MODELS.build(dict(type=name, **{**LOSSES.get(name, {}), **kwargs}))


def test_the_table_has_every_loss():
    exported = {
        n
        for n in package.__all__
        if isinstance(getattr(package, n), type) and issubclass(getattr(package, n), DefectLoss)
    }
    assert exported == set(LOSSES)


@EACH
def test_the_loss_weight_is_applied(name):
    logits, label = random_case()
    torch.testing.assert_close(build(name, loss_weight=0.4)(logits, label), 0.4 * build(name)(logits, label))


@EACH
def test_heads_may_leave_everything_out_or_name_it(name):
    logits, label = random_case()
    loss = build(name, class_weight=[0.2, 1.0, 2.0])
    assert loss.loss_name.startswith('loss_')
    torch.testing.assert_close(loss(logits, label), loss(logits, label, weight=None, ignore_index=255))
    override = loss(logits, label, reduction_override='sum')
    assert override.shape == () and override > loss(logits, label)
    assert loss(logits, label, None, 5.0) == pytest.approx(override.item() / 5)  # the order of mmseg's arguments
    complete = torch.where(label == 255, 0, label)
    torch.testing.assert_close(loss(logits, complete, ignore_index=None), loss(logits, complete))


@EACH
def test_class_weights_may_come_from_a_file(name, tmp_path):
    np.save(tmp_path / 'weights.npy', np.array([0.2, 1.0, 2.0]))
    logits, label = random_case()
    from_file = build(name, class_weight=str(tmp_path / 'weights.npy'))
    torch.testing.assert_close(from_file(logits, label), build(name, class_weight=[0.2, 1.0, 2.0])(logits, label))


@EACH
def test_an_unknown_reduction_is_rejected(name):
    with pytest.raises(ValueError, match='`reduction` must be one of'):
        build(name, reduction='average')


def test_the_cross_entropy_of_mmseg_is_the_case_without_gamma():
    logits, label = random_case(1, dtype=torch.float32)
    for avg_non_ignore in (False, True):
        theirs = MODELS.build(dict(type='CrossEntropyLoss', avg_non_ignore=avg_non_ignore))
        ours = build('SoftmaxFocalLoss', gamma=0, alpha=None, avg_non_ignore=avg_non_ignore)
        torch.testing.assert_close(ours(logits, label), theirs(logits, label, ignore_index=255))
    theirs = MODELS.build(dict(type='CrossEntropyLoss', class_weight=[0.2, 1.0, 2.0]))
    ours = build('SoftmaxFocalLoss', gamma=0, alpha=None, class_weight=[0.2, 1.0, 2.0])
    torch.testing.assert_close(ours(logits, label), theirs(logits, label, ignore_index=255))


def test_class_weights_and_the_mean_over_labelled_pixels_go_together():
    logits, label = random_case(2, dtype=torch.float32)
    ours = build('SoftmaxFocalLoss', gamma=0, alpha=None, class_weight=[0.2, 1.0, 2.0], avg_non_ignore=True)
    expected = torch.nn.functional.cross_entropy(logits, label, torch.tensor([0.2, 1.0, 2.0]), ignore_index=255)
    torch.testing.assert_close(ours(logits, label), expected)


def test_several_classes_work_on_a_cpu_where_the_loss_of_mmseg_fails():
    logits, label = random_case(3, dtype=torch.float32)
    with pytest.raises(RuntimeError, match='size'):
        MODELS.build(dict(type='FocalLoss'))(logits, label)
    assert build('SigmoidFocalLoss')(logits, label).isfinite()


def test_the_box_schedule_follows_the_calls_and_survives_a_checkpoint():
    logits, label = random_case(4)
    loss = build('WeakBoxLoss', tau=1.0, warmup=2)
    warm = build('WeakBoxLoss', tau=1.0, warmup=99)(logits, label)
    outside = build('WeakBoxLoss', tau=1.0)(logits, label)
    assert warm != outside
    assert [loss(logits, label) for _ in range(3)] == [warm, warm, outside]
    other = build('WeakBoxLoss', tau=1.0, warmup=2)
    other(logits, label)
    other.load_state_dict(loss.state_dict())
    assert other(logits, label) == outside and other.iteration == 4
    loss = build('WeakBoxLoss', tau=1.0, warmup=1)
    loss.eval()
    assert [loss(logits, label) for _ in range(3)] == [warm] * 3
