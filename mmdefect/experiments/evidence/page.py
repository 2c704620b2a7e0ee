"""The report as one HTML page."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmdefect.experiments.evidence import plots
from mmdefect.experiments.evidence.gallery import KINDS, Card, Row, image_rows
from mmdefect.experiments.evidence.results import Results, foreground_keys, result_columns
from mmdefect.experiments.evidence.run import RunEvidence

#: Style and script of the page; nothing is fetched, so it opens from disk without a network.
STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding='utf-8') for name in ('page.css', 'page.js'))


def esc(value: object) -> str:
    """Return a value as HTML text."""
    return html.escape(str(value))


def number(value: float | None, digits: int = 2) -> str:
    """Return a number, or a dash for none."""
    return '–' if value is None or not math.isfinite(value) else f'{value:.{digits}f}'


def render_page(title: str, results: Results, galleries: dict[str, list[Card]]) -> str:
    """Return the page.

    Args:
        title: headline.
        results: numbers of all runs.
        galleries: cards of each run, by name.
    """
    runs = results.runs
    sections = [
        ('results', 'Results', _results(results)),
        ('classes', 'Classes', _figures(plots.class_figures(results))),
        ('curves', 'Learning curves', _curves(runs)),
        ('ranking', 'PR and PRO curves', _ranking(runs)),
        ('confusion', 'Confusion', _confusions(runs)),
        ('gallery', 'Gallery', _galleries(runs, galleries)),
        ('images', 'All images', _images(runs)),
        ('setup', 'Config and environment', _setup(runs)),
    ]
    sections = [entry for entry in sections if entry[2]]
    nav = ''.join(f'<a href="#{key}">{name}</a>' for key, name, _ in sections)
    body = ''.join(f'<section id="{key}"><h2>{name}</h2>{content}</section>' for key, name, content in sections)
    made = time.strftime('%Y-%m-%d %H:%M')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, '
        f'initial-scale=1"><meta name="color-scheme" content="light dark"><title>{esc(title)}</title>'
        f'<style>{STYLE}</style></head><body><header><div class="top"><h1>{esc(title)}</h1>'
        f'<button id="theme" type="button" aria-label="switch light and dark">Dark</button></div>'
        f'<p class="lead">{esc(lead(results))}</p></header><nav><div>{nav}</div></nav><main>{_tiles(results)}'
        f'{body}<footer>Made {made} by mmdefect. Values are '
        f'percent.</footer></main><script>{SCRIPT}</script></body></html>'
    )


def lead(results: Results) -> str:
    """Return one sentence on what the page is about."""
    runs = results.runs
    counted = next((run.counts for run in runs if run.counts is not None), None)
    text = f'{len(runs)} run{"s" if len(runs) > 1 else ""}'
    if counted is None:
        return text + '; no predictions of single images.'
    defective = int((counted.values[:, 1:, 2].sum(1) > 0).sum())
    pixels = counted.values[:, 1:, 2].sum() / max(1, counted.values[:, :, 2].sum())
    return (
        f'{text} on {len(counted.names)} test images, {defective} of them with defects, which cover '
        f'{100 * pixels:.3f} % '
        'of the pixels. Intervals: 95 %, bootstrap over the test images.'
    )


def _tiles(results: Results) -> str:
    best = results.best()
    if best is None:
        return ''
    run = next(run for run in results.runs if run.name == best)
    whose = '' if len(results.runs) == 1 else f'<p class="muted">Best foreground mIoU: <b>{esc(best)}</b></p>'
    tiles = []
    for key in ('fg_mIoU', 'fg_mAcc', *(f'IoU.{name}' for name in run.classes[1:]))[:4]:
        interval, value = results.intervals.get(best, {}).get(key), results.value(run, key)
        reach = f'{number(interval.low, 1)} to {number(interval.high, 1)}' if interval is not None else 'as logged'
        tiles.append(
            f'<div class="tile"><span>{esc(plots.spoken(key))}</span><b>{number(value)}</b><span>{reach}</span></div>'
        )
    return f'{whose}<div class="tiles">{"".join(tiles)}</div>'


def _results(results: Results) -> str:
    columns = result_columns(results)
    best = results.best()
    head = ''.join(f'<th>{esc(plots.spoken(key))}</th>' for key in columns)
    rows = []
    for run in results.runs:
        cells = [f'<td>{esc(run.name)}</td>']
        for key in columns:
            interval = results.intervals.get(run.name, {}).get(key)
            value = interval.value if interval is not None else run.test.get(key)
            reach = (
                f'<br><small>{number(interval.low, 1)} – {number(interval.high, 1)}</small>'
                if interval is not None and math.isfinite(interval.low) and key in foreground_keys(results)
                else ''
            )
            cells.append(f'<td data-v="{value if value is not None else ""}">{number(value)}{reach}</td>')
        cells.append(f'<td>{run.best if run.best is not None else "–"}</td>')
        mark = ' class="best"' if run.name == best and len(results.runs) > 1 else ''
        rows.append(f'<tr{mark}>{"".join(cells)}</tr>')
    notes = ''.join(f'<p class="warn">{esc(note)}</p>' for note in results.notes)
    return (
        f'{notes}<div class="scroll"><table '
        f'class="sortable"><thead><tr><th>run</th>{head}<th>iteration</th></tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="muted">fg: mean over the defect classes. mIoU, mAcc '
        'and '
        'aAcc include the background, which is nearly 100 % and hides the defects.</p>'
    )


def _figures(svgs: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(f"<figure>{svg}</figure>" for svg in svgs)}</div>' if svgs else ''


def _curves(runs: Sequence[RunEvidence]) -> str:
    return _figures(plots.learning_figures(runs)) or '<p class="muted">No scalar log was found beside the runs.</p>'


def _ranking(runs: Sequence[RunEvidence]) -> str:
    return _figures(plots.ranking_figures(runs)) or (
        '<p class="muted">No score histograms were recorded by these tests (<code>test/curves.json</code>), so '
        'there are no '
        'precision-recall and per-region-overlap curves: label maps alone hold one threshold.</p>'
    )


def _confusions(runs: Sequence[RunEvidence]) -> str:
    blocks = []
    for run in runs:
        if run.confusion is None:
            continue
        head = ''.join(f'<th>{esc(name)}</th>' for name in run.classes)
        lines = []
        for name, row in zip(run.classes, run.confusion, strict=True):
            total = int(row.sum())
            cells = ''.join(_heat(int(count), total) for count in row)
            lines.append(f'<tr><th>{esc(name)}</th>{cells}</tr>')
        blocks.append(
            f'<div><h3>{esc(run.name)}</h3><div class="scroll"><table class="matrix"><thead><tr><th></th>{head}</tr>'
            f'</thead><tbody>{"".join(lines)}</tbody></table></div></div>'
        )
    if not blocks:
        return ''
    return (
        '<p class="muted">Row: label; column: prediction; share of the row, and pixels. The first class is the '
        'normal surface.</p>'
        f'<div class="grid">{"".join(blocks)}</div>'
    )


def _heat(count: int, total: int) -> str:
    share = count / total if total else 0.0
    digits = 2 if share > 0.9995 or share < 0.01 else 1
    return (
        f'<td style="background:rgba(var(--heat),{0.6 * math.sqrt(share):.2f})">{100 * share:.{digits}f} %'
        f'<small>{count:,}</small></td>'
    )


def _galleries(runs: Sequence[RunEvidence], galleries: dict[str, list[Card]]) -> str:
    blocks = []
    for run in runs:
        cards = galleries.get(run.name)
        if not cards:
            continue
        opened = ' open' if not blocks else ''
        blocks.append(
            f'<details class="run"{opened}><summary>{esc(run.name)} <small>{len(cards)} images</small></summary>'
            f'{_gallery(cards)}</details>'
        )
    if not blocks:
        return '<p class="muted">No predictions or no test images were found, so there is nothing to show.</p>'
    keys = (('hit', 'hit'), ('miss', 'missed'), ('false', 'false alarm'), ('mixed', 'other class'))
    legend = ''.join(f'<span class="key" style="background:var(--{key})"></span>{word}' for key, word in keys)
    return (
        f'<p class="muted">The frame in the first image is enlarged in the others. Error:{legend}</p>{"".join(blocks)}'
    )


def _gallery(cards: Sequence[Card]) -> str:
    shown = ''.join(
        f'<button type="button" data-kind="{kind}" aria-pressed="{str(not kind).lower()}">{kind or "all"}</button>'
        for kind in ('', *KINDS)
    )
    keys = (('missed', 'missed px'), ('false', 'false px'), ('labelled', 'defect px'), ('iou', 'IoU'), ('name', 'name'))
    sort = ''.join(
        f'<button type="button" data-key="{key}" aria-pressed="{str(key == "missed").lower()}">{word}</button>'
        for key, word in keys
    )
    ordered = sorted(cards, key=lambda card: -card.row.missed)
    return (
        f'<div class="gallery"><div class="tools"><span>show</span>{shown}<span class="gap"></span><span>sort '
        f'by</span>{sort}'
        f'</div><div class="cards">{"".join(_card(card) for card in ordered)}</div></div>'
    )


def _card(card: Card) -> str:
    row = card.row
    panels = ''.join(
        f'<figure><img loading="lazy" alt="{title} of {esc(row.name)}" src="{uri}"><figcaption>{title}</figcaption>'
        '</figure>'
        for title, uri in card.panels
    )
    tags = ''.join(f'<span class="tag">{kind}</span>' for kind in card.kinds)
    data = (
        f'data-name="{esc(row.name)}" data-missed="{row.missed}" data-false="{row.false}" data-iou="{row.iou:.4f}" '
        f'data-labelled="{row.labelled}" data-kinds="{"|".join(card.kinds)}"'
    )
    return (
        f'<div class="card" {data}><p><b>{esc(row.name)}</b><i>IoU {number(row.iou, 1)}</i><i>defect '
        f'{row.labelled:,} px</i>'
        f'<i>missed {row.missed:,}</i><i>false {row.false:,}</i>{tags}</p><div class="panels">{panels}</div></div>'
    )


def _images(runs: Sequence[RunEvidence]) -> str:
    blocks = []
    for run in runs:
        if run.counts is None:
            continue
        lines = ''.join(_image_line(row) for row in image_rows(run.counts))
        blocks.append(
            f'<details class="run"><summary>{esc(run.name)} <small>{len(run.counts.names)} images</small></summary>'
            '<div class="scroll"><table class="sortable"><thead><tr><th>image</th><th>defect px</th><th>predicted px'
            f'</th><th>hit</th><th>missed</th><th>false</th><th>IoU</th></tr></thead><tbody>{lines}</tbody></table>'
            '</div></details>'
        )
    return ''.join(blocks)


def _image_line(row: Row) -> str:
    cells = ''.join(
        f'<td data-v="{v}">{v:,}</td>' for v in (row.labelled, row.predicted, row.hit, row.missed, row.false)
    )
    iou = '' if np.isnan(row.iou) else row.iou
    return f'<tr><td>{esc(row.name)}</td>{cells}<td data-v="{iou}">{number(row.iou, 1)}</td></tr>'


def _setup(runs: Sequence[RunEvidence]) -> str:
    blocks = []
    for run in runs:
        parts = [
            f'<dl>{"".join(f"<dt>{esc(k)}</dt><dd>{esc(v)}</dd>" for k, v in run.environment.items())}</dl>'
            if run.environment
            else '<p class="muted">No training log was found: versions and hardware are unknown.</p>'
        ]
        parts.append(f'<pre>{esc(run.config)}</pre>' if run.config else '<p class="muted">No config was found.</p>')
        parts += [f'<p class="warn">{esc(note)}</p>' for note in run.notes]
        blocks.append(f'<details class="run"><summary>{esc(run.name)}</summary>{"".join(parts)}</details>')
    return ''.join(blocks)
