"""The report of a folder of runs: one HTML page, and the same numbers as Markdown with figures, for a pull request."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mmdefect.experiments.evidence import figures
from mmdefect.experiments.evidence.gallery import KINDS, Card, image_rows, make_cards
from mmdefect.experiments.evidence.run_folder import (
    MEANS,
    Results,
    RunFolder,
    SearchPlaces,
    find_runs,
    in_words,
    load_run,
    make_results,
)
from mmdefect.experiments.states import read_title
from mmdefect.experiments.tables import markdown_table
from mmdefect.files import write_text
from mmdefect.visualization.pages import number, render_page


def write_report(
    folder: Path, page: Path, places: SearchPlaces, title: str = '', gallery: int | None = None, markdown: bool = False
) -> list[Path]:
    """Write the page, and the Markdown version with figures if asked; return what was written.

    Args:
        folder: run, project, or folder of runs.
        page: HTML file.
        places: where the test set may be.
        title: headline; by default the name of the folder.
        gallery: images of each kind; 8 for one run, 5 for several by default.
        markdown: also write ``<page>.md`` and ``figures/``.
    """
    found = find_runs(folder)
    runs = [load_run(path, name, places) for path, name in zip(found, run_names(found, folder), strict=True)]
    results = make_results(sorted(runs, key=lambda run: run.name))
    each = gallery if gallery is not None else 8 if len(runs) == 1 else 5
    cards = {run.name: make_cards(run, each) for run in results.runs if run.counts is not None and each}
    title = title or folder.resolve().name
    write_text(page, _page(title, results, cards))
    if not markdown:
        return [page]
    drawn = [*figures.class_figures(results), *figures.learning_figures(results), *figures.ranking_figures(results)]
    images = {name: figures.save(figure, page.parent / 'figures', name) for name, figure in drawn}
    links = {name: path.relative_to(page.parent).as_posix() for name, path in images.items()}
    text = page.with_suffix('.md')
    write_text(text, _markdown(title, results, links))
    return [page, text, *images.values()]


def run_names(found: list[Path], folder: Path) -> list[str]:
    """Return a name for each run: its title if it has one, else its path without the part that all share."""
    if found == [folder]:
        return [read_title(folder, folder.resolve().name)]
    parents = {path.parent for path in found}
    start = parents.pop() if len(parents) == 1 else folder
    names = [read_title(path, path.relative_to(start).as_posix().removeprefix('exp/')) for path in found]
    return names if len(set(names)) == len(names) else [path.relative_to(folder).as_posix() for path in found]


def _page(title: str, results: Results, galleries: Mapping[str, Sequence[Card]]) -> str:
    runs, best = results.runs, results.best()
    tiles = ['fg_mIoU', 'fg_mAcc', *(f'IoU.{name}' for name in (best.classes[1:] if best else ()))]
    return render_page(
        'report',
        title=title,
        lead=_lead(results),
        results=results,
        runs=runs,
        best=best,
        tiles=[(key, in_words(key)) for key in tiles[:4]],
        columns=[(key, in_words(key)) for key in results.columns()],
        class_figures=_svgs(figures.class_figures(results)),
        learning_figures=_svgs(figures.learning_figures(results)),
        ranking_figures=_svgs(figures.ranking_figures(results)),
        confusions=[(run, _confusion_rows(run)) for run in runs if run.confusion is not None],
        galleries={name: cards for name, cards in galleries.items() if cards},
        kinds=('', *KINDS),
        images=[(run, image_rows(run.counts)) for run in runs if run.counts is not None],
    )


def _svgs(drawn: Iterator[tuple[str, Figure]]) -> list[str]:
    return [figures.to_svg(figure) for _, figure in drawn]


def _confusion_rows(run: RunFolder) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Return ``(label, [(strength of the colour, percent of the row, pixels), ...])`` of each row."""
    rows = []
    for name, row in zip(run.classes, run.confusion, strict=True):
        shares = [(int(count) / max(1, int(row.sum())), int(count)) for count in row]
        cells = [(0.6 * math.sqrt(s), 100 * s, 2 if s > 0.9995 or s < 0.01 else 1, count) for s, count in shares]
        rows.append((name, [(f'{strength:.2f}', f'{p:.{digits}f}', count) for strength, p, digits, count in cells]))
    return rows


def _lead(results: Results) -> str:
    """Return one sentence on what the report is about."""
    runs, best = results.runs, results.best()
    told = ''.join(f' {run.name}: {run.verdict}' for run in ([best] if best else runs[:1]) if run.verdict)
    counted = next((run.counts for run in runs if run.counts is not None), None)
    text = f'{len(runs)} run{"s" if len(runs) > 1 else ""}'
    if counted is None:
        return text + '; no predictions of single images.' + told
    labelled = counted.values[:, 1:, 2]
    share = labelled.sum() / max(1, counted.values[:, :, 2].sum())
    return (
        f'{text} on {len(counted.names)} test images, {int((labelled.sum(1) > 0).sum())} of them with defects, which '
        f'cover {100 * share:.3f} % of the pixels. Intervals: 95 %, bootstrap over the test images.{told}'
    )


def _markdown(title: str, results: Results, images: Mapping[str, str]) -> str:
    columns, lines = results.columns(), []
    first = next((key for key in (*MEANS, *columns) if key in columns and results.is_of_defects(key)), None)
    for run in results.runs:
        cells = [number(results.value(run, key)) for key in columns]
        interval = results.interval(run, first) if first else None
        if interval is not None and math.isfinite(interval.low):
            cells[columns.index(first)] += f' [{interval.low:.1f}, {interval.high:.1f}]'
        lines.append([run.name, *cells, '–' if run.best is None else str(run.best)])
    table = markdown_table(['run', *map(in_words, columns), 'iteration'], lines)
    parts = [f'# {title}\n', _lead(results) + '\n', table]
    if results.notes:
        parts.append('\n'.join(f'- {note}' for note in results.notes) + '\n')
    for run in results.runs:
        if run.counts is not None:
            worst = sorted(image_rows(run.counts), key=lambda row: -(row.missed + row.false))[:5]
            rows = [[w.name, str(w.labelled), str(w.missed), str(w.false), number(w.iou, 1)] for w in worst]
            parts += [
                f'<details><summary>{run.name}: the five images with most wrong pixels</summary>\n',
                markdown_table(['image', 'defect px', 'missed', 'false', 'IoU'], rows),
                '</details>\n',
            ]
    parts += [f'![{name}]({link})\n' for name, link in images.items()]
    return '\n'.join(parts)
