"""Keep the state of a bi-level training in its checkpoints, and write what was learned."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdefect.engine.loops.policy_export import export_policy
from mmdefect.registry import HOOKS

KEY = 'bilevel'


@HOOKS.register_module()
class PolicyHook(Hook):
    """Save and restore policy, outer optimiser and counters; write recipe, curves and maps.

    Loops are not part of mmengine's checkpoints. At the end, and every ``interval`` iterations, ``policy/`` of the work
    dir gets ``recipe.py`` (goes among the ``_base_`` files of any leaf), ``policy.json``, the learned maps, the history as
    ``history.jsonl`` and as ``curves.png``, and ``maps.png`` with the maps over training images.

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
        """See that there is a policy to keep.

        Raises:
            ValueError: if the loop of the training is another one.
        """
        if not hasattr(runner.train_loop, 'outer_step'):
            raise ValueError(
                'PolicyHook must go with `train_cfg.type` BilevelTrainLoop, got '
                f'{type(runner.train_loop).__name__}; remove the hook or change the loop.'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of the loop."""
        checkpoint[KEY] = runner.train_loop.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the state back when a training is resumed.

        Raises:
            ValueError: if the checkpoint has none.
        """
        if not runner._resume:
            return
        if KEY not in checkpoint:
            raise ValueError(
                'a resumed bi-level training must find the state of its policy in the checkpoint, but there is '
                'none: it was saved without PolicyHook; start anew, or from its weights with `load_from`.'
            )
        runner.train_loop.load_state_dict(checkpoint[KEY])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Write at intervals."""
        if self.interval and (batch_idx + 1) % self.interval == 0 and batch_idx + 1 < runner.max_iters:
            self._write(runner)

    def after_train(self, runner: Runner) -> None:
        """Write."""
        self._write(runner)

    @master_only
    def _write(self, runner: Runner) -> None:
        loop = runner.train_loop
        folder = Path(runner.work_dir) / 'policy'
        said = export_policy(
            folder,
            loop.policy,
            loop.recipe,
            loop.dataloader.dataset,
            loop.history,
            self.images,
            facts=dict(iterations=runner.iter, outer_steps=loop.outer_steps),
        )
        runner.logger.info('policy written to %s: %s', folder, json.dumps(said))
