"""What a person sees and says about relabelled edits: contact sheets, a table, and a file of decisions.

The table ``review.csv`` has one row an edit. Its column ``decision`` is for the reviewer: ``accept``, ``reject`` or empty
(the automatic verdict stands); ``corrected`` may name a label map drawn by hand, which then replaces the automatic one. A
decision beats the automatic verdict in both directions. Running ``relabel`` again keeps the decisions of the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmdefect.diffusion.relabel_run import Finished
from mmdefect.experiments.records import write_text
from mmdefect.visualization.grid import image_grid, legend
from mmdefect.visualization.overlay import default_palette, overlay_labels

ACCEPT, REJECT = 'accept', 'reject'
COLUMNS = (
    'name',
    'verdict',
    'reasons',
    'kept',
    'changed',
    'vanished',
    'new',
    'structure',
    'shift',
    'changed_share',
    'defect_pixels',
    'sheet',
    'decision',
    'corrected',
    'note',
)
#: Colours of the boxes of a sheet: what became of a defect.
FATE_COLOURS = {'kept': (0, 200, 255), 'changed': (255, 220, 0), 'vanished': (170, 170, 170), 'new': (255, 0, 255)}


@dataclass(frozen=True)
class Decision:
    """What a reviewer said of one edit.

    Attributes:
        accepted: ``True``, ``False``, or ``None`` if nothing was said.
        corrected: label map that replaces the automatic one.
        note: free text.
    """

    accepted: bool | None
    corrected: Path | None = None
    note: str = ''


def read_decisions(path: Path, names: Sequence[str] | None = None) -> dict[str, Decision]:
    """Read the decisions of a reviewer.

    Args:
        path: table with the columns ``name`` and ``decision``, perhaps ``corrected`` and ``note``; others are ignored.
        names: edits that there are; a decision on another one is an error. ``None`` checks nothing.

    Raises:
        ValueError: naming the file and the row.
    """
    if not path.is_file():
        raise ValueError(f'the review must be an existing CSV file, but {path} is not; relabel writes review.csv.')
    with path.open(encoding='utf-8-sig', newline='') as file:
        rows = list(csv.DictReader(file))
        header = rows[0].keys() if rows else ()
    if rows and not {'name', 'decision'} <= set(header):
        raise ValueError(f'{path} must have the columns name and decision, got {sorted(map(str, header))}.')
    decisions: dict[str, Decision] = {}
    for number, row in enumerate(rows, start=2):
        word = (row['decision'] or '').strip().lower()
        if word not in ('', ACCEPT, REJECT):
            raise ValueError(f'{path}:{number}: `decision` must be accept, reject or empty, got {row["decision"]!r}.')
        if names is not None and row['name'] not in names:
            if word:
                raise ValueError(
                    f'{path}:{number}: there is no edit {row["name"]!r}; take the row out or correct the name.'
                )
            continue
        corrected = (row.get('corrected') or '').strip()
        place = path.parent / corrected if corrected else None
        if place is not None and not place.is_file():
            raise ValueError(
                f'{path}:{number}: `corrected` must name a label map, relative to this file, but {place} does '
                'not exist.'
            )
        decisions[row['name']] = Decision({'': None, ACCEPT: True, REJECT: False}[word], place, row.get('note') or '')
    return decisions


def write_table(path: Path, entries: Sequence[Mapping], sheets: Mapping[str, str], pixels: Mapping[str, int]) -> None:
    """Write the table of a run; decisions and notes of an earlier table of the same edits are carried over.

    Args:
        path: ``review.csv``.
        entries: of ``relabel.json``.
        sheets: name of the sheet that shows an edit.
        pixels: defect pixels of the new label.
    """
    names = {entry['name'] for entry in entries}
    former = _former_rows(path)
    if any(row.get('decision') and name not in names for name, row in former.items()):
        raise ValueError(
            f'{path} holds decisions on edits that are not in this run; move it away, or relabel all edits.'
        )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for entry in entries:
        old = former.get(entry['name'], {})
        writer.writerow(
            dict(
                name=entry['name'],
                verdict=ACCEPT if entry['accepted'] else REJECT,
                reasons='; '.join(entry['reasons']),
                **entry['fates'],
                structure=entry['scores']['structure'],
                shift=entry['scores']['shift'],
                changed_share=entry['scores']['changed'],
                defect_pixels=pixels[entry['name']],
                sheet=sheets.get(entry['name'], ''),
                **{k: old.get(k) or '' for k in ('decision', 'corrected', 'note')},
            )
        )
    write_text(path, buffer.getvalue())


class SheetWriter:
    """Collects finished edits and writes a sheet whenever it is full.

    Args:
        folder: where ``sheet_001.jpg`` ... go.
        classes: names, the normal class first.
        rows: edits on a sheet.
        cell: longer side of an image in pixels.
    """

    def __init__(self, folder: Path, classes: Sequence[str], rows: int = 6, cell: int = 384) -> None:
        self.folder, self.classes, self.rows, self.cell = folder, list(classes), rows, cell
        self.palette = default_palette(len(self.classes))
        self.waiting: list[tuple[str, list[np.ndarray], list[str]]] = []
        self.sheet_of: dict[str, str] = {}
        self.count = 0

    def add(self, finished: Finished) -> None:
        """Take one edit; writes a sheet if it is the last that fits."""
        loaded, entry = finished.loaded, finished.entry
        images = [
            loaded.source,
            loaded.edit,
            heat_map(finished.score),
            overlay_labels(loaded.edit, loaded.label, self.palette, 0.6),
            overlay_labels(loaded.edit, finished.label, self.palette, 0.6),
        ]
        images = [_fit(p, self.cell) for p in images]
        scale = images[0].shape[0] / loaded.edit.shape[0]
        for component in entry['components']:
            left, top, width, height = (round(v * scale) for v in component['box'])
            cv2.rectangle(
                images[-1],
                (left - 3, top - 3),
                (left + width + 2, top + height + 2),
                FATE_COLOURS[component['fate']],
                1,
            )
        verdict = 'accepted' if entry['accepted'] else 'rejected: ' + ', '.join(entry['reasons'])
        fates = ', '.join(f'{v} {k}' for k, v in entry['fates'].items() if v) or 'no defect'
        self.waiting.append(
            (
                entry['name'],
                images,
                [entry['name'], verdict, f'structure {entry["scores"]["structure"]:.2f}', 'old label', fates],
            )
        )
        if len(self.waiting) == self.rows:
            self.flush()

    def flush(self) -> None:
        """Write what is left."""
        if not self.waiting:
            return
        self.count += 1
        name = f'sheet_{self.count:03d}.jpg'
        sheet = image_grid(
            [row for _, row, _ in self.waiting],
            column_titles=['source', 'edit', 'change above noise', 'copied label', 'new label'],
            captions=[captions for *_, captions in self.waiting],
            size=12,
            footer=legend([*self.classes[1:], *FATE_COLOURS], [*self.palette[1:], *FATE_COLOURS.values()], size=12),
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        done, data = cv2.imencode('.jpg', sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not done:
            raise RuntimeError(f'the sheet {name} of {sheet.shape} could not be encoded.')
        from mmdefect.diffusion.images import write_bytes

        write_bytes(self.folder / name, data.tobytes())
        self.sheet_of.update({edit: name for edit, *_ in self.waiting})
        self.waiting = []


def heat_map(score: np.ndarray, full: float = 12.0) -> np.ndarray:
    """Return an image of a change score: black is nothing, ``full`` standard deviations and more are white.

    Args:
        score: ``(H, W)`` float32, 0 or more.
        full: score shown brightest.
    """
    grey = np.clip(score / full * 255, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1].copy()


def _fit(image: np.ndarray, cell: int) -> np.ndarray:
    scale = min(1.0, cell / max(image.shape[:2]))
    if scale == 1.0:
        return image.copy()
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _former_rows(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    with path.open(encoding='utf-8-sig', newline='') as file:
        return {row['name']: row for row in csv.DictReader(file) if row.get('name')}
