"""The elastic deformation: SciPy's B-splines, no folds, topology kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline

from mmdefect.synthesis.augment import OperationRanges, apply_operations, harden, sample_operations
from mmdefect.synthesis.elastic import CONTROLS, check_fraction, displacement, spline_basis


def test_basis_is_scipys_uniform_cubic_spline():
    positions = torch.linspace(0, 1, 41, dtype=torch.float64)
    ours = spline_basis(positions).numpy()
    knots = np.arange(-3, CONTROLS + 1)
    place = positions.numpy() * (CONTROLS - 3)
    for i in range(CONTROLS):
        expected = BSpline.basis_element(knots[i : i + 5], extrapolate=False)(place)
        inside = (place > knots[i]) & (place < knots[i + 4])
        assert np.allclose(ours[inside, i], expected[inside], atol=1e-12)
        assert np.allclose(ours[~inside, i], 0, atol=1e-12)
    assert np.allclose(ours.sum(1), 1)


def test_displacement_is_the_double_sum():
    control = torch.rand(2, 2, CONTROLS, CONTROLS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.rand(2, 5, dtype=torch.float64), torch.rand(2, 7, dtype=torch.float64)
    field = displacement(control, rows, columns)
    expected = torch.einsum('bhi,bcij,bwj->bhwc', spline_basis(rows), control, spline_basis(columns))
    assert torch.allclose(field, expected, atol=1e-12)
    assert torch.allclose(displacement(control, rows, columns, expected), 2 * expected, atol=1e-12)


def test_the_strongest_deformation_does_not_fold():
    fraction, size = 0.249, 121
    places = torch.linspace(0, 1, size, dtype=torch.float64)[None]
    spacing = (size - 1) / (CONTROLS - 3)
    for seed in range(30):
        signs = torch.rand(1, 2, CONTROLS, CONTROLS, generator=torch.Generator().manual_seed(seed)).round() * 2 - 1
        field = displacement(signs.double() * fraction * spacing, places, places)[0].numpy()
        xy, yy = np.gradient(field[..., 0], axis=0), np.gradient(field[..., 1], axis=0)
        xx, yx = np.gradient(field[..., 0], axis=1), np.gradient(field[..., 1], axis=1)
        assert ((1 + xx) * (1 + yy) - xy * yx).min() > 0


def test_a_ring_stays_a_ring():
    rows, columns = np.mgrid[:61, :61] - 30
    radius = np.hypot(rows, columns)
    mask = torch.from_numpy(((radius > 12) & (radius < 22)).astype(np.float32))[None]
    ranges = OperationRanges(probability=0, flip_probability=0, elastic_probability=1, elastic=(0.2, 0.24))
    for seed in range(15):
        drawn = sample_operations(torch.Generator().manual_seed(seed), ranges)
        label = harden(apply_operations(mask.expand(3, -1, -1), mask, drawn)[1])[0].numpy()
        assert ndimage.label(label)[1] == 1 and ndimage.label(~label)[1] == 2
        assert label[0].sum() + label[-1].sum() + label[:, 0].sum() + label[:, -1].sum() == 0


def test_folding_fractions_are_refused():
    with pytest.raises(ValueError, match='0.25'):
        check_fraction('elastic', (0.0, 0.25))
