"""Figures of anomaly detection: score histograms, embeddings in the plane, heat maps on images."""

from __future__ import annotations

import io
from collections.abc import Mapping

import cv2
import matplotlib
import numpy as np

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mmdefect.visualization.overlay import check_image

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


def histogram_figure(groups: Mapping[str, np.ndarray], title: str, threshold: float | None = None) -> Figure:
    """Draw how many scores of each group lie where, as shares; a line where the threshold is."""
    values = np.concatenate([np.asarray(v, float) for v in groups.values()])
    high = float(np.quantile(values, 0.99)) if len(values) else 1.0
    bins = np.linspace(min(0.0, float(values.min())), max(high, threshold or 0) * 1.05 + 1e-9, 32)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 2.7), layout='constrained')
        for k, (name, scores) in enumerate(groups.items()):
            scores = np.clip(scores, bins[0], bins[-1])  # what lies beyond is counted in the last bin
            axes.hist(
                scores,
                bins,
                weights=np.full(len(scores), 1 / max(1, len(scores))),
                alpha=0.6,
                color=COLOURS[k % len(COLOURS)],
                label=f'{name} ({len(scores)})',
            )
        if threshold is not None:
            axes.axvline(threshold, color='#1b2330', linewidth=1, linestyle='--')
        axes.set(xlabel='normalised score (1: farthest held-out normal image)', ylabel='share')
        axes.legend()
        figure.suptitle(title, x=0.01, ha='left')
        return figure


def scatter_figure(groups: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw points ``(N, 2)`` of each group."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 3.4), layout='constrained')
        for k, (name, points) in enumerate(groups.items()):
            axes.plot(
                points[:, 0],
                points[:, 1],
                'o',
                markersize=3.5,
                alpha=0.75,
                markeredgewidth=0,
                color=COLOURS[k % len(COLOURS)],
                label=f'{name} ({len(points)})',
            )
        axes.set(xticks=[], yticks=[])
        figure.legend(loc='outside lower center', ncols=2)
        figure.suptitle(title, x=0.01, ha='left')
        return figure


def embed_in_plane(groups: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Return t-SNE coordinates ``(N, 2)`` of the embeddings ``(N, D)`` of each group, computed together."""
    from sklearn.manifold import TSNE

    rows = np.concatenate(list(groups.values()))
    if len(rows) < 4:
        raise ValueError(f't-SNE needs at least four embeddings, got {len(rows)}; add images.')
    plane = TSNE(perplexity=min(30, (len(rows) - 1) / 3), init='pca', random_state=seed).fit_transform(rows)
    ends = np.cumsum([len(v) for v in groups.values()])[:-1]
    return dict(zip(groups, np.split(plane, ends), strict=True))


def overlay_heat(image: np.ndarray, heat: np.ndarray, low: float, high: float, alpha: float = 0.5) -> np.ndarray:
    """Lay a heat map over an image, transparent where it is low.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        heat: ``(H, W)`` float.
        low: heat that is not shown.
        high: heat that is shown in full.
        alpha: strength at ``high``, in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    check_image(image)
    if heat.shape != image.shape[:2]:
        raise ValueError(f'`heat` must be {image.shape[:2]} like the image, got {heat.shape}; resize it first.')
    level = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)
    colour = cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weight = alpha * np.sqrt(level)[..., None]  # the root keeps weak heat visible
    return np.round(image * (1 - weight) + colour * weight).astype(np.uint8)


def figure_png(figure: Figure) -> bytes:
    """Return a figure as PNG, and free it."""
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=160, facecolor='white')
    plt.close(figure)
    return out.getvalue()
