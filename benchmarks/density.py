"""Fit and score of embeddings against scikit-learn, heat maps against a loop over patches, views against the network.

    python benchmarks/density.py

One thread, processor time, contestants in turns; see common.py. The loop over patches does what LilitYolyan/CutPaste
does for localisation, with its faults fixed: patches in order, batches of 128, network in evaluation mode without
gradients, here with our density of the patches or with scikit-learn's KernelDensity as there (on at most 4096 points).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import common
import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import KernelDensity

from mmdefect.functional.density import fit_gaussian
from mmdefect.functional.heat_maps import unfold_patches, upsample_scores
from mmdefect.models.anomaly_detector import AnomalyDetector, DetectorSettings, build_backbone
from mmdefect.synthesis.cutpaste import make_views

BACKBONE = dict(
    type='mmpretrain.ResNet', depth=18, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)
)


def once(call) -> float:
    """Return the processor time of one call in milliseconds: for what is too slow for a race."""
    start = time.thread_time_ns()
    call()
    return 1e-6 * (time.thread_time_ns() - start)


def embeddings_rows(count: int, width: int, rounds: int) -> list[dict]:
    """Fit on and score the same embeddings; the bound is one product of the matrix with itself in float32."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(width, width, generator=generator) / width**0.5
    x = torch.nn.functional.normalize(torch.relu(torch.randn(count, width, generator=generator) @ mix + 0.3), dim=1)
    single, double = x.numpy(), x.double().numpy()

    def peer(values):
        model = LedoitWolf().fit(values)
        return model.mahalanobis(values)

    contestants = {
        'scikit-learn, float64': lambda: peer(double),
        'scikit-learn, float32': lambda: peer(single),
        'ours, float64': lambda: fit_gaussian(x.double()).distance(x.double()),
        'ours, float32': lambda: fit_gaussian(x).distance(x),
        'one product, float32': lambda: x.T @ x,
    }
    times = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    for _ in range(rounds):
        for name, call in contestants.items():
            times[name].append(once(call))
    first = np.median(times['scikit-learn, float64'])
    reference, ours = np.sqrt(peer(double)), fit_gaussian(x)
    gap = float(np.abs(ours.distance(x).numpy() / reference - 1).max())
    return [
        {
            'task': f'fit and score {count} x {width}',
            'how': name,
            'ms': float(np.median(v)),
            'times as fast': float(first / np.median(v)),
            'difference': gap if name == 'ours, float32' else 0.0,
        }
        for name, v in times.items()
    ]


def heat_rows(patch: int, rounds: int, side: int) -> list[dict]:
    """Heat map of one square image."""
    settings = DetectorSettings(BACKBONE, patch=patch, size_hw=(side, side))
    empty = AnomalyDetector(settings, build_backbone(BACKBONE))
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(12, 3, side // 8, side // 8, generator=generator)
    images = (255 * torch.nn.functional.interpolate(low, (side, side), mode='bicubic').clamp(0, 1)).to(torch.uint8)
    densities, cells = {}, {}
    for space in ('fast', 'exact'):
        rows = (
            empty.embeddings(images[:8], space, stride=32) if space == 'exact' else empty.embeddings(images[:8], space)
        )
        cells[space] = rows.reshape(-1, rows.shape[-1])
        densities[space] = fit_gaussian(cells[space])
    detector = AnomalyDetector(settings, empty.features.backbone, densities)
    kernel = KernelDensity().fit(cells['exact'].numpy()[:4096])
    image = images[11:12]

    @torch.no_grad()
    def loop(score) -> torch.Tensor:
        patches = unfold_patches(detector.features.prepare(image), patch, 4).reshape(-1, 3, patch, patch)
        scores = [score(detector.features.embed(batch)) for batch in patches.split(128)]
        count = int(len(patches) ** 0.5)
        return upsample_scores(torch.cat(scores).view(1, count, count).float(), patch, 4)

    def sklearn_score(rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(-kernel.score_samples(rows.numpy()))

    contestants = {
        'loop of 128, scikit-learn KDE': lambda: loop(sklearn_score),
        'loop of 128': lambda: loop(densities['exact'].distance),
        'exact': lambda: detector.heat_maps(image, 'exact'),
        'exact, bfloat16': lambda: detector.heat_maps(image, 'exact', precision='bf16'),
        'fast': lambda: detector.heat_maps(image, 'fast'),
    }
    results = {name: contestants[name]() for name in ('loop of 128', 'exact', 'exact, bfloat16', 'fast')}
    many = {
        'fast': 5 * rounds,
        'loop of 128, scikit-learn KDE': 1,
    }  # cheap ones often, one that takes half a minute once
    times = {name: [once(call) for _ in range(many.get(name, rounds))] for name, call in contestants.items()}
    base, reference = np.median(times['loop of 128']), results['loop of 128'].flatten().numpy()

    def gap(name: str) -> float:
        if name not in results or name == 'loop of 128':
            return 0.0
        return float(np.abs(results[name].flatten().numpy() / reference - 1).max())

    def agreement(name: str) -> float:
        return float(np.corrcoef(results[name].flatten().numpy(), reference)[0, 1]) if name in results else float('nan')

    return [
        {
            'task': f'heat map of {side} x {side}, patch {patch}',
            'how': name,
            'ms': float(np.median(v)),
            'times as fast': float(base / np.median(v)),
            'difference': gap(name),
            'correlation': agreement(name),
        }
        for name, v in times.items()
    ]


def view_rows(rounds: int) -> list[dict]:
    """Views of one image against a forward and backward pass of its views."""
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    network = build_backbone(BACKBONE)
    network.train()
    rows = []
    for patch in (None, 64):
        views = make_views(image, torch.Generator().manual_seed(0), '3way', patch).images.repeat(
            4 if patch is None else 16, 1, 1, 1
        )
        per = 4 if patch is None else 16

        def step(batch=views) -> None:
            network.zero_grad()
            network(batch)[-1].mean().backward()

        step()
        making = np.median(
            [
                once(lambda k=k: make_views(image, torch.Generator().manual_seed(k), '3way', patch))
                for k in range(10 * rounds)
            ]
        )
        training = np.median([once(step) for _ in range(rounds)]) / per
        rows.append(
            {
                'task': f'3 views, {"whole 256" if patch is None else "patch 64"}',
                'make, ms': float(making),
                'train, ms': float(training),
                'two workers cover, times': float(2 * training / making),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument(
        '--only', choices=['embeddings', 'heat', 'views'], nargs='+', default=['embeddings', 'heat', 'views']
    )
    parser.add_argument('--side', type=int, default=256, help='of the image of heat maps (default: 256)')
    parser.add_argument('--name', default='density', help='of the record')
    parser.add_argument('--patches', type=int, nargs='+', default=[32])
    parser.add_argument('--out', type=Path, default=common.RESULTS, help='folder of the JSON record')
    args = parser.parse_args()
    common.use_one_thread()
    results = {}
    if 'embeddings' in args.only:
        results['embeddings'] = embeddings_rows(10_000, 512, args.rounds)
    if 'heat' in args.only:
        results['heat'] = [row for patch in args.patches for row in heat_rows(patch, args.rounds, args.side)]
    if 'views' in args.only:
        results['views'] = view_rows(args.rounds)
    for rows in results.values():
        print(common.format_table(rows), '\n')
    print(common.write_record(args.name, results, folder=args.out))


if __name__ == '__main__':
    main()
