"""The state of each job on disk: pending, running, done or failed, in one small JSON file that is replaced whole.

Any engine on any machine may look at it. A job is claimed (:mod:`mmdefect.experiments.claims`), so two planners never
run it twice. A job whose owner died is free again: on the same machine at once, seen from another one when its
heartbeat is old.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmdefect.experiments.records import read_json, write_json

#: A heartbeat of another machine older than this many seconds belongs to a dead owner.
STALE_SECONDS = 120.0
HEARTBEAT_SECONDS = 5.0
STATE_NAME = 'state.json'
#: A job whose folder is no name for readers leaves one here, such as the arm and seed of a study.
TITLE_NAME = 'title.txt'


@dataclass
class JobState:
    """What is known about one job.

    Attributes:
        job: name, ``<folder>/<config stem>``.
        status: ``pending``, ``running``, ``done`` or ``failed``.
        phase: what is to be done next: ``train``, ``select``, ``test`` or ``done``.
        fingerprint: see :func:`mmdefect.experiments.spec.fingerprint`.
        owner: process that runs the job: host, namespace, pid, start, and the number of its claim; ``None`` unless
            running.
        child: process group of the tool in work: host, namespace, pid, start.
        heartbeat: time of the last sign of life, in seconds since 1970.
        attempts: one entry a training start: ``started``, ``resumed_from``, ``seconds``, ``command``.
        rule: selection rule that ``best`` was chosen by.
        best: ``iter``, ``checkpoint``, ``value`` and ``note``.
        metrics: summary of the test in percent; ``None`` for a value that is not a number.
        classes: ``{class: {IoU, Acc}}`` of the test.
        tests: one entry a test: ``checkpoint``, ``rule``, ``finished``; more than one checkpoint here means that the
            test set was read more often than once.
        error: one line; ``error_tail``: the end of the tool's output.
    """

    job: str
    status: str = 'pending'
    phase: str = 'train'
    fingerprint: dict[str, Any] = field(default_factory=dict)
    owner: dict[str, Any] | None = None
    child: dict[str, Any] | None = None
    heartbeat: float = 0.0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    rule: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    classes: dict[str, dict[str, float | None]] = field(default_factory=dict)
    tests: list[dict[str, Any]] = field(default_factory=list)
    error: str = ''
    error_tail: list[str] = field(default_factory=list)

    @property
    def train_seconds(self) -> float:
        """Wall time of all training attempts together."""
        return sum(attempt['seconds'] for attempt in self.attempts)


def read_state(job_dir: Path) -> JobState | None:
    """Read the state of a job; ``None`` if it has none yet.

    Raises:
        ValueError: if the file is no state of this version.
    """
    path = job_dir / STATE_NAME
    if not path.is_file():
        return None
    value = read_json(path)
    known = {f.name for f in fields(JobState)}
    if not isinstance(value, dict) or 'job' not in value or value.keys() - known:
        raise ValueError(
            f'{path} must be a job state with the keys {sorted(known)}, but is not; '
            'it comes from another version: move the folder away or use another project name.'
        )
    return JobState(**value)


def read_title(job_dir: Path, default: str) -> str:
    """Return the name of a job for readers."""
    path = job_dir / TITLE_NAME
    return path.read_text(encoding='utf-8').strip() if path.is_file() else default


def write_state(job_dir: Path, state: JobState) -> None:
    """Write the state in one step."""
    write_json(job_dir / STATE_NAME, asdict(state))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system frees it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def process_record(pid: int) -> dict[str, Any]:
    """Identify a process of this machine so that a later one with the same number is not taken for it."""
    return {'host': socket.gethostname(), 'namespace': _namespace(), 'pid': pid, 'start': _start_ticks(pid)}


def is_alive(record: dict[str, Any] | None, heartbeat: float = 0.0) -> bool:
    """Tell whether a recorded process still lives; processes of other machines are judged by their heartbeat."""
    if record is None:
        return False
    if not is_local(record):
        return time.time() - heartbeat < STALE_SECONDS
    return _start_ticks(record['pid']) == record['start'] is not None


def is_local(record: dict[str, Any]) -> bool:
    """Tell whether the process numbers of a record are those of this machine (or container)."""
    return record['host'] == socket.gethostname() and record['namespace'] == _namespace()


def stop_group(record: dict[str, Any], patience: float = 10.0) -> None:
    """End the process group of a recorded child: asks, waits, then kills. Does nothing if it is not alive."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not (is_local(record) and is_alive(record)):
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record['pid'], number)
        deadline = time.monotonic() + patience
        while is_alive(record) and time.monotonic() < deadline:
            time.sleep(0.05)


def _namespace() -> str:
    try:
        return os.readlink('/proc/self/ns/pid')
    except OSError:
        return ''


def _start_ticks(pid: int) -> int | None:
    """Return the start time of a living process in clock ticks; ``None`` if there is none or it is a zombie."""
    try:
        # The name in parentheses may hold spaces; the fields after it are plain.
        values = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path('/proc/self/stat').exists() else _alive_without_proc(pid)
    return None if values[0] in 'ZX' else int(values[19])


def _alive_without_proc(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0
