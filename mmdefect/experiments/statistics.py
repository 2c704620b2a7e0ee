"""How sure a difference is, over seeds and test images together: a t interval on variance components.

Leaving out one image at a time turns a metric of the data set into one pseudo-value of each seed and image (jackknife:
``N * value - (N - 1) * value without image i``), whose mean is the metric. Seeds and images are crossed factors, so the
variance of a mean over both is that of the seeds, plus that of the images, less that of their interaction, which the
two count twice. The degrees of freedom are Satterthwaite's, those of the images from the kurtosis of their
pseudo-values: a few images often carry a metric. With few seeds percentiles of a bootstrap are far too sure
(docs/results/intervals.md holds the methods against each other).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy import stats

#: Gives values from counts summed over images, keeping leading axes.
Metric = Callable[[ndarray], ndarray]
NAN = float('nan')
#: Coverage of all intervals.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate on the real data and its interval."""

    value: float
    low: float = NAN
    high: float = NAN
    error: float = NAN  # standard error
    freedom: float = NAN  # degrees of freedom of the Student quantile
    p: float = NAN  # two-sided probability of such an estimate if the truth were zero; NaN where it makes no sense


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; the latter is NaN for one value."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else NAN


def format_mean(values: Sequence[float]) -> str:
    """Return ``mean ± sd`` of the seeds; the mean alone for one seed, a dash without a value."""
    if not values or any(math.isnan(value) for value in values):
        return '–'
    mean, sd = mean_and_sd(values)
    return f'{mean:.2f}' if math.isnan(sd) else f'{mean:.2f} ± {sd:.2f}'


def format_difference(interval: Interval) -> str:
    """Return ``+1.20 [-0.30, +2.70]``."""
    if math.isnan(interval.value):
        return '–'
    reach = '' if math.isnan(interval.low) else f' [{interval.low:+.2f}, {interval.high:+.2f}]'
    return f'{interval.value:+.2f}{reach}'


def format_p(p: float) -> str:
    """Return a probability with three digits, or a dash."""
    return '–' if math.isnan(p) else f'{p:.3f}'


def resampling_weights(generator: np.random.Generator, resamples: int, size: int, taken: int) -> ndarray:
    """Return ``(resamples, size)`` float64: how often each unit is taken when ``taken`` are, with replacement."""
    return generator.multinomial(taken, np.full(size, 1.0 / size), resamples).astype(np.float64)


def image_interval(counts: ndarray, metric: Metric, resamples: int = 2000) -> Interval:
    """Percentile interval of a data-set metric over images, for one run of ``(N, ...)`` counts of each image."""
    weights = resampling_weights(np.random.default_rng(0), resamples, len(counts), len(counts))
    values = metric(np.tensordot(weights, counts, 1))
    value = float(metric(counts.sum(0, dtype=np.float64)[None])[0])
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(value)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), float(values.std(ddof=1)) if values.size > 1 else NAN)


def compare_counts(first: ndarray, second: ndarray, metric: Metric, paired_seeds: bool) -> Interval:
    """Interval of ``mean over seeds of metric(second) - metric(first)``, over seeds and test images.

    Counts are ``(seeds, N, ...)`` of each seed and image; both arms have the same images in the same order, and the
    same seeds where they are paired.
    """
    if first.shape[1:] != second.shape[1:] or (paired_seeds and len(first) != len(second)):
        raise ValueError(
            f'both arms must have the same images (and seeds, when paired), got {first.shape} and {second.shape}.'
        )
    tables = [
        (metric(arm.sum(1, dtype=np.float64)), np.stack([leave_out(counts, metric) for counts in arm]))
        for arm in (first, second)
    ]
    return compare_left_out(*tables, paired_seeds)


def leave_out(counts: ndarray, metric: Metric) -> ndarray:
    """Return a data-set metric without each image, ``(N,)``, from counts ``(N, ...)`` of each image."""
    return metric(counts.sum(0, dtype=np.float64)[None] - counts)


def compare_left_out(first: tuple[ndarray, ndarray], second: tuple[ndarray, ndarray], paired_seeds: bool) -> Interval:
    """Interval of the mean over seeds of ``second - first``, over seeds and test images.

    Each arm is the metric of each seed, ``(S,)``, and the metric of each seed without each image, ``(S, N)``.
    """
    samples = [(second[0] - first[0], second[1] - first[1])] if paired_seeds else [first, second]
    value = float(second[0].mean() - first[0].mean())
    images = first[1].shape[1]
    pseudo = [images * values[:, None] - (images - 1) * left_out for values, left_out in samples]
    seeds = [(_variance_of_mean(values), len(values) - 1) for values, _ in samples if len(values) > 1]
    of_images = pseudo[-1].mean(0) - (0 if paired_seeds else pseudo[0].mean(0))
    by_images = _variance_of_mean(of_images)
    parts = [*seeds, (by_images, _freedom(of_images))]
    twice = [(_interaction(table), (len(table) - 1) * (images - 1)) for table in pseudo if len(table) > 1]
    total = sum(part for part, _ in parts) - sum(part for part, _ in twice)
    total = max(total, by_images, sum(part for part, _ in seeds))
    squares = sum(part**2 / freedom for part, freedom in (*parts, *twice))
    freedom = total**2 / squares if squares else min(freedom for _, freedom in parts)
    return student(value, float(np.sqrt(total)), freedom)


def _freedom(values: ndarray) -> float:
    """Degrees of freedom of a variance of ``(N,)`` values: ``N - 1`` if they are normal, fewer with long tails."""
    centred = values - values.mean()
    square = float((centred**2).mean())
    if not square:
        return len(values) - 1
    kurtosis = float((centred**4).mean()) / square**2
    return min(len(values) - 1, max(1.0, 2 * len(values) / max(kurtosis - 1, 1e-12)))


def _interaction(table: ndarray) -> float:
    """Variance that seed and image together, ``(S, N)``, leave in a mean over both."""
    rest = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    return float((rest**2).sum() / ((len(table) - 1) * (table.shape[1] - 1)) / table.size)


def compare_values(first: Sequence[float], second: Sequence[float], paired: bool) -> Interval:
    """Student interval of the difference of means over seeds, for metrics without counts per image.

    Unpaired arms may differ in their spread (Welch). With one seed there is no interval.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if paired and len(a) != len(b):
        raise ValueError(f'paired arms must have the same seeds, got {len(a)} and {len(b)}.')
    value = float(b.mean() - a.mean())
    samples = [b - a] if paired else [a, b]
    if min(map(len, samples)) < 2:
        return Interval(value)
    parts = [(_variance_of_mean(sample), len(sample) - 1) for sample in samples]
    return student(value, float(np.sqrt(sum(variance for variance, _ in parts))), satterthwaite(parts))


def student(value: float, error: float, freedom: float) -> Interval:
    """Return ``value +- t * error`` and the two-sided p of zero."""
    if not np.isfinite(error) or not np.isfinite(value):
        return Interval(value, error=error, freedom=freedom)
    if error == 0.0:
        return Interval(value, value, value, 0.0, freedom, 1.0 if value == 0.0 else 0.0)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(value) / error, freedom))
    return Interval(value, value - reach, value + reach, error, freedom, p)


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, each given with its own degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    if total == 0.0:
        return min(freedom for _, freedom in parts)
    return total**2 / sum(variance**2 / freedom for variance, freedom in parts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the number of comparisons (Holm's step-down); NaN stays NaN and does not count."""
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(len(p), np.nan)
    order = [int(k) for k in np.argsort(p) if np.isfinite(p[k])]
    highest = 0.0
    for rank, k in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[k]))
        adjusted[k] = highest
    return adjusted.tolist()


def _variance_of_mean(values: ndarray) -> float:
    return float(np.var(values, ddof=1) / len(values)) if len(values) > 1 else 0.0
