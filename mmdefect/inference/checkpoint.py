"""Open a checkpoint of mmseg's Runner: the model, and what it says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmdefect import compat
from mmdefect.deployment.decision import thresholds_from_offsets
from mmdefect.deployment.types import ModelInfo
from mmdefect.functional.calibration import read_offsets
from mmdefect.inference.adaptation import fix_random_bases
from mmdefect.inference.preparation import Preparation, read_preparation
from mmdefect.registry import MODELS, init_default_scope


def open_segmentor(path: str | Path, config: Config | None = None) -> tuple[nn.Module, Preparation, ModelInfo]:
    """Build the model of a checkpoint and load its weights, ready to predict on the CPU.

    Args:
        path: checkpoint of mmengine's Runner.
        config: composed; the one that the checkpoint holds if left out.

    Raises:
        ValueError: if the file is no such checkpoint, holds no config or classes, or the weights do not fit the config.
    """
    compat.apply()
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=False)  # mmengine pickles its message hub
    except Exception as err:  # pickle runs into anything in a file that is none
        raise ValueError(f'{path} must be a checkpoint that torch can load, but it says: {err}') from err
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise ValueError(f'{path} must be a checkpoint with a `state_dict`; take one that tools/train.py wrote.')
    meta = checkpoint.get('meta') or {}
    if config is None:
        if not meta.get('cfg'):
            raise ValueError(f'{path} must hold the config of its training, but it does not; name the config.')
        config = Config.fromstring(meta['cfg'], '.py')
    model = build_segmentor(config)
    report = model.load_state_dict(checkpoint['state_dict'], strict=False)
    missing = [key for key in report.missing_keys if 'loss' not in key]
    if missing:
        raise ValueError(
            f'{path} must hold all weights of the model in the config, but {len(missing)} are missing '
            f'({missing[0]} ...); name the config that it was trained with.'
        )
    return model, read_preparation(config, model), read_info(config, meta, model, Path(path))


def build_segmentor(config: Config) -> nn.Module:
    """Build the model of a composed config, for prediction: no weights are fetched, nothing in it is random."""
    init_default_scope(config.get('default_scope', 'mmseg'))
    model = MODELS.build(_without_sync_bn(config.model)).eval()
    fix_random_bases(model)
    return model.requires_grad_(False)


def read_info(config: Config, meta: dict[str, Any], model: nn.Module, path: Path) -> ModelInfo:
    """Return what a checkpoint says about its model; thresholds are those that its validation fitted, else 0.5."""
    dataset = meta.get('dataset_meta') or config['test_dataloader']['dataset'].get('metainfo') or {}
    if not dataset.get('classes'):
        raise ValueError(
            f'{path} must hold the names of its classes, but it does not; take one that tools/train.py wrote.'
        )
    classes = tuple(dataset['classes'])
    if len(classes) != model.decode_head.num_classes:
        raise ValueError(
            f'{path} names {len(classes)} classes, but its model has {model.decode_head.num_classes}; name the '
            'config that it was trained with.'
        )
    record = meta.get('calibration')
    thresholds = (0.5,) * (len(classes) - 1)
    extra: dict[str, Any] = {'iter': meta.get('iter'), 'thresholds_from': 'argmax'}
    if record is not None:
        offsets = read_offsets(record, classes)
        thresholds = thresholds_from_offsets([0.0, *offsets.values()])
        extra.update(thresholds_from='validation', objective=record.get('objective'), metrics=record.get('metrics'))
    preparation = read_preparation(config, model)
    extra['preparation'] = preparation.to_dict()
    name = (
        f'{config.model.backbone.type}-{config.model.decode_head[-1].type}'
        if isinstance(config.model.decode_head, list)
        else f'{config.model.backbone.type}-{config.model.decode_head.type}'
    )
    return ModelInfo(
        classes, palette_of(dataset, len(classes)), thresholds, preparation.scale_hw, 'segmentation', name, extra
    )


def palette_of(dataset: dict[str, Any], count: int) -> list[tuple[int, int, int]]:
    """Return the palette of a data set, or the default colours."""
    if dataset.get('palette'):
        return [tuple(colour) for colour in dataset['palette']]
    from mmdefect.visualization import default_palette

    return default_palette(count)


def _without_sync_bn(node):
    """Copy a config with plain batch norms: they predict the same, and tracing knows them."""
    if isinstance(node, dict):
        copied = type(node)({key: _without_sync_bn(value) for key, value in node.items()})
        if copied.get('type') == 'SyncBN':
            copied['type'] = 'BN'
        return copied
    return type(node)(_without_sync_bn(value) for value in node) if isinstance(node, (list, tuple)) else node
