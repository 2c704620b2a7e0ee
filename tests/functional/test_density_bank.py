"""A bank of embeddings against brute force, and what its choice of points promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from mmdefect.functional.density_bank import Bank, far_apart, fit_bank


def embeddings(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def greedy(points: np.ndarray, count: int) -> list[int]:
    """Choose the farthest from all chosen ones, with all distances written out."""
    distances = cdist(points, points)
    chosen = [int(cdist(points, points.mean(0, keepdims=True)).argmax())]
    while len(chosen) < count:
        chosen.append(int(distances[:, chosen].min(1).argmax()))
    return chosen


@pytest.mark.parametrize('width', [2, 7, 200])
def test_points_are_those_of_the_written_out_rule(width):
    x = embeddings(60, width)
    assert far_apart(x, 15).tolist() == greedy(x.numpy(), 15)


def test_every_embedding_has_a_kept_one_near():
    """Greedy choice covers within twice the best possible radius; here 8 clusters of radius .1 can be covered within .2."""
    centres = 10 * embeddings(8, 5)
    direction = torch.nn.functional.normalize(embeddings(4000, 5, 1), dim=1)
    crowd = torch.cat(
        [torch.zeros(3993, dtype=torch.int64), torch.arange(1, 8)]
    )  # all but one cluster are single points
    x = centres[crowd] + 0.1 * direction * (crowd == 0)[:, None]
    bank = fit_bank(x, 8)
    assert bank.points.shape == (8, 5) and bank.distance(x.float()).max() <= 0.2 + 1e-3


def test_distance_equals_scikit_learn():
    points, query = embeddings(300, 20), embeddings(2100, 20, 1)
    peer = NearestNeighbors(n_neighbors=1).fit(points.float().double().numpy()).kneighbors(query.numpy())[0][:, 0]
    bank = Bank(points.float())
    np.testing.assert_allclose(bank.distance(query).numpy(), peer, rtol=1e-9)
    np.testing.assert_allclose(bank.distance(query.float()).numpy(), peer, rtol=1e-4)
    assert float(bank.distance(points.float()).max()) < 0.01  # no distance from itself, up to the root of the rounding


def test_projection_keeps_the_choice_good():
    x = embeddings(400, 300) * torch.linspace(0.1, 2, 300)

    def radius(rows: torch.Tensor) -> float:
        return float(Bank(x[rows].float()).distance(x).max())

    exact, projected = (radius(far_apart(x, 40, generator)) for generator in (None, torch.Generator().manual_seed(0)))
    assert projected < 1.1 * exact
    again = [far_apart(x, 40, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again) and len(set(again[0].tolist())) == 40


def test_few_embeddings_are_all_kept_and_equal_ones_do_no_harm():
    x = embeddings(5, 3)
    assert far_apart(x, 9).tolist() == [0, 1, 2, 3, 4]
    same = torch.ones(6, 3)
    assert sorted(far_apart(same, 4).tolist()) != [0, 0, 0, 0] and len(set(far_apart(same, 4).tolist())) == 4
    assert torch.equal(Bank.from_state(fit_bank(x).state()).points, x.float())


def test_errors_say_what_must_hold():
    with pytest.raises(ValueError, match=r'\(N, 3\)'):
        fit_bank(embeddings(9, 3)).distance(embeddings(9, 2))
    with pytest.raises(ValueError, match='at least one row'):
        fit_bank(torch.zeros(0, 3))
    with pytest.raises(ValueError, match='at least 1'):
        fit_bank(embeddings(9, 3), 0)
