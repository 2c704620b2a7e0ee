"""Figures of a learned policy: its numbers over time, and where it would paste."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray


def draw_curves(history: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draw weights of streams, ranges, probabilities and the outer loss over inner steps, and write a PNG.

    Args:
        history: records of outer steps with ``iter``, ``outer_loss`` and the keys of ``LearnedPolicy.scalars``.
        path: the file; written whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout='constrained')
    axes = figure.subplots(2, 2)
    steps = [record['iter'] for record in history]
    _lines(axes[0, 0], history, steps, 'weight.', 'weight of the loss of each stream')
    _lines(axes[1, 0], history, steps, 'probability.', 'probability of each operation')
    axes[1, 0].set_ylim(0, 1)
    _ranges(axes[0, 1], history, steps)
    axes[1, 1].plot(steps, [record['outer_loss'] for record in history], color='#9aa5b1', linewidth=0.8)
    axes[1, 1].plot(steps, _smooth([record['outer_loss'] for record in history]), color='#1f6f8b', linewidth=1.8)
    axes[1, 1].set_title('outer loss, single batches and smoothed', fontsize=10)
    for axis in axes.ravel():
        axis.grid(alpha=0.25)
        axis.set_xlabel('inner step', fontsize=8)
        axis.tick_params(labelsize=8)
    _save(figure, FigureCanvasAgg, path)


def draw_maps(shown: Sequence[tuple[ndarray, ndarray, str]], path: str | os.PathLike, side: int = 220) -> None:
    """Draw each image, and beside it its map over it for every class, on one scale, and write a PNG.

    Args:
        shown: image ``(H, W, 3)`` uint8 RGB, maps ``(K, h, w)`` in [0, 1] in the frame of the image,
            not a number off the object, and its name.
        path: the file; written whole or not at all.
        side: longer side of an image on the sheet, in pixels.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    columns = 1 + len(shown[0][1])
    figure = Figure(figsize=(columns * side / 90 + 0.9, len(shown) * side / 100 + 0.3), layout='constrained')
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, (image, maps, name) in zip(axes, shown, strict=True):
        factor = side / max(image.shape[:2])
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        row[0].imshow(small)
        row[0].set_title(name, fontsize=7)
        grey = np.repeat(small.mean(2, keepdims=True) / 255, 3, 2)
        for number, (axis, one) in enumerate(zip(row[1:], maps, strict=True), 1):
            heat = cv2.resize(one, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            tinted = 0.45 * grey + 0.55 * colormaps['viridis'](np.nan_to_num(heat).clip(0, 1))[..., :3]
            axis.imshow(np.where(np.isfinite(heat)[..., None], tinted, grey))
            axis.set_title(f'map of class {number}' if len(maps) > 1 else 'map', fontsize=7)
    for axis in axes.ravel():
        axis.set_axis_off()
    figure.colorbar(ScalarMappable(cmap='viridis'), ax=axes, shrink=0.6, aspect=40).ax.tick_params(labelsize=7)
    _save(figure, FigureCanvasAgg, path)


def _lines(axis, history: Sequence[Mapping[str, float]], steps: list[float], prefix: str, title: str) -> None:
    names = [key for key in history[0] if key.startswith(prefix)]
    for number, key in enumerate(names):
        axis.plot(
            steps,
            [record[key] for record in history],
            label=key.removeprefix(prefix),
            linewidth=1.5,
            color=f'C{number}',
        )
    axis.legend(fontsize=7, ncols=2, frameon=False)
    axis.set_title(title, fontsize=10)


def _ranges(axis, history: Sequence[Mapping[str, float]], steps: list[float]) -> None:
    """Ranges have different units; each is drawn as a share of the width that it started with, around its start."""
    for number, key in enumerate(k for k in history[0] if k.startswith('low.')):
        name = key.removeprefix('low.')
        low, high = ([record[f'{side}.{name}'] for record in history] for side in ('low', 'high'))
        width, middle = (high[0] - low[0]) or 1.0, (high[0] + low[0]) / 2
        for values in (low, high):
            axis.plot(
                steps,
                [(v - middle) / width for v in values],
                color=f'C{number}',
                linewidth=1.2,
                label=name if values is high else None,
            )
    axis.legend(fontsize=7, ncols=2, frameon=False)
    axis.set_title('ranges of the operations, in widths of the first', fontsize=10)


def _smooth(values: Sequence[float], share: float = 0.1) -> list[float]:
    smoothed, level = [], values[0]
    for value in values:
        level += share * (value - level)
        smoothed.append(level)
    return smoothed


def _save(figure, canvas, path: str | os.PathLike) -> None:
    path = Path(path)
    unfinished = path.with_name(f'.{path.name}.unfinished.png')
    canvas(figure)
    try:
        figure.savefig(unfinished, dpi=90)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
