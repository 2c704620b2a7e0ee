"""Criss-cross attention against a loop over pixels and against mmcv's module."""

from __future__ import annotations

import pytest
import torch

import mmdefect.registration  # noqa: F401
from mmdefect.functional.layers import criss_cross_attention
from mmdefect.models.decode_heads.criss_cross_head import CrissCrossAttention, CrissCrossHead


def loop_attention(query, key, value):
    out = torch.zeros_like(value)
    height, width = query.shape[2:]
    for b in range(query.shape[0]):
        for i in range(height):
            for j in range(width):
                places = [(k, j) for k in range(height) if k != i] + [(i, k) for k in range(width)]
                energy = torch.stack([query[b, :, i, j] @ key[b, :, r, c] for r, c in places])
                weights = energy.softmax(0)
                out[b, :, i, j] = sum(w * value[b, :, r, c] for w, (r, c) in zip(weights, places, strict=True))
    return out


@pytest.mark.parametrize('size_hw', [(3, 5), (1, 4), (6, 2)])
def test_equals_a_loop_over_pixels(size_hw):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, d, *size_hw, dtype=torch.float64, generator=generator) for d in (3, 3, 4))
    assert torch.allclose(criss_cross_attention(query, key, value), loop_attention(query, key, value), atol=1e-12)


def test_equals_the_module_of_mmcv():
    from mmcv.ops.cc_attention import CrissCrossAttention as Theirs  # plain torch; registration lets it be imported

    theirs, ours = Theirs(16), CrissCrossAttention(16)
    theirs.gamma.scale.data.fill_(0.7)
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(2, 16, 9, 7, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ours(features), theirs(features), atol=1e-5)


def test_the_head_has_gradients_everywhere():
    head = CrissCrossHead(in_channels=8, channels=16, num_classes=3, norm_cfg=dict(type='BN'))
    head.cca.gamma.scale.data.fill_(0.5)
    out = head([torch.randn(2, 8, 6, 5)])
    assert out.shape == (2, 3, 6, 5)
    out.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
