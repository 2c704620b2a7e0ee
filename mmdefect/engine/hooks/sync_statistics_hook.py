"""One set of batch norm statistics for all ranks, before it is validated or saved."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmdefect.registry import HOOKS


@HOOKS.register_module()
class SyncStatisticsHook(Hook):
    """Average the running means and variances of batch norms over the ranks before each validation and checkpoint.

    Each rank keeps the statistics of its own images. Without this every rank validates another network, and the
    checkpoint of rank 0 is none of those that the logged metrics belong to. ``SyncBN`` (on a GPU) has equal ones
    anyway. With one process nothing happens.
    """

    priority = 'HIGH'  # before weights are averaged or saved

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Average if a validation or a checkpoint follows this update."""
        intervals = [getattr(runner.train_loop, 'val_interval', 0)]
        intervals += [hook.interval for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch]
        step = runner.iter + 1
        if step == runner.max_iters or any(interval > 0 and step % interval == 0 for interval in intervals):
            average_statistics(runner.model)

    def after_train_epoch(self, runner: Runner) -> None:
        """Average after a pass, for trainings that count in passes."""
        average_statistics(runner.model)


def average_statistics(model: torch.nn.Module) -> None:
    """Replace the running statistics of all batch norms by their means over the ranks; all ranks must call it."""
    if get_world_size() == 1:
        return
    buffers = [
        buffer
        for module in model.modules()
        if getattr(module, 'running_mean', None) is not None
        for buffer in (module.running_mean, module.running_var)
    ]
    if not buffers:
        return
    vector = torch.cat([buffer.flatten() for buffer in buffers])
    all_reduce(vector, op='mean')
    for buffer, mean in zip(buffers, vector.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.reshape(buffer.shape))
