"""Everything from the arguments of ``tools/predict.py`` to the finished folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmdefect.deployment.job import JobSettings, JobSummary, predict_to_folder
from mmdefect.deployment.loading import load_predictor
from mmdefect.deployment.progress import ProgressLine
from mmdefect.deployment.sources import count_frames, find_sources
from mmdefect.deployment.tiling import TiledPredictor, TilePlan
from mmdefect.deployment.types import ModelInfo, check_thresholds


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
    **settings,
) -> JobSummary:
    """Predict images into a folder.

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
    if processes > 1 or engine != 'local':
        return _predict_side_by_side(
            model,
            sources,
            out,
            options or {},
            thresholds,
            (tile, split, overlap, margin, tile_multiple),
            overwrite,
            show_progress,
            engine,
            processes,
            settings,
        )
    predictor = load_predictor(model, **(options or {}))
    chosen = parse_thresholds(thresholds, predictor.info)
    job = JobSettings(thresholds=chosen, **settings)
    plan = tile_plan(tile, split, overlap, margin, tile_multiple, job.batch)
    line = ProgressLine(count_frames(sources)) if show_progress else None
    state = [0, 0]

    def show(done: int, defective: int) -> None:
        state[:] = done, defective
        line(done, f'{defective} defective')

    def show_tiles(done: int, total: int) -> None:
        if done < total:
            line(state[0], f'{state[1]} defective, tile {done} of {total}')

    if plan is not None:
        predictor = TiledPredictor(predictor, plan, line and show_tiles)
    try:
        return predict_to_folder(predictor, sources, out, job, model, overwrite, line and show)
    finally:
        predictor.close()
        if line is not None:
            line.close()


def _predict_side_by_side(
    model, sources, out, options, thresholds, tiles, overwrite, show_progress, engine, processes, settings
) -> JobSummary:
    from mmdefect.deployment.parts import predict_in_parts  # a single process needs none of it
    from mmdefect.experiments.bulk import Workers

    predictor = load_predictor(model, **options)
    chosen = parse_thresholds(thresholds, predictor.info)
    predictor.close()
    job = JobSettings(thresholds=chosen, **settings)
    line = ProgressLine(count_frames(sources)) if show_progress else None
    try:
        return predict_in_parts(
            model,
            options,
            sources,
            out,
            job,
            Workers(engine, processes, options.get('threads') or 0),
            tile_plan(*tiles, job.batch),
            overwrite,
            line and (lambda done, defective: line(done, f'{defective} defective')),
        )
    finally:
        if line is not None:
            line.close()


def tile_plan(
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
    """Return the thresholds of the defect classes, those not named as the model has them.

    Raises:
        ValueError: for an unknown class, or something that is no probability.
    """
    if given is None:
        return None
    values = list(info.thresholds)
    for text in given:
        name, _, number = text.rpartition('=')
        try:
            value = float(number)
        except ValueError as err:
            raise ValueError(f'a threshold must be VALUE or CLASS=VALUE, got {text!r}.') from err
        if name and name not in info.classes[1:]:
            raise ValueError(f'a threshold must name one of {list(info.classes[1:])}, got {name!r}.')
        values = [value if not name or name == own else old for own, old in zip(info.classes[1:], values, strict=True)]
    return check_thresholds(values, info.classes)
