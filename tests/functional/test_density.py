"""Gaussians, kernel densities and banks against scikit-learn, SciPy, brute force and plain sums."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import KernelDensity as PeerKernelDensity
from sklearn.neighbors import NearestNeighbors

from mmdefect.functional.density import (
    Bank,
    Gaussian,
    KernelDensity,
    Moments,
    far_apart,
    fit_bank,
    fit_gaussian,
    fit_kernel_density,
    fit_scale,
    fold_of,
    ledoit_wolf_shrinkage,
    normalize_rows,
)


def embeddings(count: int, width: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Correlated, off the origin, and of unequal variances."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    x = torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + torch.arange(width) * 0.1
    return x.to(dtype)


@pytest.mark.parametrize('count, width', [(30, 64), (300, 64), (40, 300), (9, 1)])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_shrinkage_equals_scikit_learn(count, width, dtype):
    x = embeddings(count, width, dtype=dtype)
    peer = LedoitWolf().fit(x.double().numpy())
    ours = fit_gaussian(x)
    assert ours.shrinkage == pytest.approx(peer.shrinkage_, abs=1e-6)
    assert np.abs(ours.covariance.numpy() - peer.covariance_).max() < 1e-6 * np.abs(peer.covariance_).max()
    if dtype == torch.float64:
        expected = np.sqrt(peer.mahalanobis(x.numpy()))
        np.testing.assert_allclose(ours.distance(x).numpy(), expected, rtol=1e-6)


def test_normalised_features_of_a_backbone_keep_the_accuracy():
    """L2-normalised and all positive, as after a ReLU: the mean is large beside the spread; here in float32."""
    x = normalize_rows(embeddings(400, 128, dtype=torch.float32).abs() + 1)
    peer = LedoitWolf().fit(x.double().numpy())
    ours = fit_gaussian(x)
    assert ours.shrinkage == pytest.approx(peer.shrinkage_, rel=1e-6, abs=1e-6)
    expected = np.sqrt(peer.mahalanobis(x.double().numpy()))
    np.testing.assert_allclose(ours.distance(x).numpy(), expected, rtol=2e-4)  # scored in float32


def test_full_covariance_equals_numpy():
    x = embeddings(200, 20)
    ours = fit_gaussian(x, 'none')
    np.testing.assert_allclose(ours.covariance.numpy(), np.cov(x.numpy().T, bias=True), atol=1e-12)
    assert ours.shrinkage == 0


def test_log_density_equals_scipy():
    x = embeddings(100, 8)
    ours = fit_gaussian(x)
    peer = multivariate_normal(ours.mean.numpy(), ours.covariance.numpy())
    np.testing.assert_allclose(ours.log_density(x).numpy(), peer.logpdf(x.numpy()), rtol=1e-9)


@pytest.mark.parametrize('sizes', [(1, 1, 5), (50, 3, 200), (7,) * 20])
def test_one_pass_in_batches_equals_the_whole(sizes):
    x = embeddings(sum(sizes), 33)
    stream = functools.reduce(Moments.merge, map(Moments.of, x.split(sizes)))
    z = x - x.mean(0)
    square = z.square().sum(1)
    assert stream.count == len(x)
    torch.testing.assert_close(stream.mean, x.mean(0))
    torch.testing.assert_close(stream.scatter, z.T @ z)
    torch.testing.assert_close(stream.third, square @ z, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(stream.fourth, square.square().sum())


def test_folds_add_up():
    x = embeddings(90, 12)
    parts = [Moments.of(part) for part in x.chunk(3)]
    without_first = parts[1].merge(parts[2])
    torch.testing.assert_close(fit_gaussian(without_first).covariance, fit_gaussian(x[30:]).covariance)


def _reduce_rank(rank: int, world: int, folder: str) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=world)
    reduced = Moments.of(embeddings(101, 10)[rank::world]).all_reduce()
    torch.save(vars(reduced), f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_add_up(tmp_path):
    torch.multiprocessing.spawn(_reduce_rank, args=(2, str(tmp_path)), nprocs=2)
    whole = Moments.of(embeddings(101, 10))
    for rank in range(2):
        reduced = Moments(**torch.load(tmp_path / f'{rank}.pt'))
        assert reduced.count == 101
        assert ledoit_wolf_shrinkage(reduced) == pytest.approx(ledoit_wolf_shrinkage(whole), abs=1e-12)
        torch.testing.assert_close(reduced.scatter, whole.scatter)


def test_without_processes_nothing_is_reduced():
    moments = Moments.of(embeddings(5, 3))
    assert moments.all_reduce() is moments


def test_state_goes_round():
    x = embeddings(60, 6)
    ours = fit_gaussian(x)
    torch.testing.assert_close(Gaussian.from_state(ours.state()).distance(x), ours.distance(x))
    kernel = fit_kernel_density(x)
    torch.testing.assert_close(KernelDensity.from_state(kernel.state()).distance(x), kernel.distance(x))


def test_too_few_embeddings_are_named():
    with pytest.raises(ValueError, match='3 embeddings of width 8 do not span'):
        fit_gaussian(embeddings(3, 8), 'none')
    with pytest.raises(ValueError, match='at least two'):
        fit_gaussian(embeddings(1, 8))
    with pytest.raises(ValueError, match='finite'):
        Moments.of(torch.full((4, 2), float('nan')))
    with pytest.raises(ValueError, match='one width'):
        Moments.of(embeddings(4, 2)).merge(Moments.of(embeddings(4, 3)))
    with pytest.raises(ValueError, match=r'\(N, 8\)'):
        fit_gaussian(embeddings(9, 8)).distance(embeddings(9, 7))
    with pytest.raises(ValueError, match='ledoit_wolf, none'):
        fit_gaussian(embeddings(9, 8), 'oas')


@pytest.mark.parametrize('bandwidth', [0.2, 1.0, 5.0])
def test_kernel_density_equals_scikit_learn(bandwidth):
    x, query = embeddings(50, 5), embeddings(20, 5, seed=1)
    ours = fit_kernel_density(x, bandwidth)
    peer = PeerKernelDensity(bandwidth=bandwidth).fit(ours.points.double().numpy())
    np.testing.assert_allclose(ours.log_density(query).numpy(), peer.score_samples(query.numpy()), rtol=1e-6)


def test_kernel_distance_from_one_place_is_the_distance():
    ours = KernelDensity(torch.tensor([[3.0, 4.0]]), 0.5)
    assert ours.distance(torch.zeros(1, 2)).item() == pytest.approx(5.0, rel=1e-5)


def test_kernel_density_samples_the_same_points_again():
    x = embeddings(40, 3)
    first, second = (fit_kernel_density(x, max_points=10, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.points, second.points)
    with pytest.raises(ValueError, match='generator'):
        fit_kernel_density(x, max_points=10)


def test_scale_ends_at_the_farthest_normal_image():
    scale = fit_scale(torch.tensor([4.0, 2.0, 3.0]))
    assert scale.normalize(torch.tensor([2.0, 4.0, 6.0])).tolist() == [0.0, 1.0, 2.0]
    assert scale.decide(torch.tensor([4.0, 4.1])).tolist() == [False, True]
    with pytest.raises(ValueError, match='two different scores'):
        fit_scale(torch.tensor([1.0, 1.0]))


def test_folds_are_even_and_hold_everyone_out_once():
    folds = fold_of(23, 5, seed=3)
    assert sorted(torch.bincount(folds).tolist()) == [4, 4, 5, 5, 5]
    assert torch.equal(folds, fold_of(23, 5, seed=3)) and not torch.equal(folds, fold_of(23, 5, seed=4))
    with pytest.raises(ValueError, match='folds'):
        fold_of(3, 5)


def spread(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Independent, of equal variances."""
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
    x = spread(60, width)
    assert far_apart(x, 15).tolist() == greedy(x.numpy(), 15)


def test_every_embedding_has_a_kept_one_near():
    """Greedy choice covers within twice the best possible radius; 8 clusters of radius .1 can be covered within .2."""
    centres = 10 * spread(8, 5)
    direction = torch.nn.functional.normalize(spread(4000, 5, 1), dim=1)
    crowd = torch.cat(
        [torch.zeros(3993, dtype=torch.int64), torch.arange(1, 8)]
    )  # all but one cluster are single points
    x = centres[crowd] + 0.1 * direction * (crowd == 0)[:, None]
    bank = fit_bank(x, 8)
    assert bank.points.shape == (8, 5) and bank.distance(x.float()).max() <= 0.2 + 1e-3


def test_bank_distance_equals_scikit_learn():
    points, query = spread(300, 20), spread(2100, 20, 1)
    peer = NearestNeighbors(n_neighbors=1).fit(points.float().double().numpy()).kneighbors(query.numpy())[0][:, 0]
    bank = Bank(points.float())
    np.testing.assert_allclose(bank.distance(query).numpy(), peer, rtol=1e-9)
    np.testing.assert_allclose(bank.distance(query.float()).numpy(), peer, rtol=1e-4)
    assert float(bank.distance(points.float()).max()) < 0.01  # no distance from itself, up to the root of the rounding


def test_projection_keeps_the_choice_good():
    x = spread(400, 300) * torch.linspace(0.1, 2, 300)

    def radius(rows: torch.Tensor) -> float:
        return float(Bank(x[rows].float()).distance(x).max())

    exact, projected = (radius(far_apart(x, 40, generator)) for generator in (None, torch.Generator().manual_seed(0)))
    assert projected < 1.1 * exact
    again = [far_apart(x, 40, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again) and len(set(again[0].tolist())) == 40


def test_few_embeddings_are_all_kept_and_equal_ones_do_no_harm():
    x = spread(5, 3)
    assert far_apart(x, 9).tolist() == [0, 1, 2, 3, 4]
    same = torch.ones(6, 3)
    assert sorted(far_apart(same, 4).tolist()) != [0, 0, 0, 0] and len(set(far_apart(same, 4).tolist())) == 4
    assert torch.equal(Bank.from_state(fit_bank(x).state()).points, x.float())


def test_banks_of_nothing_are_rejected():
    with pytest.raises(ValueError, match=r'\(N, 3\)'):
        fit_bank(spread(9, 3)).distance(spread(9, 2))
    with pytest.raises(ValueError, match='at least one row'):
        fit_bank(torch.zeros(0, 3))
    with pytest.raises(ValueError, match='at least 1'):
        fit_bank(spread(9, 3), 0)
