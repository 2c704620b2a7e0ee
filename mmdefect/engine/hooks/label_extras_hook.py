"""Bring weights and box marks of the samples to the losses that ask for them."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmdefect.models.losses.label_extras import attach_label_extras
from mmdefect.registry import HOOKS


@HOOKS.register_module()
class LabelExtrasHook(Hook):
    """Call :func:`mmdefect.models.losses.attach_label_extras` before the first iteration."""

    def before_train(self, runner: Runner) -> None:
        """Attach; a model whose losses ask for nothing is an error of the config.

        Raises:
            ValueError: if no loss asks for weights or boxes.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if attach_label_extras(model) is None:
            raise ValueError(
                'LabelExtrasHook must have a loss to serve (WeightedSampleLoss, or WeakBoxLoss with '
                '`mixed=True`), but the heads have none; set such a loss or remove the hook.'
            )
