"""How often 95 % intervals of a difference between two arms hold the truth, with effects of seeds and of images.

    python benchmarks/intervals.py --trials 1000 --out docs/results/intervals.md

Two arms that are truly alike: every seed, every image and every pair of both moves the logit of the share of the
defect pixels that an arm finds; half of the images are clean, defects are log-normally large, and the metric is the IoU
of the data set, so a few images carry it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.experiments.statistics import compare_counts
from mmdefect.experiments.tables import markdown_table
from mmdefect.files import write_text

#: Standard deviations of the logit by seed and by image, of the difference between arms.
NOISE = {'seeds': (0.5, 0.1), 'both': (0.3, 0.6), 'images': (0.05, 1.0)}


def iou(summed: np.ndarray) -> np.ndarray:
    return 100 * summed[..., 0] / np.maximum(summed[..., 1], 1)


def simulate(generator: np.random.Generator, seeds: int, images: int, noise: tuple[float, float]) -> list[np.ndarray]:
    """Return ``(seeds, images, 2)`` intersection and union of two arms with the same expectation."""
    by_seed, by_image = noise
    area = np.where(np.arange(images) % 2, 0, np.exp(generator.normal(6, 1, images))).astype(int)
    hard, luck = generator.normal(0, 1, images), generator.normal(0, 0.3, (seeds, 1))
    arms = []
    for _ in range(2):
        logit = hard + luck + generator.normal(0, by_seed, (seeds, 1)) + generator.normal(0, by_image, images)
        found = generator.binomial(area, 1 / (1 + np.exp(-logit - generator.normal(0, 0.4, logit.shape))))
        union = area + generator.poisson(30, logit.shape)
        arms.append(np.stack([found, union], axis=-1).astype(np.float64))
    return arms


def percentiles(arms: list[np.ndarray], generator: np.random.Generator, resamples: int = 400) -> tuple[float, float]:
    """The plain two-level bootstrap: seeds and images with replacement, and percentiles."""
    seeds, images = arms[0].shape[:2]
    weights = generator.multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    values = [np.stack([iou(weights @ counts) for counts in arm], axis=1) for arm in arms]
    return tuple(np.quantile(((values[1] - values[0]) * of_seeds).sum(1), [0.025, 0.975]))


def coverage(seeds: int, images: int, noise: tuple[float, float], trials: int, bootstrap: bool = True) -> list[float]:
    """Share in percent of trials in which zero lies within: variance components, plain bootstrap, seeds only."""
    generator = np.random.default_rng([seeds, images, trials])
    held = np.zeros(3)
    for _ in range(trials):
        arms = simulate(generator, seeds, images, noise)
        interval = compare_counts(*arms, iou, paired_seeds=True)
        low, high = percentiles(arms, generator) if bootstrap else (np.nan, np.nan)
        values = iou(arms[1].sum(1)) - iou(arms[0].sum(1))
        reach = STUDENT[seeds] * values.std(ddof=1) / np.sqrt(seeds)
        held += [interval.low <= 0 <= interval.high, low <= 0 <= high, abs(values.mean()) <= reach]
    return list(100 * held / trials)


#: Quantiles .975 of Student's t with one degree of freedom less than there are seeds.
STUDENT = {3: 4.3027, 5: 2.7764, 8: 2.3646, 10: 2.2622}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--trials', type=int, default=1000)
    parser.add_argument('--out', type=Path, help='Markdown page to write (default: print it)')
    args = parser.parse_args()
    lines = []
    for effect, noise in NOISE.items():
        for seeds in STUDENT:
            for images in (30, 100, 300):
                shares = coverage(seeds, images, noise, args.trials)
                lines.append([effect, str(seeds), str(images), *(f'{share:.1f}' for share in shares)])
                print(*lines[-1], flush=True)
    header = ['effects of', 'seeds', 'images', 'variance components', 'plain bootstrap', 't over seeds']
    error = 100 * np.sqrt(0.05 * 0.95 / args.trials)
    text = (
        '# Do the intervals hold the truth?\n\nShare of simulated comparisons, in percent, whose 95 % interval holds '
        f'the true difference (none); {args.trials} a row, so ± {2 * error:.1f} is chance. How arms are simulated '
        'stands in `benchmarks/intervals.py`; pages of studies use *variance components* '
        '(`mmdefect/experiments/statistics.py`). *t over seeds* asks for these very test images again: it says nothing '
        f'about other ones.\n\n```\npython benchmarks/intervals.py --trials {args.trials}\n```\n\n'
    )
    if args.out:
        write_text(args.out, text + markdown_table(header, lines))


if __name__ == '__main__':
    main()
