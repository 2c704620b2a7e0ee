"""The ``generated`` step of composing a config: a packed set of generated images beside the real training data.

One top-level ``generated = dict(...)`` with

``folder``
    the packed set that ``tools/generate.py pack`` wrote; ``None`` or an empty dict leaves the training as it is.
``ratio``
    ``dict(real=..., generated=...)``: shares of the draws. ``None`` draws every image equally often.
"""

from __future__ import annotations

import copy

from mmengine.config import Config, ConfigDict

from mmdefect.registry import DATASETS

#: Samplers that may be replaced: they say no more than "shuffle".
PLAIN_SAMPLERS = ('DefectSampler', 'InfiniteSampler', 'DefaultSampler')


def compose_generated(cfg: Config) -> None:
    """Put the packed set beside the training data of ``cfg``, set the sampler, and remove the key.

    The real data stay the first part; the packed set takes their pipeline, classes and palette.

    Raises:
        ValueError: for unknown keys, shares that cannot be, or training data that are a wrapper already.
    """
    recipe = cfg.pop('generated', None)
    if not recipe or not recipe.get('folder'):
        return
    if set(recipe) - {'folder', 'ratio'}:
        raise ValueError(f'`generated` must have the keys folder and ratio, got {sorted(recipe)}.')
    loader = cfg.train_dataloader
    real = loader.dataset
    if 'pipeline' not in real:
        raise ValueError(
            '`generated` must find one plain data set to train on, but `train_dataloader.dataset` is a '
            f'{real.type}; put the packed set (GeneratedDefectDataset) into that wrapper yourself.'
        )
    packed = ConfigDict(
        type='GeneratedDefectDataset',
        folder=recipe.folder,
        metainfo=_metainfo(real),
        pipeline=copy.deepcopy(real.pipeline),
    )
    loader.dataset = ConfigDict(type='MixedDefectDataset', datasets=[real, packed])
    ratio = recipe.get('ratio')
    if ratio is None:
        return
    if set(ratio) != {'real', 'generated'} or min(ratio.values()) < 0 or sum(ratio.values()) <= 0:
        raise ValueError(
            f'`generated.ratio` must give numbers >= 0, not both 0, for real and generated, got {dict(ratio)}.'
        )
    sampler = loader.get('sampler') or ConfigDict(type='DefectSampler')
    if sampler['type'] not in PLAIN_SAMPLERS:
        raise ValueError(
            f'`generated.ratio` needs a plain sampler, one of {", ".join(PLAIN_SAMPLERS)}, got '
            f'{sampler["type"]}; set `generated.ratio=None` to keep it.'
        )
    kept = {k: sampler[k] for k in ('shuffle', 'seed') if sampler.get(k) is not None}
    loader.sampler = ConfigDict(type='PartShareSampler', shares=[ratio.real, ratio.generated], **kept)


def _metainfo(real: ConfigDict) -> ConfigDict:
    """Classes and palette of the real data, so that both parts agree."""
    own = dict(real.get('metainfo') or {})
    if 'classes' not in own:
        own = {**{k: v for k, v in DATASETS.get(real.type).METAINFO.items() if k in ('classes', 'palette')}, **own}
    return ConfigDict(copy.deepcopy(own))
