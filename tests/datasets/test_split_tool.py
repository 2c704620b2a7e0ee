"""tools/split_dataset.py as its users start it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.data import write_mvtec

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'split_dataset.py'


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the tool in this process; return its exit code, output and error output."""

    def start(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name='__main__')
        return end.value.code, *capsys.readouterr()

    return start


@pytest.fixture
def data(tmp_path):
    write_mvtec(tmp_path / 'mvtec')
    return tmp_path / 'mvtec'


def test_writes_the_file_and_does_not_overwrite_it(data, run):
    code, out, err = run(data, '--layout', 'mvtec', '--protocol', 'kshot', '--k', 2, '--category', 'screw', '--seed', 7)
    assert code == 0, err
    body = json.loads((data / 'splits.json').read_text())
    assert body['seed'] == 7 and body['protocol']['k'] == 2 and body['notes']['category'] == ['screw']
    assert body['counts']['train'] == {'screw/bent': 2, 'screw/crack': 2, 'screw/good': 3}
    assert 'screw/bent' in out and f'written: {data / "splits.json"}' in out
    code, out, err = run(data, '--layout', 'mvtec', '--protocol', 'third')
    assert code == 2 and 'must not exist yet, for it would be lost' in err
    assert json.loads((data / 'splits.json').read_text()) == body


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--layout', 'mvtek', '--protocol', 'third'], "did you mean 'mvtec'"),
        (['--layout', 'mvtec', '--protocol', 'third', '--category', 'lens'], 'found: bottle, screw'),
        (['--layout', 'mvtec', '--protocol', 'kshot', '--k', 9], '9-shot needs more than 10 images'),
        (['--layout', 'mvtec', '--protocol', 'kshot'], '--protocol kshot needs --k'),
        (['--layout', 'mvtec', '--protocol', 'fractions', '--fractions', 'train'], '`fractions` must be at least 0'),
        (['--layout', 'mvtec', '--protocol', 'third', '--groups', 'no.json'], 'group file no.json must be readable'),
    ],
)
def test_wrong_arguments_say_the_mend_in_one_line(data, run, arguments, message):
    code, _, err = run(data, *arguments)
    assert code == 2 and message in err
    assert not (data / 'splits.json').exists()


@pytest.mark.slow
def test_from_a_shell(data):
    command = [sys.executable, str(TOOL), str(data), '--layout', 'mvtec', '--protocol', 'kshot', '--k', '9']
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and '9-shot needs more than' in result.stderr and 'Traceback' not in result.stderr
