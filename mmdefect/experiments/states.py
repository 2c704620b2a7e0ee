"""The state of each job on disk, and who may run it.

The state (pending, running, done or failed) is one small JSON file that is replaced whole; any engine on any machine
may look at it. Who wants to run a job creates the numbered claim after the last one there is. A lock of the file
system is a local affair on many network drives; the creation of a file is not: of all who try, on any machine, one
succeeds. A claim ends when its holder says so or dies: on the same machine at once, seen from another one when its
heartbeat is old. A holder that was taken for dead, because its machine slept, finds a higher number than its own when
it wakes, and stops.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmdefect.experiments.process import STALE_SECONDS, is_alive
from mmdefect.files import read_json, write_json

HEARTBEAT_SECONDS = 5.0
STATE_NAME = 'state.json'
#: A job whose folder is no name for readers leaves one here, such as the arm and seed of a study.
TITLE_NAME = 'title.txt'
CLAIMS = 'claims'
#: What a test leaves beside its log, one line a part; see :mod:`mmdefect.experiments.acceptance`.
PARTS_NAME = 'parts.csv'


@dataclass
class JobState:
    """What is known about one job."""

    job: str  # name, `<folder>/<config stem>`
    status: str = 'pending'  # `pending`, `running`, `done` or `failed`
    phase: str = 'train'  # what is to be done next: `train`, `select`, `test` or `done`
    fingerprint: dict[str, Any] = field(default_factory=dict)  # see :func:`mmdefect.experiments.batch.fingerprint`
    owner: dict[str, Any] | None = None  # running process (host, namespace, pid, start) and number of its claim
    child: dict[str, Any] | None = None  # process group of the tool in work: host, namespace, pid, start
    heartbeat: float = 0.0  # time of the last sign of life, in seconds since 1970
    attempts: list[dict[str, Any]] = field(default_factory=list)  # `started`, `resumed_from`, `seconds`, `command`
    rule: dict[str, Any] | None = None  # selection rule that `best` was chosen by
    best: dict[str, Any] | None = None  # `iter`, `checkpoint`, `value` and `note`
    metrics: dict[str, float | None] = field(default_factory=dict)  # of the test in percent; `None` for NaN
    classes: dict[str, dict[str, float | None]] = field(default_factory=dict)  # `{class: {IoU, Acc}}` of the test
    verdict: str = ''  # on parts, what the test log ends with
    #: one entry a test: `checkpoint`, `rule`, `finished`; several checkpoints: the test set was read more than once
    tests: list[dict[str, Any]] = field(default_factory=list)
    error: str = ''  # one line; `error_tail`: the end of the tool's output
    error_tail: list[str] = field(default_factory=list)

    @property
    def train_seconds(self) -> float:
        """Wall time of all training attempts together."""
        return sum(attempt['seconds'] for attempt in self.attempts)


def read_state(job_dir: Path) -> JobState | None:
    """Read the state of a job; ``None`` if it has none yet, ``ValueError`` for one of another version."""
    path = job_dir / STATE_NAME
    if not path.is_file():
        return None
    value = read_json(path)
    known = {f.name for f in fields(JobState)}
    if not isinstance(value, dict) or 'job' not in value or value.keys() - known:
        remedy = 'it comes from another version: move the folder away or use another project name'
        raise ValueError(f'{path} must be a job state with the keys {sorted(known)}, but is not; {remedy}.')
    return JobState(**value)


def write_state(job_dir: Path, state: JobState) -> None:
    """Write the state in one step."""
    write_json(job_dir / STATE_NAME, asdict(state))


def read_title(job_dir: Path, default: str) -> str:
    """Return the name of a job for readers."""
    path = job_dir / TITLE_NAME
    return path.read_text(encoding='utf-8').strip() if path.is_file() else default


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system frees it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Superseded(RuntimeError):
    """Another process has taken the job over; what this one does with it is worth nothing any more."""


def take_claim(job_dir: Path, owner: dict[str, Any]) -> int | None:
    """Claim a job for a process; return the number of the claim, ``None`` if somebody else holds it or was faster."""
    last = last_claim(job_dir)
    if last and _is_held(_claim_file(job_dir, last)):
        return None
    number = last + 1
    path = _claim_file(job_dir, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open('x', encoding='utf-8') as file:  # only one process can create it
            file.write(json.dumps({**owner, 'claimed': time.time()}))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return None
    return number if last_claim(job_dir) == number else None


def last_claim(job_dir: Path) -> int:
    """Return the number of the last claim; 0 if there is none."""
    return max((int(path.stem) for path in (job_dir / CLAIMS).glob('[0-9]*.json')), default=0)


def claim_holder(job_dir: Path) -> dict[str, Any]:
    """Return the record of the last claim; empty while it is being written."""
    return _read_claim(_claim_file(job_dir, last_claim(job_dir)))


def check_claim(job_dir: Path, number: int) -> None:
    """Raise :class:`Superseded` if there is a claim after this one."""
    last = last_claim(job_dir)
    if last != number:
        raise Superseded(f'{job_dir} was taken over by claim {last} while this process held claim {number}.')


def release_claim(job_dir: Path, number: int) -> None:
    """End a claim. The file stays: its number must not be given away again."""
    path = _claim_file(job_dir, number)
    if path.is_file():
        write_json(path, {**_read_claim(path), 'released': time.time()})


def _is_held(path: Path) -> bool:
    record = _read_claim(path)
    if not record:  # created a moment ago, or its writer died between the creation and the first byte
        with contextlib.suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime < STALE_SECONDS
        return False
    return 'released' not in record and is_alive(record, record['claimed'])


def _read_claim(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return {}


def _claim_file(job_dir: Path, number: int) -> Path:
    return job_dir / CLAIMS / f'{number:04d}.json'
