"""Predict many images into a folder: batches, measuring and writing beside the network, and a record to continue from.

What lies in the folder afterwards:

===========================  ====================================================================================
``predictions.jsonl``        a line for each image, with its defects; written last, so what it names is complete
``defects.csv``              a row for each defect
``images.csv``               a row for each image, with the decision on it
``labels/NAME.png``          label maps with palette
``overlays/NAME.png``        images with the defects drawn in, if asked for
``probabilities/NAME.npz``   ``(K + 1, H, W)`` float16, if asked for
``settings.json``            what was predicted with; a run with other settings does not continue here
===========================  ====================================================================================

A large folder is predicted in parts, by several processes or on Ray: every part into ``parts/N``, and when it is
complete its files move to where one process would have written them. What a stopped run leaves in ``parts`` is kept.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdefect import files
from mmdefect.deployment.decision import check_thresholds
from mmdefect.deployment.decoding import MAX_PIXELS, DecodedImage, ImageError
from mmdefect.deployment.predictor import BatchPredictor, load_predictor
from mmdefect.deployment.sources import AHEAD_BYTES, Source, count_frames, decode_ahead, find_sources
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.deployment.types import ModelInfo, Prediction, PredictOptions, Predictor
from mmdefect.deployment.writing import (
    RecordFile,
    encode_label_png,
    encode_overlay,
    encode_probabilities,
    image_record,
    write_tables,
)
from mmdefect.progress import Progress

if TYPE_CHECKING:
    from mmdefect.experiments.bulk import Workers

#: Folders of files of single images.
FOLDERS = ('labels', 'overlays', 'probabilities')
#: Images of a part: enough to fill batches, few enough that a lost worker costs little.
PART_SIZE = 64


@dataclass(frozen=True)
class JobSettings:
    """What a job writes and how it decides."""

    thresholds: tuple[float, ...] | None = None  # one per defect class; None: those of the model
    min_area_px: int = 0  # smaller regions are dropped
    mm_per_pixel: float | None = None  # for lengths in millimetres
    overlay: str = ''  # suffix of images with the defects drawn in, .png or .jpg; '' for none
    probabilities: bool = False  # whether to write them
    batch: int = 4  # images of one size that go through the network together
    workers: int = 2  # threads that decode, and as many that write
    max_pixels: int = MAX_PIXELS  # larger images become errors

    def options(self, info: ModelInfo) -> PredictOptions:
        """Return what the predictor of a model has to know; ``ValueError`` if the thresholds do not fit its classes."""
        thresholds = check_thresholds(self.thresholds or info.thresholds, info.classes)
        return PredictOptions(thresholds, self.min_area_px, self.mm_per_pixel, self.probabilities)


@dataclass
class JobSummary:
    """What a job has done."""

    images: int = 0  # predicted now
    skipped: int = 0  # found complete from an earlier run
    defective: int = 0  # images with a defect, earlier ones included
    failed: list[str] = field(default_factory=list)  # images that could not be read, and why
    rule: str = ''  # which parts are defective, in words

    @classmethod
    def of_earlier(cls, records: Sequence[dict[str, Any]]) -> JobSummary:
        """Return that of a job that continues from these records."""
        return cls(skipped=len(records), defective=sum(bool(record['is_defective']) for record in records))


ShowProgress = Callable[[int, int], None]  # called with the images done now and those defective so far


def predict(
    model: str | Path,
    inputs: Sequence[str],
    out: str | Path,
    options: dict[str, Any] | None = None,
    *,
    lines: Iterable[str] = (),
    thresholds: Sequence[str] | None = None,
    tile: Sequence[int] | None = None,
    split: int | None = None,
    overlap: int | None = None,
    margin: int = 0,
    tile_multiple: int = 1,
    overwrite: bool = False,
    show_progress: bool = True,
    engine: str = 'local',
    processes: int = 1,
    **settings: Any,
) -> JobSummary:
    """Predict images into a folder: ``tools/predict.py`` from its arguments to the finished folder.

    Args:
        model: exported file or checkpoint.
        inputs: see :func:`mmdefect.deployment.sources.find_sources`.
        out: folder.
        options: of :func:`mmdefect.deployment.load_predictor`.
        lines: files, for the input ``-``.
        thresholds: ``VALUE`` or ``CLASS=VALUE`` each.
        tile, split, overlap, margin, tile_multiple: see :class:`TilePlan`.
        overwrite: remove what an earlier run wrote.
        show_progress: on standard error.
        engine, processes: more than one process, or the engine ``ray``, predict parts side by side.
        **settings: of :class:`JobSettings`, but ``thresholds``.
    """
    sources = find_sources(inputs, lines)  # before the model is loaded: a wrong name is noticed at once
    options = options or {}
    predictor = load_predictor(model, **options)
    job = JobSettings(parse_thresholds(thresholds, predictor.info), **settings)
    plan = make_plan(tile, split, overlap, margin, tile_multiple, job.batch)
    progress = Progress(count_frames(sources), every=10) if show_progress else None
    defective = 0

    def show(done: int, found: int) -> None:
        nonlocal defective
        defective = found
        progress.advance(done - progress.done, f'{found} defective')

    def show_tiles(done: int, total: int) -> None:
        if done < total:
            progress.advance(0, f'{defective} defective, tile {done} of {total}')

    with progress or nullcontext():
        if processes > 1 or engine != 'local':
            from mmdefect.experiments.bulk import Workers  # a single process needs none of it

            predictor.close()
            workers = Workers(engine, processes, options.get('threads') or 0)
            return predict_in_parts(model, options, sources, out, job, workers, plan, overwrite, progress and show)
        if plan is not None:
            predictor = TiledPredictor(predictor, plan, progress and show_tiles)
        with predictor:
            return predict_to_folder(predictor, sources, out, job, model, overwrite, progress and show)


def make_plan(
    tile: Sequence[int] | None, split: int | None, overlap: int | None, margin: int, multiple: int, batch: int
) -> TilePlan | None:
    """Return the plan that the arguments describe, ``None`` for whole images."""
    if tile is None and split is None:
        if overlap or margin or multiple != 1:
            raise ValueError('an overlap, a margin or a multiple needs tiles; give --tile or --split.')
        return None
    if tile is not None and len(tile) > 2:
        raise ValueError(f'--tile takes one number (side) or two (height and width), got {list(tile)}.')
    if overlap is None:
        overlap = 0 if tile is None else min(tile) // 8
    return TilePlan(None if tile is None else (tile[0], tile[-1]), split, overlap, margin, multiple, batch)


def parse_thresholds(given: Sequence[str] | None, info: ModelInfo) -> tuple[float, ...] | None:
    """Return the thresholds of the defect classes, those not named as the model has them."""
    if given is None:
        return None
    values = dict(zip(info.classes[1:], info.thresholds, strict=True))
    for text in given:
        name, _, number = text.rpartition('=')
        try:
            value = float(number)
        except ValueError as err:
            raise ValueError(f'a threshold must be VALUE or CLASS=VALUE, got {text!r}.') from err
        if name and name not in values:
            raise ValueError(f'a threshold must name one of {list(values)}, got {name!r}.')
        values.update(dict.fromkeys([name] if name else values, value))
    return check_thresholds(tuple(values.values()), info.classes)


def predict_to_folder(
    predictor: Predictor,
    sources: Sequence[Source],
    out: str | Path,
    settings: JobSettings,
    model: str | Path | None = None,
    overwrite: bool = False,
    progress: ShowProgress | None = None,
) -> JobSummary:
    """Predict images into a folder, in which an earlier run with the same settings is continued.

    The content of the ``model`` file is part of the settings. Results of other settings raise ``ValueError``, unless
    ``overwrite`` removes them.
    """
    out, options = Path(out), settings.options(predictor.info)
    _claim_folder(out, predictor, settings, model, overwrite)
    records, unreadable = RecordFile(out / 'predictions.jsonl'), []
    summary = JobSummary.of_earlier(records.records)
    summary.rule = predictor.info.verdict()
    known = frozenset(record['image'] for record in records.records)
    try:
        with _Writer(predictor.info, out, settings, records, summary) as writer:
            decoded = decode_ahead(sources, settings.workers, settings.max_pixels, known)
            for group in _batches(decoded, settings.batch):
                if isinstance(group[0][1], ImageError):
                    unreadable.append(dict(image=group[0][0].label, error=str(group[0][1])))
                    summary.failed.append(str(group[0][1]))
                    continue
                for (source, image), measure in zip(group, _start(predictor, group, options), strict=True):
                    writer.write(source, image, measure)
                if progress is not None and writer.pending:
                    progress(summary.images, summary.defective)
        if progress is not None:
            progress(summary.images, summary.defective)
    finally:
        records.close()
        write_tables(out, [*records.records, *unreadable])
    return summary


def _start(predictor: Predictor, group: list[tuple], options: PredictOptions) -> list[Callable[[], Prediction]]:
    """Run the network; measuring is left to other threads where the predictor can be split like that."""
    images = [image.pixels for _, image in group]
    if isinstance(predictor, BatchPredictor):
        return predictor.start(images, options)
    return [lambda done=prediction: done for prediction in predictor.predict(images, options)]


def _batches(decoded: Iterable[tuple[Source, DecodedImage | ImageError]], size: int) -> Iterator[list]:
    """Group neighbours of equal size; an error comes alone."""
    group: list = []
    for source, image in decoded:
        failed = isinstance(image, ImageError)
        if group and (failed or len(group) == size or group[0][1].pixels.shape != image.pixels.shape):
            yield group
            group = []
        if failed:
            yield [(source, image)]
        else:
            group.append((source, image))
    if group:
        yield group


class _Writer:
    """Measures and writes in threads, and then adds, in order, the record of each image."""

    def __init__(
        self, info: ModelInfo, out: Path, settings: JobSettings, records: RecordFile, summary: JobSummary
    ) -> None:
        self.info, self.out, self.settings, self.records, self.summary = info, out, settings, records, summary
        self.pool = ThreadPoolExecutor(max(1, settings.workers), 'write')
        self.pending: deque[tuple[Future, int]] = deque()

    def write(self, source: Source, image: DecodedImage, measure: Callable[[], Prediction]) -> None:
        """Hand an image over; waits while many, or large ones, are waiting."""
        pixels = image.pixels.shape[0] * image.pixels.shape[1]
        held = pixels * (4 + 4 * len(self.info.classes))  # the image, its labels and its probabilities
        self.pending.append((self.pool.submit(self._write_files, source, image, measure), held))
        while self.pending and (
            len(self.pending) > 4 * self.settings.workers
            or self.pending[0][0].done()
            or (len(self.pending) > 1 and sum(size for _, size in self.pending) > AHEAD_BYTES)
        ):
            self._finish_first()

    def _write_files(self, source: Source, image: DecodedImage, measure: Callable[[], Prediction]) -> dict[str, Any]:
        prediction, palette, overlay = measure(), self.info.palette, self.settings.overlay
        labels = prediction.label_map
        files.write_bytes(self.out / f'labels/{source.name}.png', encode_label_png(labels, palette))
        if overlay:
            drawn = encode_overlay(image.pixels, labels, palette, overlay)
            files.write_bytes(self.out / f'overlays/{source.name}{overlay}', drawn)
        if prediction.probabilities is not None:
            probabilities = encode_probabilities(prediction.probabilities, self.info.classes)
            files.write_bytes(self.out / f'probabilities/{source.name}.npz', probabilities)
        return image_record(source.label, labels.shape, prediction, image.header.notes)

    def _finish_first(self) -> None:
        record = self.pending.popleft()[0].result()
        self.records.add(record)
        self.summary.images += 1
        self.summary.defective += bool(record['is_defective'])

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        with self.pool:
            while self.pending:
                self._finish_first()


def predict_in_parts(
    model: str | Path,
    options: dict[str, Any],
    sources: Sequence[Source],
    out: str | Path,
    settings: JobSettings,
    workers: Workers,
    plan: TilePlan | None = None,
    overwrite: bool = False,
    progress: ShowProgress | None = None,
    part_size: int = PART_SIZE,
) -> JobSummary:
    """Predict images in parts of ``part_size`` sources (a video is one), side by side.

    Every worker loads the model with the options of :func:`load_predictor`. The folder is the one that
    :func:`predict_to_folder` writes in a single process.
    """
    from mmdefect.experiments.bulk import chunks, map_items

    out = Path(out)
    with _load_tiled(model, options, plan) as predictor:
        _claim_folder(out, predictor, settings, model, overwrite)
        rule = predictor.info.verdict()
    records, unreadable = RecordFile(out / 'predictions.jsonl'), []
    try:
        for folder in sorted((out / 'parts').glob('*')):  # of a run that was stopped
            _take_over(folder, out, records)  # what could not be read is tried again
        shutil.rmtree(out / 'parts', ignore_errors=True)
        summary = JobSummary.of_earlier(records.records)
        summary.rule = rule
        known = {record['image'] for record in records.records}
        todo = [source for source in sources if source.label not in known]
        parts = list(enumerate(chunks(todo, -(-len(todo) // part_size)))) if todo else []
        make = partial(_make_predict_part, model, options, plan, settings, out / 'parts')
        for folder, part in map_items(make, parts, workers):
            unreadable += _take_over(folder, out, records)
            summary.images += part.images
            summary.defective += part.defective
            summary.failed += part.failed
            if progress is not None:
                progress(summary.images, summary.defective)
        shutil.rmtree(out / 'parts', ignore_errors=True)
    finally:
        records.close()
        write_tables(out, [*records.records, *unreadable])
    return summary


def _load_tiled(model: str | Path, options: dict[str, Any], plan: TilePlan | None) -> Predictor:
    predictor = load_predictor(model, **options)
    return predictor if plan is None else TiledPredictor(predictor, plan)


def _make_predict_part(
    model: str | Path, options: dict[str, Any], plan: TilePlan | None, settings: JobSettings, folder: Path
) -> Callable[[tuple[int, Sequence[Source]]], tuple[Path, JobSummary]]:
    predictor = _load_tiled(model, options, plan)

    def predict_part(item: tuple[int, Sequence[Source]]) -> tuple[Path, JobSummary]:
        number, sources = item
        part = folder / f'{number:06d}'
        return part, predict_to_folder(predictor, sources, part, settings, model)

    return predict_part


def _take_over(part: Path, out: Path, records: RecordFile) -> list[dict[str, Any]]:
    """Move the files of complete images, then write their records; return those of images that could not be read."""
    finished = RecordFile(part / 'predictions.jsonl')
    finished.close()
    known = {record['image'] for record in records.records}
    for path in sorted(p for name in FOLDERS for p in (part / name).rglob('*') if p.is_file()):
        target = out / path.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    for record in finished.records:
        if record['image'] not in known:  # recorded before the stop, its part not yet removed
            records.add(record)
    rows = []
    if (part / 'images.csv').is_file():
        with (part / 'images.csv').open(encoding='utf-8', newline='') as file:
            rows = [dict(image=row['image'], error=row['error']) for row in csv.DictReader(file) if row['error']]
    shutil.rmtree(part)
    return rows


def _claim_folder(
    out: Path, predictor: Predictor, settings: JobSettings, model: str | Path | None, overwrite: bool
) -> None:
    """Write what the outputs depend on into ``settings.json``, or compare it with what an earlier run wrote."""
    facts = {key: value for key, value in asdict(settings).items() if key not in ('batch', 'workers')}
    facts['thresholds'] = list(settings.thresholds or predictor.info.thresholds)
    facts['classes'] = list(predictor.info.classes)
    plan = getattr(predictor, 'plan', None)
    facts['tiles'] = None if plan is None else {k: v for k, v in asdict(plan).items() if k != 'batch'}
    facts['model'] = None if model is None else hashlib.sha256(Path(model).read_bytes()).hexdigest()
    path = out / 'settings.json'
    if overwrite and path.is_file():
        for name in FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ('predictions.jsonl', 'defects.csv', 'images.csv', 'settings.json'):
            (out / name).unlink(missing_ok=True)
    if path.is_file():
        before, facts = json.loads(path.read_text(encoding='utf-8')), json.loads(json.dumps(facts))
        changed = ', '.join(sorted(key for key in facts if before.get(key) != facts[key]))
        if changed:
            raise ValueError(
                f'{out} must hold results of the same settings to continue in it, but these differ: {changed}; '
                'take another folder, or overwrite.'
            )
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f'{out} must be empty or hold results of this tool, but holds other files; take another folder.'
        )
    files.write_json(path, facts)
