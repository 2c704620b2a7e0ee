"""Read a leaf config and compose it: what one base owns is carried to every place that needs it.

mmengine merges ``_base_`` files key by key, so a class count stated by the dataset base cannot reach the heads of
the model base, and each of them would have to be restated in every leaf. :func:`compose` does that once, for a short
list of top-level keys, and leaves a plain mmseg config behind: the one that the Runner dumps into the work dir needs
nothing of this module.

==================  =====================================================================================
top-level key       where it goes
==================  =====================================================================================
``data_root``       ``data_root`` of every dataset that has one
``split_file``      ``split_file`` of every dataset that has one
``classes``         ``metainfo.classes`` of every dataset (with ``palette`` if given)
``num_classes``     ``num_classes`` of every head; derived from ``classes`` when absent
``crop_size``       ``(h, w)``: data preprocessor ``size``, every transform with a ``crop_size``, ``img_size`` of
                    transformer backbones
``image_scale``     ``(w, h)``: ``scale`` of every resizing transform
``loss_decode``     the loss of every head, times the head's own ``loss_weight``
``class_weight``    ``class_weight`` of every head's loss
``bn_momentum``     ``momentum`` of every batch norm of the model: mmseg's 0.01 for Fast-SCNN needs some hundred updates
                    before a validation means anything
``own_optimizer``   what a transformer base needs instead of the schedule's: keys of ``optim_wrapper``
``bilevel``         learns the policy of ``synthesis``: loop, outer loader and hook, see :mod:`mmdefect.apis.bilevel`
``own_transforms``  transforms a model base needs at the end of the training pipeline, before packing
``generated``       a packed set of generated images beside the training data, see :mod:`mmdefect.apis.generated`
``category``        ``category`` of every dataset that has one
``variant``, ...    views and classes of CutPaste training, see :mod:`mmdefect.apis.cutpaste`
``synthesis``       transforms of the training pipelines and the sampler, see :mod:`mmdefect.apis.synthesis`
``ema``, ...        hooks, sampler and transforms against class imbalance, see :mod:`mmdefect.apis.switches`
==================  =====================================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmdefect import compat
from mmdefect.apis.bilevel import compose_bilevel
from mmdefect.apis.cutpaste import compose_cutpaste
from mmdefect.apis.switches import SWITCHES, compose_switches

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'outer_dataloader')
RESIZES = ('Resize', 'RandomResize', 'ResizeToMultiple')
#: Top-level keys that :func:`compose` spreads; an override of any other key is a last word and is applied again after it.
SPREAD = (
    'data_root',
    'split_file',
    'category',
    'variant',
    'patch',
    'classes',
    'palette',
    'num_classes',
    'crop_size',
    'image_scale',
    'loss_decode',
    'class_weight',
    'bn_momentum',
    'own_optimizer',
    'own_transforms',
    'generated',
    'synthesis',
    'bilevel',
    *SWITCHES,
)
#: Heads whose list of losses has roles: the places of the segmentation losses. The rest (edges) stays as it is.
LOSS_ROLES = {'PIDHead': (0, 1, 3), 'DDRHead': (0, 1)}
#: Heads that do not predict the classes: class count, loss and weights are their own.
DETAIL_HEADS = ('STDCHead',)


def load_config(path: str | Path, cfg_options: dict | None = None) -> Config:
    """Read ``path``, apply ``cfg_options`` (dotted keys), compose, and register mmdefect's components.

    Raises:
        FileNotFoundError: if there is no such config; the message lists the ones with a similar name.
        ValueError: if an option puts a text in the place of a table of settings.
    """
    compat.apply()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(_missing_config(path))
    cfg = Config.fromfile(str(path))
    if cfg_options:
        _check_options(cfg, cfg_options)
        cfg.merge_from_dict(cfg_options)
    import mmdefect.registration  # noqa: F401  (also when the config forgot its custom_imports)

    compose(cfg)
    if cfg_options:
        cfg.merge_from_dict({k: v for k, v in cfg_options.items() if k.split('.')[0] not in SPREAD})
    return cfg


def _check_options(cfg: Config, options: dict) -> None:
    """A dict on the command line arrives as a text, and would surface as an error deep in whatever reads the settings."""
    for key, value in options.items():
        node = cfg
        for part in key.split('.'):
            node = node.get(part) if isinstance(node, (Config, dict)) else None
        if isinstance(node, dict) and node and isinstance(value, str):
            raise ValueError(
                f'`{key}` is a table of settings ({", ".join(node)}) and cannot become the text {value!r}. Set '
                f'one of them at a time, such as {key}.{next(iter(node))}=VALUE, or write a config with '
                'this one as its `_base_`.'
            )


def compose(cfg: Config) -> None:
    """Carry the top-level keys of the table above to their places, in place; composing twice changes nothing."""
    if cfg.get('generated') is not None:
        from mmdefect.apis.generated import compose_generated  # needs the adapters, which compose() alone does not

        compose_generated(cfg)
    datasets = list(iter_datasets(cfg))
    for key in ('data_root', 'split_file', 'category'):
        if cfg.get(key) is not None:
            for dataset in datasets:
                if key in dataset:
                    dataset[key] = cfg[key]
    _compose_classes(cfg, datasets)
    _compose_sizes(cfg, datasets)
    if cfg.get('loss_decode') is not None:
        for head in iter_heads(cfg):
            _set_loss(head, cfg.loss_decode)
        cfg.pop('loss_decode')  # it lives in the heads now; composing again must not scale it twice
    if cfg.get('class_weight') is not None:
        for head in iter_heads(cfg):
            for place, loss in enumerate(_as_list(head.get('loss_decode'))):
                if place in LOSS_ROLES.get(head.type, range(100)):
                    for single in loss.get('losses', [loss]):
                        single['class_weight'] = list(cfg.class_weight)
    _compose_model_needs(cfg)
    compose_bilevel(cfg)
    compose_cutpaste(cfg, datasets)
    if cfg.get('synthesis') is not None:
        from mmdefect.apis.synthesis import compose_synthesis  # needs the adapters, which compose() alone does not

        compose_synthesis(cfg, list(_unwrap(cfg.train_dataloader.get('dataset'))))
    if cfg.get('train_dataloader'):
        compose_switches(cfg, list(_unwrap(cfg.train_dataloader.get('dataset'))))


def iter_datasets(cfg: Config) -> Iterator[ConfigDict]:
    """Yield each dataset dict of the loaders, wrapped ones (``ConcatDataset`` and the like) included."""
    seen: set[int] = set()
    for name in LOADERS:
        loader = cfg.get(name)
        for dataset in _unwrap(loader.get('dataset')) if loader else ():
            if id(dataset) not in seen:
                seen.add(id(dataset))
                yield dataset


def iter_heads(cfg: Config) -> Iterator[ConfigDict]:
    """Yield the decode and auxiliary heads that predict the classes."""
    model = cfg.get('model') or {}
    for key in ('decode_head', 'auxiliary_head'):
        yield from (head for head in _as_list(model.get(key)) if head.type not in DETAIL_HEADS)


def iter_transforms(pipeline: list) -> Iterator[ConfigDict]:
    """Yield every transform of a pipeline, nested ones included."""
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            yield from iter_transforms(step)
        else:
            yield step
            yield from iter_transforms(step.get('transforms') or [])


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
    if cfg.get('num_classes') is not None:
        for head in iter_heads(cfg):
            head['num_classes'] = cfg.num_classes


def _compose_sizes(cfg: Config, datasets: list[ConfigDict]) -> None:
    crop_size, scale = cfg.get('crop_size'), cfg.get('image_scale')
    transforms = [t for d in datasets for t in iter_transforms(d.get('pipeline') or [])]
    for transform in transforms:
        if crop_size is not None and 'crop_size' in transform:
            transform['crop_size'] = tuple(crop_size)
        if scale is not None and transform['type'] in RESIZES and 'scale' in transform:
            transform['scale'] = tuple(scale)
    model = cfg.get('model')
    if crop_size is None or not model:
        return
    preprocessor = model.get('data_preprocessor')
    if preprocessor is not None and preprocessor.get('size_divisor') is None:
        preprocessor['size'] = tuple(crop_size)
    if 'img_size' in (model.get('backbone') or {}):
        model.backbone['img_size'] = tuple(crop_size)


def _compose_model_needs(cfg: Config) -> None:
    if cfg.get('bn_momentum') is not None:
        _set_bn_momentum(cfg.get('model'), cfg.bn_momentum)
    if cfg.get('own_optimizer') is not None and cfg.get('optim_wrapper') is not None:
        cfg.optim_wrapper.update(copy.deepcopy(cfg.own_optimizer))
    if cfg.get('own_transforms') and cfg.get('train_dataloader'):
        for dataset in _unwrap(cfg.train_dataloader.get('dataset')):
            pipeline = dataset.get('pipeline') or []
            missing = [t for t in cfg.own_transforms if t['type'] not in [p['type'] for p in pipeline]]
            pipeline[-1:-1] = copy.deepcopy(missing)
    if 'mmpretrain.' in str(cfg.get('model')):
        imports = cfg.setdefault('custom_imports', ConfigDict(imports=[], allow_failed_imports=False)).imports
        if 'mmpretrain.models' not in imports:
            imports.append('mmpretrain.models')
        import mmpretrain.models  # noqa: F401


def _set_bn_momentum(node, momentum: float) -> None:
    if isinstance(node, dict):
        if node.get('type') in ('BN', 'BN2d', 'SyncBN'):
            node['momentum'] = momentum
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            _set_bn_momentum(value, momentum)


def _set_loss(head: ConfigDict, loss_decode: ConfigDict | list) -> None:
    """Replace the losses of a head; its own ``loss_weight`` (1 on the main head, about .4 on others) scales them."""
    own = _as_list(head.get('loss_decode'))
    roles = LOSS_ROLES.get(head.type)
    if roles is not None:
        head['loss_decode'] = [
            _one_loss(loss_decode, loss.get('loss_weight', 1.0)) if place in roles else loss
            for place, loss in enumerate(own)
        ]
        return
    head_weight = own[0].get('loss_weight', 1.0) if own else 1.0
    losses = [_scaled(loss, head_weight) for loss in _as_list(loss_decode)]
    head['loss_decode'] = losses if len(losses) > 1 else losses[0]


def _one_loss(loss_decode: ConfigDict | list, weight: float) -> ConfigDict:
    return ConfigDict(type='SumLoss', losses=copy.deepcopy(_as_list(loss_decode)), loss_weight=weight)


def _scaled(loss: ConfigDict, weight: float) -> ConfigDict:
    loss = copy.deepcopy(loss)
    loss['loss_weight'] = loss.get('loss_weight', 1.0) * weight
    return loss


def _unwrap(dataset: ConfigDict | None) -> Iterator[ConfigDict]:
    if dataset is None:
        return
    inner = dataset.get('datasets') or _as_list(dataset.get('dataset'))
    if inner:
        for child in inner:
            yield from _unwrap(child)
    else:
        yield dataset


def _as_list(value) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _missing_config(path: Path) -> str:
    from difflib import get_close_matches

    root = compat.config_root('mmdefect')
    known = {p.stem: p for p in root.rglob('*.py') if '_base_' not in p.parts}
    close = get_close_matches(path.stem, known, n=3, cutoff=0.4)
    hint = (
        'did you mean ' + ', '.join(str(known[c]) for c in close) + '?' if close else f'leaf configs lie under {root}.'
    )
    return f'the config must be an existing file, but {path} is not; {hint}'
