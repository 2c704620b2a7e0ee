"""Compose a config: what one base owns is carried to every place that needs it.

mmengine merges ``_base_`` files key by key, so a class count stated by the dataset base cannot reach the heads of
the model base, and each of them would have to be restated in every leaf. :func:`compose` does that once, for a short
list of top-level keys, and leaves a plain mmseg config behind: the one that the Runner dumps into the work dir needs
nothing of this module.

===================  ================================================================================================
top-level key        where it goes
===================  ================================================================================================
``data_root``        ``data_root`` of every dataset that has one; ``split_file``, ``category``, ``division`` likewise
``classes``          ``metainfo.classes`` of every dataset (with ``palette`` if given)
``num_classes``      ``num_classes`` of every head, nested ones included; derived from ``classes`` when absent
``crop_size``        ``(h, w)``: ``size`` of the preprocessor, ``crop_size`` of transforms, ``img_size`` of
                     transformers, windows of a sliding ``test_cfg``
``image_scale``      ``(w, h)``: ``scale`` of every resizing transform
``loss_decode``      the loss of every head, times the head's own ``loss_weight``; a head that matches queries to masks
                     refuses it
``query_losses``     what such a head takes instead: ``dict(cls=..., mask=..., dice=...)``, changes of its losses, or
                     others where a ``type`` is given
``class_weight``     ``class_weight`` of every head's loss, and of the classification of queries
``bn_momentum``      ``momentum`` of every batch norm of the model, unless ``None``: mmseg's 0.01 for Fast-SCNN needs
                     some hundred updates before a validation means anything
``own_optimizer``    what a transformer base needs instead of the schedule's: keys of ``optim_wrapper``
``own_transforms``   transforms a model base needs at the end of the training pipeline, before packing
``variant``          of CutPaste training, with ``patch``: its views and the classes of its head
``generated``        generated images beside the training data: ``folder``, a set of ``tools/generate.py pack``
                     (``None``: none), and ``ratio``, ``dict(real=..., generated=...)``, the shares of the images
                     sampled (``None``: every image equally often)
``bilevel``          learns the policy of ``synthesis``: arguments of ``BilevelTrainLoop``; ``outer``, the ``split``,
                     ``batch_size`` and ``defective_share`` of the outer-validation loader, whose data set is that of
                     training (from a split file with both splits) without photometric distortion and synthesis; and
                     ``hook``, arguments of ``PolicyHook``
``synthesis``        transforms of the training pipelines and the sampler, see :func:`compose_synthesis`
``normality``        shows the model how far its features are from those of the good parts: arguments of
                     ``NormalityNeck`` (``kind``, ``levels``, ``entries``, ...), which goes in front of the neck, and of
                     ``NormalityHook`` (``interval``, ``max_images``), which fills it
``augmentation``     limits of the training pipelines: ``scale``, the range of random resizing, and ``light``, the share
                     of mmseg's photometric distortion that stays
``ema``              arguments of ``EMAHook`` of mmengine, a hook; ``class_prior``: of ``ClassPriorHook``
``class_aware``      arguments of ``ClassAwareSampler``, which takes the place of the training sampler
``ignore_band``      arguments of ``IgnoreBand``, put in front of the packing of the training pipelines
``defect_crop``      arguments of ``DefectCrop``, which takes the place of ``RandomCrop`` in the training pipelines
===================  ================================================================================================

``None`` or ``False`` switches off what a base has switched on. Losses that ask for weights or box marks need no key:
their hook and packing are added here. ``amp`` is read by :func:`mmdefect.apis.train.prepare_train_config`, which knows
the device.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmdefect import compat
from mmdefect.datasets.donors import without_pipeline
from mmdefect.models.normality_neck import level_shapes
from mmdefect.registry import DATASETS
from mmdefect.synthesis.cutpaste import class_names

SWITCHES = ('ema', 'class_prior', 'class_aware', 'ignore_band', 'defect_crop')
#: Top-level keys that :func:`compose` spreads; an option of any other key is applied again after it, as the last word.
SPREAD = (
    *('data_root', 'split_file', 'category', 'division', 'variant', 'patch', 'classes', 'palette', 'num_classes'),
    *('crop_size', 'image_scale', 'loss_decode', 'query_losses', 'class_weight', 'bn_momentum', 'own_optimizer'),
    *('own_transforms', 'generated', 'synthesis', 'bilevel', 'augmentation', 'normality', *SWITCHES),
)
#: Heads whose list of losses has roles: the places of the segmentation losses. The rest (edges) stays as it is.
LOSS_ROLES = {'PIDHead': (0, 1, 3), 'DDRHead': (0, 1)}
#: Heads that do not predict the classes: class count, loss and weights are their own.
DETAIL_HEADS = ('STDCHead',)
#: Heads that train with the losses of the head beside them.
UPDATE_HEADS = ('KernelUpdateHead',)
#: Heads that match queries to masks, with the places of their losses by role.
QUERY_HEADS = {
    'Mask2FormerHead': dict(cls='loss_cls', mask='loss_mask', dice='loss_dice'),
    'MaskFormerHead': dict(cls='loss_cls', mask='loss_mask', dice='loss_dice'),
    'SideAdapterCLIPHead': dict(cls='loss_cls_ce', mask='loss_mask_ce', dice='loss_mask_dice'),
}
#: Transforms without which a head cannot train.
NEEDED_TRANSFORMS = {'PIDHead': ConfigDict(type='GenerateEdge', edge_width=4)}
#: Packages whose models a config names by scope, with what to import and the distributions, onedl first.
SCOPES = {
    'mmpretrain': ('mmpretrain.models', 'onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('mmdet.models', 'onedl-mmdetection', 'mmdet'),
}
#: Samplers that may be replaced: they say no more than "shuffle".
PLAIN_SAMPLERS = ('DefectSampler', 'InfiniteSampler', 'DefaultSampler')
PACKING = ('PackSegInputs', 'PackSynthesisInputs', 'PackDefectInputs')
#: Transforms before which defects are made; the first of them in a pipeline decides.
AFTER_SYNTHESIS = ('PhotoMetricDistortion', 'IgnoreBand', 'GenerateEdge', 'PackSegInputs', 'PackSynthesisInputs')
#: Transforms after which a place of the image is no place of the part.
PLACE_BREAKING = ('RandomResize', 'RandomRotate', 'RandomRotFlip', 'ResizeToMultiple', 'Albu', 'RandomMosaic')
LOADING = ('LoadDefectAnnotations', 'LoadAnnotations', 'LoadObjectMask')
RECIPE_KEYS = ('transforms', 'weights', 'ratio', 'backgrounds', 'probability', 'fade', 'location', 'donors', 'where')


def compose(cfg: Config) -> None:
    """Carry the top-level keys of the table above to their places, in place; composing twice changes nothing."""
    _compose_generated(cfg)
    datasets = list(iter_datasets(cfg))
    for key in ('data_root', 'split_file', 'category', 'division'):
        if cfg.get(key) is not None:
            for dataset in datasets:
                if key in dataset:
                    dataset[key] = cfg[key]
    _compose_classes(cfg, datasets)
    _compose_sizes(cfg, datasets)
    _read_old_focal_losses(cfg)
    _compose_losses(cfg)
    _compose_model_needs(cfg)
    _limit_augmentation(cfg)
    _compose_normality(cfg)
    _compose_bilevel(cfg)
    if cfg.get('variant') is not None:
        for step in (t for d in datasets for t in d.get('pipeline') or [] if t['type'] == 'PackCutPasteViews'):
            step.update(variant=cfg.variant, patch=cfg.get('patch'))
        cfg.model.head['num_classes'] = len(class_names(cfg.variant))
    compose_synthesis(cfg)
    if cfg.get('train_dataloader'):
        _compose_switches(cfg)


def iter_datasets(cfg: Config, loaders: Sequence[str] = ('train', 'val', 'test', 'outer')) -> Iterator[ConfigDict]:
    """Yield each dataset dict of the loaders, wrapped ones (``ConcatDataset`` and the like) included."""
    seen: set[int] = set()
    for name in loaders:
        loader = cfg.get(f'{name}_dataloader') or {}
        for dataset in _unwrap(loader.get('dataset')):
            if id(dataset) not in seen:
                seen.add(id(dataset))
                yield dataset


def iter_heads(cfg: Config) -> Iterator[ConfigDict]:
    """Yield the decode and auxiliary heads that predict the classes; of a head made of heads (KNet) those inside."""
    model = cfg.get('model') or {}
    heads = [head for key in ('decode_head', 'auxiliary_head') for head in _as_list(model.get(key))]
    while heads:
        head = heads.pop(0)
        inner = [h for key in ('kernel_generate_head', 'kernel_update_head') for h in _as_list(head.get(key))]
        if not inner and head.type not in DETAIL_HEADS:
            yield head
        heads = inner + heads


def iter_transforms(pipeline: list) -> Iterator[ConfigDict]:
    """Yield every transform of a pipeline, nested ones included."""
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            yield from iter_transforms(step)
        else:
            yield step
            yield from iter_transforms(step.get('transforms') or [])


def iter_dicts(node) -> Iterator[dict]:
    """Yield every dict in a tree of dicts and lists, the outer ones first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from iter_dicts(value)


def _unwrap(dataset: ConfigDict | None) -> Iterator[ConfigDict]:
    if dataset is None:
        return
    inner = dataset.get('datasets') or _as_list(dataset.get('dataset'))
    if not inner:
        yield dataset
    for child in inner:
        yield from _unwrap(child)


def _as_list(value) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _compose_classes(cfg: Config, datasets: list[ConfigDict]) -> None:
    classes = cfg.get('classes')
    if classes is not None and not isinstance(classes, str):
        for dataset in datasets:
            meta = dataset.setdefault('metainfo', ConfigDict())
            meta['classes'] = list(classes)
            if cfg.get('palette') is not None:
                meta['palette'] = copy.deepcopy(cfg.palette)
        if cfg.get('num_classes') is None:
            cfg.num_classes = len(classes)
        if cfg.num_classes != len(classes):
            raise ValueError(
                f'`num_classes` must be the number of `classes`, got {cfg.num_classes} and {list(classes)}; '
                'leave `num_classes` out.'
            )
    if cfg.get('num_classes') is None:
        return
    if cfg.get('model', {}).get('type') == 'DepthEstimator':
        raise ValueError('`model` must predict classes, but DepthEstimator (VPD) predicts depths; take another model.')
    for head in iter_heads(cfg):
        head['num_classes'] = cfg.num_classes
        if head.type in QUERY_HEADS:
            loss = _query_losses(head)['cls']
            weights = loss.get('class_weight') or [1.0, 0.1]
            loss['class_weight'] = [1.0] * cfg.num_classes + [weights[-1]]  # the last: a query that is no class
            continue
        for loss in (part for part in iter_dicts(head.get('loss_decode')) if part.get('class_weight')):
            count = len(loss.class_weight)
            if count != cfg.num_classes and not isinstance(loss.class_weight, str):
                loss.pop('class_weight')
                says = (
                    f'the {loss.type} of {head.type} weighed {count} classes, not {cfg.num_classes}: weights left out.'
                )
                print_log(says, logger='current', level=logging.WARNING)
    text = cfg.get('model', {}).get('text_encoder')
    if text is not None:
        names = classes or next((DATASETS.get(d.type).METAINFO.get('classes') for d in datasets), None)
        if names is None or isinstance(names, str):
            raise ValueError('`classes` must list the names that the text encoder of the model reads; set it.')
        text.update(dataset_name=None, vocabulary=list(names))


def _compose_sizes(cfg: Config, datasets: list[ConfigDict]) -> None:
    crop_size, scale = cfg.get('crop_size'), cfg.get('image_scale')
    for transform in (t for d in datasets for t in iter_transforms(d.get('pipeline') or [])):
        if crop_size is not None and 'crop_size' in transform:
            transform['crop_size'] = tuple(crop_size)
        resizes = transform['type'] in ('Resize', 'RandomResize', 'ResizeToMultiple')
        if scale is not None and resizes and 'scale' in transform:
            transform['scale'] = tuple(scale)
    model = cfg.get('model')
    if crop_size is None or not model:
        return
    preprocessor = model.get('data_preprocessor')
    divisor = (preprocessor or {}).get('size_divisor')
    if preprocessor is not None and (divisor is None or any(side % divisor for side in crop_size)):
        preprocessor.pop('size_divisor', None)
        preprocessor['size'] = tuple(crop_size)
    if 'img_size' in (model.get('backbone') or {}):
        model.backbone['img_size'] = tuple(crop_size)
    if min(crop_size) < 392 and any(head.type == 'LRASPPHead' for head in iter_heads(cfg)):
        raise ValueError(
            f'`crop_size` must be at least 392 for LRASPPHead, which pools 49 x 49 cells of 8 pixels, got {crop_size}; '
            'set `model.decode_head.type` to FittedLRASPPHead, which pools no more than there is.'
        )
    sliding, crop = model.get('test_cfg') or {}, tuple(crop_size)
    if sliding.get('mode') == 'slide' and tuple(sliding.crop_size) != crop:
        moved = [new * step / old for new, step, old in zip(crop, sliding.stride, sliding.crop_size, strict=True)]
        sliding.update(crop_size=crop, stride=tuple(max(1, round(step)) for step in moved))


def _read_old_focal_losses(cfg: Config) -> None:
    """Take ``use_sigmoid=False`` of a focal loss for the softmax form, as the published WTA configs write it.

    mmseg's own ``FocalLoss`` has the sigmoid form alone and stops at such a config.
    """
    found = 0
    for loss in (d for d in iter_dicts([cfg.get('model'), cfg.get('loss_decode')]) if 'use_sigmoid' in d):
        if loss.get('type') in ('FocalLoss', 'SoftmaxFocalLoss') and not loss['use_sigmoid']:
            loss.pop('use_sigmoid')
            loss['type'], found = 'SoftmaxFocalLoss', found + 1
    if found:
        print_log(
            'FocalLoss with use_sigmoid=False is read as SoftmaxFocalLoss, with its alpha and gamma; write that name.',
            'current',
            logging.WARNING,
        )


def _compose_losses(cfg: Config) -> None:
    heads = list(iter_heads(cfg))
    plain = [head for head in heads if head.type not in (*QUERY_HEADS, *UPDATE_HEADS)]
    queries = [head for head in heads if head.type in QUERY_HEADS]
    if cfg.get('loss_decode') is not None:
        kinds = ' and '.join(loss.type for loss in _as_list(cfg.loss_decode))
        if queries:
            own = ', '.join(f'{role} {loss.type}' for role, loss in _query_losses(queries[0]).items())
            raise ValueError(
                f'`loss_decode` must not be {kinds} for {queries[0].type}, which matches queries to masks and trains '
                f'with the losses {own}; set `loss_decode = None` and, to change them, '
                '`query_losses = dict(cls=..., mask=..., dice=...)`; `--with query_focal` makes the first focal.'
            )
        if not plain:
            raise ValueError(
                f'`loss_decode` {kinds} must reach a decode head, but {cfg.get("model", {}).get("type")} has none; '
                'leave it out.'
            )
        for head in plain:
            _set_loss(head, cfg.loss_decode)
        cfg.pop('loss_decode')  # it lives in the heads now; composing again must not scale it twice
    changes = cfg.pop('query_losses', None)
    if changes and (not queries or set(changes) - {'cls', 'mask', 'dice'}):
        found = f'{sorted(changes)} for {", ".join(head.type for head in heads) or "no head"}'
        raise ValueError(
            '`query_losses` must have keys of cls, mask and dice, and a model that matches queries to masks '
            f'({", ".join(QUERY_HEADS)}), got {found}; other models take `loss_decode`.'
        )
    for head in queries:
        _change_query_losses(head, changes or {}, cfg.get('class_weight'))
    if cfg.get('class_weight') is not None:
        for head in plain:
            for place, loss in enumerate(_as_list(head.get('loss_decode'))):
                if place in LOSS_ROLES.get(head.type, range(100)):
                    for single in loss.get('losses', [loss]):
                        single['class_weight'] = list(cfg.class_weight)


def _query_losses(head: ConfigDict) -> dict[str, ConfigDict]:
    """Return the losses of a query head by role."""
    named = {loss.get('loss_name'): loss for loss in _as_list(head.get('loss_decode'))}
    return {role: head.get(place) or named[place] for role, place in QUERY_HEADS[head.type].items()}


def _change_query_losses(head: ConfigDict, changes: dict, class_weight: Sequence[float] | None) -> None:
    for role, loss in _query_losses(head).items():
        change = copy.deepcopy(dict(changes.get(role) or {}))
        if change.get('type', loss.type) != loss.type:
            kept = {key: loss[key] for key in ('loss_name', 'loss_weight', 'class_weight') if key in loss}
            loss.clear()
            loss.update(kept)
        loss.update(change)
        if role == 'cls' and class_weight is not None:
            loss['class_weight'] = [*class_weight, loss.class_weight[-1]]


def _set_loss(head: ConfigDict, loss_decode: ConfigDict | list) -> None:
    """Replace the losses of a head; its own ``loss_weight`` (1 on the main head, about .4 on others) scales them."""
    own, new = _as_list(head.get('loss_decode')), copy.deepcopy(_as_list(loss_decode))
    roles = LOSS_ROLES.get(head.type)
    if roles is not None:
        for place in (p for p in roles if p < len(own)):
            weight = own[place].get('loss_weight', 1.0)
            own[place] = ConfigDict(type='SumLoss', losses=copy.deepcopy(new), loss_weight=weight)
        head['loss_decode'] = own
        return
    head_weight = own[0].get('loss_weight', 1.0) if own else 1.0
    for loss in new:
        loss['loss_weight'] = loss.get('loss_weight', 1.0) * head_weight
    head['loss_decode'] = new if len(new) > 1 else new[0]


def _compose_model_needs(cfg: Config) -> None:
    if cfg.get('bn_momentum') is None:
        cfg.pop('bn_momentum', None)
    else:
        for norm in iter_dicts(cfg.get('model')):
            if norm.get('type') in ('BN', 'BN2d', 'SyncBN'):
                norm['momentum'] = cfg.bn_momentum
    if cfg.get('own_optimizer') is not None and cfg.get('optim_wrapper') is not None:
        for key, value in cfg.own_optimizer.items():  # whole: the betas of AdamW mean nothing to SGD
            cfg.optim_wrapper[key] = copy.deepcopy(value)
    heads = [head.type for head in iter_heads(cfg)]
    wanted = [*(cfg.get('own_transforms') or []), *(t for head, t in NEEDED_TRANSFORMS.items() if head in heads)]
    for dataset in iter_datasets(cfg, ['train'] if wanted else []):
        pipeline = dataset.get('pipeline') or []
        for step in wanted:
            if step['type'] not in [t['type'] for t in pipeline]:
                pipeline[-1:-1] = [copy.deepcopy(step)]
    named = {str(part['type']).split('.')[0] for part in iter_dicts(cfg.get('model')) if part.get('type')}
    for scope in [scope for scope in SCOPES if scope in named]:
        module, *sources = SCOPES[scope]
        if find_spec(scope) is None:
            onedl = 'onedl-mmsegmentation' in compat.installed_distributions('mmseg')
            raise ModuleNotFoundError(
                f'the model needs the package {scope} ({", ".join(heads)}), which is not installed; '
                f'pip install {sources[0] if onedl else sources[1]}'
            )
        imports = cfg.setdefault('custom_imports', ConfigDict(imports=[], allow_failed_imports=False)).imports
        if module not in imports:
            imports.append(module)
        import_module(module)  # registers what the model names


def _compose_normality(cfg: Config) -> None:
    """Put a ``NormalityNeck`` between backbone and neck, and its hook among the hooks."""
    settings = dict(cfg.pop('normality', None) or {})
    if not settings:
        return
    if not cfg.get('model', {}).get('backbone'):
        raise ValueError(
            f'`normality` must find a model with a backbone, but {cfg.get("model", {}).get("type")} has none; leave it '
            'out for this model.'
        )
    if cfg.get('bilevel'):
        raise ValueError('`normality` and `bilevel` must not be used together; learn the policy without `normality`.')
    for_hook = {key: settings.pop(key) for key in ('interval', 'max_images', 'features') if key in settings}
    cases = [t for d in iter_datasets(cfg, ['train']) for t in iter_transforms(d.get('pipeline') or [])]
    turned = [t['type'] for t in cases if t['type'] in PLACE_BREAKING and tuple(t.get('ratio_range', ())) != (1, 1)]
    if turned and settings.get('kind') == 'place':
        raise ValueError(
            f"`normality.kind='place'` compares places of the part, which {turned[0]} moves and scales; remove that "
            "transform, or take kind='bank'."
        )
    if turned and settings.get('kind') == 'auto':
        settings['kind'] = 'bank'
        says = f"`normality.kind='auto'` takes a bank: {turned[0]} of the training pipeline moves and scales places."
        print_log(says, 'current', logging.WARNING)
    width, height = cfg.get('image_scale') or (cfg.get('crop_size') or (256, 256))[::-1]
    shapes = level_shapes(cfg.model.backbone, (height, width))
    channels, sizes = [s[0] for s in shapes], [s[1:] for s in shapes]
    if settings.get('kind') not in (None, 'bank'):
        settings['sizes_hw'] = sizes
    inner = cfg.model.get('neck')
    cfg.model.neck = ConfigDict(type='NormalityNeck', in_channels=channels, neck=inner, **settings)
    _add_hook(cfg, 'NormalityHook', for_hook)


def _limit_augmentation(cfg: Config) -> None:
    """Narrow random resizing and photometric distortion of the training pipelines to ``cfg.augmentation``."""
    limits = cfg.pop('augmentation', None) or {}
    scale, light = limits.get('scale'), limits.get('light')
    if set(limits) - {'scale', 'light'} or (light is not None and not 0 <= light <= 1):
        raise ValueError(
            f'`augmentation` must be dict(scale=(low, high), light=a share from 0 to 1), got {dict(limits)}.'
        )
    for dataset in iter_datasets(cfg, ['train']):
        steps = list(dataset.get('pipeline') or [])
        for step in steps:
            if step['type'] == 'RandomResize' and scale is not None:
                step['ratio_range'] = tuple(scale)
            if step['type'] == 'PhotoMetricDistortion' and light:
                contrast = (1 - 0.5 * light, 1 + 0.5 * light)
                hue = max(1, round(18 * light))
                step.update(
                    brightness_delta=32 * light, contrast_range=contrast, saturation_range=contrast, hue_delta=hue
                )
        if light == 0:
            steps = [step for step in steps if step['type'] != 'PhotoMetricDistortion']
        if steps:
            dataset['pipeline'] = steps


def _plain_sampler(loader: ConfigDict, key: str, also: Sequence[str] = ()) -> dict:
    """Return the settings of a sampler that ``key`` may replace."""
    sampler, plain = loader.get('sampler') or ConfigDict(type='DefectSampler'), (*PLAIN_SAMPLERS, *also)
    if sampler.get('type', 'DefectSampler') not in plain:
        raise ValueError(
            f'`{key}` must find a plain sampler to replace, one of {", ".join(plain)}, got {sampler["type"]}; '
            f'leave out one of the two, or set a ratio to None to keep the sampler.'
        )
    return {k: sampler[k] for k in ('shuffle', 'seed') if sampler.get(k) is not None}


def _check_shares(what: str, shares: dict, names: tuple[str, ...]) -> None:
    if set(shares) != set(names) or min(shares.values()) < 0 or sum(shares.values()) <= 0:
        listed = f'{", ".join(names[:-1])} and {names[-1]}'
        raise ValueError(f'{what} must give shares >= 0, not all 0, for {listed}, got {dict(shares)}.')


def _compose_generated(cfg: Config) -> None:
    """Put the packed set behind the real training data, whose pipeline, classes and palette it takes."""
    recipe = cfg.pop('generated', None)
    if not recipe or not recipe.get('folder'):
        return
    if set(recipe) - {'folder', 'ratio'}:
        raise ValueError(f'`generated` must have the keys folder and ratio, got {sorted(recipe)}.')
    loader, real = cfg.train_dataloader, cfg.train_dataloader.dataset
    if 'pipeline' not in real:
        raise ValueError(
            '`generated` must find one plain data set to train on, but `train_dataloader.dataset` is a '
            f'{real.type}; put the packed set (GeneratedDefectDataset) into that wrapper yourself.'
        )
    metainfo = dict(real.get('metainfo') or {})
    if 'classes' not in metainfo:
        own = DATASETS.get(real.type).METAINFO
        metainfo = {**{k: own[k] for k in ('classes', 'palette') if k in own}, **metainfo}
    packed = ConfigDict(type='GeneratedDefectDataset', folder=recipe.folder, pipeline=copy.deepcopy(real.pipeline))
    packed.metainfo = ConfigDict(copy.deepcopy(metainfo))
    loader.dataset = ConfigDict(type='MixedDefectDataset', datasets=[real, packed])
    ratio = recipe.get('ratio')
    if ratio is not None:
        _check_shares('`generated.ratio`', ratio, ('real', 'generated'))
        kept = _plain_sampler(loader, 'generated.ratio')
        loader.sampler = ConfigDict(type='PartShareSampler', shares=[ratio.real, ratio.generated], **kept)


def _compose_bilevel(cfg: Config) -> None:
    """Turn ``bilevel`` into the loop, its outer loader and the hook, before the recipe goes into the pipelines."""
    settings = copy.deepcopy(cfg.pop('bilevel', None))
    if not settings:
        return
    recipe = cfg.get('synthesis')
    if not recipe or recipe.get('where') != 'device':
        where = repr(recipe.get('where', 'worker')) if recipe else 'none'
        raise ValueError(
            f"a config with `bilevel` must have a `synthesis` recipe with `where='device'`, got {where}; take a base "
            'of configs/_base_/synthesis and set `synthesis.where`.'
        )
    hook, outer = settings.pop('hook', None) or {}, settings.pop('outer', None) or {}
    cfg.outer_dataloader = _outer_loader(cfg.train_dataloader, outer)
    loop = dict(type='BilevelTrainLoop', recipe=recipe, outer_dataloader=cfg.outer_dataloader)
    cfg.train_cfg.update(**copy.deepcopy(loop), **settings)
    _add_hook(cfg, 'PolicyHook', hook)


def _outer_loader(train: ConfigDict, outer: ConfigDict) -> ConfigDict:
    known = ('split', 'batch_size', 'defective_share')
    if set(outer) - set(known):
        raise ValueError(
            f'`bilevel.outer` must have keys of {", ".join(known)}, got {sorted(set(outer) - set(known))}.'
        )
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
    mixing_sampler = ConfigDict(type='MixingSampler', defective_share=share)
    loader.sampler = ConfigDict(type='DefectSampler', shuffle=True) if share is None else mixing_sampler
    return loader


def compose_synthesis(cfg: Config) -> None:
    """Turn the recipe ``cfg.synthesis`` into transforms of the training pipelines and a sampler, and remove it.

    ===============  ===============================================================================================
    key of a recipe  what it is; all but ``transforms`` are optional
    ===============  ===============================================================================================
    ``transforms``   what makes defects: ``PasteDefects``, ``CutPaste``, ``PerlinAnomaly``, ...; one is taken at a time
    ``weights``      how often each of them is taken; equally often by default
    ``ratio``        ``dict(real=..., synthetic=..., clean=...)``: shares of the images sampled that show a real defect
                     only, get a synthetic one, and stay clean; ``None`` leaves the sampler alone
    ``probability``  of an image to get a synthetic defect, when ``ratio`` is ``None``
    ``backgrounds``  ``dict(clean=..., defective=...)``: where the defects of a ``ratio`` go; by default to clean images
    ``fade``         ``dict(begin=0.6, end=0.8)``: shares of the training between which defects become fewer, to none
    ``location``     arguments of ``LoadLocationMap``: where the object is
    ``donors``       arguments of :func:`mmdefect.datasets.donors.library_of`, such as the ``rule`` of cutting
    ``where``        ``'worker'``: in the pipeline, after the last geometric transform and before photometric
                     distortion, which then treats defect and surface alike; ``'device'``: in the data preprocessor,
                     for the whole batch, before normalising
    ===============  ===============================================================================================
    """
    recipe = cfg.pop('synthesis', None)
    if not recipe:
        return
    if set(recipe) - set(RECIPE_KEYS) or not recipe.get('transforms'):
        raise ValueError(
            f'`synthesis` must have `transforms` and keys of {", ".join(RECIPE_KEYS)}, got {sorted(recipe)}.'
        )
    loader = cfg.train_dataloader
    share, probability = mixing(recipe.get('ratio'), recipe.get('backgrounds'), recipe.get('probability', 0.5))
    if share is not None:
        kept = _plain_sampler(loader, 'synthesis.ratio', ('MixingSampler',))
        loader.sampler = ConfigDict(type='MixingSampler', defective_share=share, **kept)
    held_out = [name for name in ('val', 'test', 'outer') if cfg.get(f'{name}_dataloader')]
    donors = dict(
        dataset=without_pipeline(loader.dataset),
        held_out={name: without_pipeline(cfg[f'{name}_dataloader'].dataset) for name in held_out},
        **recipe.get('donors', {}),
    )
    transforms = [copy.deepcopy(dict(t)) for t in recipe['transforms']]
    for transform in transforms:
        if transform['type'] == 'PasteDefects':
            transform.setdefault('donors', copy.deepcopy(donors))
    step = dict(transforms=transforms, weights=recipe.get('weights'), probability=probability)
    if recipe.get('fade'):
        step['fade'] = fading(recipe['fade'], cfg.train_cfg.get('max_iters'), loader.batch_size)
    on_device = recipe.get('where', 'worker') == 'device'
    for dataset in iter_datasets(cfg, ['train']):
        dataset.pipeline = _with_step(list(dataset.pipeline), dict(recipe.get('location') or {}), step, on_device)
    if on_device:
        cfg.model.data_preprocessor.update(type='SynthesisDataPreProcessor', synthesis=ConfigDict(step))


def mixing(ratio: dict | None, backgrounds: dict | None, probability: float) -> tuple[float | None, dict[str, float]]:
    """Return the share of sampled images with a real defect, and how likely a clean and a defective one is changed."""
    if ratio is None:
        return None, dict(clean=probability, defective=probability)
    _check_shares('`ratio`', ratio, ('real', 'synthetic', 'clean'))
    backgrounds = backgrounds or dict(clean=1.0, defective=0.0)
    _check_shares('`backgrounds`', backgrounds, ('clean', 'defective'))
    total, parts = sum(ratio.values()), sum(backgrounds.values())
    real, synthetic, clean = (ratio[k] / total for k in ('real', 'synthetic', 'clean'))
    on_clean, on_defective = (synthetic * backgrounds[k] / parts for k in ('clean', 'defective'))
    changed = [on / (on + kept) if on else 0.0 for on, kept in ((on_clean, clean), (on_defective, real))]
    return real + on_defective, dict(clean=changed[0], defective=changed[1])


def fading(fade: dict, max_iters: int | None, batch_size: int) -> list[int]:
    """Return the numbers of images sampled by one rank between which synthetic defects become fewer."""
    if set(fade) != {'begin', 'end'} or not 0 <= fade['begin'] <= fade['end'] <= 1:
        raise ValueError(
            '`fade` of a synthesis recipe must be dict(begin=..., end=...) with 0 <= begin <= end <= 1, shares of the '
            f'training, got {dict(fade)}.'
        )
    if not max_iters:
        raise ValueError('`fade` of a synthesis recipe needs `train_cfg.max_iters`, which the config does not have.')
    return [round(fade[key] * max_iters * batch_size) for key in ('begin', 'end')]


def _with_step(pipeline: list, location: dict, step: dict, on_device: bool) -> list:
    types = [t['type'] for t in pipeline]
    loads = [i for i, name in enumerate(types) if name in LOADING]
    behind = [i for i, name in enumerate(types) if name in AFTER_SYNTHESIS]
    if not loads or not behind:
        raise ValueError(
            f'a training pipeline must load labels ({", ".join(LOADING[:2])}) and end in PackSegInputs to '
            f'take a `synthesis` recipe, got {types}.'
        )
    if on_device:
        pipeline = [ConfigDict(t, type='PackSynthesisInputs') if t['type'] == 'PackSegInputs' else t for t in pipeline]
    else:
        pipeline.insert(behind[0], ConfigDict(type='SynthesizeDefects', **copy.deepcopy(step)))
    pipeline.insert(loads[-1] + 1, ConfigDict(type='LoadLocationMap', **location))
    return pipeline


def _compose_switches(cfg: Config) -> None:
    """Turn the switches against class imbalance into hooks, a sampler and transforms."""
    settings = {name: cfg.pop(name, None) for name in SWITCHES}
    for name, hook in dict(ema='EMAHook', class_prior='ClassPriorHook').items():
        if settings[name]:
            _add_hook(cfg, hook, settings[name])
    if settings['class_aware']:
        kept = _plain_sampler(cfg.train_dataloader, 'class_aware')
        kept.pop('shuffle', None)
        cfg.train_dataloader.sampler = ConfigDict(type='ClassAwareSampler', **kept, **settings['class_aware'])
    wanted = [d for d in iter_dicts(cfg.get('model')) if d.get('type') in ('WeightedSampleLoss', 'WeakBoxLoss')]
    extras = any(loss['type'] == 'WeightedSampleLoss' or loss.get('mixed') for loss in wanted)
    if extras:
        _add_hook(cfg, 'LabelExtrasHook', {})
    for dataset in iter_datasets(cfg, ['train']):
        pipeline = dataset.get('pipeline') or []
        types = [step.get('type') for step in pipeline]
        if settings['defect_crop']:
            crops = [step for step in pipeline if step.get('type') in ('RandomCrop', 'DefectCrop')]
            if not crops:
                raise ValueError(
                    f'`defect_crop` must find a RandomCrop to replace in the training pipeline of {dataset.type}, got '
                    f'{types}; crop there, or leave the switch out.'
                )
            for step in crops:
                if step.get('cat_max_ratio') == 1:  # no limit, which is the default: two ways of writing one setting
                    step.pop('cat_max_ratio')
                step.update(settings['defect_crop'], type='DefectCrop')
        if not (settings['ignore_band'] or extras):
            continue
        packing = next((place for place, name in enumerate(types) if name in PACKING), None)
        if packing is None:
            raise ValueError(f'the training pipeline of {dataset.type} must end in one of {PACKING}, got {types}.')
        if extras:
            pipeline[packing]['type'] = 'PackDefectInputs'
        if settings['ignore_band']:
            pipeline.insert(packing, ConfigDict(type='IgnoreBand', **settings['ignore_band']))


def _add_hook(cfg: Config, hook: str, arguments: dict) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(h.get('type') == hook for h in hooks):
        cfg.custom_hooks = [*hooks, ConfigDict({**arguments, 'type': hook})]
