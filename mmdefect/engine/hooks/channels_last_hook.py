"""Keep the weights in the order batch, row, column, channel: on a CPU most convolutions are faster that way."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmdefect.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Reorder the weights before the first iteration; convolutions hand the order on to what they return.

    After initialising and loading, because random numbers are written in the order of memory: a model reordered before
    would start from other weights. Models in a wrapper for several processes keep their order.
    """

    def before_train(self, runner: Runner) -> None:
        """Reorder."""
        if not is_model_wrapper(runner.model):
            runner.model.to(memory_format=torch.channels_last)
