"""Without the packages of an extra, tools end with one sentence that names it; the console finds all tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmdefect.__main__ import find_tools, main
from mmdefect.extras import MODULES, missing_modules, require

ROOT = Path(__file__).resolve().parents[1]
#: Predict from exported files, or start other tools; none of these needs an extra by itself.
LIGHT = ('predict', 'prelabel', 'run_batch', 'serve')
#: Arguments of tools that look at them first, so that --help works everywhere.
ARGUMENTS = {
    'convert_dataset': ['folder', 'a', 'b'],
    'export': ['a.pth', 'b.onnx'],
    'generate': ['learn'],
    'init_project': ['photos', '--name', 'part'],
}


@pytest.mark.parametrize('tool', sorted({path.stem for path in (ROOT / 'tools').glob('*.py')} - {*LIGHT}))
def test_a_tool_without_its_packages_says_what_to_install(tool):
    """In an interpreter with the standard library alone."""
    start = 'from mmdefect.__main__ import main; sys.exit(main(sys.argv[1:]))'
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n{start}'
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', code, tool, *ARGUMENTS.get(tool, ())],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f'error: {tool}.py needs '), done.stderr
    assert "install the extra: pip install 'mmdefect[" in done.stderr and done.stdout == ''


def test_the_sentence_names_what_is_missing_only(monkeypatch):
    assert missing_modules('train') == []
    monkeypatch.setitem(sys.modules, 'scipy', None)
    assert missing_modules('train') == ['scipy'] and missing_modules('train', 'torch', 'rich') == []
    with pytest.raises(ImportError, match=r"this needs scipy, which .* pip install 'mmdefect\[mm\]'"):
        require('mm', who='this')
    for name in MODULES['mm']:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match='mmengine, mmcv, mmseg, torch and 9 more packages'):
        require('mm')


def test_the_console_knows_all_tools(capsys, monkeypatch):
    assert set(find_tools()) == {path.stem for path in (ROOT / 'tools').glob('*.py')}
    with pytest.raises(SystemExit) as stop:
        main(['--help'])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and '  predict           Predict images, folders' in printed and 'doctor' in printed
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    with pytest.raises(SystemExit) as stop:
        main(['predict', 'model.onnx', 'photos', '--out', 'out', '--batch', 'four'])
    assert stop.value.code == 2 and "invalid int value: 'four'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(['predikt'])
    assert stop.value.code == 2 and "choose from 'doctor', 'accept'" in capsys.readouterr().err.replace(
        'doctor,', "'doctor',"
    )
