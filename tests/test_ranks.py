"""How a process of several ends."""

import subprocess
import sys

import pytest
import torch

from mmdefect.ranks import leave_group

PROGRAM = """
import atexit, threading, time
from mmdefect.ranks import end_rank, leave_group

class Witness:
    def __del__(self):
        print('taken down', flush=True)

witness = Witness()
atexit.register(print, 'exit functions')
threading.Thread(target=lambda: (time.sleep(.3), print('threads'))).start()
{group}
print('no line end', end=' ')
{end}
"""
GROUP = """
import torch
torch.distributed.init_process_group('gloo', init_method='file://{store}', rank=0, world_size=1)
torch.distributed.all_reduce(torch.ones(3))
leave_group()
assert not torch.distributed.is_initialized()
"""


@pytest.mark.parametrize('group', ['', GROUP])
def test_a_rank_ends_as_python_does_but_is_not_taken_down(tmp_path, group):
    """A thread of gloo that asks for an interpreter which is being taken down aborts the process."""
    found = {}
    for end in ('end_rank(3)', 'raise SystemExit(3)'):
        program = PROGRAM.format(group=group.format(store=tmp_path / end), end=end)
        done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 3, done.stderr
        found[end] = done.stdout.split()
    ours, theirs = found.values()
    assert theirs == ['no', 'line', 'end', 'threads', 'exit', 'functions', 'taken', 'down']
    assert ours == theirs[:-2]


def test_one_process_has_no_group_to_leave():
    assert not torch.distributed.is_initialized()
    leave_group()
    assert not torch.distributed.is_initialized()
