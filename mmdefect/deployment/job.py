"""Predict many images into a folder: batches, measuring and writing beside the network, and a record to go on from.

What lies in the folder afterwards:

===========================  ====================================================================================
``predictions.jsonl``        a line for each image, with its defects; written last, so what it names is complete
``defects.csv``              a row for each defect
``images.csv``               a row for each image, with the decision on it
``labels/NAME.png``          label maps with palette
``overlays/NAME.png``        images with the defects drawn in, if asked for
``probabilities/NAME.npz``   ``(K + 1, H, W)`` float16, if asked for
``settings.json``            what was predicted with; a run with other settings does not go on here
===========================  ====================================================================================
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy import ndarray

from mmdefect.deployment.decoding import DecodedImage
from mmdefect.deployment.header import ImageError
from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.sources import AHEAD_BYTES, Source, decode_ahead
from mmdefect.deployment.types import Prediction, Predictor, check_thresholds
from mmdefect.deployment.writing import (
    RecordFile,
    encode_label_png,
    encode_overlay,
    encode_probabilities,
    image_record,
    tables_of,
    write_bytes,
)


@dataclass(frozen=True)
class JobSettings:
    """What a job writes and how it decides.

    Attributes:
        thresholds: one per defect class, ``None`` for those of the model.
        min_area_px: smaller regions are dropped.
        mm_per_pixel: for lengths in millimetres.
        overlay: write images: ``''`` (none), ``'.png'`` or ``'.jpg'``.
        probabilities: write probabilities.
        batch: images of one size that go through the network together.
        workers: threads that decode, and as many that write.
        max_pixels: larger images become errors.
    """

    thresholds: tuple[float, ...] | None = None
    min_area_px: int = 0
    mm_per_pixel: float | None = None
    overlay: str = ''
    probabilities: bool = False
    batch: int = 4
    workers: int = 2
    max_pixels: int = 2**30


@dataclass
class JobSummary:
    """What a job has done.

    Attributes:
        images: predicted now.
        skipped: found complete from an earlier run.
        defective: images with a defect, earlier ones included.
        failed: images that could not be read, and why.
    """

    images: int = 0
    skipped: int = 0
    defective: int = 0
    failed: list[str] = field(default_factory=list)


def predict_to_folder(
    predictor: Predictor,
    sources: Sequence[Source],
    out: str | Path,
    settings: JobSettings,
    model: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> JobSummary:
    """Predict images and write what :mod:`this module <mmdefect.deployment.job>` lists.

    Args:
        predictor: a loaded model.
        sources: see :func:`mmdefect.deployment.sources.find_sources`.
        out: folder; an earlier run with the same settings goes on in it.
        settings: see :class:`JobSettings`.
        model: file of the model; its content becomes part of the settings.
        overwrite: remove what an earlier run wrote.
        progress: called with the images done now and those defective so far.

    Raises:
        ValueError: if the folder holds results of other settings.
    """
    out = Path(out)
    if settings.thresholds is not None:
        check_thresholds(settings.thresholds, predictor.info.classes)
    claim_folder(out, facts_of(predictor, settings, model), overwrite)
    records = RecordFile(out / 'predictions.jsonl')
    summary = JobSummary(skipped=len(records.records))
    summary.defective = sum(bool(r.get('is_defective')) for r in records.records)
    writer, unreadable = _Writer(predictor, out, settings, records, summary), []
    try:
        known = frozenset(r['image'] for r in records.records)
        decoded = decode_ahead(sources, settings.workers, settings.max_pixels, known)
        for group in _batches(decoded, settings.batch):
            if isinstance(group[0][1], ImageError):
                summary.failed.append(str(group[0][1]))
                unreadable.append(dict(image=group[0][0].label, error=str(group[0][1])))
                continue
            finishers = _start(predictor, [image.pixels for _, image in group], settings)
            for (source, image), finish in zip(group, finishers, strict=True):
                writer.write(source, image, finish)
            if progress is not None and writer.pending:
                progress(summary.images, summary.defective)
        writer.finish()
        if progress is not None:
            progress(summary.images, summary.defective)
    finally:
        writer.close()
        records.close()
        defects, images = tables_of([*records.records, *unreadable])
        write_bytes(out / 'defects.csv', defects.encode())
        write_bytes(out / 'images.csv', images.encode())
    return summary


def _start(predictor: Predictor, images: list[ndarray], settings: JobSettings) -> list[Callable[[], Prediction]]:
    """Run the network; measuring is left to other threads where the predictor can be parted like that."""
    options = settings.thresholds, settings.min_area_px, settings.mm_per_pixel, settings.probabilities
    if isinstance(predictor, BatchPredictor):
        return predictor.start_batch(images, *options)
    return [lambda done=prediction: done for prediction in predictor.predict_batch(images, *options)]


class _Writer:
    """Measures and writes in threads, and then adds, in order, the record of each image."""

    def __init__(
        self, predictor: Predictor, out: Path, settings: JobSettings, records: RecordFile, summary: JobSummary
    ) -> None:
        self.info, self.out, self.settings, self.records = predictor.info, out, settings, records
        self.summary = summary
        self.pool = ThreadPoolExecutor(max(1, settings.workers), 'write')
        self.pending: deque[tuple[Future, int]] = deque()

    def write(self, source: Source, image: DecodedImage, finish: Callable[[], Prediction]) -> None:
        """Hand an image over; waits while many, or large ones, are waiting."""
        pixels = image.pixels.shape[0] * image.pixels.shape[1]
        held = pixels * (4 + 4 * len(self.info.classes))  # the image, its labels and its probabilities
        self.pending.append((self.pool.submit(self._files, source, image, finish), held))
        while self.pending and (
            len(self.pending) > 4 * self.settings.workers
            or self.pending[0][0].done()
            or (len(self.pending) > 1 and sum(size for _, size in self.pending) > AHEAD_BYTES)
        ):
            self._finish_first()

    def _files(self, source: Source, image: DecodedImage, finish: Callable[[], Prediction]) -> dict[str, Any]:
        prediction, palette = finish(), self.info.palette
        write_bytes(self.out / 'labels' / f'{source.name}.png', encode_label_png(prediction.label_map, palette))
        if self.settings.overlay:
            photo = encode_overlay(image.pixels, prediction.label_map, palette, self.settings.overlay)
            write_bytes(self.out / 'overlays' / f'{source.name}{self.settings.overlay}', photo)
        if prediction.probabilities is not None:
            content = encode_probabilities(prediction.probabilities, self.info.classes)
            write_bytes(self.out / 'probabilities' / f'{source.name}.npz', content)
        return image_record(source.label, image.pixels.shape[:2], prediction, image.header.notes)

    def _finish_first(self) -> None:
        record = self.pending.popleft()[0].result()
        self.records.add(record)
        self.summary.images += 1
        self.summary.defective += bool(record['is_defective'])

    def finish(self) -> None:
        """Wait for what is still to be written."""
        while self.pending:
            self._finish_first()

    def close(self) -> None:
        """Wait for what is still to be written, and end the threads."""
        try:
            self.finish()
        finally:
            self.pool.shutdown()


def _batches(decoded: Iterable[tuple[Source, DecodedImage | ImageError]], size: int) -> Iterator[list]:
    """Group neighbours of equal size; an error comes alone."""
    group: list = []
    for source, image in decoded:
        fits = not isinstance(image, ImageError) and group and group[0][1].pixels.shape == image.pixels.shape
        if group and (not fits or len(group) == size):
            yield group
            group = []
        group.append((source, image))
        if isinstance(image, ImageError):
            yield group
            group = []
    if group:
        yield group


def facts_of(predictor: Predictor, settings: JobSettings, model: str | Path | None) -> dict[str, Any]:
    """Return what the outputs depend on; batch and threads are not of it."""
    facts = {key: value for key, value in asdict(settings).items() if key not in ('batch', 'workers')}
    facts['thresholds'] = list(settings.thresholds or predictor.info.thresholds)
    facts['classes'] = list(predictor.info.classes)
    plan = getattr(predictor, 'plan', None)
    facts['tiles'] = None if plan is None else {k: v for k, v in asdict(plan).items() if k != 'batch'}
    facts['model'] = None if model is None else hashlib.sha256(Path(model).read_bytes()).hexdigest()
    return json.loads(json.dumps(facts))


def claim_folder(out: Path, facts: dict[str, Any], overwrite: bool) -> None:
    path = out / 'settings.json'
    if overwrite and path.is_file():
        for name in ('labels', 'overlays', 'probabilities'):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ('predictions.jsonl', 'defects.csv', 'images.csv', 'settings.json'):
            (out / name).unlink(missing_ok=True)
    if path.is_file():
        before = json.loads(path.read_text(encoding='utf-8'))
        changed = sorted(key for key in facts if before.get(key) != facts[key])
        if changed:
            raise ValueError(
                f'{out} must hold results of the same settings to go on in it, but these differ: '
                f'{", ".join(changed)}; take another folder, or overwrite.'
            )
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f'{out} must be empty or hold results of this tool, but holds other files; take another folder.'
        )
    write_bytes(path, (json.dumps(facts, indent=2) + '\n').encode())
