"""Pretrained weights that a config names: loaded when they are there, said aloud when they are not.

A missing file must neither stop a training nor let it start from random weights unnoticed, least of all from frozen ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader


def resolve_pretrained(cfg: Config) -> list[str]:
    """Drop every ``Pretrained`` initialisation of the model whose weights cannot be had, with a warning each.

    ``model.pretrained`` becomes ``model.backbone.init_cfg``, which means the same.

    Returns:
        The warnings, also stored as ``cfg.random_initialisation`` so that the dumped config tells.
    """
    model = cfg.model
    pretrained = model.pop('pretrained', None)
    if pretrained is not None:
        model.backbone['init_cfg'] = ConfigDict(type='Pretrained', checkpoint=pretrained)
    warnings = []
    for place, module in list(_modules(model, 'model')):
        checkpoint = module.init_cfg['checkpoint']
        reason = _why_absent(checkpoint)
        if reason:
            module.pop('init_cfg')
            warnings.append(
                f'{place} starts from RANDOM weights{_thaw(module)}: {checkpoint} {reason}; put the file there, '
                f'or name another with --cfg-options {place}.init_cfg.checkpoint=PATH.'
            )
    for warning in warnings:
        print_log(warning, logger='current', level=logging.WARNING)
    if warnings:
        cfg.random_initialisation = warnings
    return warnings


def _thaw(module: ConfigDict) -> str:
    """Let random stages learn that a config wanted to keep as they are pretrained; return what to say of it."""
    if module.get('frozen_stages', -1) < 0:
        return ''
    module.update(frozen_stages=-1, norm_eval=False)
    return ' and is therefore not frozen'


def _modules(node, place: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the parts of a model that name pretrained weights, with their dotted place."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            yield place, node
        for key, value in node.items():
            yield from _modules(value, f'{place}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _modules(value, f'{place}.{index}')


def _why_absent(checkpoint: str) -> str | None:
    if '://' not in checkpoint:
        return None if Path(checkpoint).is_file() else 'does not exist'
    try:
        CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    except (URLError, OSError) as err:
        return f'could not be downloaded ({err})'
    return None
