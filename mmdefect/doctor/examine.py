"""Try out what is installed in fresh interpreters, and put together what works and what is wrong."""

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mmdefect import __version__, compat

from . import packages
from .packages import Finding, explain, family, installed_version, pip_install

TIMEOUT_SECONDS = 300
#: Imports everything that training needs, prints the device as JSON, and does one training step on random numbers.
_CORE = """
import json, sys, torch
device = dict(built_for=torch.version.cuda or torch.version.hip or 'CPU', gpus=[])
try:
    device['gpus'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
except RuntimeError as err:
    device['error'] = str(err)
print(json.dumps(device))
sys.stdout.flush()
import cv2, filelock, jinja2, matplotlib, numpy, PIL, prettytable, rich, scipy, threadpoolctl, torchvision
from mmdefect import compat
compat.apply()
with compat.quiet_imports():
    import mmdefect.registration
from mmdefect.apis import load_config
from mmdefect.registry import MODELS
from mmseg.structures import SegDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
cfg = load_config(compat.config_root('mmdefect') / 'fast_scnn' / 'fast-scnn_baseline_demo.py')
cfg.model.data_preprocessor.size = (64, 64)
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
labels = [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 64, 64, dtype=torch.long))) for _ in range(2)]
losses = model(torch.rand(2, 3, 64, 64), labels, mode='loss')
sum(v for k, v in losses.items() if 'loss' in k).backward()
"""
#: Imports what predicts from exported files.
_RUNTIME = 'import cv2, numpy; import mmdefect.deployment.predict'
#: Tried when the core does not run, to find the package at fault.
_DIAGNOSIS = {
    'numpy': 'import numpy',
    'torch': 'import torch; torch.ones(2) + 1',
    'torchvision': 'import torchvision; from torchvision.ops import nms',
    'opencv-python': 'import cv2',
    'scipy': 'import scipy.ndimage, scipy.sparse.linalg',
    'matplotlib': 'import matplotlib.figure',
    'mmengine': 'import mmengine.runner',
    'mmcv': 'import mmcv.cnn, mmcv.transforms',
    'mmseg': 'from mmdefect import compat; compat.apply(); import mmseg.models, mmseg.datasets',
}
_OPTIONAL = {
    'pretrain': 'import sklearn.manifold; from mmdefect import compat; compat.apply(); import mmpretrain.models',
    'generation': 'import accelerate, kornia, safetensors; from diffusers import UNet2DConditionModel; '
    'from transformers import CLIPTextModel',
    'runtime': 'import onnxruntime; onnxruntime.get_available_providers()',
    'export': 'import onnx, onnxscript, onnxruntime, torch.onnx',
    'serve': 'import fastapi, uvicorn, prometheus_client, python_multipart, onnxruntime',
    'ray': 'import ray.data',
    'compiled operators': 'import torch; from mmcv.ops import get_compiler_version; get_compiler_version()',
}


@dataclass(frozen=True)
class Outcome:
    """What a probe printed and, if it failed, the end of its traceback."""

    ok: bool
    output: str = ''
    error: str = ''


def probe(code: str) -> Outcome:
    """Run Python code in a fresh interpreter that finds this copy of mmdefect."""
    here = str(Path(__file__).resolve().parents[2])
    paths = [p for p in os.environ.get('PYTHONPATH', '').split(os.pathsep) if p]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([*paths, here]), 'MPLBACKEND': 'Agg', 'PYTHONWARNINGS': 'ignore'}
    command, limits = [sys.executable, '-c', code], dict(env=env, timeout=TIMEOUT_SECONDS)
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, **limits)
    except subprocess.TimeoutExpired:
        return Outcome(False, error=f'gave no answer within {TIMEOUT_SECONDS} seconds')
    if done.returncode < 0:
        return Outcome(False, done.stdout, f'{done.stderr}\nkilled by signal {-done.returncode}')
    return Outcome(done.returncode == 0, done.stdout, done.stderr if done.returncode else '')


def _probe_all(codes: dict[str, str]) -> dict[str, Outcome]:
    """Run several probes, two at a time: each of them may load torch."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {name: pool.submit(probe, code) for name, code in codes.items()}
    return {name: future.result() for name, future in futures.items()}


@dataclass(frozen=True)
class Package:
    """A row of the version table; ``measured`` is the version the project was measured with."""

    name: str
    installed: str
    measured: str
    remark: str = ''


@dataclass(frozen=True)
class Part:
    """An optional part: ``works``, ``absent`` (with the command that installs it) or ``broken`` (with the reason)."""

    name: str
    state: str
    note: str = ''


@dataclass
class Examination:
    """All that the doctor found out."""

    machine: list[tuple[str, str]]
    packages: list[Package]
    parts: list[Part] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    core_works: bool = False
    core: str = 'one training step'

    @property
    def exit_code(self) -> int:
        """1 when the core cannot run."""
        return int(not self.core_works or any(f.level == 'error' for f in self.findings))


def examine() -> Examination:
    """Examine this interpreter's environment; takes some seconds, because things are really imported and run."""
    findings = packages.check_metadata()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    machine = [
        ('mmdefect', __version__),
        ('Python', f'{sys.version.split()[0]} ({sys.executable})'),
        ('Machine', f'{platform.system()} {platform.machine()}, {cores} CPU cores'),
    ]
    opencv = packages.installed_opencv() or ['opencv-python']
    if packages.is_for_prediction_only():
        return _examine_runtime(machine, _rows(['numpy', *opencv, 'onnxruntime']), findings)
    names = [n for n in packages.CORE if n != 'opencv-python'] + opencv
    for module, preferred in family().items():
        names += list(compat.installed_distributions(module)) or [preferred]
    if 'mmengine' in family().values():
        names += packages.UPSTREAM_UNDECLARED
    core = probe(_CORE)
    device, problems = _device(core)
    if core.ok:
        # A pair of builds that looks odd and works is no finding.
        findings = [f for f in findings + problems if f.level == 'warning' or 'overwrite' in f.what]
    else:
        findings = _diagnose(core, findings + problems)
    return Examination([*machine, ('Device', device)], _rows(names), _parts(), findings, core.ok)


def _examine_runtime(machine: list[tuple[str, str]], rows: list[Package], findings: list[Finding]) -> Examination:
    """A machine without torch and OpenMMLab predicts from exported files, if onnxruntime is there, and nothing more."""
    outcome = probe(_RUNTIME)
    if not outcome.ok:
        findings = [explain('opencv-python', outcome.error), *findings]
    elif installed_version('onnxruntime') is None:
        what = 'not installed: onnxruntime, on which exported files run; nor torch, on which training does'
        findings = [*findings, Finding('error', what, pip_install('onnxruntime'))]
    training = Part('training', 'absent', pip_install(*packages.TRAIN, *packages.ONEDL))
    parts = [*_parts(('runtime', 'serve')), training]
    return Examination(machine, rows, parts, findings, outcome.ok, 'prediction of exported files')


def _rows(names: list[str]) -> list[Package]:
    pins, rows = {**packages.read_pins(), **packages.UPSTREAM}, []
    for name in names:
        installed, measured = installed_version(name) or '-', pins.get(name, '')
        differs = measured and installed.split('+')[0] != measured
        remarks = ['missing'] if installed == '-' else ['differs'] if differs else []
        if name in compat.DISTRIBUTIONS['mmcv'] and installed != '-' and not compat.has_compiled_ops():
            remarks.append('no compiled operators')
        rows.append(Package(name, installed, measured, ', '.join(remarks)))
    return rows


def _device(core: Outcome) -> tuple[str, list[Finding]]:
    """Return the device that torch sees, and what is wrong with it."""
    first = core.output.partition('\n')[0]
    if not first.startswith('{'):
        return 'unknown, torch cannot be imported', []
    device = json.loads(first)
    built = device['built_for'] if device['built_for'] == 'CPU' else f'CUDA {device["built_for"]}'
    gpus = ', '.join(device['gpus'])
    text = f'{gpus} (torch is built for {built})' if gpus else f'CPU (torch is built for {built}, no usable GPU)'
    return text, packages.check_device(device)


def _diagnose(core: Outcome, findings: list[Finding]) -> list[Finding]:
    """Find the package at fault; what is only a consequence of a missing one is left out."""
    if any(f.level == 'error' for f in findings):
        return findings  # known without importing anything; the rest follows from it
    failed = [explain(name, outcome.error) for name, outcome in _probe_all(_DIAGNOSIS).items() if not outcome.ok]
    if failed:  # what is tried later builds on what is tried earlier
        return [failed[0], *(f for f in findings if f.fix != failed[0].fix)]
    what = f'every package works by itself, but mmdefect fails: {packages.last_line(core.error)}'
    fix = packages.pip('install --force-reinstall --no-deps -e . in a fresh checkout; if it stays, report this text')
    return [Finding('error', what, fix), *findings]


def _parts(names: tuple[str, ...] = tuple(_OPTIONAL)) -> list[Part]:
    absent = {part: [n for n in needs if installed_version(n) is None] for part, needs in packages.PARTS.items()}
    if not compat.installed_distributions('mmpretrain'):
        absent['pretrain'].append(family()['mmpretrain'])
    notes = {part: pip_install(*missing) for part, missing in absent.items() if missing}
    if not compat.has_compiled_ops():
        where = '(docs/install.md, "Compiled operators")'
        notes['compiled operators'] = f'without them these fail: {compat.NEEDS_COMPILED_OPS} {where}'
    outcomes = _probe_all({name: _OPTIONAL[name] for name in names if name not in notes})
    parts = {name: Part(name, 'absent', note) for name, note in notes.items()}
    for name, outcome in outcomes.items():
        finding = None if outcome.ok else explain(name, outcome.error)
        parts[name] = Part(name, 'broken', f'{finding.what}; {finding.fix}') if finding else Part(name, 'works')
    return [parts[name] for name in names]


def render(found: Examination) -> str:
    """Return an examination as plain text that stays readable in a terminal, a log and an issue."""
    rows = [(p.name, p.installed, p.measured or '-', p.remark) for p in found.packages]
    core = f'core ({found.core})', 'works' if found.core_works else 'BROKEN', ''
    blocks = [
        _table([(f'{name}:', value) for name, value in found.machine]),
        _table([('package', 'installed', 'measured', ''), *rows]),
        _table([('part', 'state', ''), core, *((p.name, p.state, p.note) for p in found.parts)]),
        *(f'{finding.level}: {finding.what}\n  fix: {finding.fix}' for finding in found.findings),
    ]
    remedy = 'mmdefect cannot run here; fix the errors from the top, then run doctor again.'
    blocks.append('mmdefect can run here.' if found.exit_code == 0 else remedy)
    return '\n\n'.join(blocks) + '\n'


def _table(rows: list[tuple[str, ...]]) -> str:
    """Align all columns but the last."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    padded = [[*(row[i].ljust(width) for i, width in enumerate(widths)), row[-1]] for row in rows]
    return '\n'.join('  '.join(row).rstrip() for row in padded)
