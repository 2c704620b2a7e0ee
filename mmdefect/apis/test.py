"""Test a checkpoint through mmseg's Runner."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from mmdefect.apis.compose import iter_transforms
from mmdefect.apis.config import load_config
from mmdefect.apis.train import check_writable, fit_to_device, set_work_dir
from mmdefect.experiments.states import PARTS_NAME
from mmdefect.functional.metrics.images import EVIDENCE_NAME
from mmdefect.ranks import leave_group
from mmdefect.registry import DATASETS


def test(
    config: str | Path | Config,
    checkpoint: str | Path,
    work_dir: str | Path | None = None,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    tta: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
    decision: str = 'delivered',
    recipes: Sequence[str] = (),
    tile_split: int = 1,
) -> dict[str, float]:
    """Evaluate a checkpoint on the test set.

    Args:
        config: composed config, or the path of a leaf, read with ``cfg_options`` and ``recipes`` (see ``load_config``).
        work_dir: where the log goes; by default ``work_dirs/<config name>``.
        out: folder for the predicted label maps (PNG of class ids).
        show_dir: folder for images of image, label and prediction side by side.
        tta: average over the scales and flips of the config's ``tta``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        decision: what is judged, written and drawn: ``delivered``, as predicting does it (with the offsets that
            validation fitted and the checkpoint holds), ``argmax``, or ``calibrated``, which must find offsets.
        tile_split: predict every image in so many tiles a side, each by itself, and put them together.

    Returns:
        The metrics, in percent where they are shares.
    """
    cfg = config if isinstance(config, Config) else load_config(config, cfg_options, recipes)
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f'the checkpoint must be an existing file, but {checkpoint} is not; train first, or look into the `ckpt` '
            'folder of the run.'
        )
    cfg.launcher, cfg.resume, cfg.load_from = launcher, False, str(checkpoint)
    set_work_dir(cfg, work_dir)
    for folder in filter(None, (cfg.work_dir, out, show_dir)):
        check_writable(folder)
    detector = cfg.get('detector') is not None  # of a CutPaste training
    if tile_split != 1 and (tta or detector):
        other = '`--tta`' if tta else 'a detector of a CutPaste training'
        raise ValueError(f'`--tile-split` must stand alone, but is given with {other}; leave one of them out.')
    if detector:
        from mmdefect.apis.anomaly_run import test_detector

        return test_detector(cfg, checkpoint, out or cfg.work_dir)
    fit_to_device(cfg)
    root = None if out is None and show_dir is None else image_root(cfg.test_dataloader.dataset)
    if out is not None:
        cfg.test_evaluator.update(output_dir=str(out), output_root=root)
    if show_dir is not None:
        grid = dict(type='PredictionSheetHook', output_dir=str(show_dir), root=root)
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), grid]
    if cfg.test_evaluator.get('type') == 'DefectMetric':
        cfg.test_evaluator.setdefault('curves', str(Path(cfg.work_dir) / 'curves.json'))
        cfg.test_evaluator.setdefault('per_image', str(Path(cfg.work_dir) / PARTS_NAME))
        if out is not None:
            cfg.test_evaluator.setdefault('evidence', str(Path(cfg.work_dir) / EVIDENCE_NAME))
        cfg.test_evaluator.update(decision=decision)
    if tile_split != 1:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='TileSplitHook', count=tile_split)]
    if tta:
        _use_tta(cfg)
        if cfg.test_evaluator.type == 'DefectMetric':
            cfg.test_evaluator.scores = 'probabilities'  # the views are averaged as such
    metrics = Runner.from_cfg(cfg).test()
    leave_group()
    return metrics


def _use_tta(cfg: Config) -> None:
    """Test at several scales and flips; the scales are relative to the one the network was trained at."""
    if cfg.get('tta') is None:
        raise ValueError('`--tta` needs `tta = dict(ratios=(...), flip=True)` in the config, which has none; add it.')
    pipeline = cfg.test_dataloader.dataset.pipeline
    resize = next((t for t in iter_transforms(pipeline) if t['type'] == 'Resize'), None)
    if resize is None:
        raise ValueError(
            '`--tta` needs a `Resize` in the test pipeline, but it has none; add one with the native scale.'
        )
    scales = [tuple(round(ratio * side) for side in resize['scale']) for ratio in cfg.tta.ratios]
    resizes = [ConfigDict(copy.deepcopy(resize), scale=scale) for scale in scales]
    flips = [dict(type='RandomFlip', prob=float(p), direction='horizontal') for p in ((0, 1) if cfg.tta.flip else (0,))]
    before = [t for t in pipeline if t['type'].startswith('LoadImage')]
    labels = [t for t in pipeline if t['type'].endswith('Annotations')]
    augment = ConfigDict(type='TestTimeAug', transforms=[resizes, flips, labels, [dict(type='PackSegInputs')]])
    cfg.test_dataloader.dataset.pipeline = [*before, augment]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def image_root(dataset: ConfigDict) -> str:
    """Return the folder that all images of a data set share, so that equal file names of two folders stay apart."""
    built = DATASETS.build({**dataset, 'pipeline': []})
    folders = {os.path.dirname(built.get_data_info(i)['img_path']) for i in range(len(built))}
    return os.path.commonpath(folders)
