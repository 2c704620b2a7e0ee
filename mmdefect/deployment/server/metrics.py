"""Counters and times of the server in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from mmdefect.deployment.server.batching import BatchReport
from mmdefect.deployment.types import ModelInfo, Prediction

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class ServerMetrics:
    """The metrics of one server; they have a registry of their own, so servers do not add up.

    Args:
        info: of the model.
        in_flight: requests accepted and not yet answered.
        queued: images waiting for the model.
        held_bytes: estimate of what requests hold in memory.
    """

    def __init__(
        self, info: ModelInfo, in_flight: Callable[[], int], queued: Callable[[], int], held_bytes: Callable[[], int]
    ) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info('mmdefect_model', 'The model that is served.', registry=registry).info(
            {'name': info.name, 'kind': info.kind, 'classes': ','.join(info.classes)}
        )
        for name, text, read in (
            ('in_flight', 'Requests accepted and not yet answered.', in_flight),
            ('queued', 'Images waiting for the model.', queued),
            ('held_bytes', 'Memory that requests hold, by estimate.', held_bytes),
        ):
            Gauge(f'mmdefect_{name}', text, registry=registry).set_function(read)
        self._requests = Counter('mmdefect_requests', 'Answers to POST /predict.', ['status'], registry=registry)
        self._refusals = Counter('mmdefect_refusals', 'Requests without a prediction.', ['reason'], registry=registry)
        self._images = Counter('mmdefect_images', 'Images by decision.', ['decision'], registry=registry)
        self._defects = Counter('mmdefect_defects', 'Defects found.', ['defect_class'], registry=registry)
        self._seconds = Histogram(
            'mmdefect_request_seconds',
            'From the first byte of a request to its prediction.',
            buckets=SECONDS,
            registry=registry,
        )
        self._waits = Histogram(
            'mmdefect_wait_seconds', 'Time of an image in the queue.', buckets=SECONDS, registry=registry
        )
        self._model = Histogram(
            'mmdefect_model_seconds', 'Time of a batch in the model.', buckets=SECONDS, registry=registry
        )
        self._sizes = Histogram(
            'mmdefect_batch_images', 'Images in a batch.', buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        for decision in ('defective', 'good'):
            self._images.labels(decision)
        for name in info.classes[1:]:
            self._defects.labels(name)

    def count_batch(self, report: BatchReport) -> None:
        """Take in one batch; may be called from any thread."""
        self._sizes.observe(report.size)
        self._model.observe(report.seconds)
        for wait in report.waited_s:
            self._waits.observe(wait)

    def count_answer(self, prediction: Prediction, seconds: float) -> None:
        """Take in one prediction that is about to be sent."""
        self._requests.labels('200').inc()
        self._seconds.observe(seconds)
        self._images.labels('defective' if prediction.is_defective else 'good').inc()
        for defect in prediction.defects:
            self._defects.labels(defect.class_name).inc()

    def count_refusal(self, status: int, reason: str) -> None:
        """Take in one request to ``/predict`` that gets no prediction."""
        self._requests.labels(str(status)).inc()
        self._refusals.labels(reason).inc()

    def render(self) -> tuple[bytes, str]:
        """Return the text that Prometheus reads, and its media type."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
