"""Show how far a long run is, its rate and the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

#: Seconds between two lines in a log.
_LOG_SECONDS = 60.0


class _RateColumn(ProgressColumn):
    """Things per minute."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text('' if not speed else f'{speed * 60:.3g} {self.unit}/min')


class Meter:
    """Progress of a run, as a context manager.

    Args:
        text: what is done.
        total: things to do in all.
        done: things done by an earlier run.
        unit: what is counted, plural.
    """

    def __init__(self, text: str, total: int, done: int = 0, unit: str = 'images') -> None:
        self.text, self.total, self.unit, self.count, self.first = text, total, unit, done, done
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(unit),
            TextColumn('ETA'),
            TimeRemainingColumn(),
            TextColumn('{task.fields[note]}'),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._logs = not console.is_terminal

    def __enter__(self) -> Meter:
        self._bar.start()
        self._task = self._bar.add_task(self.text, total=self.total, completed=self.count, note='')
        self._start = self._logged = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def advance(self, count: int = 1, note: str = '') -> None:
        """Count finished things."""
        self.count += count
        self._bar.update(self._task, advance=count, note=note)
        now = time.monotonic()
        if self._logs and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            print(self.line(now - self._start, note), file=sys.stderr, flush=True)

    def line(self, seconds: float, note: str = '') -> str:
        """Return the state in one line, after so many seconds of this run."""
        rate = (self.count - self.first) / max(seconds, 1e-9)
        left = (self.total - self.count) / max(rate, 1e-9)
        clock = f'{int(left // 3600)}:{int(left % 3600 // 60):02d}:{int(left % 60):02d}'
        return (
            f'{self.text}: {self.count}/{self.total}, {60 * rate:.3g} {self.unit}/min, ETA {clock}'
            f'{" " + note if note else ""}'
        )


def track(items: Iterable, text: str, total: int, unit: str = 'images') -> Iterator:
    """Yield ``items`` and show how many of ``total`` are done."""
    with Meter(text, total, unit=unit) as meter:
        for item in items:
            yield item
            meter.advance()
