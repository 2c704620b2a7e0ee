"""bash/run_main.sh: variables, questions, arguments and exit codes, over stand-in tools."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'bash' / 'run_main.sh'
STAND_INS = ROOT / 'tests' / 'experiments' / 'stand_ins'
TOOLS = ['--train-tool', STAND_INS / 'train.py', '--test-tool', STAND_INS / 'evaluate.py']
VARIABLES = (
    'PROJECT_NAME',
    'GPU_COUNT',
    'TEST_CANDI',
    'WITH',
    'MODEL_CONFIG_PATH',
    'WORK_DIR',
    'FIND_BEST_DIR',
    'METRIC',
    'TIE',
    'EXCLUDE_BACKGROUND',
    'ENGINE',
    'SLOTS',
    'THREADS',
    'GPUS',
)


@pytest.fixture
def home(tmp_path):
    """A working folder with configs/net/{a,b,crash}.py."""
    folder = tmp_path / 'configs' / 'net'
    folder.mkdir(parents=True)
    for name, text in (('a', ''), ('b', 'miou = lambda step: 50 - step\n'), ('crash', 'crash_at = 3\n')):
        (folder / f'{name}.py').write_text(text)
    return tmp_path


def environment(variables):
    base = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    return {**base, 'PYTHON': sys.executable, **variables}


def run_main(home, *arguments, **variables):
    return subprocess.run(
        ['bash', str(SCRIPT), *map(str, arguments)],
        cwd=home,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def models(home, project='p', work_dir='work_dirs'):
    lines = (home / work_dir / project / 'results.csv').read_text().splitlines()[1:]
    return {line.split(',')[0]: tuple(line.split(',')[1:3]) for line in lines}


def test_configs_as_arguments_and_overrides(home):
    answer = run_main(home, *TOOLS, 'configs/net/a.py', 'net/b', '--', 'max_iters=4', PROJECT_NAME='p', GPU_COUNT='0')
    assert answer.returncode == 0, answer.stderr
    assert models(home) == {'net/a': ('done', '4'), 'net/b': ('done', '2')}
    assert '| net/a | done  |         4 |' in answer.stdout
    assert (home / 'work_dirs/p/exp/net/a/test/test_log.txt').is_file()


def test_all_variables(home):
    (home / 'configs').rename(home / 'settings')
    (home / 'mine').mkdir()
    (home / 'mine' / 'find_best.py').write_text('import sys\nprint(sys.argv, file=sys.stderr)\nprint(2)\n')
    places = {
        'TEST_CANDI': '# the list\nnet/a  # small\n  net/b.py \\\n',
        'MODEL_CONFIG_PATH': 'settings',
        'WORK_DIR': 'out',
        'FIND_BEST_DIR': 'mine',
    }
    answer = run_main(
        home, *TOOLS, PROJECT_NAME='p', GPU_COUNT='0', METRIC='mIoU', TIE='first', EXCLUDE_BACKGROUND='1', **places
    )
    assert answer.returncode == 1  # the log of the stand-in has no per-class values
    assert 'per-class values' in answer.stdout
    assert "'--metric', 'mIoU', '--tie', 'first', '--exclude-background'" in answer.stdout
    answer = run_main(home, *TOOLS, PROJECT_NAME='q', GPU_COUNT='0', **places)
    assert answer.returncode == 0
    assert models(home, 'q', 'out') == {'net/a': ('done', '2'), 'net/b': ('done', '2')}


def test_arguments_win_over_the_list(home):
    answer = run_main(home, *TOOLS, 'net/a', PROJECT_NAME='p', GPU_COUNT='0', TEST_CANDI='net/b')
    assert answer.returncode == 0 and list(models(home)) == ['net/a']


def test_a_failing_model_shows_in_the_exit_code_only_at_the_end(home):
    answer = run_main(home, *TOOLS, 'net/crash', 'net/a', PROJECT_NAME='p', GPU_COUNT='0')
    assert answer.returncode == 1
    assert models(home) == {'net/crash': ('failed', ''), 'net/a': ('done', '6')}
    assert 'loss is NaN at iteration 3' in answer.stdout


@pytest.mark.parametrize(
    'arguments, variables, words',
    [
        (['net/a'], {'GPU_COUNT': '0'}, 'PROJECT_NAME must be set'),
        (['net/a'], {'PROJECT_NAME': 'p'}, 'GPU_COUNT must be set'),
        (['net/a'], {'PROJECT_NAME': 'p', 'GPU_COUNT': 'two'}, 'invalid int value'),
        (['net/a'], {'PROJECT_NAME': '../p', 'GPU_COUNT': '0'}, 'project name must be a folder name'),
        ([], {'PROJECT_NAME': 'p', 'GPU_COUNT': '0'}, 'at least one model'),
        (['net/a+no'], {'PROJECT_NAME': 'p', 'GPU_COUNT': '0'}, 'a recipe must be a file, or the name of one'),
        (['net/a'], {'PROJECT_NAME': 'p', 'GPU_COUNT': '0', 'WITH': 'paste_poison'}, 'did you mean paste_poisson'),
        (['net/aa'], {'PROJECT_NAME': 'p', 'GPU_COUNT': '0'}, 'did you mean net/a'),
        (['net/a'], {'PROJECT_NAME': 'p', 'GPU_COUNT': '0', 'FIND_BEST_DIR': 'no'}, 'find_best tool must be'),
        (['net/a'], {'PROJECT_NAME': 'p', 'GPU_COUNT': '0', 'TIE': 'middle'}, 'invalid choice'),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(home, arguments, variables, words):
    answer = run_main(home, *arguments, **variables)
    assert answer.returncode == 2 and words in answer.stderr
    assert not (home / 'work_dirs').exists()


def test_a_folder_that_cannot_be_written_is_named(home):
    (home / 'work_dirs').write_text('a file')
    answer = run_main(home, *TOOLS, 'net/a', PROJECT_NAME='p', GPU_COUNT='0')
    assert answer.returncode == 2 and 'work_dirs/p' in answer.stderr and 'Traceback' not in answer.stderr


def test_a_dry_run_prints_the_commands_and_writes_nothing(home):
    answer = run_main(home, 'net/a', '--dry-run', '--', 'a.b=1', PROJECT_NAME='p', GPU_COUNT='0')
    train, test = answer.stdout.splitlines()
    assert train.endswith('work_dirs/p/exp/net/a/train --cfg-options a.b=1') and '/tools/test.py' in test
    assert not (home / 'work_dirs').exists()


def test_one_model_with_and_without_recipes(home):
    (home / 'configs' / '_base_').mkdir()
    (home / 'configs' / '_base_' / 'short.py').write_text('max_iters = 4\n')
    (home / 'configs' / '_base_' / 'long.py').write_text('max_iters = 8\n')
    answer = run_main(home, *TOOLS, 'net/a', 'net/a+short', 'net/a+short+long', PROJECT_NAME='p', GPU_COUNT='0')
    assert answer.returncode == 0, answer.stderr
    assert models(home) == {'net/a': ('done', '6'), 'net/a+short': ('done', '4'), 'net/a+short+long': ('done', '8')}
    assert '| net/a+short ' in answer.stdout and (home / 'work_dirs/p/exp/net/a+short/test/test_log.txt').is_file()
    answer = run_main(home, *TOOLS, 'net/a', 'net/b+long', PROJECT_NAME='q', GPU_COUNT='0', WITH='long short')
    assert models(home, 'q') == {'net/a+long+short': ('done', '4'), 'net/b+long+long+short': ('done', '2')}
    (home / 'configs' / '_base_' / 'short.py').write_text('max_iters = 2\n')
    answer = run_main(home, *TOOLS, 'net/a+short', PROJECT_NAME='p', GPU_COUNT='0')
    assert answer.returncode == 2 and 'content of' in answer.stderr and 'short.py' in answer.stderr


def test_help_needs_nothing(home):
    answer = run_main(home, '--help')
    assert answer.returncode == 0 and 'GPU_COUNT' in answer.stdout and 'set -' not in answer.stdout


def test_what_is_not_given_is_asked_for_on_a_terminal(home):
    master, slave = pty.openpty()
    child = subprocess.Popen(
        ['bash', str(SCRIPT), *map(str, TOOLS), 'net/a'],
        cwd=home,
        env=environment({}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, b'\nq\n0\n')  # an empty name is asked for again
    output = b''
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        output += chunk
        if not chunk:
            break
    os.close(master)
    assert child.wait(30) == 0, output.decode()
    assert output.count(b'Project name: ') == 2 and output.count(b'Number of GPUs (0 = CPU): ') == 1
    assert models(home, 'q') == {'net/a': ('done', '6')}
