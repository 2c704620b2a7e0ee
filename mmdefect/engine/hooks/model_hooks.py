"""Hooks on the weights of a model: where they start, which are frozen, how fast they go on, their order, statistics."""

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmdefect.models.backbone_weights import load_backbone
from mmdefect.registry import HOOKS, PARAM_SCHEDULERS


def unwrapped(runner: Runner) -> nn.Module:
    """Return the model of a run, without what distributes it over processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


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
            print_log(f'{self.checkpoint} is not loaded: the run was resumed at iteration {runner.iter}.', 'current')
            return
        if runner._load_from and not runner._resume:
            raise ValueError(
                f'a run must start from `load_from` or from the backbone of CutPasteBackboneHook, got both: '
                f'{runner._load_from} and {self.checkpoint}; remove one.'
            )
        model = unwrapped(runner)
        if not hasattr(model, self.target):
            parts = ', '.join(n for n, _ in model.named_children())
            raise ValueError(f'`target` must be a part of {type(model).__name__}, got {self.target!r}; it has {parts}.')
        print_log(load_backbone(getattr(model, self.target), self.checkpoint, self.min_share).text(), 'current')


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
        """Freeze or release the backbone."""
        backbone = unwrapped(runner).backbone
        if runner.iter >= self.updates:
            if self.frozen:
                for parameter in self.frozen:
                    parameter.requires_grad_(True)
                self.frozen = []
                backbone.train()
            return
        if runner.cfg.get('random_initialisation'):
            return
        if not self.frozen:
            self.frozen = [p for p in backbone.parameters() if p.requires_grad]
            print_log(f'the backbone is frozen for {self.updates - runner.iter} updates', 'current')
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        backbone.eval()


@HOOKS.register_module()
class LongerScheduleHook(Hook):
    """Give a resumed run the schedule of its config where that is not the one that its checkpoint holds.

    mmengine restores the end of a schedule with its state, so a run that goes on to more updates would stand still at
    the last rate of the shorter one. Here the rates are those that the longer schedule has from this update on.
    """

    def before_train(self, runner: Runner) -> None:
        """Replay the schedules of the config up to here, if they are others."""
        schedulers, configs = runner.param_schedulers, runner.cfg.get('param_scheduler')
        if not runner.iter or not isinstance(schedulers, list) or not isinstance(configs, (list, tuple)):
            return
        groups = [
            {k: v for k, v in g.items() if k != 'params'} | dict(params=[torch.zeros(1, requires_grad=True)])
            for g in runner.optim_wrapper.param_groups
        ]
        names = {scheduler.param_name for scheduler in schedulers}
        for group in groups:
            group.update({name: group.get(f'initial_{name}', group[name]) for name in names})
        replayed = torch.optim.SGD(groups, lr=0.0)
        fresh = [PARAM_SCHEDULERS.build(dict(c), default_args=dict(optimizer=replayed)) for c in configs]
        moving = {'optimizer', 'last_step', '_global_step', '_last_value', 'base_values', 'verbose'}
        plain = [{k: v for k, v in vars(s).items() if k not in moving} for s in (*schedulers, *fresh)]
        if len(fresh) != len(schedulers) or plain[: len(fresh)] == plain[len(fresh) :]:
            return
        for _ in range(runner.iter):
            replayed.step()
            for scheduler in fresh:
                scheduler.step()
        for old, new in zip(schedulers, fresh, strict=True):
            vars(old).update({k: v for k, v in vars(new).items() if k != 'optimizer'})
        for group, own in zip(runner.optim_wrapper.param_groups, replayed.param_groups, strict=True):
            group.update({name: own[name] for name in names})
        print_log(
            f'the schedule is another than that of the checkpoint; it goes on from update {runner.iter}', 'current'
        )


@HOOKS.register_module()
class TileSplitHook(Hook):
    """Let the model see every test image in tiles, each by itself.

    Args:
        count: tiles of a side.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f'`--tile-split` must be a number of tiles from 1 on, got {count}.')
        self.count = count

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set the window to a tile of the image as the network gets it; mmseg slides it without overlap."""
        sides = data_batch['inputs'][0].shape[-2:]
        tile = tuple(-(-side // self.count) for side in sides)
        unwrapped(runner).test_cfg.update(mode='slide', crop_size=tile, stride=tile)


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Reorder the weights to batch, row, column, channel: on a CPU most convolutions are faster that way.

    Before the first iteration, after initialising and loading, because random numbers are written in the order of
    memory: a model reordered before would start from other weights. Convolutions hand the order on to what they return.
    Models in a wrapper for several processes keep their order.
    """

    def before_train(self, runner: Runner) -> None:
        """Reorder."""
        if not is_model_wrapper(runner.model):
            runner.model.to(memory_format=torch.channels_last)


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


def average_statistics(model: nn.Module) -> None:
    """Replace the running statistics of all batch norms by their means over the ranks; all ranks must call it."""
    norms = [module for module in model.modules() if getattr(module, 'running_mean', None) is not None]
    buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    if not buffers or get_world_size() == 1:
        return
    vector = torch.cat([buffer.flatten() for buffer in buffers])
    all_reduce(vector, op='mean')
    for buffer, mean in zip(buffers, vector.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.reshape(buffer.shape))
