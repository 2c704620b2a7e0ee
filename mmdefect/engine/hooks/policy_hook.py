"""Keep the state of a bi-level training in its checkpoints, and write what was learned: recipe, numbers and maps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from numpy import ndarray

from mmdefect.files import write_json, write_text
from mmdefect.registry import HOOKS
from mmdefect.synthesis.learned.maps import FRESH, ObjectCells
from mmdefect.synthesis.learned.policy import HERE, LearnedPolicy, freeze, recipe_text

KEY, MAPS = 'bilevel', 'maps'


@HOOKS.register_module()
class PolicyHook(Hook):
    """Save and restore policy, outer optimiser and counters; write recipe, curves and maps.

    Loops are not part of mmengine's checkpoints. At the end, and every ``interval`` iterations, ``policy/`` of the work
    dir gets ``recipe.py`` (goes among the ``_base_`` files of any leaf), ``policy.json``, the learned maps, the history
    as ``history.jsonl`` and as ``curves.png``, and ``maps.png`` with the maps over training images.

    Args:
        interval: inner steps between two writings; 0 writes at the end only.
        images: number of training images shown under their maps.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 0, images: int = 6) -> None:
        if interval < 0 or images < 1:
            raise ValueError(f'`interval` must be at least 0 and `images` at least 1, got {interval} and {images}.')
        self.interval, self.images = interval, images

    def before_run(self, runner: Runner) -> None:
        """Check that there is a policy to keep."""
        if not hasattr(runner.train_loop, 'outer_step'):
            found = type(runner.train_loop).__name__
            raise ValueError(
                f'PolicyHook must go with `train_cfg.type` BilevelTrainLoop, got {found}; change one of them.'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of the loop."""
        checkpoint[KEY] = runner.train_loop.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the state back when a training is resumed."""
        if not runner._resume:
            return
        if KEY not in checkpoint:
            raise ValueError(
                'a resumed bi-level training must find the state of its policy in the checkpoint, but it was saved '
                'without PolicyHook; start anew, or from its weights with `load_from`.'
            )
        runner.train_loop.load_state_dict(checkpoint[KEY])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Write at intervals."""
        if self.interval and (batch_idx + 1) % self.interval == 0 and batch_idx + 1 < runner.max_iters:
            self.write(runner)

    def after_train(self, runner: Runner) -> None:
        """Write at the end."""
        self.write(runner)

    @master_only
    def write(self, runner: Runner) -> None:
        """Write what was learned so far."""
        from mmdefect.visualization.figures import draw_curves  # matplotlib is not needed before

        loop, folder = runner.train_loop, Path(runner.work_dir) / 'policy'
        policy, density, map_mean = loop.policy, None, None
        if policy.location is not None:
            density, map_mean = write_maps(folder, policy, loop.dataloader.dataset, self.images)
            map_mean = None if policy.proposal.normalise else map_mean
        facts = dict(map_mean=map_mean, iterations=runner.iter, outer_steps=loop.outer_steps)
        body = policy.summary() | facts
        write_json(folder / 'policy.json', body)
        write_text(folder / 'history.jsonl', ''.join(json.dumps(record) + '\n' for record in loop.history))
        summary = dict(weights=body['weights'], map_mean=map_mean)
        if loop.recipe is not None:
            try:
                text = recipe_text(freeze(policy, loop.recipe, density and f'{HERE}/{density}', map_mean))
            except ValueError as err:
                summary['no_recipe'] = str(err)
                text = f'# {err}\nsynthesis = None\n'
            write_text(folder / 'recipe.py', text)
        if loop.history:
            draw_curves(loop.history, folder / 'curves.png')
        runner.logger.info('policy written to %s: %s', folder, json.dumps(summary))


@torch.no_grad()
def write_maps(folder: Path, policy: LearnedPolicy, dataset: Any, images: int) -> tuple[str, float]:
    """Write the maps of a training set as LoadLocationMap reads them, and ``images`` of them over their images.

    Returns:
        The place of the maps in the folder, and their mean over the objects relative to a fresh map.
    """
    from mmdefect.visualization.figures import draw_maps

    shown, means, location = [], [], policy.location
    (folder / MAPS).mkdir(parents=True, exist_ok=True)
    infos = _image_infos(dataset)
    every = max(1, len(infos) // images)
    for number, (load, info) in enumerate(infos):
        image, codes = load(info)
        objects = ObjectCells.of(codes)
        inputs = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))).float()[None] / 255
        table = location.tables(inputs.to(policy.raw_weights.device), [codes], [objects])[0].cpu()
        means += [objects.mean(one).item() / FRESH for one in table]
        stem = Path(info['img_path']).stem
        if not location.per_class:
            np.save(folder / MAPS / f'{stem}.npy', table[0].numpy().astype(np.float32))
        if number % every == 0 and len(shown) < images:
            # cells without a pixel of the object are no places: they are left out of the drawing
            shown.append((image[..., ::-1], np.where(objects.counts > 0, table.numpy(), np.nan), stem))
    name = MAPS
    if location.per_class:
        name = f'{MAPS}.npy'
        (folder / MAPS).rmdir()
        maps = location.maps().cpu().numpy()
        np.save(folder / name, np.concatenate([np.ones_like(maps[:1]), maps]).astype(np.float32))
    draw_maps(shown, folder / 'maps.png')
    return name, float(np.mean(means))


def _image_infos(dataset: Any) -> list[tuple[Any, Mapping]]:
    """Return the record of every image, with what loads its pixels and location codes."""
    parts = getattr(dataset, 'datasets', None)
    if parts:
        return [pair for part in parts for pair in _image_infos(part)]
    if not hasattr(dataset, 'get_data_info'):
        return _image_infos(dataset.dataset)
    names = [type(t).__name__ for t in dataset.pipeline.transforms]
    if 'LoadLocationMap' not in names:
        raise ValueError(
            f'the training pipeline must hold LoadLocationMap to write learned maps, got {names}; '
            'the `synthesis` of a config adds it.'
        )
    steps = Compose(dataset.pipeline.transforms[: names.index('LoadLocationMap') + 1])

    def load(info: Mapping) -> tuple[ndarray, ndarray]:
        results = steps(dict(info))
        return results['img'], results['gt_location_map']

    return [(load, dataset.get_data_info(i)) for i in range(len(dataset))]
