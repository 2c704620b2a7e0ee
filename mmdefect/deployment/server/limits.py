"""What the server takes on at once: a bounded number of requests, and a bounded sum of what they hold in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from mmdefect.deployment.server.errors import RequestError


class RequestLimits:
    """Counts requests and bytes; used from one thread, the event loop.

    The estimate of ``seconds_per_image`` gives the time after which a rejected client should try again.
    """

    def __init__(self, slots: int, memory_bytes: int, seconds_per_image: Callable[[], float] = lambda: 0.0) -> None:
        self.slots, self.memory_bytes, self._seconds_per_image = slots, memory_bytes, seconds_per_image
        self.in_flight = self.arriving = self.held_bytes = 0

    def take_slot(self) -> Slot:
        """Return a slot for a new request; :class:`RequestError` 503 if all are taken."""
        if self.in_flight >= self.slots:
            raise self.overloaded(f'the server must have room for a request, but {self.slots} are waiting already')
        return Slot(self)

    def overloaded(self, fact: str) -> RequestError:
        """The error of a full server, with the time that the accepted requests will about need."""
        seconds = min(max(math.ceil(self.in_flight * self._seconds_per_image()), 1), 60)
        return RequestError('overloaded', f'{fact}; try again in {seconds} s.', headers={'Retry-After': str(seconds)})


class Slot:
    """The place of one request and what it holds; a context manager that gives both back."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits, self._bytes, self._arriving = limits, 0, True
        limits.in_flight += 1
        limits.arriving += 1

    def hold(self, size: int) -> None:
        """Hold ``size`` bytes from now on; :class:`RequestError` 503 if that is too much together, 413 if alone."""
        limits = self._limits
        if size > limits.memory_bytes:
            fact = f'but this one would need about {size}; send a smaller image or ask for less.'
            raise RequestError(
                'too_large', f'a request must need at most {limits.memory_bytes} bytes of memory, {fact}'
            )
        if limits.held_bytes - self._bytes + size > limits.memory_bytes:
            most = f'at most {limits.memory_bytes} bytes of memory'
            raise limits.overloaded(f'all requests together must need {most}, but with this one they would need more')
        limits.held_bytes += size - self._bytes
        self._bytes = size

    def queued(self) -> None:
        """Say that the image is on its way to the model, no more on its way in."""
        self._limits.arriving -= self._arriving
        self._arriving = False

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *error: object) -> None:
        self.queued()
        self._limits.in_flight -= 1
        self._limits.held_bytes -= self._bytes
        self._bytes = 0
