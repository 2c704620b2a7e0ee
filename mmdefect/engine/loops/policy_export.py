"""Write a learned policy: the recipe, its numbers, its maps, and images of both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from numpy import ndarray

from mmdefect.synthesis.learned_location import FRESH, ObjectCells, mean_over
from mmdefect.synthesis.learned_policy import LearnedPolicy
from mmdefect.synthesis.learned_recipe import HERE, freeze, policy_body, recipe_text, write_files
from mmdefect.visualization.policy_sheet import draw_curves, draw_maps

MAPS = 'maps'


def export_policy(
    folder: Path,
    policy: LearnedPolicy,
    recipe: Mapping[str, Any] | None,
    dataset: Any,
    history: Sequence[Mapping[str, float]],
    images: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write everything into ``folder`` and return what is worth a line in the log.

    Args:
        folder: made when it does not exist.
        policy: the policy.
        recipe: the ``synthesis`` that learning started from; without it no recipe is written.
        dataset: training set whose pipeline holds ``LoadLocationMap``; the maps are those of its images.
        history: records of the outer steps.
        images: so many are shown under their maps.
        facts: go into ``policy.json``.
    """
    density = map_mean = None
    if policy.location is not None:
        density, map_mean = _write_maps(folder, policy, dataset, images)
        map_mean = None if policy.proposal.normalise else map_mean
    body = policy_body(policy, map_mean=map_mean, **facts)
    files: dict[str, Any] = {'policy.json': body, 'history.jsonl': ''.join(json.dumps(h) + '\n' for h in history)}
    refused = None
    if recipe is not None:
        try:
            frozen = freeze(policy, recipe, None if density is None else f'{HERE}/{density}', map_mean)
            files['recipe.py'] = recipe_text(
                frozen, 'Learned by a bi-level training; goes among the _base_ files of a leaf.'
            )
        except ValueError as err:
            refused = str(err)
            files['recipe.py'] = f'# {refused}\nsynthesis = None\n'
    write_files(folder, files)
    if history:
        draw_curves(history, folder / 'curves.png')
    return dict(weights=body['weights'], map_mean=map_mean, **({'refused': refused} if refused else {}))


@torch.no_grad()
def _write_maps(folder: Path, policy: LearnedPolicy, dataset: Any, images: int) -> tuple[str, float]:
    """Write the maps as LoadLocationMap reads them; return their place in the folder and their mean."""
    device = policy.raw_weights.device
    (folder / MAPS).mkdir(parents=True, exist_ok=True)
    shown, means = [], []
    infos = _infos(dataset)
    every = max(1, len(infos) // images)
    for number, (load, info) in enumerate(infos):
        image, codes = load(info)
        objects = ObjectCells.of(codes)
        inputs = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))).float()[None] / 255
        table = policy.location.tables(inputs.to(device), [codes], [objects])[0].cpu()
        means += [mean_over(one, objects).item() / FRESH for one in table]
        stem = Path(info['img_path']).stem
        if not policy.location.per_class:
            np.save(folder / MAPS / f'{stem}.npy', table[0].numpy().astype(np.float32))
        if number % every == 0 and len(shown) < images:
            # what shows no object is no place: it is left out of the drawing
            shown.append((image[..., ::-1], np.where(objects.counts > 0, table.numpy(), np.nan), stem))
    name = MAPS
    if policy.location.per_class:
        name = f'{MAPS}.npy'
        (folder / MAPS).rmdir()
        maps = policy.location.maps().cpu().numpy()
        np.save(folder / name, np.concatenate([np.ones_like(maps[:1]), maps]).astype(np.float32))
    draw_maps(shown, folder / 'maps.png')
    return name, float(np.mean(means))


def _infos(dataset: Any) -> list[tuple[Any, dict]]:
    """Return the record of every image, with what loads its pixels and location codes."""
    parts = getattr(dataset, 'datasets', None)
    if parts:
        return [pair for part in parts for pair in _infos(part)]
    if not hasattr(dataset, 'get_data_info'):
        return _infos(dataset.dataset)
    names = [type(t).__name__ for t in dataset.pipeline.transforms]
    if 'LoadLocationMap' not in names:
        raise ValueError(
            'the training pipeline must hold LoadLocationMap to write learned maps, got '
            f'{names}; the `synthesis` step of a config adds it.'
        )
    steps = Compose(dataset.pipeline.transforms[: names.index('LoadLocationMap') + 1])

    def load(info: dict) -> tuple[ndarray, ndarray]:
        results = steps(dict(info))
        return results['img'], results['gt_location_map']

    return [(load, dataset.get_data_info(i)) for i in range(len(dataset))]
