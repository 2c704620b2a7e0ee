"""Imports go one way: faces -> adapters -> pure."""

from __future__ import annotations

import pytest

from .layers import (
    ADAPTERS,
    FACES,
    FOUNDATION,
    MM_PACKAGES,
    PACKAGE,
    PURE,
    ROOT,
    SHARED,
    imports,
    layer_of,
    module_name,
    modules,
)

#: What the files of a layer may import of this package, beside their own layer.
ALLOWED = {
    **{layer: {*PURE, *SHARED} for layer in PURE},
    **{layer: {*PURE, *SHARED, 'compat', 'registry'} for layer in ADAPTERS},
    # Hooks and samplers act on the other adapters: labels of data sets, losses of models, counters of metrics.
    'engine': {*PURE, *SHARED, 'datasets', 'models', 'evaluation', 'compat', 'registry'},
    'apis': {*PURE, *ADAPTERS, *SHARED, 'compat', 'registry', 'registration'},
    **{module: set() for module in SHARED},
    'command_line': set(),
    'compat': {'extras'},
    'registry': {'compat'},
    'registration': {'compat', 'registry', *ADAPTERS},
    'doctor': {'compat'},
    '__main__': {'doctor', *FACES},
}


def test_every_part_of_the_package_has_a_layer():
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == '.py' or (p.is_dir() and any(p.glob('*.py')))}
    assert parts - {'__init__'} == {*PURE, *ADAPTERS, *FACES, *FOUNDATION}


@pytest.mark.parametrize('layer', [*PURE, *ADAPTERS, *FACES, *FOUNDATION])
def test_imports_within_the_package(layer):
    wrong = []
    for path in modules(layer):
        for target, line in imports(path):
            if target == 'mmdefect' or target.startswith('mmdefect.'):
                other = layer_of(target)
                if other not in ('', layer) and other not in ALLOWED[layer]:
                    wrong.append(f'{path.relative_to(ROOT)}:{line} imports {target}')
    assert not wrong, f'{layer} may import {sorted(ALLOWED[layer])} only:\n' + '\n'.join(wrong)


@pytest.mark.parametrize('layer', PURE)
def test_pure_code_imports_no_openmmlab(layer):
    wrong = [
        f'{path.relative_to(ROOT)}:{line} imports {target}'
        for path in modules(layer)
        for target, line in imports(path)
        if target.split('.')[0] in MM_PACKAGES
    ]
    assert not wrong, '\n'.join(wrong)


def test_compiled_operators_are_never_needed_at_import():
    wrong = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in sorted(PACKAGE.rglob('*.py'))
        for target, line in imports(path, top_level_only=True)
        if target.startswith('mmcv.ops')
    ]
    assert not wrong, '\n'.join(wrong)


def test_only_one_module_imports_the_registries():
    """What joins a registry of mmseg comes through ``mmdefect.registry``."""
    wrong = [
        f'{module_name(path)}:{line} imports {target}'
        for path in modules(*ADAPTERS)
        for target, line in imports(path)
        if target in ('mmseg.registry', 'mmengine.registry')
    ]
    assert not wrong, '\n'.join(wrong)
