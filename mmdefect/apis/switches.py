"""The switches of a config against class imbalance: one top-level key each, in bases of one line.

===============  ==========================================================================================
top-level key    what it does
===============  ==========================================================================================
``ema``          arguments of mmengine's ``EMAHook``, added to ``custom_hooks``
``class_prior``  arguments of ``ClassPriorHook``, added to ``custom_hooks``
``class_aware``  arguments of ``ClassAwareSampler``, which takes the place of the training sampler
``ignore_band``  arguments of ``IgnoreBand``, put in front of the packing of the training pipelines
``defect_crop``  arguments of ``DefectCrop``, which takes the place of ``RandomCrop`` in the training pipelines
===============  ==========================================================================================

``None`` or ``False`` switches off what a base has switched on. Losses that ask for weights or box marks
(``WeightedSampleLoss``, ``WeakBoxLoss`` with ``mixed=True``) need no switch: their hook and packing are added here.
(``amp = True`` is read by :func:`mmdefect.apis.train.prepare_train_config`, which knows the device.)
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config, ConfigDict

SWITCHES = ('ema', 'class_prior', 'class_aware', 'ignore_band', 'defect_crop')
HOOKS = dict(ema='EMAHook', class_prior='ClassPriorHook')
PACKING = ('PackSegInputs', 'PackSynthesisInputs', 'PackDefectInputs')
#: Samplers that may be replaced: they say no more than "shuffle".
PLAIN_SAMPLERS = ('DefectSampler', 'InfiniteSampler', 'DefaultSampler')


def compose_switches(cfg: Config, datasets: Sequence[ConfigDict]) -> None:
    """Turn the switches into hooks, a sampler and transforms, and remove them.

    Args:
        cfg: the config; its losses are in the heads already.
        datasets: the training data sets in it.

    Raises:
        ValueError: if a switch has nothing to act on.
    """
    settings = {name: cfg.pop(name, None) for name in SWITCHES}
    for name, hook in HOOKS.items():
        _add_hook(cfg, hook, settings[name])
    if settings['class_aware']:
        sampler = cfg.train_dataloader.get('sampler') or {}
        if sampler.get('type', 'DefectSampler') not in PLAIN_SAMPLERS:
            raise ValueError(
                '`class_aware` must find a plain sampler to replace, but the training data are drawn by '
                f'{sampler["type"]}; leave out either this switch or the shares of the synthesis recipe.'
            )
        seed = {'seed': sampler['seed']} if 'seed' in sampler else {}
        cfg.train_dataloader.sampler = ConfigDict(type='ClassAwareSampler', **seed, **settings['class_aware'])
    for dataset in datasets:
        if settings['defect_crop']:
            _ask_for_defects(dataset, settings['defect_crop'])
        if settings['ignore_band']:
            at = _packing_place(dataset)
            dataset.pipeline.insert(at, ConfigDict(type='IgnoreBand', **settings['ignore_band']))
    if _wants_extras(cfg.get('model')):
        _add_hook(cfg, 'LabelExtrasHook', {'type': 'LabelExtrasHook'})
        for dataset in datasets:
            dataset.pipeline[_packing_place(dataset)]['type'] = 'PackDefectInputs'


def _add_hook(cfg: Config, hook: str, arguments: dict | None) -> None:
    if not arguments:
        return
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(h.get('type') == hook for h in hooks):
        cfg.custom_hooks = [*hooks, ConfigDict({**arguments, 'type': hook})]


def _ask_for_defects(dataset: ConfigDict, arguments: dict) -> None:
    crops = [step for step in dataset.get('pipeline') or [] if step.get('type') in ('RandomCrop', 'DefectCrop')]
    if not crops:
        raise ValueError(
            f'`defect_crop` must find a RandomCrop to replace in the training pipeline of {dataset.type}, got '
            f'{[s.get("type") for s in dataset.get("pipeline") or []]}; crop there, or leave the switch out.'
        )
    for step in crops:
        if step.get('cat_max_ratio') == 1:  # no limit, which is the default: two ways of writing one setting
            step.pop('cat_max_ratio')
        step.update(arguments, type='DefectCrop')


def _packing_place(dataset: ConfigDict) -> int:
    for place, step in enumerate(dataset.get('pipeline') or []):
        if step.get('type') in PACKING:
            return place
    raise ValueError(
        f'the training pipeline of {dataset.type} must end in one of {PACKING}, got '
        f'{[s.get("type") for s in dataset.get("pipeline") or []]}.'
    )


def _wants_extras(node) -> bool:
    """Whether a loss somewhere in the model asks for weights or box marks."""
    if isinstance(node, dict):
        if node.get('type') == 'WeightedSampleLoss' or (node.get('type') == 'WeakBoxLoss' and node.get('mixed')):
            return True
        return any(_wants_extras(value) for value in node.values())
    return isinstance(node, (list, tuple)) and any(_wants_extras(value) for value in node)
