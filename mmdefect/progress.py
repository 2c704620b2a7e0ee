"""How far a long run is: one line that is renewed on a terminal, a line now and then in a log. No dependencies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO


class Progress:
    """Counts finished things and shows how many of how many, how fast, and how long the rest takes.

    Args:
        total: number of things.
        text: what is done with them.
        unit: what they are, plural.
        done: how many an earlier run has finished; they do not count for the rate.
        stream: where to write; standard error if left out.
        every: seconds between lines where the stream is no terminal.
    """

    def __init__(
        self,
        total: int,
        text: str = '',
        unit: str = 'images',
        done: int = 0,
        stream: TextIO | None = None,
        every: float = 30.0,
    ) -> None:
        self.total, self.name, self.unit, self.done, self.first = total, text, unit, done, done
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = self.shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def advance(self, count: int = 1, note: str = '') -> None:
        """Count finished things; show the state if the last time is long enough ago or this is the end."""
        self.done += count
        now = time.monotonic()
        if now - self.shown >= self.every or self.done >= self.total:
            self.shown = now
            line = self.line(now - self.start, note)
            self.stream.write(f'\r{line}\x1b[K' if self.terminal else f'{line}\n')
            self.stream.flush()

    def line(self, seconds: float, note: str = '') -> str:
        """Return the state after so many seconds of this run."""
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        left = (self.total - self.done) / rate if rate else None
        eta = '?' if left is None else f'{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}'
        speed = f'{rate:.1f} {self.unit}/s' if rate >= 1 else f'{60 * rate:.3g} {self.unit}/min'
        share = 100 * self.done / max(1, self.total)
        name, note = self.name and f'{self.name}: ', note and f', {note}'
        return f'{name}{self.done}/{self.total} {self.unit} ({share:.0f} %), {speed}, ETA {eta}{note}'

    def close(self) -> None:
        """End the line of a terminal."""
        if self.terminal:
            self.stream.write('\n')


def track(items: Iterable, text: str, total: int, unit: str = 'images') -> Iterator:
    """Yield ``items`` and show how many of ``total`` are done."""
    with Progress(total, text, unit) as progress:
        for item in items:
            yield item
            progress.advance()
