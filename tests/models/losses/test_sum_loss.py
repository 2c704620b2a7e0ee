"""The sum, its weights, and the ignored label that PIDNet forgets."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mmdefect.models.losses import SumLoss


def test_sum_weights_and_ignored_pixels():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    target[0, 0] = 255
    single = dict(type='CrossEntropyLoss', avg_non_ignore=True)
    loss = SumLoss([dict(single, loss_weight=0.5), dict(single, loss_weight=2.0)], loss_weight=3.0)
    expected = 3.0 * 2.5 * functional.cross_entropy(logits, target, ignore_index=255)
    assert loss(logits, target).item() == pytest.approx(expected.item())
    assert loss(logits, target, ignore_index=255).item() == pytest.approx(expected.item())
