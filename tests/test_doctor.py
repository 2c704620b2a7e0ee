"""The doctor works where nothing else does, and names the command that fixes what it recognises."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from mmdefect.__main__ import main
from mmdefect.doctor import render
from mmdefect.doctor.examine import Examination, Package, Part, probe
from mmdefect.doctor.packages import CORE, ONEDL, Finding, check_device, explain, last_line, parse_pins, read_pins

ROOT = Path(__file__).resolve().parents[1]
COMPLETE = {
    **dict.fromkeys(CORE, '9.9'),
    'torch': '2.12.1',
    'torchvision': '0.27.1',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmpretrain': '1.3.6',
}
UPSTREAM = {
    **{k: v for k, v in COMPLETE.items() if not k.startswith('onedl')},
    'mmengine': '0.10.7',
    'mmcv-lite': '2.1.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
    'ftfy': '6',
    'regex': '2026',
}
PAIR = '--force-reinstall torch==2.12.1 torchvision==0.27.1'


@pytest.fixture
def bare(tmp_path):
    """An interpreter with nothing installed, as ``(python, site-packages)``."""
    venv.create(tmp_path / 'bare', with_pip=False)
    return tmp_path / 'bare' / 'bin' / 'python', next((tmp_path / 'bare' / 'lib').glob('python*/site-packages'))


def run(python: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **environment}
    return subprocess.run([str(python), *arguments], capture_output=True, text=True, env=env, timeout=300)


def pretend_installed(site: Path, versions: dict[str, str], requires: dict[str, str] | None = None) -> None:
    """Write metadata without packages: enough for every check that imports nothing."""
    for name, version in versions.items():
        info = site / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        lines = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}']
        if requires and name in requires:
            lines.append(f'Requires-Dist: {requires[name]}')
        (info / 'METADATA').write_text('\n'.join(lines) + '\n')


def findings(python: Path) -> list[tuple[str, str, str]]:
    code = 'from mmdefect.doctor.packages import check_metadata\n'
    done = run(python, '-c', f'{code}print([(f.level, f.what, f.fix) for f in check_metadata()])')
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)  # a list of tuples of strings that our own code printed


def test_bare_interpreter(bare):
    done = run(bare[0], '-m', 'mmdefect', 'doctor')
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert 'core (one training step)  BROKEN' in done.stdout
    command = next(line for line in done.stdout.splitlines() if 'fix:' in line)
    for name, version in read_pins().items():
        if name in (*CORE, *ONEDL):
            assert f'{name}=={version}' in command


def test_complete_environment_has_no_findings(bare):
    pretend_installed(bare[1], COMPLETE, {'torchvision': 'torch==2.12.1'})
    assert findings(bare[0]) == []


def test_complete_upstream_environment_has_no_findings(bare):
    pretend_installed(bare[1], UPSTREAM)
    assert findings(bare[0]) == []


@pytest.mark.parametrize(
    'change, level, what, fix',
    [
        (
            {'mmengine': '0.10.7'},
            'error',
            'mmengine comes from onedl-mmengine and mmengine',
            'uninstall -y onedl-mmengine mmengine && python -m pip install onedl-mmengine==0.10.12',
        ),
        ({'onedl-mmpretrain': None}, 'warning', 'not installed: onedl-mmpretrain', 'install onedl-mmpretrain==1.3.6'),
        ({'scipy': None, 'onedl-mmcv': None}, 'error', 'not installed: scipy, onedl-mmcv', 'install scipy==1.'),
        ({'onedl-mmcv': None, 'mmcv': '2.1.0'}, 'warning', 'mixture of two distributions', 'uninstall -y mmcv && '),
        ({'torch': '2.13.0+cpu'}, 'warning', 'built for torch == 2.12.1', PAIR),
        ({'torch': '2.12.1+cpu'}, 'warning', 'come from different builds', PAIR),
        (
            {'opencv-python-headless': '5'},
            'warning',
            'several OpenCV packages',
            'uninstall -y opencv-python opencv-python-headless && python -m pip install opencv-python==',
        ),
    ],
)
def test_onedl_environment_with_one_fault(bare, change, level, what, fix):
    versions = {k: v for k, v in {**COMPLETE, **change}.items() if v is not None}
    pretend_installed(bare[1], versions, {'torchvision': 'torch==2.12.1'})
    found = findings(bare[0])
    assert len(found) == 1, found
    assert found[0][0] == level and what in found[0][1] and fix in found[0][2], found


@pytest.mark.parametrize(
    'change, level, what, fix',
    [
        (
            {'mmcv-lite': '2.2.0'},
            'warning',
            'rejects mmcv-lite 2.2.0',
            'uninstall -y mmcv-lite && python -m pip install mmcv-lite==2.1.0',
        ),
        ({'mmcv-lite': '1.7.2'}, 'error', 'needs mmcv 2.0 to 2.2', 'mmcv-lite==2.1.0'),
        ({'ftfy': None}, 'error', 'mmsegmentation imports ftfy', 'install ftfy'),
        ({'mmsegmentation': None}, 'error', 'not installed: mmsegmentation', 'install mmsegmentation==1.2.2'),
    ],
)
def test_upstream_environment_with_one_fault(bare, change, level, what, fix):
    pretend_installed(bare[1], {k: v for k, v in {**UPSTREAM, **change}.items() if v is not None})
    found = findings(bare[0])
    assert len(found) == 1, found
    assert found[0][0] == level and what in found[0][1] and fix in found[0][2], found


@pytest.mark.parametrize(
    'name, error, what, fix',
    [
        ('torchvision', 'RuntimeError: operator torchvision::nms does not exist', 'different builds', PAIR),
        ('torchvision', 'OSError: torchvision/_C.so: undefined symbol: _ZN3c106detail', 'different builds', PAIR),
        (
            'opencv-python',
            'ImportError: libGL.so.1: cannot open shared object file: No such file',
            'library libGL.so.1',
            'uninstall -y opencv-python && python -m pip install opencv-python-headless==5.0.0.93',
        ),
        (
            'scipy',
            'A module that was compiled using NumPy 1.x cannot be run in NumPy 2.4.6',
            'compiled for another NumPy',
            'numpy==2.',
        ),
        ('mmengine', "ModuleNotFoundError: No module named 'pkg_resources'", 'pkg_resources', 'setuptools==80'),
        ('mmseg', "ModuleNotFoundError: No module named 'mmcv'", 'cannot be found', 'mmcv'),
        ('mmseg', "ModuleNotFoundError: No module named 'prettytable.colors'", 'prettytable.colors', 'prettytable==3'),
        ('mmseg', 'AssertionError: MMCV==2.9.0 is used but incompatible. Please install mmcv>=2.0', 'mmcv 2.9', 'mmcv'),
        ('torch', 'The NVIDIA driver on your system is too old (found version 11040).', 'not fit', 'update the driver'),
        ('scipy', 'Traceback ...\nOSError: something new', 'OSError: something new', 'scipy==1.'),
    ],
)
def test_error_texts_are_recognised(name, error, what, fix):
    finding = explain(name, error)
    assert finding.level == 'error' and what in finding.what and fix in finding.fix, finding


def test_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr('shutil.which', lambda name: '/usr/bin/nvidia-smi')
    assert check_device(dict(built_for='13.0', gpus=['a GPU'])) == []
    assert 'CPU build' in check_device(dict(built_for='CPU', gpus=[]))[0].what
    assert 'driver' in check_device(dict(built_for='13.0', gpus=[], error='too old'))[0].fix
    monkeypatch.setattr('shutil.which', lambda name: None)
    assert check_device(dict(built_for='CPU', gpus=[])) == []


def test_pins_follow_the_python_version():
    text = '# a comment\na==1; python_version >= "3.11"\na==0.9; python_version < "3.11"\nb-c==2.0.0.1\n'
    assert parse_pins(text, (3, 11)) == {'a': '1', 'b-c': '2.0.0.1'}
    assert parse_pins(text, (3, 10)) == {'a': '0.9', 'b-c': '2.0.0.1'}


def test_probe_reports_a_crash_as_a_failure():
    crashed = probe('import os; os.kill(os.getpid(), 9)')
    assert (crashed.ok, last_line(crashed.error)) == (False, 'killed by signal 9')


@pytest.mark.parametrize('core, level, code', [(True, 'warning', 0), (False, 'warning', 1), (True, 'error', 1)])
def test_exit_code(core, level, code):
    found = Examination(
        [('mmdefect', '1')],
        [Package('torch', '2', '2')],
        [Part('serve', 'absent', 'pip install it')],
        [Finding(level, 'a fault', 'pip install a fix')],
        core,
    )
    assert found.exit_code == code
    text = render(found)
    assert f'{level}: a fault\n  fix: pip install a fix' in text
    assert ('mmdefect can run here.' in text) == (code == 0)


def test_command_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['--version'])
    assert stop.value.code == 0 and capsys.readouterr().out.startswith('mmdefect ')
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


@pytest.mark.slow
def test_this_environment_is_healthy():
    done = run(Path(sys.executable), '-m', 'mmdefect', 'doctor')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'core (one training step)  works' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    'module, body, what',
    [
        ('torchvision', "raise RuntimeError('operator torchvision::nms does not exist')", 'come from different builds'),
        (
            'cv2',
            "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
            'libGL.so.1',
        ),
        ('torch', 'raise ModuleNotFoundError("No module named \'torch\'")', 'needs the module torch'),
    ],
)
def test_broken_package_is_found_end_to_end(tmp_path, module, body, what):
    (tmp_path / module).mkdir()
    (tmp_path / module / '__init__.py').write_text(body + '\n')
    done = run(Path(sys.executable), '-m', 'mmdefect', 'doctor', PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout + done.stderr
    assert sum(line.startswith('error:') for line in done.stdout.splitlines()) == 1
    assert what in done.stdout
