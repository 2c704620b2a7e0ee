"""Predict a large folder side by side: parts of it in several processes or on Ray, put together as one run.

Every part is predicted by :func:`~mmdefect.deployment.job.predict_to_folder` into ``parts/N``; when it is complete, its
files move to where one process would have written them. What a stopped run leaves in ``parts`` is taken over.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmdefect.deployment.job import JobSettings, JobSummary, claim_folder, facts_of, predict_to_folder
from mmdefect.deployment.loading import load_predictor
from mmdefect.deployment.sources import Source
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.deployment.types import Predictor
from mmdefect.deployment.writing import RecordFile, tables_of, write_bytes
from mmdefect.experiments.bulk import Workers, chunks, map_items

#: Images of a part: enough to fill batches, few enough that a lost worker costs little.
PART = 64
FOLDERS = ('labels', 'overlays', 'probabilities')


def predict_in_parts(
    model: str | Path,
    options: dict[str, Any],
    sources: Sequence[Source],
    out: str | Path,
    settings: JobSettings,
    workers: Workers,
    plan: TilePlan | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    part_size: int = PART,
) -> JobSummary:
    """Predict images side by side; the folder is the one that a single process writes.

    Args:
        model: exported file or checkpoint; every worker loads it.
        options: of :func:`load_predictor`.
        sources: see :func:`mmdefect.deployment.sources.find_sources`; a video is one source.
        out: folder; an earlier run with the same settings goes on in it.
        settings: see :class:`JobSettings`.
        workers: who predicts.
        plan: of tiles.
        overwrite: remove what an earlier run wrote.
        progress: called with the images done now and those defective so far.
        part_size: sources of a part.
    """
    out = Path(out)
    predictor = make_predictor(model, options, plan)
    try:
        claim_folder(out, facts_of(predictor, settings, model), overwrite)
    finally:
        predictor.close()
    records = RecordFile(out / 'predictions.jsonl')
    summary, unreadable = JobSummary(skipped=len(records.records)), []
    try:
        for folder in sorted((out / 'parts').glob('*')):  # of a run that was stopped
            _take_over(folder, out, records, unreadable)
        shutil.rmtree(out / 'parts', ignore_errors=True)
        summary.skipped, unreadable = len(records.records), []  # what could not be read is tried again
        summary.defective = sum(bool(r.get('is_defective')) for r in records.records)
        known = {r['image'] for r in records.records}
        todo = [source for source in sources if source.label not in known]
        items = list(enumerate(chunks(todo, -(-len(todo) // part_size)))) if todo else []
        make = partial(_make_part, model, options, plan, settings, out / 'parts')
        for folder, part in map_items(make, items, workers):
            _take_over(folder, out, records, unreadable)
            summary.images += part.images
            summary.defective += part.defective
            summary.failed += part.failed
            if progress is not None:
                progress(summary.images, summary.defective)
        shutil.rmtree(out / 'parts', ignore_errors=True)
    finally:
        records.close()
        defects, images = tables_of([*records.records, *unreadable])
        write_bytes(out / 'defects.csv', defects.encode())
        write_bytes(out / 'images.csv', images.encode())
    return summary


def make_predictor(model: str | Path, options: dict[str, Any], plan: TilePlan | None) -> Predictor:
    """Load a model, tiled if there is a plan."""
    predictor = load_predictor(model, **options)
    return predictor if plan is None else TiledPredictor(predictor, plan, None)


def _make_part(model: str | Path, options: dict[str, Any], plan: TilePlan | None, settings: JobSettings, folder: Path):
    predictor = make_predictor(model, options, plan)

    def predict_part(item: tuple[int, Sequence[Source]]) -> tuple[Path, JobSummary]:
        number, sources = item
        place = folder / f'{number:06d}'
        return place, predict_to_folder(predictor, sources, place, settings, model)

    return predict_part


def _take_over(folder: Path, out: Path, records: RecordFile, unreadable: list[dict[str, Any]]) -> None:
    """Move the files of complete images, then write their records; what has no record is left to be predicted again."""
    part = RecordFile(folder / 'predictions.jsonl')
    part.close()
    known = {record['image'] for record in records.records}
    for name in FOLDERS:
        for path in sorted(p for p in (folder / name).rglob('*') if p.is_file()):
            target = out / name / path.relative_to(folder / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    for record in part.records:
        if record['image'] not in known:  # recorded before the stop, its part not yet removed
            records.add(record)
    if (folder / 'images.csv').is_file():
        with (folder / 'images.csv').open(encoding='utf-8', newline='') as file:
            unreadable += [dict(image=row['image'], error=row['error']) for row in csv.DictReader(file) if row['error']]
    shutil.rmtree(folder)
