"""Processes: tell whether one still lives; start a tool, show and keep its output, and stop it cleanly."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: A heartbeat of another machine older than this many seconds belongs to a dead process.
STALE_SECONDS = 120.0
TAIL_LINES = 30
_POLL_SECONDS = 0.1
Show = Callable[[str], None]
Steps = tuple[tuple[int, float], ...]
_THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')


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

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def process_record(pid: int) -> dict[str, Any]:
    """Identify a process of this machine so that a later one with the same number is not taken for it."""
    return {'host': socket.gethostname(), 'namespace': _namespace(), 'pid': pid, 'start': _start_ticks(pid)}


def is_alive(record: dict[str, Any] | None, heartbeat: float = 0.0) -> bool:
    """Tell whether a recorded process still lives; processes of other machines are judged by their heartbeat."""
    if record is None:
        return False
    if not _is_local(record):
        return time.time() - heartbeat < STALE_SECONDS
    return _start_ticks(record['pid']) == record['start'] is not None


def stop_group(record: dict[str, Any], steps: Steps = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))) -> None:
    """Send signals to the process group of a child of this machine, with a patience after each, until it ends."""
    for number, patience in steps:
        if not (_is_local(record) and is_alive(record)):
            return
        _signal_group(record['pid'], number)
        deadline = time.monotonic() + patience
        while is_alive(record) and time.monotonic() < deadline:
            time.sleep(0.05)


def _is_local(record: dict[str, Any]) -> bool:
    """Tell whether the process numbers of a record are those of this machine (or container)."""
    return record['host'] == socket.gethostname() and record['namespace'] == _namespace()


def _namespace() -> str:
    path = '/proc/self/ns/pid'  # there is none outside Linux
    return os.readlink(path) if os.path.lexists(path) else ''


def _start_ticks(pid: int) -> int | None:
    """Return the start time of a living process in clock ticks, 0 without /proc; ``None`` for none or a zombie."""
    try:
        # The name in parentheses may hold spaces; the fields after it are plain.
        values = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        return None if values[0] in 'ZX' else int(values[19])
    except (FileNotFoundError, ProcessLookupError):
        if Path('/proc/self/stat').exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it lives and belongs to somebody else
    return 0


def run_logged(
    command: Sequence[str], log: Path, environment: dict, show: Show, started: Callable[[int], None], beat: Callable
) -> int:
    """Run a command with stdout and stderr in ``log``; return its exit code, negative for a signal.

    The child writes to the file itself: what it said is complete when this process dies. It gets a process group of
    its own, which is stopped when this process is interrupted. When this process is killed, the system ends the child
    (on Linux): on another machine nobody else could, and it would write into the folder of a job that goes on there.

    ``show`` gets each line, without its end, as it comes; ``started`` gets the process number right after the start;
    ``beat`` is called about ten times a second.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*_die_with_parent(), *command]
    with log.open('wb') as sink:
        streams = dict(stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        child = subprocess.Popen(command, **streams, env=environment, start_new_session=True)
    with log.open('rb') as source:
        rest = b''

        def pass_on() -> None:
            nonlocal rest
            *lines, rest = (rest + source.read()).split(b'\n')
            for line in lines:
                show(line.decode('utf-8', 'replace').rstrip('\r'))

        try:
            started(child.pid)
            while child.poll() is None:
                pass_on()
                beat()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop(child)
            raise
        finally:
            pass_on()
            if rest:
                show(rest.decode('utf-8', 'replace').rstrip('\r'))
    return child.returncode


def _die_with_parent() -> list[str]:
    """Return what to put before a command so that it gets SIGTERM when this process dies; it becomes the command.

    Not ``preexec_fn``, which may deadlock in a process with threads, such as a worker of Ray.
    """
    if not sys.platform.startswith('linux'):
        return []
    code = (
        f'import ctypes, os, sys; ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}); '  # 1: PR_SET_PDEATHSIG
        'os.getppid() == int(sys.argv[1]) or sys.exit("error: the planner died"); os.execvp(sys.argv[2], sys.argv[2:])'
    )
    return [sys.executable, '-I', '-S', '-c', code, str(os.getpid())]


def _stop(child: subprocess.Popen) -> None:
    """Stop a child's process group: Ctrl-C, then terminate, then kill; a second interrupt kills at once."""
    try:
        stop_group(process_record(child.pid), ((signal.SIGINT, 15.0), (signal.SIGTERM, 10.0)))
    finally:
        _signal_group(child.pid, signal.SIGKILL)  # also what the child left behind in its group
        child.wait()


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log."""
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return file.read().decode('utf-8', 'replace').splitlines()[-lines:]


_RANK = re.compile(r'^\[rank\d+\]:\s?')
_MESSAGE = re.compile(r'^(?:[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*|error: .*)$')
_ELASTIC = 'torch.distributed.elastic'  # torchrun's own summary, which comes after the error of the training


def explain(lines: Sequence[str], returncode: int) -> tuple[str, list[str]]:
    """Find in the end of a tool's output what went wrong: the error as one line, and the lines that lead to it."""
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


def thread_variables(threads: int) -> dict[str, str]:
    """Return the variables that limit the libraries of a child to so many threads; 0 sets none."""
    return {name: str(threads) for name in _THREADS} if threads else {}


def count_gpus(python: str) -> int:
    """Ask the torch of ``python`` how many GPUs it sees (``CUDA_VISIBLE_DEVICES`` respected)."""
    code = 'import torch; print(torch.cuda.device_count())'
    answer = subprocess.run([python, '-c', code], check=False, capture_output=True, text=True)
    if answer.returncode:
        reason = answer.stderr.strip().rpartition('\n')[2]
        raise RuntimeError(
            f'{python} must be able to import torch, but says: {reason}; activate the environment of the project.'
        )
    return int(answer.stdout.split()[-1])
