"""Figures made with matplotlib: scores and embeddings of anomaly detection, and what a policy has learned."""

import io
import os
from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy import ndarray

from mmdefect.files import write_bytes

#: Normal, defect, cut-paste, scar: told apart also by most colour-blind readers.
COLOURS = ('#2f7ed8', '#d1495b', '#e0a516', '#1f9e78')
_STYLE = {
    'font.size': 9.0,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'legend.frameon': False,
    'figure.titlesize': 9.5,
    'figure.titleweight': 'bold',
}


def histogram_figure(groups: Mapping[str, ndarray], title: str, threshold: float | None = None) -> Figure:
    """Draw how many scores of each group lie where, as shares; a line where the threshold is."""
    values = np.concatenate([np.asarray(v, float) for v in groups.values()])
    high = float(np.quantile(values, 0.99)) if len(values) else 1.0
    bins = np.linspace(min(0.0, float(values.min())), max(high, threshold or 0) * 1.05 + 1e-9, 32)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.3, 2.7), layout='constrained')
        axes = figure.subplots()
        for k, (name, scores) in enumerate(groups.items()):
            scores = np.clip(scores, bins[0], bins[-1])  # what lies beyond is counted in the last bin
            style = dict(alpha=0.6, color=COLOURS[k % len(COLOURS)], label=f'{name} ({len(scores)})')
            axes.hist(scores, bins, weights=np.full(len(scores), 1 / max(1, len(scores))), **style)
        if threshold is not None:
            axes.axvline(threshold, color='#1b2330', linewidth=1, linestyle='--')
        axes.set(xlabel='normalised score (1: farthest held-out normal image)', ylabel='share')
        axes.legend()
        figure.suptitle(title, x=0.01, ha='left')
        return figure


def scatter_figure(groups: Mapping[str, ndarray], title: str) -> Figure:
    """Draw points ``(N, 2)`` of each group."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.3, 3.4), layout='constrained')
        axes = figure.subplots()
        for k, (name, points) in enumerate(groups.items()):
            style = dict(markersize=3.5, alpha=0.75, markeredgewidth=0, color=COLOURS[k % len(COLOURS)])
            axes.plot(points[:, 0], points[:, 1], 'o', label=f'{name} ({len(points)})', **style)
        axes.set(xticks=[], yticks=[])
        figure.legend(loc='outside lower center', ncols=2)
        figure.suptitle(title, x=0.01, ha='left')
        return figure


def embed_in_plane(groups: Mapping[str, ndarray], seed: int = 0) -> dict[str, ndarray]:
    """Return t-SNE coordinates ``(N, 2)`` of the embeddings ``(N, D)`` of each group, computed together."""
    from sklearn.manifold import TSNE

    rows = np.concatenate(list(groups.values()))
    if len(rows) < 4:
        raise ValueError(f't-SNE needs at least four embeddings, got {len(rows)}; add images.')
    plane = TSNE(perplexity=min(30, (len(rows) - 1) / 3), init='pca', random_state=seed).fit_transform(rows)
    ends = np.cumsum([len(v) for v in groups.values()])[:-1]
    return dict(zip(groups, np.split(plane, ends), strict=True))


def figure_png(figure: Figure, dpi: int = 160) -> bytes:
    """Return a figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=dpi, facecolor='white')
    return out.getvalue()


def draw_curves(history: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draw weights of streams, ranges, probabilities and the outer loss over inner steps, and write a PNG.

    Args:
        history: records of outer steps with ``iter``, ``outer_loss`` and the keys of ``LearnedPolicy.scalars``.
        path: the file.
    """
    figure = Figure(figsize=(11, 6.4), layout='constrained')
    axes = figure.subplots(2, 2)
    steps = [record['iter'] for record in history]
    _plot_keys(axes[0, 0], history, steps, 'weight.', 'weight of the loss of each stream')
    _plot_keys(axes[1, 0], history, steps, 'probability.', 'probability of each operation')
    axes[1, 0].set_ylim(0, 1)
    _plot_ranges(axes[0, 1], history, steps)
    losses = [record['outer_loss'] for record in history]
    smoothed, level = [], losses[0]
    for loss in losses:
        level += 0.1 * (loss - level)
        smoothed.append(level)
    axes[1, 1].plot(steps, losses, color='#9aa5b1', linewidth=0.8)
    axes[1, 1].plot(steps, smoothed, color='#1f6f8b', linewidth=1.8)
    axes[1, 1].set_title('outer loss, single batches and smoothed', fontsize=10)
    for axis in axes.ravel():
        axis.grid(alpha=0.25)
        axis.set_xlabel('inner step', fontsize=8)
        axis.tick_params(labelsize=8)
    write_bytes(path, figure_png(figure, 90))


def draw_maps(shown: Sequence[tuple[ndarray, ndarray, str]], path: str | os.PathLike, side: int = 220) -> None:
    """Draw each image, and beside it its map over it for every class, on one scale, and write a PNG.

    Args:
        shown: image ``(H, W, 3)`` uint8 RGB, maps ``(K, h, w)`` in [0, 1] in the frame of the image,
            not a number off the object, and its name.
        path: the file.
        side: longer side of an image in the figure, in pixels.
    """
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
    write_bytes(path, figure_png(figure, 90))


def _plot_keys(axis, history: Sequence[Mapping[str, float]], steps: list[float], prefix: str, title: str) -> None:
    for number, key in enumerate(key for key in history[0] if key.startswith(prefix)):
        style = dict(label=key.removeprefix(prefix), linewidth=1.5, color=f'C{number}')
        axis.plot(steps, [record[key] for record in history], **style)
    axis.legend(fontsize=7, ncols=2, frameon=False)
    axis.set_title(title, fontsize=10)


def _plot_ranges(axis, history: Sequence[Mapping[str, float]], steps: list[float]) -> None:
    """Ranges have different units; each is drawn as a share of the width that it started with, around its start."""
    for number, key in enumerate(k for k in history[0] if k.startswith('low.')):
        name = key.removeprefix('low.')
        low, high = ([record[f'{side}.{name}'] for record in history] for side in ('low', 'high'))
        width, middle = (high[0] - low[0]) or 1.0, (high[0] + low[0]) / 2
        for values, label in ((low, None), (high, name)):
            shares = [(v - middle) / width for v in values]
            axis.plot(steps, shares, color=f'C{number}', linewidth=1.2, label=label)
    axis.legend(fontsize=7, ncols=2, frameon=False)
    axis.set_title('ranges of the operations, in widths of the first', fontsize=10)
