"""CutPaste and Perlin anomalies give on a CUDA device what they give on the CPU."""

from __future__ import annotations

import pytest
import torch

from mmdefect.synthesis.cutpaste import cut_paste
from mmdefect.synthesis.perlin import perlin_anomaly

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device is here')]
#: Convolution-free float32: what differs is the order of sums.
CLOSE = dict(atol=2e-5, rtol=0)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize('kind', ['normal', 'scar'])
def test_cut_paste(kind):
    images = torch.rand(4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    here, there = (cut_paste(images.to(device), generators(4), kind=kind) for device in ('cpu', 'cuda'))
    assert there.image.is_cuda and there.label.is_cuda
    assert torch.allclose(there.image.cpu(), here.image, **CLOSE)
    assert (
        there.label.cpu() != here.label
    ).float().mean() < 1e-3  # a change of just the tolerance may round either way


def test_perlin_anomaly():
    images = torch.rand(4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    here, there = (perlin_anomaly(images.to(device), generators(4)) for device in ('cpu', 'cuda'))
    assert there.image.is_cuda and there.label.is_cuda
    differs = (there.image.cpu() - here.image).abs().amax(1) > 2e-5
    assert differs.float().mean() < 1e-3 and (there.label.cpu() != here.label).float().mean() < 2e-3
