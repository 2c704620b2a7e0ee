"""What a test of anomaly detectors leaves: a table as CSV and Markdown, figures as PNG, and one page with them all."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from mmdefect.apis.anomaly_eval import DetectorResult, roc_points, rows_of, table_text
from mmdefect.apis.anomaly_fit import read_image
from mmdefect.experiments.evidence.figures import line_figure
from mmdefect.experiments.tables import csv_table
from mmdefect.files import write_bytes, write_text
from mmdefect.models.anomaly_detector import AnomalyDetector, stack_images
from mmdefect.synthesis.cutpaste import make_views
from mmdefect.synthesis.streams import stream_generator
from mmdefect.visualization.figures import embed_in_plane, figure_png, histogram_figure, scatter_figure
from mmdefect.visualization.overlay import outline_mask, overlay_heat
from mmdefect.visualization.pages import data_uri, render_page

_SHOWN = 6  # images of a category


def write_tables(results: Sequence[DetectorResult], folder: Path) -> list[dict[str, object]]:
    """Write ``table.csv`` and ``table.md``, and ``scores.csv`` with every image; return the rows of the table."""
    rows = rows_of(results)
    scores = [
        dict(
            **dict(category=r.category, arm=r.arm, image=s.img_path, type=s.defect_type),
            **dict(score=round(float(v), 6), anomaly=int(v > r.threshold)),
        )
        for r in results
        for s, v in zip(r.samples, r.scores, strict=True)
    ]
    write_text(folder / 'table.md', table_text(rows))
    write_text(folder / 'table.csv', csv_table(rows))
    write_text(folder / 'scores.csv', csv_table(scores))
    return rows


def category_figures(results: Sequence[DetectorResult], threshold: float) -> dict[str, bytes]:
    """Return ROC curves of all arms and the histogram of each, as PNG by name."""
    category = results[0].category
    curves = {r.arm: roc_points(r.scores, r.defective) for r in results}
    figures = {
        f'{category}_roc': figure_png(line_figure(curves, f'{category}: ROC', 'false alarms', 'found', scale='unit'))
    }
    for number, result in enumerate(results):
        groups = dict(good=result.scores[~result.defective], defective=result.scores[result.defective])
        name = f'{category}_scores_{number}'
        figures[name] = figure_png(histogram_figure(groups, f'{category}: {result.arm}', threshold))
    return figures


def embedding_figure(detector: AnomalyDetector, tested: DetectorResult, normal: Sequence[str], most: int = 40) -> bytes:
    """Return t-SNE of good, defective, cut-paste and scar embeddings as PNG; pastes are made on normal images."""
    size_hw = detector.settings.size_hw

    def embed(images: Sequence[np.ndarray]) -> np.ndarray:
        return detector.embeddings(stack_images(images), 'image').numpy()

    groups = {}
    for name, wanted in (('good', False), ('defective', True)):
        paths = [s.img_path for s, bad in zip(tested.samples, tested.defective, strict=True) if bad == wanted]
        chosen = [paths[i] for i in sorted({round(k) for k in np.linspace(0, len(paths) - 1, most)})]
        groups[name] = embed([read_image(p, size_hw) for p in chosen])
    views: list[list[np.ndarray]] = [[], []]
    for number, path in enumerate(normal[:most]):
        image = torch.from_numpy(read_image(path, size_hw).transpose(2, 0, 1).copy()).float() / 255
        made = make_views(image, stream_generator(0, 'embedding_figure', number), '3way', jitter=0.0)
        for k in (0, 1):
            views[k].append((made.images[k + 1] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    groups['cut-paste'], groups['scar'] = embed(views[0]), embed(views[1])
    return figure_png(scatter_figure(embed_in_plane(groups), f'{tested.category}: {tested.arm}, t-SNE'))


def heat_images(
    detector: AnomalyDetector, tested: DetectorResult, layer: str | None, count: int = _SHOWN
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return for some test images, spread over the defect types, ``(caption, {title: image})``."""
    order = _spread_over_types(tested, count)
    shown = []
    for index in order:
        sample, size_hw = tested.samples[index], detector.settings.size_hw
        image = read_image(sample.img_path, size_hw)
        images = {'image': _with_outline(image, sample.seg_map_path)}
        if tested.heat is not None:
            images['heat map'] = overlay_heat(image, tested.heat[index].astype(np.float32), 0.3, 1.5)
        if layer is not None:
            cam = detector.explain(stack_images([image]), layer)[0].numpy()
            images[f'Grad-CAM, {layer}'] = overlay_heat(image, cam, 0.15, 1.0)
        name = Path(sample.img_path)
        shown.append((f'{name.parent.name}/{name.name}, score {tested.scores[index]:.2f}', images))
    return shown


def write_page(
    results: Sequence[DetectorResult],
    rows: Sequence[dict],
    figures: dict[str, bytes],
    galleries: dict[str, list[tuple[str, dict[str, np.ndarray]]]],
    notes: Sequence[str],
    folder: Path,
) -> Path:
    """Write the figures as PNG and ``report.html``, which holds everything itself; return its path."""
    for name, png in figures.items():
        write_bytes(folder / 'figures' / f'{name}.png', png)
    categories = list(dict.fromkeys(r.category for r in results))
    images = sum(len(r.samples) for r in results if r.arm == results[0].arm)
    counted = f'{len(categories)} categor{"y" if len(categories) == 1 else "ies"}, {images} test images'
    shown = {c: {n: data_uri(png, 'png') for n, png in figures.items() if n.startswith(f'{c}_')} for c in categories}
    cards = {
        c: [(text, {k: _jpeg(v) for k, v in own.items()}) for text, own in galleries.get(c, [])] for c in categories
    }
    page = render_page(
        'anomaly',
        title='Anomaly detection',
        lead=f'{counted}, each read once. Score 1 is the farthest normal image held out of the fit; above it is an '
        'anomaly.',
        footer='Metrics are percent.',
        sections=[('results', 'Results'), *((category, category) for category in categories)],
        rows=rows,
        notes=notes,
        figures=shown,
        cards=cards,
    )
    write_text(folder / 'report.html', page)
    return folder / 'report.html'


def _jpeg(image: np.ndarray) -> str:
    return data_uri(cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes(), 'jpeg')


def _with_outline(image: np.ndarray, mask_path: str | None) -> np.ndarray:
    mask = None if mask_path is None else cv2.imread(mask_path, cv2.IMREAD_GRAYSCALE)
    if mask is None:
        return image
    mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    out = image.copy()
    out[outline_mask(mask, 2)] = (230, 57, 57)
    return out


def _spread_over_types(tested: DetectorResult, count: int) -> list[int]:
    """Return numbers of images: of each defect type in turn, and one good image."""
    by_type: dict[str, list[int]] = {}
    for index, sample in enumerate(tested.samples):
        by_type.setdefault(sample.defect_type, []).append(index)
    good = by_type.pop('good', [])
    chosen = [own[k] for k in range(count) for own in by_type.values() if k < len(own)][: max(1, count - 1)]
    return chosen + good[:1]
