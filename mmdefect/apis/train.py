"""Train a config through mmseg's Runner."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmdefect.ranks import leave_group
from mmdefect.registry import VISUALIZERS

from .config import load_config
from .preflight import check_data, check_same_config, check_writable
from .pretrained import resolve_pretrained


def train(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    resume: bool = False,
    amp: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> Runner:
    """Check the data, then train.

    Args:
        config: path of a leaf config, or a composed config.
        work_dir: where logs and checkpoints go; by default ``work_dirs/<config name>``.
        resume: continue from the last checkpoint in ``work_dir``.
        amp: automatic mixed precision; a config asks for it with ``amp = True``.
        cfg_options: overrides, with dotted keys.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Returns:
        The runner after training.
    """
    cfg = prepare_train_config(config, work_dir, resume, amp, cfg_options, launcher)
    if int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0:
        check_writable(cfg.work_dir)
        check_same_config(cfg, cfg.work_dir)
        check_data(cfg)
    forget_earlier_run(cfg)
    runner = Runner.from_cfg(cfg)
    if cfg.get('cpu_channels_last') and not torch.cuda.is_available():
        runner.register_hook(dict(type='ChannelsLastHook'))
    if launcher != 'none':  # not in the config: a run may go on with another number of processes
        runner.register_hook(dict(type='SyncStatisticsHook'))
    runner.train()
    leave_group()
    return runner


def forget_earlier_run(cfg: Config) -> None:
    """Drop visualizer and loggers of an earlier run in this process: mmengine would reuse them and write where they did.

    Loggers are called by config and second, so only a run that starts in the second of another one shares its logger.
    """
    if cfg.get('visualizer'):
        VISUALIZERS.get(cfg.visualizer.type)._instance_dict.pop(cfg.visualizer.get('name'), None)
    stem = Path(cfg.filename).stem if cfg.filename else ''
    for name in [n for n in MMLogger._instance_dict if stem and n.startswith(f'{stem}_')]:
        MMLogger._instance_dict.pop(name)


def prepare_train_config(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    resume: bool = False,
    amp: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> Config:
    """Return the config exactly as the Runner gets it; see :func:`train` for the arguments."""
    cfg = config if isinstance(config, Config) else load_config(config, cfg_options)
    cfg.launcher = launcher
    cfg.resume = resume
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename).stem)
    if amp or cfg.get('amp'):
        _use_amp(cfg)
    if not torch.cuda.is_available():
        _fit_to_cpu(cfg)
    resolve_pretrained(cfg)
    return cfg


def _use_amp(cfg: Config) -> None:
    on_gpu = torch.cuda.is_available()
    wanted = 'AmpOptimWrapper' if on_gpu else 'Bfloat16OptimWrapper'
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper not in ('OptimWrapper', wanted):
        raise ValueError(
            f'`--amp` needs `optim_wrapper.type` OptimWrapper or, on this device, {wanted}, got {wrapper}; '
            'set mixed precision in that wrapper instead.'
        )
    if not on_gpu and not has_fast_bfloat16():
        raise ValueError(
            'mixed precision (`--amp`, or `amp = True` in the config) needs a GPU or a CPU with bfloat16 '
            'instructions (AVX512-BF16 or AMX), but torch finds neither; leave it out, or set '
            '`--cfg-options amp=False`.'
        )
    cfg.optim_wrapper.type = wanted
    if on_gpu:
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def has_fast_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 numbers itself; elsewhere they are slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _fit_to_cpu(cfg: Config) -> None:
    """SyncBN has no CPU kernel and NCCL no CPU transport: take BN and gloo."""
    cfg.env_cfg.setdefault('dist_cfg', {})['backend'] = 'gloo'
    _replace_sync_bn(cfg.model)


def _replace_sync_bn(node) -> None:
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        for value in node.values():
            _replace_sync_bn(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _replace_sync_bn(value)
