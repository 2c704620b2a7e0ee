"""Mistakes in one line, and a full disk, whatever met it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest

from mmdefect import files
from mmdefect.command_line import disk_full, one_line_errors


def ended_by(work, *mistakes):
    return one_line_errors(*mistakes)(work)()


def test_a_mistake_is_one_line_and_anything_else_a_traceback(capsys):
    def work():
        raise KeyError('x')

    assert ended_by(work, KeyError) == 2 and capsys.readouterr().err == "error: 'x'\n"
    with pytest.raises(KeyError):
        ended_by(work, ValueError)


def test_a_full_disk_is_one_sentence_for_every_tool(capsys):
    def work():
        with open('/dev/full', 'w') as file:  # always full
            file.write('x')

    assert ended_by(work) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: the disk must have room, but it is full; free some space') and said.count('\n') == 1


def test_a_full_disk_behind_another_error_is_found(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(OSError) as error:
        files.write_text(tmp_path / 'a.txt', 'x')
    assert disk_full(error.value) == str(error.value.strerror) and 'a.txt, but it is full' in disk_full(error.value)
    wrapped = RuntimeError('the writer failed')
    wrapped.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'iter_20.pth')
    assert 'must have room for iter_20.pth' in disk_full(wrapped)
    assert disk_full(ValueError('x')) == '' and disk_full(PermissionError(errno.EACCES, 'x')) == ''


@pytest.mark.slow
def test_a_training_that_may_write_no_more_says_so_in_one_sentence(tmp_path):
    """A limit on the size of files stands in for the disk; the checkpoint is what does not fit."""
    from tests.helpers.data import write_wta
    from tests.helpers.small import as_arguments, quick_options

    write_wta(tmp_path / 'data')
    leaf = 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
    options = [*as_arguments(quick_options(2)), f'data_root={tmp_path / "data"}']
    command = [sys.executable, 'tools/train.py', leaf, '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr[-2000:]
    assert len(errors) == 1 and 'free some space' in errors[0]
