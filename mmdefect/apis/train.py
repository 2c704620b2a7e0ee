"""Train a config through mmseg's Runner, after checking what can be known to be wrong before it starts."""

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from urllib.error import URLError

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger, print_log
from mmengine.runner import CheckpointLoader, Runner
from torch import hub

from mmdefect.apis.compose import iter_dicts
from mmdefect.apis.config import load_config
from mmdefect.datasets.checks import check_dataset, check_disjoint
from mmdefect.datasets.donors import without_pipeline
from mmdefect.datasets.samples import iter_data_infos
from mmdefect.experiments.settings import difference, flatten
from mmdefect.ranks import leave_group
from mmdefect.registry import DATASETS, VISUALIZERS

#: Keys in which the config of a work dir may differ from the present one: they change no result.
FREE_KEYS = (
    *('work_dir', 'resume', 'load_from', 'launcher', 'log_level', 'visualizer*', 'vis_backends*', 'log_processor*'),
    *('env_cfg*', 'tta*', 'test_dataloader*', 'test_evaluator*', 'test_pipeline*'),
    *('random_initialisation*', 'random_weights'),
    *('*_dataloader.num_workers', '*_dataloader.persistent_workers', '*_dataloader.pin_memory'),
    '*_dataloader.prefetch_factor',
)

#: Keys in which they may also differ when a run goes on to more updates.
LONGER_KEYS = ('train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler*', 'default_hooks.checkpoint.interval')


def train(config: str | Path | Config, work_dir: str | Path | None = None, **options) -> Runner:
    """Check the data, train, and return the runner; see :func:`prepare_train_config` for the arguments."""
    cfg = prepare_train_config(config, work_dir, **options)
    if int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0) == 0:
        check_writable(cfg.work_dir)
        check_same_config(cfg, cfg.work_dir)
        check_data(cfg)
    forget_earlier_run(cfg)
    runner = Runner.from_cfg(cfg)
    if cfg.resume:
        runner.register_hook(dict(type='LongerScheduleHook'))
    if cfg.get('cpu_channels_last') and not torch.cuda.is_available():
        runner.register_hook(dict(type='ChannelsLastHook'))
    if cfg.launcher != 'none':  # not in the config: a run may go on with another number of processes
        runner.register_hook(dict(type='SyncStatisticsHook'))
    runner.train()
    leave_group()
    return runner


def prepare_train_config(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    resume: bool = False,
    amp: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
    recipes: Sequence[str] = (),
) -> Config:
    """Return the config exactly as the Runner gets it.

    Args:
        config: composed config, or the path of a leaf, read with ``cfg_options`` and ``recipes`` (see ``load_config``).
        work_dir: where logs and checkpoints go; by default ``work_dirs/<config name>``.
        resume: continue from the last checkpoint in ``work_dir``.
        amp: automatic mixed precision; a config asks for it with ``amp = True``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
    """
    cfg = config if isinstance(config, Config) else load_config(config, cfg_options, recipes)
    cfg.launcher, cfg.resume = launcher, resume
    set_work_dir(cfg, work_dir)
    if amp or cfg.get('amp'):
        _use_amp(cfg)
    fit_to_device(cfg)
    resolve_pretrained(cfg)
    return cfg


def set_work_dir(cfg: Config, work_dir: str | Path | None) -> None:
    """Set the folder of a run: the one given, that of the config, or ``work_dirs/<config name>``."""
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename).stem)


def fit_to_device(cfg: Config) -> None:
    """On a CPU take BN and gloo: SyncBN has no kernel there and NCCL no transport."""
    if torch.cuda.is_available():
        return
    cfg.env_cfg.setdefault('dist_cfg', {})['backend'] = 'gloo'
    for part in iter_dicts(cfg.model):
        if part.get('type') == 'SyncBN':
            part['type'] = 'BN'


def forget_earlier_run(cfg: Config) -> None:
    """Drop visualizer and loggers of an earlier run in this process: mmengine would reuse them and write to its files.

    Loggers are called by config and second, so only a run that starts in the second of another one shares its logger.
    """
    if cfg.get('visualizer'):
        VISUALIZERS.get(cfg.visualizer.type)._instance_dict.pop(cfg.visualizer.get('name'), None)
    stem = Path(cfg.filename).stem if cfg.filename else ''
    for name in [n for n in MMLogger._instance_dict if stem and n.startswith(f'{stem}_')]:
        MMLogger._instance_dict.pop(name)


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
            'mixed precision (`--amp`, or `amp = True` in the config) needs a GPU or a CPU with bfloat16 instructions '
            '(AVX512-BF16 or AMX), but torch finds neither; leave it out, or set `--cfg-options amp=False`.'
        )
    cfg.optim_wrapper.type = wanted
    if on_gpu:
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def has_fast_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 numbers itself; elsewhere they are slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_writable(folder: str | Path) -> None:
    """Make ``folder`` and see that a file can be written into it; raise ``PermissionError`` if not."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise PermissionError(
            f'`--work-dir` must be a folder that can be written to, but {folder} is not ({err.strerror}); choose '
            'another one.'
        ) from err


def check_same_config(cfg: Config, work_dir: str | Path) -> None:
    """Reject a work dir with checkpoints of another config; a run that left none is nothing to protect.

    A resumed run may be longer than it was: its schedule is then that of the new length from where it stands on.
    """
    if next(Path(work_dir).rglob('*.pth'), None) is None:
        return
    for dumped in sorted(Path(work_dir).glob('*.py')):
        before, now = (flatten(c.to_dict()) for c in (Config.fromfile(str(dumped)), cfg))
        grown = now.get('train_cfg.max_iters', 0) > before.get('train_cfg.max_iters', math.inf)
        free_keys = (*FREE_KEYS, *LONGER_KEYS * bool(cfg.get('resume') and grown))
        differing = [key for key in difference(before, now) if not any(fnmatch(key, free) for free in free_keys)]
        if differing:
            more = ' and more' if len(differing) > 5 else ''
            raise ValueError(
                f'`--work-dir` must be new or hold runs of the same config, but {dumped} differs in '
                f'{", ".join(differing[:5])}{more}; choose another --work-dir or remove that one.'
            )


def check_data(cfg: Config) -> None:
    """Check the files of the training, validation and test set, and that they share no image."""
    built = {}
    for split in ('train', 'val', 'test', 'outer'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            built[split] = DATASETS.build(without_pipeline(loader['dataset']))
            check_dataset(built[split])
    images = {split: [info['img_path'] for info in iter_data_infos(dataset)] for split, dataset in built.items()}
    if images.get('val') and images['val'] == images.get('test'):
        print_log(
            'Validation and test read the same images: figures of the test are of images that checkpoint and decision '
            'are chosen on, too good for new parts.',
            'current',
            logging.WARNING,
        )
        del built['test']
    check_disjoint(built)


def resolve_pretrained(cfg: Config) -> list[str]:
    """See that the weights are there that a model is to start from; ``model.pretrained`` becomes ``init_cfg``.

    From random weights another model is trained, and where stages are frozen a useless one. So absent weights are an
    error, unless ``random_weights = True`` in the config asks for just that: then each ``Pretrained`` initialisation
    without weights is dropped with a warning, and its stages learn. Returns the warnings, which
    ``cfg.random_initialisation`` holds for the dumped config.

    Raises:
        FileNotFoundError: if weights are absent; the message says how to get them.
    """
    model = cfg.model
    parts = list(_pretrained_parts(model, 'model'))
    if model.get('pretrained') is not None:
        if 'backbone' in model:
            model.backbone['init_cfg'] = ConfigDict(type='Pretrained', checkpoint=model.pop('pretrained'))
            parts = list(_pretrained_parts(model, 'model'))
        else:  # SAN: one file for several parts
            parts.append(('model', model))
    warnings = []
    for place, module in parts:
        key = 'init_cfg.checkpoint' if 'init_cfg' in module else 'pretrained'
        checkpoint = module.pretrained if key == 'pretrained' else module.init_cfg['checkpoint']
        reason = _why_absent(checkpoint)
        if reason is None:
            continue
        if not cfg.get('random_weights') or key == 'pretrained':
            cache = f'fill {hub.get_dir()}/checkpoints on a machine with a network, by the same command, and copy it, '
            raise FileNotFoundError(
                f'{place} must start from the weights {checkpoint}, but that {reason}; {cache * ("://" in checkpoint)}'
                f'name a file with --cfg-options {place}.{key}=PATH'
                + (
                    '; its frozen text encoder means nothing with random weights.'
                    if key == 'pretrained'
                    else ', or train another model, from random weights, with --cfg-options random_weights=True.'
                )
            )
        module.pop(key.split('.')[0])
        frozen = module.get('frozen_stages', -1) >= 0
        if frozen:  # random stages must learn
            module.update({'frozen_stages': -1, **({'norm_eval': False} if 'norm_eval' in module else {})})
        says = f'{place} starts from RANDOM weights{" and is therefore not frozen" * frozen}: {checkpoint} {reason}.'
        warnings.append(says)
        print_log(says, logger='current', level=logging.WARNING)
    if warnings:
        cfg.random_initialisation = warnings
    return warnings


def _pretrained_parts(node, place: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the parts of a model that name pretrained weights, with their dotted place."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            yield place, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        yield from _pretrained_parts(value, f'{place}.{key}')


def _why_absent(checkpoint: str) -> str | None:
    if '://' not in checkpoint:
        return None if Path(checkpoint).is_file() else 'does not exist'
    try:
        CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    except (URLError, OSError) as err:
        return f'could not be downloaded ({err})'
    return None
