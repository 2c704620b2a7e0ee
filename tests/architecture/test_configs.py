"""Every leaf config loads, composes and names registered parts, and differs from others in what its name says.

That every model builds and trains a step is in ``tests/integration``.
"""

from __future__ import annotations

import ast
import json
from fnmatch import fnmatch
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdefect import compat
from mmdefect.apis import compose, load_config
from mmdefect.apis.compose import iter_datasets
from mmdefect.apis.config import plain
from mmdefect.experiments.settings import flatten
from mmdefect.registry import DATASETS, MODELS, TRANSFORMS

from .layers import ROOT

compat.apply()
CONFIGS = ROOT / 'configs'
#: Study files list runs of leaf configs; they are no configs themselves.
LEAVES = sorted(path for path in CONFIGS.rglob('*.py') if not {'_base_', 'studies'} & set(path.parts))
BASES = sorted((CONFIGS / '_base_').rglob('*.py'))


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_there_are_configs():
    assert LEAVES and BASES


def parts(cfg):
    """The model and its direct parts, which all have a ``type`` of ours or of mmseg."""
    yield cfg.model
    for key in ('backbone', 'neck', 'decode_head', 'auxiliary_head', 'data_preprocessor'):
        part = cfg.model.get(key)
        for item in part if isinstance(part, list) else [part]:
            if item:
                yield item
                losses = item.get('loss_decode') or []
                yield from losses if isinstance(losses, list) else [losses]


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_leaf_loads_and_composes(path):
    cfg = load_config(path)
    assert cfg.default_scope == 'mmseg'
    once = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    compose(cfg)
    assert json.dumps(cfg.to_dict(), sort_keys=True, default=str) == once, 'composing twice must change nothing'

    init_default_scope('mmseg')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if loader not in cfg:  # pretraining has nothing to test on
            continue
        dataset = cfg[loader].dataset
        assert DATASETS.get(dataset['type']) is not None, dataset['type']
        for step in dataset.get('pipeline') or []:
            assert TRANSFORMS.get(step['type']) is not None, step['type']
    for part in parts(cfg):
        assert MODELS.get(part['type']) is not None, part['type']


@lru_cache(None)
def composed(path: Path, recipes: tuple[str, ...] = ()) -> dict:
    """The flat composed settings, without the transforms that a model base brings for itself."""
    cfg = load_config(path, None, recipes)
    for dataset in iter_datasets(cfg):
        own = [t['type'] for t in cfg.get('own_transforms') or ()]
        dataset.pipeline = [t for t in dataset.pipeline if t['type'] not in own]
    return {key: value for key, value in flatten(plain(cfg.to_dict())).items() if key != 'work_dir'}


def changed(one: dict, other: dict, *allowed: str) -> list[str]:
    """The keys that differ and match none of the patterns."""
    keys = {key for key in {*one, *other} if one.get(key, ...) != other.get(key, ...)}
    return sorted(key for key in keys if not any(fnmatch(key, pattern) for pattern in allowed))


def test_no_two_leaves_are_equal():
    bodies: dict[str, Path] = {}
    repeated = []
    for path in LEAVES:
        body = json.dumps(composed(path), sort_keys=True, default=str)
        if body in bodies:
            repeated.append(f'{name(path)} = {name(bodies[body])}')
        bodies.setdefault(body, path)
    assert not repeated, '\n'.join(repeated)


LOSS = ('model.*loss_decode*',)
LOSS_EXTRAS = (*LOSS, 'custom_hooks.*', 'train_dataloader.dataset.pipeline.*.type')  # weights and box marks of samples
SCHEDULE = ('optim_wrapper.*', 'param_scheduler*', 'train_cfg.*', 'default_hooks.*', '*momentum')
SYNTHESIS = ('train_dataloader.*', 'model.data_preprocessor.*')
DATA = (
    *('data_root', 'split_file', 'category', 'labels', 'num_classes', 'crop_size', 'image_scale', '*_pipeline*'),
    *('*_dataloader.*', 'model.*num_classes', 'model.data_preprocessor.size', 'model.backbone.img_size', 'tta.*'),
    'model.*loss_decode*.alpha',  # a weight for each class
)
MODEL = ('model.*', '*norm_cfg.*', 'data_preprocessor.*', 'own_*', 'optim_wrapper.*', 'custom_imports.*')
MODEL = (*MODEL, 'cpu_channels_last', 'custom_hooks*')
WEIGHTS = ('model.backbone.*', 'model.data_preprocessor.*', 'custom_hooks*')
BILEVEL = ('train_cfg.*', 'outer_dataloader.*')
AUGMENTATION = 'train_dataloader.dataset.pipeline.*'
#: What two leaves may differ in whose names, `model_recipe_schedule_data`, differ in one part.
AXES = (MODEL, (*LOSS_EXTRAS, *SYNTHESIS, *BILEVEL, *WEIGHTS, '*patch', 'optim_wrapper.optimizer.lr'), SCHEDULE, DATA)


def test_leaves_differ_in_what_their_names_say():
    """Names of three parts are demonstrations, tuned for themselves; leaves of `bilevel` have a split of their own."""
    named = [(path, path.stem.split('_')) for path in LEAVES if path.stem.count('_') == 3]
    wrong = []
    for (one, parts), (other, others) in combinations(named, 2):
        axes = [k for k in range(4) if parts[k] != others[k]]
        families = {path.parent.name if path.parent.name in ('bilevel', 'cutpaste') else '' for path in (one, other)}
        if len(axes) == 1 and len(families) == 1:
            keys = changed(composed(one), composed(other), *AXES[axes[0]])
            wrong += [f'{name(one)} and {name(other)}: {keys}'] * bool(keys)
    assert not wrong, '\n'.join(wrong)


SEGMENTATION, FROZEN = 'fast_scnn/fast-scnn_baseline_2k_wta-256', 'fpn/fpn-r18-l3-frozen_baseline_900_wta-256'
LEARNED, PRETRAINING = 'bilevel/fast-scnn_net_demo', 'cutpaste/resnet18-l3_3way_256_mvtec-256'
#: Kind of recipe, or one of its files: what it may change, and in which leaf it is tried.
KINDS = {
    'losses': (LOSS_EXTRAS, SEGMENTATION),
    'schedules': (SCHEDULE, SEGMENTATION),
    'synthesis': (SYNTHESIS, SEGMENTATION),
    'datasets': (DATA, SEGMENTATION),
    'models': (MODEL, SEGMENTATION),
    'weights': (WEIGHTS, FROZEN),
    'bilevel': (BILEVEL, LEARNED),
    'normality': (('model.neck.*', 'custom_hooks*', AUGMENTATION), SEGMENTATION),
    'steady': ((AUGMENTATION,), SEGMENTATION),
    'on_device': ((*BILEVEL, *SYNTHESIS), LEARNED),
    'cutpaste_64k': (SCHEDULE, PRETRAINING),
    'cutpaste_256': (SCHEDULE, PRETRAINING),
    'good_256': (DATA, PRETRAINING),
    'cutpaste_resnet18': (MODEL, PRETRAINING),
    'cutpaste_resnet18-l3': (MODEL, PRETRAINING),
    'cutpaste_runtime': (('custom_hooks*',), PRETRAINING),
    'amp': (('amp',), SEGMENTATION),
    'ema': (('custom_hooks*',), SEGMENTATION),
    'class_prior': (('custom_hooks*',), SEGMENTATION),
    'class_aware': (('train_dataloader.sampler.*',), SEGMENTATION),
    'ignore_band': (('train_dataloader.dataset.pipeline.*',), SEGMENTATION),
    'defect_crop': (('train_dataloader.dataset.pipeline.*',), SEGMENTATION),
    'default_runtime': ((), SEGMENTATION),
    'wta_published': ((*DATA, *SCHEDULE, *LOSS), SEGMENTATION),
}
#: Recipes that say what the leaf says already, or a part of it.
SAME = (
    'ce',
    'schedule_2k',
    'wta_256',
    'labelled_256',
    'none',
    'default_runtime',
    'fast_scnn',
    'encoder_decoder',
    'net',
)
SAME = (*SAME, 'on_device', 'cutpaste_256', 'good_256', 'cutpaste_runtime', 'cutpaste_resnet18', 'cutpaste_resnet18-l3')


@pytest.mark.parametrize('path', BASES, ids=name)
def test_a_recipe_changes_what_its_kind_says(path):
    kind = path.parent.name
    if path.stem == 'query_focal':  # of models that no leaf has; the others say so
        with pytest.raises(ValueError, match='`query_losses` must have keys'):
            load_config(CONFIGS / f'{SEGMENTATION}.py', None, ['query_focal'])
        return
    allowed, leaf = KINDS.get(path.stem) or KINDS[kind]
    before = composed(CONFIGS / f'{leaf}.py')
    after = composed(CONFIGS / f'{leaf}.py', (path.stem,))
    assert not changed(before, after, *allowed)
    assert before != after or path.stem in SAME


@pytest.mark.parametrize('path', [*LEAVES, *BASES], ids=name)
def test_config_has_no_logic(path):
    """One dialect: assignments of values; no imports, functions, loops or conditions."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    docstring = tree.body[:1] if tree.body and isinstance(tree.body[0], ast.Expr) else []
    assert all(isinstance(node, ast.Assign) for node in tree.body if node not in docstring)
    logic = (ast.Lambda, ast.IfExp, ast.ListComp, ast.DictComp, ast.GeneratorExp)
    assert not [node for node in ast.walk(tree) if isinstance(node, logic)]


@pytest.mark.parametrize('path', BASES, ids=name)
def test_base_reads_by_itself(path):
    assert len(Config.fromfile(str(path)))
