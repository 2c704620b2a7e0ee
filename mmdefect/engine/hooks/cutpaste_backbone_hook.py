"""Start any model from the backbone that CutPaste trained."""

from __future__ import annotations

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmdefect.models.backbone_weights import load_backbone
from mmdefect.registry import HOOKS


@HOOKS.register_module()
class CutPasteBackboneHook(Hook):
    """Load the backbone of a checkpoint before the first iteration, and print what matched.

    A resumed run keeps its own weights.

    Args:
        checkpoint: of a CutPaste training, or a file of backbone weights.
        min_share: least share of the backbone's parameters that must match; with less the run stops.
        target: attribute of the model that is the backbone.
    """

    def __init__(self, checkpoint: str, min_share: float = 0.9, target: str = 'backbone') -> None:
        self.checkpoint, self.min_share, self.target = checkpoint, min_share, target

    def before_train(self, runner: Runner) -> None:
        """Load."""
        if runner._resume and runner.iter > 0:
            print_log(
                f'{self.checkpoint} is not loaded: the run was resumed at iteration {runner.iter}.',
                'current',
                logging.INFO,
            )
            return
        if runner._load_from and not runner._resume:
            raise ValueError(
                f'a run must start from `load_from` or from the backbone of CutPasteBackboneHook, got both: '
                f'{runner._load_from} and {self.checkpoint}; remove one.'
            )
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, self.target):
            raise ValueError(
                f'`target` must be a part of {type(model).__name__}, got {self.target!r}; it has '
                f'{", ".join(n for n, _ in model.named_children())}.'
            )
        report = load_backbone(getattr(model, self.target), self.checkpoint, self.min_share)
        print_log(report.text(), 'current', logging.INFO)
