"""What every benchmark needs: one thread, alternating timing, facts about the machine, a table and a JSON record.

Import this module before torch, NumPy or OpenCV: the number of threads is read when they are loaded. Contestants of one
comparison run in turns within one process, so that a busy machine slows all of them, and the clock is the processor
time of the one thread, so that the time during which somebody else has the core does not count; ratios are taken from
the medians of the same run.
"""

from __future__ import annotations

import os

for _name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(_name, '1')

import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / 'results'


def use_one_thread() -> None:
    """Limit torch and OpenCV to one thread each."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def race(
    contestants: Mapping[str, Callable[[], object]], seconds: float = 0.5, warm_up: int = 3, most: int = 1000
) -> dict[str, dict[str, float]]:
    """Time callables in turns, by the processor time of the calling thread; they must not start threads.

    Args:
        contestants: name to callable without arguments.
        seconds: time for each contestant, beside the warm-up.
        warm_up: untimed calls of each.
        most: no more timed calls than this.

    Returns:
        Name to ``median_ms``, ``min_ms``, ``spread_ms`` (between the quartiles) and ``calls``.
    """
    for call in contestants.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds * len(contestants)
    rounds = 0
    while rounds < 5 or (time.perf_counter() < end and rounds < most):
        for name, call in contestants.items():
            start = time.thread_time_ns()
            call()
            times[name].append(1e-6 * (time.thread_time_ns() - start))
        rounds += 1
    return {name: summarize(values) for name, values in times.items()}


def summarize(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, minimum, distance of the quartiles and number of some times."""
    low, middle, high = statistics.quantiles(milliseconds, n=4)
    return {
        'median_ms': round(middle, 5),
        'min_ms': round(min(milliseconds), 5),
        'spread_ms': round(high - low, 5),
        'calls': len(milliseconds),
    }


def environment(packages: Sequence[str] = ('torch', 'numpy', 'scipy', 'opencv-python')) -> dict[str, object]:
    """Command, commit, processor, load and versions: what a number needs beside it."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = 'not installed'
    # Of a path of this machine only its last part.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return {
        'command': ' '.join(['python', sys.argv[0], *words]),
        'commit': _commit(),
        'processor': _processor(),
        'cores': os.cpu_count(),
        'load_average_1min': round(os.getloadavg()[0], 2),
        'clock': 'thread time',
        'threads': os.environ['OMP_NUM_THREADS'],
        'python': platform.python_version(),
        'versions': versions,
        'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    }


def _commit() -> str:
    answer = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return answer.stdout.strip() if answer.returncode == 0 else 'unknown'


def _processor() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def write_record(
    name: str, results: object, metadata: Mapping[str, object] | None = None, folder: Path = RESULTS
) -> Path:
    """Write ``{metadata, results}`` as ``<folder>/<name>.json``.

    Args:
        name: of the benchmark.
        results: anything JSON can hold; usually a list with one dict per row.
        metadata: facts beside those of :func:`environment`.
        folder: where to write.

    Returns:
        The file written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.json'
    record = {'metadata': {**environment(), **(metadata or {})}, 'results': results}
    path.write_text(json.dumps(record, indent=1) + '\n')
    return path


def format_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys as a Markdown table; numbers with three significant digits."""
    heads = list(rows[0])
    cells = [heads] + [[_cell(row[head]) for head in heads] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    lines = [
        '| ' + ' | '.join(text.rjust(width) for text, width in zip(line, widths, strict=True)) + ' |' for line in cells
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 1) + ':' for width in widths) + '|')
    return '\n'.join(lines)


def _cell(value: object) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)
