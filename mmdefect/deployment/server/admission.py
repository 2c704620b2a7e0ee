"""Who may come in: a bounded number of requests, and a bounded sum of what they hold in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from mmdefect.deployment.server.refusals import Refusal


class Admission:
    """Counts requests and bytes; used from one thread, the event loop.

    Args:
        slots: requests at the same time.
        memory_bytes: sum of what they may hold.
        seconds_per_image: current estimate, for the time after which to try again.
    """

    def __init__(self, slots: int, memory_bytes: int, seconds_per_image: Callable[[], float] = lambda: 0.0) -> None:
        self.slots = slots
        self.memory_bytes = memory_bytes
        self.in_flight = 0
        self.arriving = 0
        self.held_bytes = 0
        self._seconds_per_image = seconds_per_image

    def admit(self) -> Ticket:
        """Take a slot.

        Raises:
            Refusal: 503, if all are taken.
        """
        if self.in_flight >= self.slots:
            raise self.busy(f'the server must have room for a request, but {self.slots} are waiting already')
        return Ticket(self)

    def busy(self, fact: str) -> Refusal:
        """The refusal of a full server, with the time that the accepted requests will about need."""
        seconds = min(max(math.ceil(self.in_flight * self._seconds_per_image()), 1), 60)
        return Refusal(503, 'overloaded', f'{fact}; try again in {seconds} s.', retry_after_s=seconds)


class Ticket:
    """The slot of one request and what it holds; a context manager that gives both back."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0
        self._arriving = True
        admission.in_flight += 1
        admission.arriving += 1

    def hold(self, size: int) -> None:
        """Hold ``size`` bytes from now on, instead of what was held before.

        Raises:
            Refusal: 503, if all requests together would hold too much; 413, if this one alone does.
        """
        admission = self._admission
        if size > admission.memory_bytes:
            raise Refusal(
                413,
                'too_large',
                f'a request must need at most {admission.memory_bytes} bytes of memory, '
                f'but this one would need about {size}; send a smaller image or ask for less.',
            )
        if admission.held_bytes - self._bytes + size > admission.memory_bytes:
            raise admission.busy(
                f'all requests together must need at most {admission.memory_bytes} bytes of memory, '
                'but with this one they would need more'
            )
        admission.held_bytes += size - self._bytes
        self._bytes = size

    def queued(self) -> None:
        """Say that the image is on its way to the model, no more on its way in."""
        if self._arriving:
            self._arriving = False
            self._admission.arriving -= 1

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_) -> None:
        self.queued()
        self._admission.in_flight -= 1
        self._admission.held_bytes -= self._bytes
        self._bytes = 0
