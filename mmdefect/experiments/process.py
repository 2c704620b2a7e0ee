"""Start a tool, show its output while it runs, keep it in a file, and stop it cleanly."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

TAIL_LINES = 30
_POLL_SECONDS = 0.1


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP asked this program to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into :class:`Interrupted` while the block runs (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame) -> None:
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def run_logged(
    command: Sequence[str],
    log: Path,
    environment: dict[str, str],
    show: Callable[[str], None],
    started: Callable[[int], None],
    beat: Callable[[], None],
) -> int:
    """Run a command with stdout and stderr in ``log``, passing every line to ``show`` as it comes.

    The child writes to the file itself: what it said is complete when this process dies. It gets a process group of
    its own, which is stopped when this process is interrupted. When this process is killed, the system ends the child
    (on Linux): on another machine nobody else could, and it would write into the folder of a job that goes on there.

    Args:
        command: program and arguments.
        log: file for the output; replaced if it exists.
        environment: variables of the child.
        show: gets each line without its end.
        started: gets the process number right after the start.
        beat: called about ten times a second.

    Returns:
        The exit code; negative for a signal.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('wb') as sink:
        child = subprocess.Popen(
            [*_tied(), *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    with log.open('rb') as source:
        reader = _LineReader(source, show)
        try:
            started(child.pid)
            while child.poll() is None:
                reader.pass_on()
                beat()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop(child)
            raise
        finally:
            reader.pass_on(end=True)
    return child.returncode


def _tied() -> list[str]:
    """Return what to put before a command so that it gets SIGTERM when this process dies; it becomes the command.

    Not ``preexec_fn``, which may deadlock in a process with threads, such as a worker of Ray.
    """
    if not sys.platform.startswith('linux'):
        return []
    return [sys.executable, '-I', '-S', '-c', _TIE, str(os.getpid())]


_TIE = (
    f'import ctypes, os, sys; ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}); '  # 1: PR_SET_PDEATHSIG
    'os.getppid() == int(sys.argv[1]) or sys.exit("error: the planner died"); os.execvp(sys.argv[2], sys.argv[2:])'
)


class _LineReader:
    """Passes on the complete lines that a growing file has gained."""

    def __init__(self, source, show: Callable[[str], None]) -> None:
        self.source, self.show, self.rest = source, show, b''

    def pass_on(self, end: bool = False) -> None:
        *lines, self.rest = (self.rest + self.source.read()).split(b'\n')
        if end and self.rest:
            lines, self.rest = [*lines, self.rest], b''
        for line in lines:
            self.show(line.decode('utf-8', 'replace').rstrip('\r'))


def _stop(child: subprocess.Popen) -> None:
    """Stop a child's process group: Ctrl-C, then terminate, then kill; a second interrupt kills at once."""
    try:
        for number, patience in ((signal.SIGINT, 15.0), (signal.SIGTERM, 10.0)):
            _signal_group(child, number)
            try:
                child.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
    finally:
        _signal_group(child, signal.SIGKILL)  # also what the child left behind in its group
        child.wait()


def _signal_group(child: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log."""
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return file.read().decode('utf-8', 'replace').splitlines()[-lines:]


_RANK = re.compile(r'^\[rank\d+\]:\s?')
_MESSAGE = re.compile(r'^(?:[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*|error: .*)$')
_ELASTIC = 'torch.distributed.elastic'  # torchrun's own summary, which comes after the error of the training


def explain(lines: Sequence[str], returncode: int) -> tuple[str, list[str]]:
    """Find in the end of a tool's output what went wrong.

    Returns:
        The error as one line, and the lines that lead to it.
    """
    plain = [_RANK.sub('', line).rstrip() for line in lines]
    found = [i for i, line in enumerate(plain) if _MESSAGE.match(line) and not line.startswith(_ELASTIC)]
    if returncode < 0:
        out_of_memory = ' (often: out of memory)' if returncode == -signal.SIGKILL else ''
        return f'ended by {signal.Signals(-returncode).name}{out_of_memory}', plain[-TAIL_LINES:]
    if not found:
        last = next((line for line in reversed(plain) if line), 'no output')
        return f'exit code {returncode}: {last}', plain[-TAIL_LINES:]
    return plain[found[-1]], plain[: found[-1] + 1][-TAIL_LINES:]


def child_environment(gpu_count: int, extra: dict[str, str]) -> dict[str, str]:
    """Return the environment of a tool that shall see exactly ``gpu_count`` GPUs, the first ones of those there are."""
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1', **extra}
    visible = environment.get('CUDA_VISIBLE_DEVICES')
    devices = visible.split(',') if visible else [str(i) for i in range(gpu_count)]
    environment['CUDA_VISIBLE_DEVICES'] = ','.join(devices[:gpu_count])
    return environment


def count_gpus(python: str) -> int:
    """Ask the torch of ``python`` how many GPUs it sees (``CUDA_VISIBLE_DEVICES`` respected).

    Raises:
        RuntimeError: if torch cannot be asked.
    """
    answer = subprocess.run(
        [python, '-c', 'import torch; print(torch.cuda.device_count())'], capture_output=True, text=True
    )
    if answer.returncode:
        reason = answer.stderr.strip().rpartition('\n')[2]
        raise RuntimeError(
            f'{python} must be able to import torch, but says: {reason}; activate the environment of the project.'
        )
    return int(answer.stdout.split()[-1])
