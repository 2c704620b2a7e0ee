"""Test images for a report: where a run missed, where it saw what is not there, where it was right."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from mmdefect.experiments.evidence.counts import IGNORE, Counts, read_labels
from mmdefect.experiments.evidence.run_folder import RunFolder
from mmdefect.visualization.overlay import overlay_labels
from mmdefect.visualization.pages import data_uri

#: Colours of the error image: told apart by most colour-blind readers.
HIT, MISS, FALSE, CONFUSED = (70, 175, 120), (235, 60, 50), (60, 130, 245), (245, 190, 40)
KINDS = ('misses', 'false alarms', 'best')
PANEL = 208


@dataclass(frozen=True)
class Row:
    """One test image in numbers."""

    name: str  # of the image
    labelled: int  # defect pixels of the label
    predicted: int  # defect pixels of the prediction
    hit: int  # defect pixels of the right class
    iou: float  # foreground IoU over all defect classes in percent; NaN where neither has a defect

    @property
    def missed(self) -> int:
        """Defect pixels not found, or given another class."""
        return self.labelled - self.hit

    @property
    def false(self) -> int:
        """Predicted defect pixels that are normal, or of another class."""
        return self.predicted - self.hit


@dataclass(frozen=True)
class Card:
    """One image of the gallery: its numbers, why it is there, and its panels as ``(title, data URI)``."""

    row: Row
    kinds: tuple[str, ...]
    panels: tuple[tuple[str, str], ...]


def image_rows(counts: Counts) -> list[Row]:
    """Return the numbers of every image, in the order of the counts."""
    rows = []
    for name, values in zip(counts.names, counts.values, strict=True):
        hit, predicted, labelled = (int(v) for v in values[1:].sum(0))
        union = predicted + labelled - hit
        rows.append(Row(name, labelled, predicted, hit, 100 * hit / union if union else math.nan))
    return rows


def choose(rows: Sequence[Row], each: int) -> dict[str, tuple[str, ...]]:
    """Return ``{image: kinds}``: the most missed pixels, the most false ones, the best IoU on defective images."""
    lists = (
        sorted((r for r in rows if r.missed), key=lambda r: -r.missed),
        sorted((r for r in rows if r.false), key=lambda r: -r.false),
        sorted((r for r in rows if r.labelled and r.hit), key=lambda r: -r.iou),
    )
    chosen: dict[str, tuple[str, ...]] = {}
    for kind, found in zip(KINDS, lists, strict=True):
        for row in found[:each]:
            chosen[row.name] = (*chosen.get(row.name, ()), kind)
    return chosen


def make_cards(run: RunFolder, each: int) -> list[Card]:
    """Draw the gallery of a run with counts, the most missed pixels first."""
    rows = {row.name: row for row in image_rows(run.counts)}
    chosen = choose(list(rows.values()), each)
    cards = []
    for sample in run.truth.samples:
        if sample.name in chosen:
            label, prediction = sample.load_label(), read_labels(sample.prediction_in(run.predictions))
            image = read_rgb(sample.image, label.shape)
            panels = tuple(draw_panels(image, label, prediction, run.truth.palette))
            cards.append(Card(rows[sample.name], chosen[sample.name], panels))
    return sorted(cards, key=lambda card: -card.row.missed)


def read_rgb(path: Path, size_hw: tuple[int, int]) -> ndarray:
    """Read an image as ``(H, W, 3)`` uint8 RGB, in the size of its label."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'{path} must be an image, but cannot be read.')
    image = np.ascontiguousarray(image[..., ::-1])
    return image if image.shape[:2] == size_hw else cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA)


def draw_panels(
    image: ndarray, label: ndarray, prediction: ndarray, palette: Sequence[Sequence[int]]
) -> Iterator[tuple[str, str]]:
    """Yield ``(title, data URI)``: the image with a frame, and in the frame image, label, prediction and error.

    Defects of two pixels vanish in a thumbnail, so all but the first show the part with the largest error, enlarged.
    """
    top, left, side = window(label, prediction)
    frame = image.copy()
    thick = max(2, image.shape[1] // 128)
    cv2.rectangle(frame, (left, top), (left + side - 1, top + side - 1), (235, 60, 50), thick)
    part = (slice(top, top + side), slice(left, left + side))
    zoomed, its_label, its_prediction = (_enlarge(a[part]) for a in (image, label, prediction))
    colours = [tuple(colour) for colour in palette]
    yield 'whole', _webp(_fit(frame))
    yield 'image', _webp(zoomed)
    yield 'label', _webp(overlay_labels(zoomed, its_label, colours, alpha=0.5))
    yield 'prediction', _webp(overlay_labels(zoomed, its_prediction, colours, alpha=0.5))
    yield 'error', _webp(draw_error(zoomed, its_label, its_prediction))


def window(label: ndarray, prediction: ndarray, least: int = 96) -> tuple[int, int, int]:
    """Return top, left and side of a square around the largest error, or the largest defect where there is no error."""
    counted = label != IGNORE
    interest = (label != prediction) & counted
    if not interest.any():
        interest = (label > 0) & counted
    height, width = label.shape
    side = min(height, width, least)
    if not interest.any():
        return (height - side) // 2, (width - side) // 2, side
    # Regions a few pixels apart belong to one defect.
    joined = cv2.dilate(interest.astype(np.uint8), np.ones((9, 9), np.uint8))
    _, regions = cv2.connectedComponents(joined)
    sizes = np.bincount(regions[interest])
    rows, columns = np.nonzero(regions == int(sizes.argmax()))
    extent = max(rows.max() - rows.min(), columns.max() - columns.min()) + 1
    side = int(min(height, width, max(least, math.ceil(1.4 * extent))))
    top = int(np.clip((rows.max() + rows.min() - side) // 2, 0, height - side))
    left = int(np.clip((columns.max() + columns.min() - side) // 2, 0, width - side))
    return top, left, side


def draw_error(image: ndarray, label: ndarray, prediction: ndarray) -> ndarray:
    """Return the image in grey with hits green, misses red, false alarms blue and confused classes yellow."""
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    out = (0.6 * grey + 90).clip(0, 255).astype(np.uint8)
    known, labelled, predicted = label != IGNORE, label > 0, prediction > 0
    out[known & labelled & (label == prediction)] = HIT
    out[known & labelled & ~predicted] = MISS
    out[known & ~labelled & predicted] = FALSE
    out[known & labelled & predicted & (label != prediction)] = CONFUSED
    return out


def _webp(image: ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(image).save(out, 'WEBP', quality=82, method=4)
    return data_uri(out.getvalue(), 'webp')


def _enlarge(part: ndarray) -> ndarray:
    mode = cv2.INTER_NEAREST if part.ndim == 2 or part.shape[0] < PANEL else cv2.INTER_AREA
    return cv2.resize(part, (PANEL, PANEL), interpolation=mode)


def _fit(image: ndarray) -> ndarray:
    scale = PANEL / max(image.shape[:2])
    size_wh = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
