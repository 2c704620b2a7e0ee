"""What a test of anomaly detectors leaves: a table as CSV and Markdown, figures as PNG, and one page that holds them all."""

from __future__ import annotations

import base64
import csv
import html
import io
import os
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from mmdefect.apis.anomaly_eval import DetectorResult, markdown_table, roc_points, rows_of
from mmdefect.apis.anomaly_fit import read_image
from mmdefect.experiments.evidence.figures import line_figure
from mmdefect.experiments.evidence.page import SCRIPT, STYLE
from mmdefect.models.anomaly_detector import AnomalyDetector, stack_images
from mmdefect.synthesis.cutpaste import make_views
from mmdefect.synthesis.streams import stream_generator
from mmdefect.visualization import outline_mask, overlay_heat
from mmdefect.visualization.figures import embed_in_plane, figure_png, histogram_figure, scatter_figure

_SHOWN = 6  # images of a category


def write_text(path: Path, text: str) -> None:
    """Write a file through a temporary one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)


def write_tables(results: Sequence[DetectorResult], folder: Path) -> list[dict[str, object]]:
    """Write ``table.csv`` and ``table.md``, and ``scores.csv`` with every image; return the rows of the table."""
    rows = rows_of(results)
    write_text(folder / 'table.md', markdown_table(rows))
    for name, content in (
        ('table.csv', rows),
        (
            'scores.csv',
            [
                dict(category=r.category, arm=r.arm, image=s.img_path, type=s.defect_type, score=round(float(v), 6))
                for r in results
                for s, v in zip(r.samples, r.scores, strict=True)
            ],
        ),
    ):
        out = io.StringIO()
        writer = csv.DictWriter(out, list(content[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(content)
        write_text(folder / name, out.getvalue())
    return rows


def category_figures(results: Sequence[DetectorResult], threshold: float) -> dict[str, bytes]:
    """Return ROC curves of all arms and the histogram of each, as PNG by name."""
    category = results[0].category
    curves = {r.arm: roc_points(r.scores, r.defective) for r in results}
    figures = {
        f'{category}_roc': figure_png(
            line_figure(curves, f'{category}: ROC', 'false alarms', 'found', unit_square=True)
        )
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
        photos = {'image': _with_outline(image, sample.seg_map_path)}
        if tested.heat is not None:
            photos['heat map'] = overlay_heat(image, tested.heat[index].astype(np.float32), 0.3, 1.5)
        if layer is not None:
            cam = detector.explain(stack_images([image]), layer)[0].numpy()
            photos[f'Grad-CAM, {layer}'] = overlay_heat(image, cam, 0.15, 1.0)
        name = Path(sample.img_path)
        shown.append((f'{name.parent.name}/{name.name}, score {tested.scores[index]:.2f}', photos))
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
        (folder / 'figures').mkdir(parents=True, exist_ok=True)
        (folder / 'figures' / f'{name}.png').write_bytes(png)
    categories = list(dict.fromkeys(r.category for r in results))
    sections = [('results', 'Results', _table(rows) + ''.join(f'<p class="muted">{html.escape(n)}</p>' for n in notes))]
    for category in categories:
        own = ''.join(
            f'<figure><img alt="{html.escape(n)}" style="width:100%;max-width:460px;border-radius:8px" '
            f'src="{_uri(png)}"></figure>'
            for n, png in figures.items()
            if n.startswith(f'{category}_')
        )
        cards = ''.join(_card(caption, photos) for caption, photos in galleries.get(category, []))
        sections.append((category, category, f'<div class="grid">{own}</div>{cards}'))
    nav = ''.join(f'<a href="#{html.escape(k)}">{html.escape(n)}</a>' for k, n, _ in sections)
    body = ''.join(f'<section id="{html.escape(k)}"><h2>{html.escape(n)}</h2>{c}</section>' for k, n, c in sections)
    lead = (
        f'{len(categories)} categor{"y" if len(categories) == 1 else "ies"}, '
        f'{sum(len(r.samples) for r in results if r.arm == results[0].arm)} test images, each read once. Score 1 is the '
        'farthest normal image held out of the fit; above it is an anomaly.'
    )
    path = folder / 'report.html'
    write_text(
        path,
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            'initial-scale=1"><meta name="color-scheme" content="light dark"><title>Anomaly detection</title><style>'
            f'{STYLE}.shots{{display:grid;grid-template-columns:repeat(3,minmax(0,240px));gap:8px}}.shots img{{width:100%;'
            'border-radius:6px;display:block}.shots figcaption{font-size:.74rem;color:var(--soft)}'
            '</style></head><body><header><div class="top"><h1>Anomaly detection</h1><button id="theme" type="button" '
            f'aria-label="switch light and dark">Dark</button></div><p class="lead">{lead}</p></header><nav><div>{nav}</div>'
            f'</nav><main>{body}<footer>Made {time.strftime("%Y-%m-%d %H:%M")} by mmdefect. Metrics are percent.</footer></main>'
            f'<script>{SCRIPT}</script></body></html>'
        ),
    )
    return path


def _table(rows: Sequence[dict]) -> str:
    heads = list(rows[0])

    def cell(value: object) -> str:
        if value is None:
            return '<td data-v="">–</td>'
        return (
            f'<td data-v="{value}">{value:.2f}</td>'
            if isinstance(value, float)
            else f'<td>{html.escape(str(value))}</td>'
        )

    head = ''.join(f'<th>{html.escape(h.replace("_", " "))}</th>' for h in heads)
    lines = ''.join(
        f'<tr{" class=best" if row["category"] == "average" else ""}>{"".join(cell(row[h]) for h in heads)}</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _card(caption: str, photos: dict[str, np.ndarray]) -> str:
    shots = ''.join(
        f'<figure><img loading="lazy" alt="{html.escape(title)}" src="{_uri(_jpeg(photo), "jpeg")}">'
        f'<figcaption>{html.escape(title)}</figcaption></figure>'
        for title, photo in photos.items()
    )
    return f'<div class="card"><p><b>{html.escape(caption)}</b></p><div class="shots">{shots}</div></div>'


def _jpeg(photo: np.ndarray) -> bytes:
    return cv2.imencode('.jpg', photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def _uri(data: bytes, kind: str = 'png') -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


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
