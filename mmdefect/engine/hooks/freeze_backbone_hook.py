"""Leave a pretrained backbone as it is while a new head finds its feet."""

from __future__ import annotations

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmdefect.registry import HOOKS


@HOOKS.register_module()
class FreezeBackboneHook(Hook):
    """Train only what is not the backbone for the first updates; its batch norms keep their statistics meanwhile.

    Does nothing when the run had to start from random weights (``random_initialisation`` of the config says so). In
    distributed training set ``find_unused_parameters = True``.

    Args:
        updates: how many.
    """

    def __init__(self, updates: int = 20) -> None:
        if updates < 0:
            raise ValueError(f'`updates` must not be negative, got {updates}.')
        self.updates, self.frozen = updates, []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Freeze or let go."""
        if runner.iter >= self.updates:
            if self.frozen:
                self._let_go(runner)
            return
        if runner.cfg.get('random_initialisation'):
            return
        backbone = _backbone(runner)
        if not self.frozen:
            self.frozen = [p for p in backbone.parameters() if p.requires_grad]
            print_log(f'the backbone is frozen for {self.updates - runner.iter} updates', 'current', logging.INFO)
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        backbone.eval()

    def _let_go(self, runner: Runner) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []
        _backbone(runner).train()


def _backbone(runner: Runner):
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model.backbone
