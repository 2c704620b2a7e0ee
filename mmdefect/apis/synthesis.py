"""The ``synthesis`` step of composing a config: a recipe becomes transforms and a sampler.

A recipe is one top-level ``synthesis = dict(...)`` with these keys, all but ``transforms`` optional:

``transforms``
    what makes defects: ``PasteDefects``, ``CutPaste``, ``PerlinAnomaly``, ...; one of them is taken at a time.
``weights``
    how often each of them is taken; equally often by default.
``ratio``
    ``dict(real=..., synthetic=..., clean=...)``: shares of the draws that show a real defect only, get a synthetic one,
    and stay clean. ``None`` leaves the draws to the data set and changes each image with ``probability``.
``backgrounds``
    ``dict(clean=..., defective=...)``: which images get the synthetic defects of a ``ratio``; clean ones by default.
``probability``
    of an image to get a synthetic defect, when ``ratio`` is ``None``.
``fade``
    ``dict(begin=0.6, end=0.8)``: shares of the training between which synthetic defects become fewer, down to none.
``location``
    arguments of ``LoadLocationMap``: where the object is.
``donors``
    arguments of :func:`mmdefect.datasets.donors.library_of`, such as the ``rule`` of cutting.
``where``
    ``'worker'``: in the pipeline, after the last geometric transform and before photometric distortion, which then
    treats defect and surface alike. ``'device'``: in the data preprocessor, for the whole batch, before normalising.
"""

from __future__ import annotations

import copy

from mmengine.config import Config, ConfigDict

from mmdefect.datasets.donors import without_pipeline

KEYS = ('transforms', 'weights', 'ratio', 'backgrounds', 'probability', 'fade', 'location', 'donors', 'where')
LOADS = ('LoadDefectAnnotations', 'LoadAnnotations', 'LoadObjectMask')
#: Transforms before which defects are made; the first of them in a pipeline decides.
BEHIND = ('PhotoMetricDistortion', 'IgnoreBand', 'GenerateEdge', 'PackSegInputs', 'PackSynthesisInputs')
#: Samplers that may be replaced: they say no more than "shuffle".
PLAIN_SAMPLERS = ('DefectSampler', 'InfiniteSampler', 'DefaultSampler', 'MixingSampler')


def compose_synthesis(cfg: Config, datasets: list[ConfigDict]) -> None:
    """Turn ``cfg.synthesis`` into transforms of the training pipelines and a sampler, and remove it.

    Args:
        cfg: the config.
        datasets: the training data sets in it.

    Raises:
        ValueError: for an unknown key, a ratio that cannot be, or a pipeline without a place for it.
    """
    recipe = cfg.pop('synthesis', None)
    if not recipe:
        return
    unknown = sorted(set(recipe) - set(KEYS))
    if unknown or not recipe.get('transforms'):
        raise ValueError(f'`synthesis` must have `transforms` and keys of {", ".join(KEYS)}, got {sorted(recipe)}.')
    share, probability = mixing(recipe.get('ratio'), recipe.get('backgrounds'), recipe.get('probability', 0.5))
    _set_sampler(cfg.train_dataloader, share)
    donors = dict(
        dataset=without_pipeline(cfg.train_dataloader.dataset),
        held_out={
            name: without_pipeline(cfg[f'{name}_dataloader'].dataset)
            for name in ('val', 'test', 'outer')
            if cfg.get(f'{name}_dataloader')
        },
        **recipe.get('donors', {}),
    )
    transforms = [copy.deepcopy(dict(t)) for t in recipe['transforms']]
    for transform in transforms:
        if transform['type'] == 'PasteDefects':
            transform.setdefault('donors', copy.deepcopy(donors))
    step = dict(transforms=transforms, weights=recipe.get('weights'), probability=probability)
    if recipe.get('fade'):
        step['fade'] = fading(recipe['fade'], cfg.train_cfg.get('max_iters'), cfg.train_dataloader.batch_size)
    on_device = recipe.get('where', 'worker') == 'device'
    for dataset in datasets:
        dataset.pipeline = _with_step(list(dataset.pipeline), dict(recipe.get('location') or {}), step, on_device)
    if on_device:
        cfg.model.data_preprocessor.update(type='SynthesisDataPreProcessor', synthesis=ConfigDict(step))


def mixing(ratio: dict | None, backgrounds: dict | None, probability: float) -> tuple[float | None, dict[str, float]]:
    """Return the share of draws with a real defect, and how likely a clean and a defective image is changed.

    Raises:
        ValueError: if the numbers are negative or all zero.
    """
    if ratio is None:
        return None, dict(clean=probability, defective=probability)
    if set(ratio) != {'real', 'synthetic', 'clean'} or min(ratio.values()) < 0 or sum(ratio.values()) <= 0:
        raise ValueError(
            f'`ratio` must give numbers >= 0, not all 0, for real, synthetic and clean, got {dict(ratio)}.'
        )
    backgrounds = backgrounds or dict(clean=1.0, defective=0.0)
    if set(backgrounds) != {'clean', 'defective'} or min(backgrounds.values()) < 0 or sum(backgrounds.values()) <= 0:
        raise ValueError(
            f'`backgrounds` must give numbers >= 0, not all 0, for clean and defective, got {dict(backgrounds)}.'
        )
    total, parts = sum(ratio.values()), sum(backgrounds.values())
    real, synthetic, clean = (ratio[k] / total for k in ('real', 'synthetic', 'clean'))
    on_clean, on_defective = (synthetic * backgrounds[k] / parts for k in ('clean', 'defective'))
    changed = [on / (on + kept) if on else 0.0 for on, kept in ((on_clean, clean), (on_defective, real))]
    return real + on_defective, dict(clean=changed[0], defective=changed[1])


def fading(fade: dict, max_iters: int | None, batch_size: int) -> list[int]:
    """Return the draws of one rank between which synthetic defects become fewer.

    Raises:
        ValueError: if the shares are not in order, or the training has no number of iterations.
    """
    if set(fade) != {'begin', 'end'} or not 0 <= fade['begin'] <= fade['end'] <= 1:
        raise ValueError(
            f'`fade` of a synthesis recipe must be dict(begin=..., end=...) with 0 <= begin <= end <= 1, got '
            f'{dict(fade)}; they are shares of the training.'
        )
    if not max_iters:
        raise ValueError('`fade` of a synthesis recipe needs `train_cfg.max_iters`, which the config does not have.')
    return [round(fade[key] * max_iters * batch_size) for key in ('begin', 'end')]


def _set_sampler(loader: ConfigDict, share: float | None) -> None:
    if share is None:
        return
    sampler = loader.get('sampler') or ConfigDict(type='DefectSampler')
    if sampler['type'] not in PLAIN_SAMPLERS:
        raise ValueError(
            f'a synthesis `ratio` needs a plain sampler, one of {", ".join(PLAIN_SAMPLERS)}, got '
            f'{sampler["type"]}; set `ratio=None` to keep it.'
        )
    kept = {k: sampler[k] for k in ('shuffle', 'seed') if sampler.get(k) is not None}
    loader.sampler = ConfigDict(type='MixingSampler', defective_share=share, **kept)


def _with_step(pipeline: list, location: dict, step: dict, on_device: bool) -> list:
    types = [t['type'] for t in pipeline]
    loads = [i for i, name in enumerate(types) if name in LOADS]
    behind = [i for i, name in enumerate(types) if name in BEHIND]
    if not loads or not behind:
        raise ValueError(
            f'a training pipeline must load labels ({", ".join(LOADS[:2])}) and end in PackSegInputs to '
            f'take a `synthesis` recipe, got {types}.'
        )
    made = [] if on_device else [ConfigDict(type='SynthesizeDefects', **copy.deepcopy(step))]
    after = loads[-1] + 1
    pipeline = [
        *pipeline[:after],
        ConfigDict(type='LoadLocationMap', **location),
        *pipeline[after : behind[0]],
        *made,
        *pipeline[behind[0] :],
    ]
    if on_device:
        pipeline = [ConfigDict(t, type='PackSynthesisInputs') if t['type'] == 'PackSegInputs' else t for t in pipeline]
    return pipeline
