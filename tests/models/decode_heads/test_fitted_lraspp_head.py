"""The fitted head equals mmseg's where that one works, and works where it does not."""

from __future__ import annotations

import pytest
import torch
from mmseg.models.decode_heads import LRASPPHead

from mmdefect.models.decode_heads import FittedLRASPPHead

SETTINGS = dict(
    in_channels=(4, 6, 8),
    in_index=(0, 1, 2),
    channels=16,
    branch_channels=(5, 7),
    num_classes=3,
    input_transform='multiple_select',
    norm_cfg=dict(type='BN'),
    act_cfg=dict(type='ReLU'),
)


def features(side):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, s, s, generator=generator) for c, s in ((4, 4 * side), (6, 2 * side), (8, side))]


def test_equals_the_head_of_mmseg_at_crop_512():
    theirs, ours = LRASPPHead(**SETTINGS).eval(), FittedLRASPPHead(**SETTINGS).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(features(64)), theirs(features(64)))


@pytest.mark.parametrize('side', [1, 8, 32, 48])
def test_small_features_work(side):
    out = FittedLRASPPHead(**SETTINGS)(features(side))
    assert out.shape == (2, 3, 4 * side, 4 * side) and torch.isfinite(out).all()
