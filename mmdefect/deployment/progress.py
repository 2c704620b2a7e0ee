"""One line of progress on a terminal, or a line now and then in a log. Needs nothing but the standard library."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class ProgressLine:
    """Shows how many of how many, how fast, and how long it will take.

    Args:
        total: number of things.
        unit: what they are.
        stream: where to write; standard error if left out.
        every: seconds between lines where the stream is no terminal.
    """

    def __init__(self, total: int, unit: str = 'images', stream: TextIO | None = None, every: float = 10.0) -> None:
        self.total, self.unit, self.stream = total, unit, stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = self.shown = time.monotonic()

    def __call__(self, done: int, note: str = '') -> None:
        """Show the state, if the last time is long enough ago or this is the end."""
        now = time.monotonic()
        if now - self.shown >= self.every or done >= self.total:
            self.shown = now
            text = self.text(done, now - self.start, note)
            self.stream.write(f'\r{text}\x1b[K' if self.terminal else f'{text}\n')
            self.stream.flush()

    def text(self, done: int, seconds: float, note: str = '') -> str:
        """Return the line."""
        rate = done / seconds if seconds > 0 else 0.0
        left = (self.total - done) / rate if rate else float('inf')
        eta = '?' if left == float('inf') else f'{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}'
        share = 100 * done / max(1, self.total)
        return f'{done}/{self.total} {self.unit} ({share:.0f} %), {rate:.1f} {self.unit}/s, ETA {eta}{note and ", " + note}'

    def close(self) -> None:
        """End the line of a terminal."""
        if self.terminal:
            self.stream.write('\n')
