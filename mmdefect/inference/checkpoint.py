"""Open a checkpoint of mmseg's Runner: the model, how it wants its images, and what it says about itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmdefect import compat
from mmdefect.deployment.decision import thresholds_from_offsets
from mmdefect.deployment.types import ModelInfo
from mmdefect.functional.calibration import read_offsets
from mmdefect.functional.parts import read_part_rule
from mmdefect.inference.adaptation import fix_random_bases
from mmdefect.inference.network import Preparation
from mmdefect.registry import MODELS, init_default_scope
from mmdefect.visualization.overlay import default_palette

#: Steps of a test pipeline that change no pixel.
_NEUTRAL = {'LoadImageFromFile', 'LoadAnnotations', 'LoadDefectAnnotations', 'LoadObjectMask'}
_NEUTRAL |= {'PackSegInputs', 'PackSynthesisInputs', 'PackDefectInputs'}


def open_segmentor(path: str | Path, config: Config | None = None) -> tuple[nn.Module, Preparation, ModelInfo]:
    """Build the model of a checkpoint of mmengine's Runner and load its weights, ready to predict on the CPU.

    Args:
        path: of the checkpoint.
        config: composed; the one that the checkpoint holds if left out.
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
    preparation = _read_preparation(config, model)
    return model, preparation, _read_info(config, meta, model, preparation, path)


def build_segmentor(config: Config) -> nn.Module:
    """Build the model of a composed config, for prediction: no weights are fetched, nothing in it is random."""
    init_default_scope(config.get('default_scope', 'mmseg'))
    model = MODELS.build(_without_sync_bn(config.model)).eval()
    fix_random_bases(model)
    return model.requires_grad_(False)


def _without_sync_bn(node):
    """Copy a config with plain batch norms: they predict the same, and tracing knows them."""
    if isinstance(node, dict):
        copied = type(node)({key: _without_sync_bn(value) for key, value in node.items()})
        if copied.get('type') == 'SyncBN':
            copied['type'] = 'BN'
        return copied
    return type(node)(_without_sync_bn(value) for value in node) if isinstance(node, (list, tuple)) else node


def _read_preparation(cfg: Mapping, model: nn.Module) -> Preparation:
    """Read the preparation; ``ValueError`` if the test config does something that a deployed model would not."""
    resize = None
    for step in cfg['test_dataloader']['dataset']['pipeline']:
        if step['type'] == 'Resize' and resize is None and step.get('scale') is not None:
            resize = step
        elif step['type'] not in _NEUTRAL:
            fact = f'but it has {dict(step)}; leave that step out.'
            raise ValueError(
                f'the test pipeline of a deployed model may load, resize once to a `scale` and pack, {fact}'
            )
    given = cfg['model'].get('data_preprocessor') or {}
    if given.get('test_cfg'):
        fact = f'but it has `test_cfg` {dict(given["test_cfg"])}; leave it out.'
        raise ValueError(f'the preprocessor of a deployed model must not pad in testing, {fact}')
    channels = int(cfg['model'].get('backbone', {}).get('in_channels', 3))
    if channels != 3:
        raise ValueError(f'a deployed model must take images of 3 channels, but it takes {channels}.')
    return Preparation(
        scale_hw=None if resize is None else tuple(int(v) for v in resize['scale'])[::-1],
        keep_ratio=bool(resize and resize.get('keep_ratio', False)),
        mean=tuple(float(v) for v in given.get('mean') or (0, 0, 0)),
        std=tuple(float(v) for v in given.get('std') or (1, 1, 1)),
        bgr=not (given.get('bgr_to_rgb') or given.get('rgb_to_bgr')),  # files are read as BGR
        align_corners=bool(model.align_corners),
        activation='sigmoid' if model.decode_head.out_channels == 1 else 'softmax',
    )


def _read_info(
    config: Config, meta: dict[str, Any], model: nn.Module, preparation: Preparation, path: str | Path
) -> ModelInfo:
    """Return what a checkpoint says about its model; thresholds are those that its validation fitted, else 0.5."""
    dataset = meta.get('dataset_meta') or config['test_dataloader']['dataset'].get('metainfo') or {}
    classes, expected = tuple(dataset.get('classes') or ()), model.decode_head.num_classes
    if not classes:
        raise ValueError(f'{path} must hold the names of its classes; take a checkpoint that tools/train.py wrote.')
    if len(classes) != expected:
        fact = f'but its model has {expected}; name the config that it was trained with.'
        raise ValueError(f'{path} names {len(classes)} classes, {fact}')
    record, thresholds = meta.get('calibration'), (0.5,) * (len(classes) - 1)
    extra: dict[str, Any] = {'iter': meta.get('iter'), 'thresholds_from': 'argmax'}
    if record is not None:
        thresholds = thresholds_from_offsets([0.0, *read_offsets(record, classes).values()])
        calibrated = any(record['offsets'])  # else argmax was better in the cross-fit
        extra.update(
            thresholds_from='validation' if calibrated else 'argmax',
            objective=record.get('objective'),
            metrics=record.get('metrics'),
        )
    extra['preparation'] = preparation.to_dict()
    if getattr(getattr(model, 'neck', None), 'whole_images', False):
        extra['whole_images'] = True
    head = config.model.decode_head
    name = f'{config.model.backbone.type}-{(head[-1] if isinstance(head, list) else head).type}'
    palette = [tuple(colour) for colour in dataset.get('palette') or default_palette(len(classes))]
    rule = read_part_rule(meta['part_rule'], classes) if 'part_rule' in meta else None
    return ModelInfo(classes, palette, thresholds, preparation.scale_hw, 'segmentation', name, extra, rule)
