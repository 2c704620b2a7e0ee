"""What can be known to be wrong before training starts is said before it starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmdefect.datasets.checks import check_dataset, check_disjoint
from mmdefect.registry import DATASETS

#: Keys in which the config of a work dir may differ from the present one: they change no result.
FREE_KEYS = (
    'work_dir',
    'resume',
    'load_from',
    'launcher',
    'log_level',
    'visualizer',
    'vis_backends',
    'log_processor',
    'env_cfg',
    'tta',
    'tta_model',
    'tta_pipeline',
    'test_dataloader',
    'test_evaluator',
    'test_pipeline',
    'random_initialisation',
)
FREE_LOADER_KEYS = ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')


def check_writable(folder: str | Path) -> None:
    """Make ``folder`` and see that a file can be written into it.

    Raises:
        PermissionError: if not; the message names the folder.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise PermissionError(
            f'`--work-dir` must be a folder that can be written to, but {folder} is not ({err.strerror}); '
            'choose another one.'
        ) from err


def check_same_config(cfg: Config, work_dir: str | Path) -> None:
    """Refuse a work dir with checkpoints of another config; a run that left none is nothing to protect.

    Raises:
        ValueError: naming the first keys that differ and the mend.
    """
    if next(Path(work_dir).rglob('*.pth'), None) is None:
        return
    for dumped in sorted(Path(work_dir).glob('*.py')):
        differing = sorted(_differences(_comparable(Config.fromfile(str(dumped))), _comparable(cfg)))
        if differing:
            raise ValueError(
                f'`--work-dir` must be new or hold runs of the same config, but {dumped} differs in '
                f'{", ".join(differing[:5])}{" and more" if len(differing) > 5 else ""}; '
                'choose another --work-dir or remove that one.'
            )


def check_data(cfg: Config) -> None:
    """Check the files of the training, validation and test set, and that they share no image.

    Raises:
        ValueError, FileNotFoundError: naming the file and the mend.
    """
    built = {}
    for split in ('train', 'val', 'test', 'outer'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            built[split] = DATASETS.build(_without_pipeline(loader['dataset']))
            check_dataset(built[split])
    check_disjoint(built)


def _without_pipeline(dataset: ConfigDict) -> ConfigDict:
    dataset = ConfigDict(dataset)
    for key in ('datasets', 'dataset'):
        if isinstance(dataset.get(key), (list, tuple)):
            dataset[key] = [_without_pipeline(d) for d in dataset[key]]
        elif isinstance(dataset.get(key), dict):
            dataset[key] = _without_pipeline(dataset[key])
    if 'pipeline' in dataset:
        dataset['pipeline'] = []
    return dataset


def _comparable(cfg: Config) -> dict:
    """A plain dict of what decides the result; tuples become lists, because the dump makes no difference."""
    plain = _plain(cfg.to_dict())
    for key in FREE_KEYS:
        plain.pop(key, None)
    for loader in ('train_dataloader', 'val_dataloader'):
        for key in FREE_LOADER_KEYS:
            (plain.get(loader) or {}).pop(key, None)
    return plain


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _differences(old, new, prefix: str = '') -> set[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: set[str] = set()
        for key in old.keys() | new.keys():
            found |= _differences(old.get(key), new.get(key), f'{prefix}.{key}' if prefix else str(key))
        return found
    return set() if old == new else {prefix}
