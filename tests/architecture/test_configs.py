"""Every leaf config loads, composes and names registered parts, and none of them repeats another.

That every model builds and trains a step is in ``tests/integration``.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdefect import compat
from mmdefect.apis import compose, load_config
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


def test_no_two_leaves_are_equal():
    bodies: dict[str, Path] = {}
    repeated = []
    for path in LEAVES:
        # Where a base lies relative to its leaf is no difference.
        body = ast.dump(ast.parse(path.read_text(encoding='utf-8')))
        if body in bodies:
            repeated.append(f'{name(path)} = {name(bodies[body])}')
        bodies.setdefault(body, path)
    assert not repeated, '\n'.join(repeated)


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
