"""setup.py, constraints.txt and environment.yaml agree, and what is built from them is complete."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mmdefect.doctor.packages import BASE, ONEDL, PARTS, TRAIN, parse_pins
from mmdefect.extras import MODULES

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ('mmdefect', 'bash', 'configs', 'tools', 'setup.py', 'MANIFEST.in', 'README.md', 'constraints.txt')
#: Import name of a distribution, where it is another one.
IMPORTED_AS = {
    'opencv-python': 'cv2',
    'pillow': 'PIL',
    'scikit-learn': 'sklearn',
    'pyyaml': 'yaml',
    'prometheus-client': 'prometheus_client',
    'python-multipart': 'python_multipart',
    'onedl-mmcv': 'mmcv',
    'onedl-mmengine': 'mmengine',
    'onedl-mmpretrain': 'mmpretrain',
    'onedl-mmsegmentation': 'mmseg',
}


@pytest.fixture(scope='module')
def setup_arguments():
    """What setup.py passes to setuptools."""
    captured = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('setuptools.setup', lambda **kwargs: captured.update(kwargs))
        runpy.run_path(str(ROOT / 'setup.py'))
    return captured


def names(requirements: list[str]) -> list[str]:
    return [re.match(r'[\w.-]+', r).group() for r in requirements]


@pytest.mark.parametrize('python', [(3, 10), (3, 11), (3, 13)])
def test_every_direct_requirement_is_pinned_once(setup_arguments, python):
    text = (ROOT / 'constraints.txt').read_text()
    pins = parse_pins(text, python)
    extras = setup_arguments['extras_require']
    wanted = {*names(setup_arguments['install_requires']), *names(extras['mm']), *names(extras['dev'])}
    if python >= (3, 11):
        wanted |= {n for requirements in extras.values() for n in names(requirements)}
        assert pins.keys() == wanted
    assert wanted <= pins.keys()
    lines = [line for line in text.splitlines() if line and not line.startswith('#')]
    assert all(re.fullmatch(r'[\w.-]+==[\w.+-]+(; python_version (<|>=) "3\.11")?', line) for line in lines)


def test_pins_lie_within_the_ranges(setup_arguments):
    pins = parse_pins((ROOT / 'constraints.txt').read_text(), (3, 11))
    requirements = [
        *setup_arguments['install_requires'],
        *chain.from_iterable(setup_arguments['extras_require'].values()),
    ]
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_environment_yaml_equals_the_constraints(setup_arguments):
    environment = yaml.safe_load((ROOT / 'environment.yaml').read_text())
    python = next(d for d in environment['dependencies'] if isinstance(d, str) and d.startswith('python='))
    version = tuple(map(int, python.partition('=')[2].split('.')))
    listed = next(d['pip'] for d in environment['dependencies'] if isinstance(d, dict))
    extras = setup_arguments['extras_require']
    wanted = {*names(setup_arguments['install_requires']), *names(extras['mm']), *names(extras['dev'])}
    pins = parse_pins((ROOT / 'constraints.txt').read_text(), version)
    assert sorted(listed[:-1]) == sorted(f'{name}=={pins[name]}' for name in wanted)
    assert listed[-1] == '-e .[mm,dev]'


def test_the_doctor_knows_the_same_packages(setup_arguments):
    extras = setup_arguments['extras_require']
    assert set(BASE) == set(names(setup_arguments['install_requires']))
    assert set(TRAIN) == set(names(extras['train']))
    assert set(ONEDL) == set(names(extras['mm'])) - set(TRAIN)
    parts = {
        extra: set(names(requirements)) - set(TRAIN)
        for extra, requirements in extras.items()
        if extra not in ('train', 'mm', 'dev')
    }
    assert {part: set(distributions) for part, distributions in PARTS.items()} == parts


def test_the_extras_know_the_modules_by_which_they_are_missed(setup_arguments):
    extras = setup_arguments['extras_require']
    assert {IMPORTED_AS.get(n, n) for n in names(extras['train'])} == set(MODULES['train'])
    optional = {'mmpretrain'}  # only some backbones and pre-training need it
    assert {IMPORTED_AS.get(n, n) for n in names(extras['mm'])} - optional == set(MODULES['mm'])


def test_the_line_needs_two_packages_and_onnxruntime(setup_arguments):
    assert set(names(setup_arguments['install_requires'])) == {'numpy', 'opencv-python'}
    extras = setup_arguments['extras_require']
    assert names(extras['runtime']) == ['onnxruntime']
    for extra in ('runtime', 'serve', 'ray'):
        assert not set(names(extras[extra])) & {*TRAIN, *ONEDL}
    for extra in ('mm', 'pretrain', 'generation', 'export', 'dev'):
        assert set(names(extras[extra])) >= set(TRAIN)


def test_every_third_party_import_is_declared(setup_arguments):
    """Nothing is used that only happens to be installed."""
    requirements = [
        *setup_arguments['install_requires'],
        *chain.from_iterable(setup_arguments['extras_require'].values()),
    ]
    declared = {IMPORTED_AS.get(n, n) for n in names(requirements)}
    found: dict[str, str] = {}
    for folder in ('mmdefect', 'tools', 'bash', 'tests'):
        for path in sorted((ROOT / folder).rglob('*.py')):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                modules = (
                    [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module]
                    if isinstance(node, ast.ImportFrom) and node.level == 0
                    else []
                )
                for module in modules:
                    found.setdefault(module.split('.')[0], str(path.relative_to(ROOT)))
    local = {p.stem for folder in ('tools', 'bash', 'tests') for p in (ROOT / folder).rglob('*')} | {
        'mmdefect',
        'tests',
        'benchmarks',
    }
    undeclared = {m: where for m, where in found.items() if m not in declared | local | set(sys.stdlib_module_names)}
    assert not undeclared


def test_every_core_requirement_is_used(setup_arguments):
    """Nothing is asked for in vain."""
    files = [path for path in (ROOT / 'mmdefect').rglob('*.py') if path.parent.name != 'doctor']
    text = '\n'.join(path.read_text(encoding='utf-8') for path in files)
    imported = set(re.findall(r'^\s*(?:import|from) (\w+)', text, re.MULTILINE))
    core = [*names(setup_arguments['install_requires']), *names(setup_arguments['extras_require']['train'])]
    assert {IMPORTED_AS.get(n, n) for n in core} <= imported


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """A copy of what goes into a distribution: building leaves files beside setup.py."""
    target = tmp_path_factory.mktemp('sources')
    ignore = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=ignore)
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, target / name)
    return target


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    env = {**{k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}, **environment}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def wheel(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-build-isolation', '--no-deps', '-w', out, '.', cwd=sources)
    return next(out.glob('mmdefect-*.whl'))


@pytest.mark.slow
def test_wheel_holds_configs_tools_and_pins(wheel):
    held = zipfile.ZipFile(wheel).namelist()
    for folder in ('bash', 'configs', 'tools'):
        expected = {
            f'mmdefect/.mim/{p.relative_to(ROOT)}'
            for p in (ROOT / folder).rglob('*')
            if p.is_file() and '__pycache__' not in p.parts
        }
        assert expected == {n for n in held if n.startswith(f'mmdefect/.mim/{folder}/')}
    assert 'mmdefect/.mim/constraints.txt' in held
    assert {str(p.relative_to(ROOT)) for p in (ROOT / 'mmdefect').rglob('*.py') if '.mim' not in p.parts} <= set(held)
    assert not [n for n in held if n.startswith(('tests', 'mmdefect/.mim/mmdefect'))]


@pytest.mark.slow
def test_installed_wheel_resolves_bases_and_pins(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
    (tmp_path / 'leaf.py').write_text("_base_ = ['mmdefect::fast_scnn/fast-scnn_baseline_demo.py']\n")
    code = (
        'import mmdefect.registration; from mmdefect.apis import load_config\n'
        'from mmdefect import compat; from mmdefect.doctor.packages import read_pins\n'
        'print(compat.config_root("mmdefect"), load_config("leaf.py").model.backbone.type, read_pins()["torch"])'
    )
    printed = run(sys.executable, '-c', code, cwd=tmp_path, PYTHONPATH=str(tmp_path / 'site')).split('\n')[-2]
    torch = parse_pins((ROOT / 'constraints.txt').read_text(), (3, 11))['torch']
    assert printed == f'{tmp_path}/site/mmdefect/.mim/configs FastSCNN {torch}'


@pytest.mark.slow
def test_source_distribution_can_be_built_from(sources, tmp_path):
    run(sys.executable, 'setup.py', '-q', 'sdist', '-d', tmp_path, cwd=sources)
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        held = {'/'.join(Path(n).parts[1:]) for n in archive.getnames()}
    for name in (
        'setup.py',
        'constraints.txt',
        'configs/_base_/default_runtime.py',
        'tools/train.py',
        'mmdefect/compat.py',
    ):
        assert name in held
