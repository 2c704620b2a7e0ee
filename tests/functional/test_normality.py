"""Memories of what is normal, against slow and independent versions."""

import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from mmdefect.functional.normality import NOBODY, BankMemory, PlaceMemory, nearest, smoothed


@pytest.mark.parametrize('count', [7, 300])
def test_the_nearest_point_is_that_of_all_distances(count):
    generator = torch.Generator().manual_seed(count)
    points, features = torch.randn(count, 5, generator=generator), torch.randn(3, 400, 5, generator=generator)
    owned, owners = torch.arange(count) % 4, torch.tensor([2, NOBODY, 0])
    distances = torch.cdist(features.double(), points.double())
    for sample in (0, 2):
        distances[sample][:, owned == owners[sample]] = torch.inf
    assert torch.equal(nearest(features, points, owned, owners), distances.argmin(2))
    assert torch.equal(nearest(features, points), torch.cdist(features.double(), points.double()).argmin(2))


def test_a_search_in_pieces_finds_the_same(monkeypatch):
    points, features = torch.randn(50, 8), torch.randn(2, 333, 8)
    whole = nearest(features, points)
    monkeypatch.setattr('mmdefect.functional.normality._HELD', 50 * 17)
    assert torch.equal(nearest(features, points), whole)


def images_of(count, seed, cells=150):
    """Features of images that differ: each has a direction of its own beside what all have."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)) * 3
    rows = []
    for _ in range(count):
        own = torch.randn(12, generator=generator)
        kind = torch.randint(6, (cells,), generator=generator)
        rows.append(common[kind] + own + 0.3 * torch.randn(cells, 12, generator=generator))
    return torch.stack(rows)


def test_training_and_held_out_images_are_equally_far():
    """Without the exclusion the images of the memory lie nearer, and the same comparison sees it."""
    train, held_out = images_of(60, 1), images_of(60, 2)
    memory = BankMemory(12, 400)
    memory.fit(train.flatten(0, 1), torch.arange(60).repeat_interleave(150))

    def distances(images, owners):
        maps = images.transpose(1, 2).reshape(len(images), 12, 10, 15)
        return memory(maps, owners)[:, -1].expm1().mean((1, 2)).numpy()

    new = distances(held_out, None)
    assert ks_2samp(distances(train, torch.arange(60)), new).pvalue > 0.05
    assert ks_2samp(distances(train, None), new).pvalue < 1e-4
    assert distances(train, torch.arange(60)).mean() == pytest.approx(1, abs=0.05)  # the unit


def test_a_bank_needs_two_images():
    with pytest.raises(ValueError, match='at least 2 good images, got 1'):
        BankMemory(4, 8).fit(torch.randn(30, 4), torch.zeros(30, dtype=torch.int64))


def test_too_few_features_are_repeated():
    memory = BankMemory(3, 10)
    memory.fit(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]))
    assert len(memory.points.unique(dim=0)) == 4 and set(memory.owned.tolist()) == {0, 1}


def test_a_place_leaves_its_own_image_out():
    maps = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 + 30
    memory = PlaceMemory(3, (4, 5), shift=0)
    memory.fit(maps)
    floor = 0.1 * maps.var(0).mean()
    place = torch.zeros(1, 2, dtype=torch.int64)
    for number, one in enumerate(maps):
        others = maps[[n for n in range(7) if n != number]]
        residual, spread = memory.residual(one[None], place, torch.tensor([True]))
        assert torch.allclose(residual[0], one - others.mean(0), atol=1e-4)
        assert torch.allclose(spread[0].square(), others.var(0) + floor, atol=2e-3)
        residual, spread = memory.residual(one[None], place, torch.tensor([False]))
        assert torch.allclose(residual[0], one - maps.mean(0), atol=1e-4)
        assert torch.allclose(spread[0].square(), maps.var(0) + floor, atol=1e-3)


@pytest.mark.parametrize(('rows', 'columns'), [(0, 0), (5, 2), (8, 8)])
def test_a_crop_is_laid_where_it_was_cut(rows, columns):
    generator = torch.Generator().manual_seed(3)
    base = smoothed(torch.randn(1, 6, 16, 16, generator=generator))[0]
    memory = PlaceMemory(6, (16, 16), shift=2)
    memory.fit(base + 0.1 * torch.randn(10, 6, 16, 16, generator=generator))
    crop = base[None, :, rows : rows + 8, columns : columns + 8]
    assert memory.locate(crop).tolist() == [[rows, columns]]
    near = torch.tensor([[min(rows + 1, 8), max(columns - 1, 0)]])
    assert memory.refine(crop, near, 1).tolist() == [[rows, columns]]


def test_a_part_that_lies_aside_is_found_back():
    base = torch.randn(1, 6, 16, 16, generator=torch.Generator().manual_seed(5))
    memory = PlaceMemory(6, (16, 16), shift=3)
    memory.fit([base[0] - 0.01, base[0] + 0.01])
    moved = base.roll((2, -3), (2, 3))
    place = memory.locate(moved)
    assert place.tolist() == [[-2, 3]]
    inside = memory(moved, place)[0, -1, 3:, :-4]
    assert inside.max() < 1e-2 < memory(moved, torch.zeros_like(place))[0, -1].mean()
    assert torch.equal(memory.laid(moved, place)[:, :14, 3:], base[0, :, :14, 3:])


def test_rounding_moves_no_part_whose_map_says_nothing():
    memory = PlaceMemory(6, (5, 5), shift=2)
    memory.fit([torch.ones(6, 5, 5), torch.ones(6, 5, 5)])
    for seed in range(20):
        noise = 1e-6 * torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(seed))
        assert memory.locate(1.3 + noise).tolist() == [[0, 0], [0, 0]]


def test_smoothing_is_the_mean_of_the_cells_that_exist():
    features = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    padded = nn.functional.pad(features, (1, 1, 1, 1), value=torch.nan)
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    assert torch.allclose(smoothed(features).double(), windows.nanmean(4), atol=1e-6)
