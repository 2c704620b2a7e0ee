"""Every leaf config loads, composes and builds its model, and none of them repeats another."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdefect import compat
from mmdefect.apis import compose, load_config
from mmdefect.registry import MODELS, TRANSFORMS

from .layers import ROOT

compat.apply()
CONFIGS = ROOT / 'configs'
#: Study files list runs of leaf configs; they are no configs themselves.
LEAVES = sorted(path for path in CONFIGS.rglob('*.py') if not {'_base_', 'studies'} & set(path.parts))
BASES = sorted((CONFIGS / '_base_').rglob('*.py'))
built: set[str] = set()


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_there_are_configs():
    assert LEAVES and BASES


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_leaf_loads_composes_and_builds(path):
    cfg = load_config(path)
    assert cfg.default_scope == 'mmseg'
    once = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    compose(cfg)
    assert json.dumps(cfg.to_dict(), sort_keys=True, default=str) == once, 'composing twice must change nothing'

    init_default_scope('mmseg')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for step in cfg[loader].dataset.pipeline:
            assert TRANSFORMS.get(step['type']) is not None, step['type']
    model = json.dumps(cfg.model.to_dict(), sort_keys=True, default=str)
    if model not in built:  # many leaves share one model
        built.add(model)
        network = MODELS.build(cfg.model)
        assert network.decode_head.num_classes == cfg.num_classes


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


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_leaf_is_short(path):
    lines = [
        line for line in path.read_text(encoding='utf-8').splitlines() if line.strip() and not line.startswith('#')
    ]
    assert len(lines) <= 30, 'a leaf lists bases and what differs; move the rest into a base'


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
