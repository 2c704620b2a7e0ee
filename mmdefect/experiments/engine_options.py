"""The command line options that choose an engine, alike for every tool that runs jobs."""

from __future__ import annotations

import argparse

from mmdefect.experiments import bulk
from mmdefect.experiments.engine import Engine
from mmdefect.experiments.pool import Slots
from mmdefect.experiments.ray_tasks import RayTasks
from mmdefect.experiments.slurm import SlurmArray

ENGINES = ('local', 'ray', 'slurm')


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = parser.add_argument_group('where jobs run')
    group.add_argument('--engine', choices=ENGINES, default='local', help='default: local, processes of this machine')
    group.add_argument(
        '--slots',
        type=int,
        help='jobs at the same time (default: local 1, or one for each group of '
        'GPUs; ray and slurm as many as there is room for)',
    )
    group.add_argument('--threads', type=int, default=0, help='cores and threads of each job (default: as they are)')
    group.add_argument(
        '--gpus',
        default='',
        help='local: devices to share out, such as 0,1,2,3; ray: how many a Ray that is started here has',
    )
    group.add_argument('--ray-address', help='Ray cluster (default: $RAY_ADDRESS, else a Ray is started here)')
    group.add_argument(
        '--retries', type=int, default=3, help='ray: restarts of a job whose worker is lost (default: 3)'
    )
    group.add_argument(
        '--slurm-option',
        action='append',
        default=[],
        metavar='OPTION',
        help='slurm: further option of sbatch, such as --slurm-option=--partition=gpu; may be repeated',
    )
    group.add_argument('--no-wait', action='store_true', help='slurm: submit and return')


def engine_of(args: argparse.Namespace, gpu_count: int = 0) -> Engine:
    """Return the engine that the options ask for.

    Args:
        args: parsed options.
        gpu_count: devices of each job.

    Raises:
        ValueError: if an option means nothing to the engine, or the devices cannot be shared out.
    """
    _refuse_foreign_options(args)
    devices = [device for device in args.gpus.split(',') if device]
    if args.engine == 'ray':
        if len(devices) > 1 or (devices and not devices[0].isdigit()):
            raise ValueError(
                f'`--gpus` of the engine ray must be a number of devices, got {args.gpus}; which ones are '
                'seen is said by CUDA_VISIBLE_DEVICES.'
            )
        there = int(devices[0]) if devices else 0
        return RayTasks(args.ray_address, args.slots or 0, args.threads, there, args.retries)
    if args.engine == 'slurm':
        return SlurmArray(args.slots or 0, args.threads, tuple(args.slurm_option), not args.no_wait)
    size = max(1, gpu_count)
    if len(devices) % size:
        raise ValueError(
            f'`--gpus` must be a multiple of the {size} devices of a job, got {len(devices)} ({args.gpus}).'
        )
    groups = tuple(','.join(devices[k : k + size]) for k in range(0, len(devices), size))
    return Slots(args.slots or max(1, len(groups)), args.threads, groups)


def _refuse_foreign_options(args: argparse.Namespace) -> None:
    owners = {'ray_address': 'ray', 'slurm_option': 'slurm', 'no_wait': 'slurm'}
    for name, owner in owners.items():
        if getattr(args, name) and args.engine != owner:
            raise ValueError(f'`--{name.replace("_", "-")}` is for `--engine {owner}`, got --engine {args.engine}.')
    if args.engine == 'slurm' and args.gpus:
        raise ValueError(
            '`--gpus` is not for `--engine slurm`, which hands out devices itself; say with `--gpu-count` how many '
            'a job gets.'
        )


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of bulk work to a parser."""
    group = parser.add_argument_group('who does the work')
    group.add_argument('--engine', choices=bulk.ENGINES, default='local', help='default: local')
    group.add_argument('--workers', type=int, default=1, help='processes, or actors of Ray (default: 1, this process)')
    group.add_argument('--threads', type=int, default=0, help='threads of each (default: as they are)')
    group.add_argument('--gpus-per-worker', type=float, default=0, help='ray: devices of each; 0.25: four share one')
    group.add_argument('--ray-address', help='Ray cluster (default: $RAY_ADDRESS, else a Ray is started here)')


def workers_of(args: argparse.Namespace) -> bulk.Workers:
    """Return the workers that the options ask for."""
    return bulk.Workers(args.engine, args.workers, args.threads, args.gpus_per_worker, args.ray_address)
