"""Fit an anomaly detector on normal images, and choose its settings without a single defect.

A fit takes two passes, in memory that does not grow with the data set. The first sums moments for each fold of images
(or keeps a few points of each image for a kernel density or a bank). The second scores every image with the density of
the other folds: from these held-out scores come the scales. The density that is kept is that of all folds together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import product
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from mmdefect.apis.config import load_config
from mmdefect.datasets.good_images import GoodImageDataset
from mmdefect.deployment.decoding import read_image as decode_file
from mmdefect.functional.density import Bank, Moments, far_apart, fit_gaussian, fit_kernel_density, fit_scale, fold_of
from mmdefect.functional.metrics.ranking import image_ranking
from mmdefect.inference.network import resize_images
from mmdefect.models.anomaly_detector import AnomalyDetector, DetectorSettings, build_backbone, stack_images
from mmdefect.progress import track
from mmdefect.synthesis.cutpaste import make_views
from mmdefect.synthesis.streams import stream_generator

_CANDIDATES = 16  # embeddings looked at for each that a bank keeps
_FIT_STRIDE = 16  # exact mode: neighbouring patches are nearly equal, so the fit takes every fourth of a stride of 4


def read_image(path: str | Path, size_hw: tuple[int, int]) -> np.ndarray:
    """Return an image file as ``(H, W, 3)`` uint8 RGB, decoded and resized as deployed models do it."""
    image = decode_file(path).pixels
    if image.shape[:2] == tuple(size_hw):
        return image
    return resize_images(torch.from_numpy(image)[None], size_hw)[0].to(torch.uint8).numpy()


def iter_batches(
    paths: Sequence[str], size_hw: tuple[int, int], batch: int, title: str | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of the first image and ``(B, 3, H, W)`` uint8 RGB; with a title, show how many are done."""
    starts = range(0, len(paths), batch)
    for start in track(starts, title, len(starts), 'batches') if title else starts:
        yield start, stack_images([read_image(p, size_hw) for p in paths[start : start + batch]])


def detector_of_config(cfg: Config, checkpoint: str | None = None, seed: int = 0, **settings) -> AnomalyDetector:
    """Build a detector without densities from a composed CutPaste config.

    ``checkpoint`` is of its training; None gives the backbone as the training finds it: the untrained baseline, with
    random weights of ``seed`` where the config names none. ``settings`` are fields of :class:`DetectorSettings`.
    """
    import mmdefect.registration  # noqa: F401
    from mmdefect.models.backbone_weights import load_backbone
    from mmdefect.models.cutpaste_classifier import backbone_config, without_weights

    backbone = backbone_config(cfg.model.backbone)
    plain = without_weights(Config(dict(backbone=backbone)).to_dict()['backbone'])
    network = build_backbone(backbone if checkpoint is None else plain, seed)  # what is replaced is not fetched
    if checkpoint is not None:
        load_backbone(network, checkpoint, min_share=1.0)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    known = {k: tuple(preprocessor[k]) for k in ('mean', 'std') if k in preprocessor}
    if cfg.get('image_scale') is not None:
        known['size_hw'] = (cfg.image_scale[1], cfg.image_scale[0])
    if cfg.get('patch') is not None:
        known['patch'] = cfg.patch
    return AnomalyDetector(DetectorSettings(backbone=plain, **{**known, **settings}), network)


def fit_detector(
    detector: AnomalyDetector,
    paths: Sequence[str],
    localize: str | None = None,
    folds: int = 5,
    seed: int = 0,
    threshold: float = 1.0,
    batch: int = 16,
    max_points: int = 4096,
    bandwidth: float | None = None,
    calibrate: int = 64,
    progress: str | None = 'fitting',
) -> AnomalyDetector:
    """Fit densities and scales.

    Args:
        detector: without densities; stays as it is.
        paths: normal images.
        localize: ``'fast'`` or ``'exact'`` heat maps, or None.
        folds: parts of the images, each scored by the density of the others for the scales; 0 makes no scales.
        seed: of the division into folds, and of the points of a kernel density.
        threshold: on the scale on which 1 is the farthest held-out normal image.
        max_points: of a kernel density or a bank; each fold gives its share to a bank.
        bandwidth: of a kernel density; None chooses it.
        calibrate: images that exact heat maps are calibrated on, because each costs seconds on a CPU.
        progress: title of the progress; None shows none.
    """
    if not threshold > 0:
        raise ValueError(
            f'`threshold` must be above 0, the most typical held-out normal image, got {threshold}; 1 is the farthest.'
        )
    spaces = ['image', *([localize] if localize else [])]
    folds = min(folds, len(paths))
    fold = fold_of(len(paths), folds, seed) if folds else torch.zeros(len(paths), dtype=torch.int64)
    kept = _first_pass(detector, paths, spaces, fold, batch, max_points, seed, progress)

    def density(space: str, without: int | None = None):
        parts = [part for number, part in enumerate(kept[space]) if number != without]
        if detector.settings.density == 'kde':
            points = torch.cat(parts)
            return fit_kernel_density(points, bandwidth, max_points, torch.Generator().manual_seed(seed))
        if detector.settings.density == 'bank':
            return Bank(torch.cat(parts))
        total = reduce(Moments.merge, parts)
        return fit_gaussian(total.all_reduce(), 'none' if detector.settings.density == 'full' else 'ledoit_wolf')

    densities = {space: density(space) for space in spaces}
    held_out: dict[str, list[Tensor]] = {'score': [], 'heat': []}
    chosen = range(len(paths))
    if localize == 'exact' and len(paths) > calibrate:  # evenly spread
        chosen = sorted({round(i * (len(paths) - 1) / max(1, calibrate - 1)) for i in range(calibrate)})
    for number in range(folds):
        own = [paths[i] for i in chosen if int(fold[i]) == number]
        part = AnomalyDetector(detector.settings, detector.features.backbone, {s: density(s, number) for s in spaces})
        title = f'{progress}: held-out part {number + 1} of {folds}' if progress else None
        for _, images in iter_batches(own, detector.settings.size_hw, batch, title):
            scores, heat = part.score_images(images)
            held_out['score'].append(scores)
            if heat is not None:
                held_out['heat'].append(heat.amax((1, 2)))
    scales = {name: fit_scale(torch.cat(values), threshold) for name, values in held_out.items() if values}
    facts = dict(detector.settings.facts, normal_images=len(paths))
    return AnomalyDetector(replace(detector.settings, facts=facts), detector.features.backbone, densities, scales)


def _first_pass(
    detector: AnomalyDetector,
    paths: Sequence[str],
    spaces: Sequence[str],
    fold: Tensor,
    batch: int,
    max_points: int,
    seed: int,
    progress: str | None,
) -> dict[str, list]:
    """Return for each space and fold the moments of its embeddings, or some of them for a kernel density or a bank."""
    density = detector.settings.density
    generator = torch.Generator().manual_seed(seed)
    views = max(1, len(paths) * detector.settings.turns)
    share = -(-(_CANDIDATES if density == 'bank' else 2) * max_points // views)  # 2: so that each fold can be left out
    folds = int(fold.max()) + 1
    kept: dict[str, list[list]] = {space: [[] for _ in range(folds)] for space in spaces}
    for start, images in iter_batches(paths, detector.settings.size_hw, batch, progress):
        for _, turned in detector.turned(images):
            found = detector.fit_rows(turned, spaces, max(_FIT_STRIDE, detector.settings.stride))
            for space, rows in found.items():
                for i, own in enumerate(rows.reshape(len(images), -1, rows.shape[-1])):
                    if density == 'kde':
                        own = own[torch.randperm(len(own), generator=generator)[:share]]
                    elif density == 'bank':
                        own = own[far_apart(own, share)]
                    kept[space][int(fold[start + i])].append(own)
        if density not in ('kde', 'bank'):
            _sum_up(kept, last=start + batch >= len(paths))
    if density == 'kde':
        return {space: [torch.cat(part) for part in parts] for space, parts in kept.items()}
    if density == 'bank':
        return {
            space: [_far_apart(torch.cat(part), -(-max_points // folds), seed) for part in parts]
            for space, parts in kept.items()
        }
    return kept


def _far_apart(rows: Tensor, count: int, seed: int) -> Tensor:
    return rows[far_apart(rows, count, torch.Generator().manual_seed(seed))]


def _sum_up(kept: dict[str, list], last: bool, least: int = 4096) -> None:
    """Turn rows into moments; rows of few images wait for more, because each sum costs the same."""
    for parts in kept.values():
        for number, part in enumerate(parts):
            if not isinstance(part, list) or not part:
                continue
            sums = [item for item in part if isinstance(item, Moments)]
            rows = part[len(sums) :]
            if rows and (last or sum(map(len, rows)) >= least):
                sums, rows = [reduce(Moments.merge, [*sums, Moments.of(torch.cat(rows))])], []
            parts[number] = sums[0] if last else sums + rows


def candidates_of(layers: Sequence[Sequence[str]], densities: Sequence[str], scores: Sequence[str]) -> list[dict]:
    """Return the settings of every combination; heat maps are fast ones."""
    combinations = product(layers, densities, scores)
    return [dict(layers=tuple(names), density=density, score=score) for names, density, score in combinations]


def compare_candidates(
    config,
    data_root: str,
    category: str | None,
    checkpoint: str | None,
    candidates: Sequence[Mapping],
    kind: str = 'union',
    views: int = 2,
    seed: int = 0,
    cfg_options: dict | None = None,
) -> list[dict[str, object]]:
    """Return the candidates with the ``AUROC`` in percent of pasted against untouched held-out images, the best first.

    Normal images are divided as the training divides them: densities are fitted on the part that the network was
    trained on, and compared on the held-out part, with and without pastes. Test images are not read.

    Args:
        config, cfg_options: CutPaste config.
        data_root, category: see :func:`~mmdefect.datasets.good_images.list_good_images`.
        checkpoint: of its training, or None.
        candidates: fields of :class:`~mmdefect.models.anomaly_detector.DetectorSettings`.
        kind, views, seed: of the pastes, how many of them for each held-out image.
    """
    cfg = load_config(config, cfg_options)
    parts = {
        part: [info['img_path'] for info in GoodImageDataset(data_root, category, part).load_data_list()]
        for part in ('fit', 'held_out')
    }
    size_hw = (cfg.image_scale[1], cfg.image_scale[0])
    images, pasted = held_out_views(parts['held_out'], size_hw, kind, views, seed)
    rows = []
    for candidate in candidates:
        empty = detector_of_config(cfg, checkpoint, seed, **candidate)
        layers, density = '+'.join(candidate.get('layers', ())) or 'output', candidate.get('density')
        score, title = candidate.get('score'), f'{layers} {density or ""}'
        localize = 'fast' if score == 'heat' else None
        fitted = fit_detector(empty, parts['fit'], localize, folds=0, seed=seed, progress=title)
        scores = torch.cat([fitted.score_images(part)[0] for part in images.split(16)]).double().numpy()
        auroc = 100 * image_ranking(scores, pasted)['AUROC']
        rows.append(dict(layers=layers, density=density, score=score, held_out=len(parts['held_out']), AUROC=auroc))
    return sorted(rows, key=lambda row: -row['AUROC'])


def held_out_views(paths: Sequence[str], size_hw: tuple[int, int], kind: str, views: int, seed: int):
    """Return ``(N, 3, H, W)`` uint8 RGB images, untouched and pasted, and which of them are pasted."""
    images, pasted = [], []
    for number, path in enumerate(paths):
        image = torch.from_numpy(read_image(path, size_hw).transpose(2, 0, 1).copy()).float() / 255
        for view in range(views):
            stream = stream_generator(seed, 'compare_candidates', number * views + view)
            made = make_views(image, stream, kind, jitter=0.0)
            for k in (0, 1) if view == 0 else (1,):
                images.append((made.images[k] * 255).round().to(torch.uint8))
                pasted.append(int(made.labels[k]) > 0)
    return torch.stack(images), np.array(pasted)
