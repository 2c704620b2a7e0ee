"""Counters and times of the server in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from mmdefect.deployment.server.batching import BatchReport
from mmdefect.deployment.types import ModelInfo, Prediction

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class ServerMetrics:
    """The metrics of one server; they have a registry of their own, so servers do not add up."""

    def __init__(
        self, info: ModelInfo, in_flight: Callable[[], int], queued: Callable[[], int], held_bytes: Callable[[], int]
    ) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

        self.registry = registry = CollectorRegistry()

        def gauge(name: str, text: str, read: Callable[[], int]) -> None:
            Gauge(f'mmdefect_{name}', text, registry=registry).set_function(read)

        def counter(name: str, text: str, label: str) -> Counter:
            return Counter(f'mmdefect_{name}', text, [label], registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f'mmdefect_{name}', text, buckets=buckets, registry=registry)

        ProcessCollector(registry=registry)
        facts = {'name': info.name, 'kind': info.kind, 'classes': ','.join(info.classes)}
        Info('mmdefect_model', 'The model that is served.', registry=registry).info(facts)
        gauge('in_flight', 'Requests accepted and not yet answered.', in_flight)
        gauge('queued', 'Images waiting for the model.', queued)
        gauge('held_bytes', 'Memory that requests hold, by estimate.', held_bytes)
        self._requests = counter('requests', 'Answers to POST /predict.', 'status')
        self._errors = counter('refusals', 'Requests without a prediction.', 'reason')
        self._images = counter('images', 'Images by decision.', 'decision')
        self._defects = counter('defects', 'Defects found.', 'defect_class')
        self._seconds = histogram('request_seconds', 'From the first byte of a request to its prediction.')
        self._waits = histogram('wait_seconds', 'Time of an image in the queue.')
        self._model = histogram('model_seconds', 'Time of a batch in the model.')
        self._sizes = histogram('batch_images', 'Images in a batch.', (1, 2, 4, 8, 16, 32, 64))
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

    def count_error(self, status: int, reason: str) -> None:
        """Take in one request to ``/predict`` that gets no prediction."""
        self._requests.labels(str(status)).inc()
        self._errors.labels(reason).inc()

    def render(self) -> tuple[bytes, str]:
        """Return the text that Prometheus reads, and its media type."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
