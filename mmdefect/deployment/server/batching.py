"""Dynamic micro-batches: images that arrive together go through the model together."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass
class BatchReport:
    """What happened to one batch, for the metrics."""

    size: int
    waited_s: list[float]
    seconds: float


@dataclass
class _Item:
    image: Any
    key: Hashable
    future: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class MicroBatcher:
    """One thread that feeds a model.

    An image waits at most ``max_delay_s`` for others, counted from its arrival, so a busy model adds no wait of its
    own; and not at all when it is alone: no other request is arriving and the last batch had one image. Images with
    different keys (thresholds and so on) do not share a batch; order of arrival is kept within a key.

    Args:
        predict: images and their common key to one result per image, in order; called from this thread, as is report.
        max_batch, max_delay_s: images in a batch, and the longest wait for others.
        arriving: how many requests may soon bring another image.
        report: called after each batch.
    """

    def __init__(
        self,
        predict: Callable[[list, Any], Sequence],
        max_batch: int,
        max_delay_s: float,
        arriving: Callable[[], int] = lambda: 1,
        report: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self._predict, self._arriving, self._report = predict, arriving, report
        self._max_batch, self._max_delay_s = max_batch, max_delay_s
        self._items: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._last_size = 0
        self.seconds_per_image = 0.0
        self._thread = threading.Thread(target=self._run, name='micro-batches', daemon=True)
        self._thread.start()

    def submit(self, image: Any, key: Hashable) -> Future:
        """Queue an image; the future can be cancelled until its batch starts."""
        with self._changed:
            if self._closing:
                raise RuntimeError('images must be submitted before the batcher is closed.')
            item = _Item(image, key)
            self._items.append(item)
            self._changed.notify()
        return item.future

    def __len__(self) -> int:
        return len(self._items)

    def is_alive(self) -> bool:
        """Whether images are still taken to the model."""
        return self._thread.is_alive() and not self._closing

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish what is queued and stop the thread; return whether it has stopped in time, or hangs in the model."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._collect():
            batch = [item for item in batch if item.future.set_running_or_notify_cancel()]
            if batch:
                self._last_size = len(batch)
                self._answer(batch)

    def _collect(self) -> list[_Item]:
        """Wait for the next batch; empty when closed and nothing is left."""
        with self._changed:
            while not self._items:
                if self._closing:
                    return []
                self._changed.wait()
            deadline = self._items[0].arrived + self._max_delay_s
            while self._worth_waiting() and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            key = self._items[0].key
            batch, others = [], deque()
            for item in self._items:
                (batch if item.key == key and len(batch) < self._max_batch else others).append(item)
            self._items = others
        return batch

    def _worth_waiting(self) -> bool:
        key = self._items[0].key
        full = sum(item.key == key for item in self._items) >= self._max_batch
        return not full and not self._closing and (self._arriving() > 0 or self._last_size > 1)

    def _answer(self, batch: list[_Item]) -> None:
        start, count = time.monotonic(), len(batch)
        try:
            results = self._predict([item.image for item in batch], batch[0].key)
            if len(results) != count:
                raise RuntimeError(
                    f'a model must return one prediction per image, but {len(results)} came for {count}.'
                )
        except Exception as err:  # whatever a model raises belongs to the requests, not to this thread
            if count == 1:
                batch[0].future.set_exception(err)
            else:  # one image must not take its neighbours along
                for item in batch:
                    self._answer([item])
            return
        seconds = time.monotonic() - start
        self.seconds_per_image += (0.2 if self.seconds_per_image else 1.0) * (seconds / count - self.seconds_per_image)
        self._report(BatchReport(count, [start - item.arrived for item in batch], seconds))
        for item, result in zip(batch, results, strict=True):
            item.future.set_result(result)
