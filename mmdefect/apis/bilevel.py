"""The bi-level step of composing a config: a top-level ``bilevel = dict(...)`` makes a training learn its policy.

Its keys are arguments of ``BilevelTrainLoop`` and these:

``outer``
    ``split`` (``'outer_val'``), ``batch_size`` and ``defective_share`` of the outer-validation loader. Its data set and
    pipeline are those of training, without photometric distortion and synthesis; the training set must come from a split
    file that has both splits, see ``tools/split_outer_val.py``.
``hook``
    arguments of ``PolicyHook``.
"""

from __future__ import annotations

import copy

from mmengine.config import Config, ConfigDict

LOOP = 'BilevelTrainLoop'
OUTER_KEYS = ('split', 'batch_size', 'defective_share')


def compose_bilevel(cfg: Config) -> None:
    """Turn ``cfg.bilevel`` into the loop, its outer loader and the hook, and remove it.

    Call it before the recipe is spread over the pipelines.

    Raises:
        ValueError: if something that learning needs is missing.
    """
    settings = cfg.pop('bilevel', None)
    if not settings:
        return
    settings = copy.deepcopy(settings)
    recipe = cfg.get('synthesis')
    if not recipe or recipe.get('where') != 'device':
        raise ValueError(
            "a config with `bilevel` must have a `synthesis` recipe with `where='device'`, got "
            f'{"none" if not recipe else repr(recipe.get("where", "worker"))}; take a base of '
            'configs/_base_/synthesis and set `synthesis.where`.'
        )
    hook = settings.pop('hook', None) or {}
    cfg.outer_dataloader = _outer_loader(cfg.train_dataloader, settings.pop('outer', None) or {})
    cfg.train_cfg.update(
        type=LOOP, recipe=copy.deepcopy(recipe), outer_dataloader=copy.deepcopy(cfg.outer_dataloader), **settings
    )
    hooks = cfg.get('custom_hooks') or []
    if not any(h['type'] == 'PolicyHook' for h in hooks):
        cfg.custom_hooks = [*hooks, ConfigDict(type='PolicyHook', **hook)]


def _outer_loader(train: ConfigDict, outer: ConfigDict) -> ConfigDict:
    unknown = sorted(set(outer) - set(OUTER_KEYS))
    if unknown:
        raise ValueError(f'`bilevel.outer` must have keys of {", ".join(OUTER_KEYS)}, got {unknown}.')
    loader = copy.deepcopy(train)
    dataset = loader.dataset
    if dataset.get('split_file') is None:
        raise ValueError(
            'the training set of a config with `bilevel` must come from a split file with an outer-validation '
            f'split, but {dataset.get("type")} has no `split_file`; make one with tools/split_outer_val.py.'
        )
    dataset.split = outer.get('split', 'outer_val')
    dataset.pipeline = [step for step in dataset.pipeline if step['type'] != 'PhotoMetricDistortion']
    loader.batch_size = outer.get('batch_size', train.batch_size)
    share = outer.get('defective_share')
    loader.sampler = (
        ConfigDict(type='DefectSampler', shuffle=True)
        if share is None
        else ConfigDict(type='MixingSampler', defective_share=share)
    )
    return loader
