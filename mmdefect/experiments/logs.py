"""Read what a training or a test logged: mmengine scalar logs and mmseg test logs.

A scalar log (``<timestamp>/vis_data/scalars.json``) has one JSON object a line. Training lines carry ``iter``
or ``lr``, validation lines carry neither. A resumed training writes a second log in a second timestamp folder.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

#: Keys of a log line that are no metric.
BOOKKEEPING = frozenset({'step', 'iter', 'epoch', 'time', 'data_time', 'memory'})
_TRAIN_MARKS = frozenset({'iter', 'lr', 'base_lr'})
_VALIDATION_MARKS = frozenset({'aAcc', 'mIoU', 'time', 'data_time'})
_SUMMARY = re.compile(r'(?:Iter|Epoch)\(test\)\s+(?:\[\d+\])?\[\s*(\d+)/(\d+)\]\s+(.*)$')
_VERDICT = re.compile(r' INFO - (decision|Test): (.*)$')


def report_to_stderr(message: str) -> None:
    """Print one line to stderr; the default reporter of this module."""
    print(message, file=sys.stderr)


def read_scalars(path: str | Path, report: Callable[[str], None] = report_to_stderr) -> list[dict[str, Any]]:
    """Read the lines of a scalar log in order; a line that is no record is reported and left out."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} must be a scalar log (<timestamp>/vis_data/scalars.json), but there is no such file; name another.'
        )
    records = []
    for number, line in enumerate(path.read_bytes().split(b'\n'), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode('utf-8'))
        except ValueError:
            report(f'{path}:{number}: broken line skipped: {line[:80]!r}')
            continue
        step = record.get('step') if isinstance(record, dict) else None
        if isinstance(step, int) and not isinstance(step, bool):
            records.append(record)
        else:
            report(f'{path}:{number}: line without an integer "step" skipped: {line[:80]!r}')
    return records


def validations(logs: Iterable[list[dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    """Merge the logs of one training, oldest first, into ``{step: metrics}`` ordered by step.

    Where a later log, or the same log after a restart, begins again at step ``s``, everything older with step
    ``>= s`` belongs to weights that were thrown away and is dropped. So a resumed training keeps the validations
    before the checkpoint it resumed from, and a training started afresh keeps none of the former one.
    """
    merged: dict[int, dict[str, Any]] = {}
    for records in logs:
        start = min((r['step'] for r in records if _sets_position(r)), default=None)
        if start is not None:
            merged = {step: metrics for step, metrics in merged.items() if step < start}
        trained_to = None
        for record in records:
            step = record['step']
            if _TRAIN_MARKS & record.keys():
                if trained_to is not None and step <= trained_to:
                    merged = {s: metrics for s, metrics in merged.items() if s < step}
                trained_to = step
            elif record.keys() - BOOKKEEPING:
                merged.setdefault(step, {}).update({k: v for k, v in record.items() if k not in BOOKKEEPING})
    return dict(sorted(merged.items()))


def _sets_position(record: dict[str, Any]) -> bool:
    keys = record.keys()
    return bool(_TRAIN_MARKS & keys or (keys - BOOKKEEPING and _VALIDATION_MARKS & keys))


def read_validations(
    paths: Iterable[str | Path], report: Callable[[str], None] = report_to_stderr
) -> dict[int, dict[str, Any]]:
    """Read the validations of one training, at least one, from its logs, oldest first."""
    paths = [Path(path) for path in paths]
    merged = validations(read_scalars(path, report) for path in paths)
    if not merged:
        logs = ', '.join(map(str, paths)) or 'the list of logs'
        remedy = 'train longer than `train_cfg.val_interval` or make that interval smaller'
        raise ValueError(f'{logs} must hold at least one validation, but there is none; {remedy}.')
    return merged


def training_logs(train_dir: str | Path) -> list[Path]:
    """Return the scalar logs of a training folder, oldest first (the timestamp folders sort by time)."""
    return sorted(Path(train_dir).glob('*/vis_data/scalars.json'), key=lambda path: path.parts[-3])


def console_logs(train_dir: Path) -> list[Path]:
    """Return the outputs of the training tool, one for each attempt, in order."""
    return sorted(train_dir.glob('train_log_*.txt'), key=lambda path: int(path.stem.rpartition('_')[2]))


class TestLog(NamedTuple):
    """What the end of a test log says: its summary without the times, ``{class: {column: value}}``, in percent, and
    the verdict on parts."""

    __test__ = False  # no test class, whatever its name looks like to pytest

    summary: dict[str, float]
    classes: dict[str, dict[str, float]]
    verdict: str = ''  # the closing sentences, with the decision that was judged

    def metrics(self) -> dict[str, float]:
        """Return the summary and ``<column>.<class>`` in one dict."""
        return {**self.summary, **per_class(self.classes)}


def per_class(classes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return ``{<column>.<class>: value}`` of a table of classes."""
    return {f'{column}.{name}': value for name, row in classes.items() for column, value in row.items()}


def parse_test_log(text: str) -> TestLog:
    """Read the last per-class table and the last summary line of an mmseg test log.

    Without a summary line with metrics the test did not come to its end, which is a ``ValueError``.
    """
    summary: dict[str, float] = {}
    classes: dict[str, dict[str, float]] = {}
    header: list[str] | None = None
    verdict = decision = ''
    for line in text.splitlines():
        said = _VERDICT.search(line)
        if said:
            verdict, decision = (verdict, said[2]) if said[1] == 'decision' else (f'Test: {said[2]}', decision)
        match = _SUMMARY.search(line)
        if match and match[1] == match[2]:  # progress lines ("[60/60]  eta: 0:00:00  time: 0.1") hold times only
            summary = _values(match[3]) or summary
        line = line.strip()
        cells = [cell.strip() for cell in line.strip('|').split('|')] if line.startswith('|') else []
        if not cells:
            header = header if line.startswith('+') else None
        elif cells[0] == 'Class' and 'IoU' in cells:
            header, classes = cells, {}
        elif header is not None and len(cells) == len(header):
            classes[cells[0]] = {name: float(cell) for name, cell in zip(header[1:], cells[1:], strict=True)}
    if not summary:
        words = 'but has none: the test stopped early; look for an error in it'
        raise ValueError(f'the test log must end with "Iter(test) [n/n]  aAcc: ...  mIoU: ...", {words}.')
    return TestLog(summary, classes, f'{verdict} Decision: {decision}.' if verdict and decision else verdict)


def _values(text: str) -> dict[str, float]:
    values = {}
    for part in re.split(r'\s{2,}', text.strip()):
        name, _, value = part.rpartition(':')
        if name and name not in BOOKKEEPING and name != 'eta':
            with contextlib.suppress(ValueError):
                values[name.strip()] = float(value)
    return values
