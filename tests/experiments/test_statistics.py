"""Intervals against SciPy's bootstrap, analytic cases and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import intervals
from mmdefect.experiments import statistics as ours


def ratio(summed):
    """IoU of ``(..., 2)`` counts: intersection, union."""
    return summed[..., 0] / summed[..., 1]


def some_counts(rng, images=60, quality=0.5):
    union = rng.integers(20, 400, images)
    return np.stack([rng.binomial(union, quality), union], axis=1)


def test_image_interval_agrees_with_scipy():
    counts = some_counts(np.random.default_rng(3))
    mine = ours.image_interval(counts, ratio, resamples=20000)
    theirs = stats.bootstrap(
        (counts[:, 0], counts[:, 1]),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20000,
        method='percentile',
        rng=np.random.default_rng(1),
    )
    # 20,000 resamples leave about 1 % of the standard error in the quantiles.
    tolerance = 0.05 * theirs.standard_error
    assert mine.value == counts[:, 0].sum() / counts[:, 1].sum()
    assert mine.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert mine.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)
    assert mine.error == pytest.approx(theirs.standard_error, rel=0.03)


def test_paired_difference_over_images_agrees_with_scipy():
    rng = np.random.default_rng(4)
    first = some_counts(rng)
    second = np.stack([np.minimum(first[:, 0] + rng.integers(0, 9, 60), first[:, 1]), first[:, 1]], axis=1)
    mine = ours.compare_counts(first[None], second[None], ratio, paired_seeds=True)
    theirs = stats.bootstrap(
        (first[:, 0], second[:, 0], first[:, 1]),
        lambda a, b, u, axis=-1: b.sum(axis) / u.sum(axis) - a.sum(axis) / u.sum(axis),
        paired=True,
        n_resamples=20000,
        method='percentile',
        rng=np.random.default_rng(1),
    )
    assert mine.error == pytest.approx(theirs.standard_error, rel=0.03)
    assert 20 < mine.freedom < 59.001
    assert mine.low > 0 and mine.p < 0.001  # the unpaired intervals of the two arms overlap by far
    assert ours.image_interval(first, ratio).high > ours.image_interval(second, ratio).low


def test_without_noise_of_images_the_interval_is_students():
    """All images alike: what is left is the t interval of the paired differences over seeds."""
    iou_1, iou_2 = np.array([0.30, 0.36, 0.31, 0.40]), np.array([0.37, 0.41, 0.40, 0.43])
    stack = [np.repeat((np.array([[v * 1000, 1000] for v in arm]))[:, None], 20, axis=1) for arm in (iou_1, iou_2)]
    mine = ours.compare_counts(*stack, ratio, paired_seeds=True)
    expected = stats.ttest_rel(iou_2, iou_1).confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((expected.low, expected.high))
    assert mine.p == pytest.approx(stats.ttest_rel(iou_2, iou_1).pvalue)
    unpaired = ours.compare_counts(*stack, ratio, paired_seeds=False)
    welch = stats.ttest_ind(iou_2, iou_1, equal_var=False)
    assert unpaired.freedom == pytest.approx(welch.df)
    assert unpaired.p == pytest.approx(welch.pvalue)


@pytest.mark.parametrize('paired', [True, False])
def test_values_over_seeds_are_the_t_tests_of_scipy(paired):
    a, b = [30.1, 28.4, 33.0], [33.5, 30.2, 36.1]
    mine = ours.compare_values(a, b, paired)
    theirs = stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=False)
    assert mine.p == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((interval.low, interval.high))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Two equal arms, 3 seeds, 40 images, noise of both kinds: at most 5 % of the comparisons may call a difference."""
    rng = np.random.default_rng(11)
    called, trials = 0, 300
    for _ in range(trials):
        union = rng.integers(50, 300, 40)
        hardness = rng.normal(0, 0.10, 40)
        arms = []
        for _ in range(2):
            quality = np.clip(0.4 + hardness + rng.normal(0, 0.04, (3, 1)) + rng.normal(0, 0.08, (3, 40)), 0.02, 0.98)
            arms.append(np.stack([rng.binomial(union, quality), np.broadcast_to(union, (3, 40))], axis=-1))
        called += ours.compare_counts(*arms, ratio, paired_seeds=True).p < 0.05
    assert called / trials <= 0.075  # 5 % and two standard errors of 300 trials


def test_the_variance_is_that_of_two_crossed_factors():
    """Against the mean squares of a two-way table, by loops: a mean over images leaves its own values behind."""
    rng = np.random.default_rng(8)
    seeds, images = 4, 25
    table = rng.normal(0, 1, (seeds, 1)) + rng.normal(0, 2, images) + rng.normal(0, 1, (seeds, images))
    mean = table.mean()
    of_seeds = sum((row.mean() - mean) ** 2 for row in table) * images / (seeds - 1)
    of_images = sum((column.mean() - mean) ** 2 for column in table.T) * seeds / (images - 1)
    rest = sum(
        (table[s, i] - table[s].mean() - table[:, i].mean() + mean) ** 2 for s in range(seeds) for i in range(images)
    ) / ((seeds - 1) * (images - 1))
    without = np.array([[np.delete(row, i).mean() for i in range(images)] for row in table])
    zero = (np.zeros(seeds), np.zeros((seeds, images)))
    mine = ours.compare_left_out(zero, (table.mean(1), without), paired_seeds=True)
    assert mine.value == pytest.approx(mean)
    assert mine.error**2 == pytest.approx((of_seeds + of_images - rest) / table.size)
    # Arms of the same numbers, not paired: twice the seeds and their interaction, no images, never less than a part.
    other = ours.compare_left_out((table.mean(1), without), (table.mean(1), without), paired_seeds=False)
    assert other.error**2 == pytest.approx(2 * of_seeds / table.size)


@pytest.mark.parametrize(('seeds', 'images', 'effect'), [(3, 30, 'both'), (5, 100, 'images'), (10, 300, 'seeds')])
def test_the_interval_holds_the_truth_with_effects_of_seeds_and_images(seeds, images, effect):
    """The fast version of benchmarks/intervals.py: within three standard errors of 95 % in 300 trials."""
    ours_, _, _ = intervals.coverage(seeds, images, intervals.NOISE[effect], 300, bootstrap=False)
    assert 95 - 3.8 < ours_ <= 99.5


def test_a_metric_carried_by_few_images_has_few_degrees_of_freedom():
    counts = np.ones((1, 60, 2))
    counts[:, :2] = 500
    better = counts * [0.5, 1]
    better[0, 0, 0] = 0
    assert ours.compare_counts(counts, better, ratio, paired_seeds=True).freedom < 5


def test_a_plain_bootstrap_of_three_seeds_would_be_too_sure():
    """The reason for the Student quantile: resampling three seeds covers about three quarters instead of 95 %."""
    rng = np.random.default_rng(5)
    plain = student = 0
    for _ in range(400):
        values = rng.normal(0, 1, 3)
        means = values[rng.integers(0, 3, (400, 3))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        plain += low <= 0 <= high
        interval = ours.compare_values(np.zeros(3), values, paired=True)
        student += interval.low <= 0 <= interval.high
    assert plain / 400 < 0.85 and student / 400 > 0.92


def test_equal_arms_differ_by_exactly_nothing():
    counts = np.stack([some_counts(np.random.default_rng(s)) for s in range(3)])
    interval = ours.compare_counts(counts, counts, ratio, paired_seeds=True)
    assert (interval.value, interval.low, interval.high, interval.p) == (0.0, 0.0, 0.0, 1.0)


def test_one_seed_and_no_counts_give_no_interval():
    interval = ours.compare_values([30.0], [31.5], paired=True)
    assert interval.value == 1.5 and math.isnan(interval.low) and math.isnan(interval.p)


def test_arms_of_other_images_are_refused():
    with pytest.raises(ValueError, match='same images'):
        ours.compare_counts(np.ones((2, 5, 2)), np.ones((2, 6, 2)), ratio, paired_seeds=True)


def test_holm_by_hand():
    assert ours.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert ours.holm([0.5, float('nan'), 0.9])[0] == 1.0
    assert math.isnan(ours.holm([float('nan')])[0])
    assert ours.holm([]) == []


def test_satterthwaite_of_one_source_and_of_equal_ones():
    assert ours.satterthwaite([(2.0, 4)]) == 4
    assert ours.satterthwaite([(2.0, 4), (2.0, 4)]) == 8
    assert ours.satterthwaite([(0.0, 4), (0.0, 9)]) == 4
