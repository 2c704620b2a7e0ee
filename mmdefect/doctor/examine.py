"""Put together what is installed, what works and what is wrong."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass, field

from mmdefect import __version__, compat

from .pins import (
    BASE,
    CORE,
    ONEDL,
    OPENCV,
    PARTS,
    TRAIN,
    UPSTREAM,
    UPSTREAM_UNDECLARED,
    installed_version,
    pip,
    pip_install,
    read_pins,
)
from .probes import DIAGNOSIS, OPTIONAL, Outcome, probe_all, probe_core, probe_runtime
from .rules import Finding, check_device, check_metadata, explain, family, is_for_prediction_only

_REINSTALL = (
    f'{pip()} install --force-reinstall --no-deps -e . in a fresh checkout; if it stays, report it with this text'
)


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
    if is_for_prediction_only():
        return _examine_runtime()
    result = Examination(_machine(), _packages(), findings=check_metadata())
    core = probe_core()
    result.core_works = core.ok
    result.machine.append(('Device', _device(core, result)))
    if core.ok:
        # A pair of builds that looks odd and works is no finding.
        result.findings = [f for f in result.findings if f.level == 'warning' or 'overwrite' in f.what]
    else:
        result.findings = _diagnose(core, result.findings)
    result.parts = _parts()
    return result


def _examine_runtime() -> Examination:
    """A machine without torch and OpenMMLab predicts from exported files, if onnxruntime is there, and nothing more."""
    outcome = probe_runtime()
    result = Examination(
        _machine(),
        _rows([n for n in BASE if n not in OPENCV] + _opencv() + ['onnxruntime']),
        findings=check_metadata(),
        core_works=outcome.ok,
        core='prediction of exported files',
    )
    if not outcome.ok:
        result.findings = [explain('opencv-python', outcome), *result.findings]
    elif installed_version('onnxruntime') is None:
        result.findings.append(
            Finding(
                'error',
                'not installed: onnxruntime, on which exported files run; nor torch, on which training does',
                pip_install('onnxruntime'),
            )
        )
    result.parts = [*_parts(('runtime', 'serve')), Part('training', 'absent', pip_install(*TRAIN, *ONEDL))]
    return result


def _machine() -> list[tuple[str, str]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return [
        ('mmdefect', __version__),
        ('Python', f'{sys.version.split()[0]} ({sys.executable})'),
        ('Machine', f'{platform.system()} {platform.machine()}, {cores} CPU cores'),
    ]


def _opencv() -> list[str]:
    return [n for n in OPENCV if installed_version(n)] or ['opencv-python']


def _packages() -> list[Package]:
    names = [n for n in CORE if n != 'opencv-python'] + _opencv()
    wanted = UPSTREAM if family() == 'upstream' else ONEDL
    for (module, _), preferred in zip(compat.DISTRIBUTIONS.items(), wanted, strict=True):
        names += list(compat.installed_distributions(module)) or [preferred]
    if family() == 'upstream':
        names += UPSTREAM_UNDECLARED
    return _rows(names)


def _rows(names: list[str]) -> list[Package]:
    pins, rows = {**read_pins(), **UPSTREAM}, []
    for name in names:
        installed, measured = installed_version(name) or '-', pins.get(name, '')
        remark = ''
        if installed == '-':
            remark = 'missing'
        elif measured and installed.split('+')[0] != measured:
            remark = 'differs'
        if name in compat.DISTRIBUTIONS['mmcv'] and installed != '-' and not compat.has_compiled_ops():
            remark = ', '.join(filter(None, (remark, 'no compiled operators')))
        rows.append(Package(name, installed, measured, remark))
    return rows


def _device(core: Outcome, result: Examination) -> str:
    first = core.output.partition('\n')[0]
    if not first.startswith('{'):
        return 'unknown, torch cannot be imported'
    device = json.loads(first)
    result.findings += check_device(device)
    if not device['gpus']:
        return f'CPU (torch is built for {_built(device)}, no usable GPU)'
    return ', '.join(device['gpus']) + f' (torch is built for {_built(device)})'


def _built(device: dict) -> str:
    return device['built_for'] if device['built_for'] == 'CPU' else f'CUDA {device["built_for"]}'


def _diagnose(core: Outcome, findings: list[Finding]) -> list[Finding]:
    """Find the packages at fault; what is only a consequence of a missing one is left out."""
    if any(f.level == 'error' for f in findings):
        return findings  # known without importing anything; the rest follows from it
    found = [explain(name, outcome) for name, outcome in probe_all(DIAGNOSIS).items() if not outcome.ok]
    if not found:
        what = f'every package works by itself, but mmdefect fails: {core.last_line}'
        return [Finding('error', what, _REINSTALL), *findings]
    found = found[:1]  # what is tried later builds on what is tried earlier
    mends = {f.mend for f in found}
    return found + [f for f in findings if f.mend not in mends]


def _parts(names: tuple[str, ...] = tuple(OPTIONAL)) -> list[Part]:
    absent = {part: [n for n in names if installed_version(n) is None] for part, names in PARTS.items()}
    codes = {part: code for part, code in OPTIONAL.items() if part in names and not absent.get(part)}
    if not compat.has_compiled_ops():
        codes.pop('compiled operators', None)
    if not compat.installed_distributions('mmpretrain'):
        codes.pop('pretrain', None)
        absent['pretrain'].append('mmpretrain' if family() == 'upstream' else 'onedl-mmpretrain')
    outcomes = probe_all(codes)
    parts = []
    for name in names:
        if name in outcomes:
            outcome = outcomes[name]
            if outcome.ok:
                parts.append(Part(name, 'works'))
            else:
                finding = explain(name, outcome)
                parts.append(Part(name, 'broken', f'{finding.what}; {finding.mend}'))
        elif name == 'compiled operators':
            parts.append(
                Part(
                    name,
                    'absent',
                    f'without them these fail: {compat.NEEDS_COMPILED_OPS} (docs/install.md, "Compiled operators")',
                )
            )
        else:
            parts.append(Part(name, 'absent', pip_install(*absent[name])))
    return parts
