"""Choose layers, density and score of a detector without a single defect: on pastes in held-out normal images.

The normal images are divided as the training divides them: densities are fitted on the part that the network was trained
on, and the held-out part, with and without pastes, is what the candidates are compared on. Test images are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmdefect.apis.anomaly_fit import detector_of_config, fit_detector, read_image
from mmdefect.apis.config import load_config
from mmdefect.datasets.good_images import GoodImageDataset
from mmdefect.functional.metrics.ranking import image_ranking
from mmdefect.models.anomaly_detector import AnomalyDetector
from mmdefect.synthesis.cutpaste import make_views
from mmdefect.synthesis.streams import stream_generator


def candidates_of(layers: Sequence[Sequence[str]], densities: Sequence[str], scores: Sequence[str]) -> list[dict]:
    """Return the settings of every combination; heat maps are fast ones."""
    return [
        dict(layers=tuple(names), density=density, score=score)
        for names in layers
        for density in densities
        for score in scores
    ]


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

    Args:
        config: CutPaste config.
        data_root: see :func:`~mmdefect.datasets.good_images.good_folder`.
        category: see there.
        checkpoint: of its training, or None.
        candidates: fields of :class:`~mmdefect.models.anomaly_detector.DetectorSettings`.
        kind: of the pastes.
        views: pasted views of each held-out image.
        seed: of the pastes.
        cfg_options: overrides of the config.
    """
    cfg = load_config(config, cfg_options)
    parts = {
        part: [info['img_path'] for info in GoodImageDataset(data_root, category, part).load_data_list()]
        for part in ('fit', 'held_out')
    }
    size_hw = (cfg.image_scale[1], cfg.image_scale[0])
    images, pasted = _held_out_views(parts['held_out'], size_hw, kind, views, seed)
    rows = []
    for candidate in candidates:
        empty = detector_of_config(cfg, checkpoint, seed, **candidate)
        title = f'{"+".join(candidate.get("layers", ())) or "output"} {candidate.get("density", "")}'
        fitted = fit_detector(
            empty,
            parts['fit'],
            'fast' if candidate.get('score') == 'heat' else None,
            folds=0,
            seed=seed,
            progress=title,
        )
        ranking = image_ranking(_scores(fitted, images), pasted)
        rows.append(
            dict(
                layers='+'.join(candidate.get('layers', ())) or 'output',
                density=candidate.get('density'),
                score=candidate.get('score'),
                held_out=len(parts['held_out']),
                AUROC=100 * ranking['AUROC'],
            )
        )
    return sorted(rows, key=lambda row: -row['AUROC'])


def _held_out_views(
    paths: Sequence[str], size_hw: tuple[int, int], kind: str, views: int, seed: int
) -> tuple[Tensor, np.ndarray]:
    """Return uint8 images, untouched and pasted, and which of them are pasted."""
    images, pasted = [], []
    for number, path in enumerate(paths):
        image = torch.from_numpy(read_image(path, size_hw).transpose(2, 0, 1).copy()).float() / 255
        for view in range(views):
            made = make_views(
                image, stream_generator(seed, 'compare_candidates', number * views + view), kind, jitter=0.0
            )
            for k in (0, 1) if view == 0 else (1,):
                images.append((made.images[k] * 255).round().to(torch.uint8))
                pasted.append(int(made.labels[k]) > 0)
    return torch.stack(images), np.array(pasted)


def _scores(detector: AnomalyDetector, images: Tensor, batch: int = 16) -> np.ndarray:
    return torch.cat([detector.score_images(part)[0] for part in images.split(batch)]).double().numpy()
