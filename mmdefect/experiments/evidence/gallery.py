"""Images of test images for a report: where a run missed, where it saw what is not there, where it was right."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from mmdefect.experiments.evidence.counts import IGNORE, Counts, read_labels
from mmdefect.experiments.evidence.run import RunEvidence
from mmdefect.experiments.evidence.truth import Truth, prediction_file
from mmdefect.visualization.overlay import overlay_labels

#: Colours of the error image: told apart by most colour-blind readers.
HIT, MISS, FALSE, CONFUSED = (70, 175, 120), (235, 60, 50), (60, 130, 245), (245, 190, 40)
KINDS = ('misses', 'false alarms', 'best')
PANEL = 208


@dataclass(frozen=True)
class Row:
    """One test image in numbers.

    Attributes:
        name: of the image.
        labelled: defect pixels of the label.
        predicted: defect pixels of the prediction.
        hit: defect pixels of the right class.
        iou: foreground IoU over all defect classes in percent; NaN where neither has a defect.
    """

    name: str
    labelled: int
    predicted: int
    hit: int
    iou: float

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
    lists = {
        'misses': sorted((r for r in rows if r.missed), key=lambda r: -r.missed),
        'false alarms': sorted((r for r in rows if r.false), key=lambda r: -r.false),
        'best': sorted((r for r in rows if r.labelled and r.hit), key=lambda r: -r.iou),
    }
    chosen: dict[str, tuple[str, ...]] = {}
    for kind, found in lists.items():
        for row in found[:each]:
            chosen[row.name] = (*chosen.get(row.name, ()), kind)
    return chosen


def make_cards(run: RunEvidence, truth: Truth, each: int) -> list[Card]:
    """Draw the gallery of a run."""
    rows = {row.name: row for row in image_rows(run.counts)}
    chosen = choose(list(rows.values()), each)
    cards = []
    for sample in truth.samples:
        if sample.name not in chosen:
            continue
        image = read_rgb(sample.image)
        label, prediction = sample.load_label(), read_labels(prediction_file(run.predictions, sample))
        if image.shape[:2] != label.shape:
            image = cv2.resize(image, label.shape[::-1], interpolation=cv2.INTER_AREA)
        cards.append(
            Card(rows[sample.name], chosen[sample.name], tuple(draw_panels(image, label, prediction, truth.palette)))
        )
    return cards


def read_rgb(path) -> ndarray:
    """Read an image as ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: if it cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'{path} must be an image, but cannot be read.')
    return np.ascontiguousarray(image[..., ::-1])


def draw_panels(image: ndarray, label: ndarray, prediction: ndarray, palette: Sequence[Sequence[int]]):
    """Yield ``(title, data URI)``: the image with a frame, and in the frame image, label, prediction and error.

    Defects of two pixels vanish in a thumbnail, so all but the first show the part with the largest error, enlarged.
    """
    top, left, side = window(label, prediction)
    frame = image.copy()
    thick = max(2, image.shape[1] // 128)
    cv2.rectangle(frame, (left, top), (left + side - 1, top + side - 1), (235, 60, 50), thick)
    part = (slice(top, top + side), slice(left, left + side))
    zoomed, enlarged_label, enlarged_prediction = (_enlarge(a[part]) for a in (image, label, prediction))
    colours = [tuple(colour) for colour in palette]
    yield 'whole', data_uri(_fit(frame))
    yield 'image', data_uri(zoomed)
    yield 'label', data_uri(overlay_labels(zoomed, enlarged_label, colours, alpha=0.5))
    yield 'prediction', data_uri(overlay_labels(zoomed, enlarged_prediction, colours, alpha=0.5))
    yield 'error', data_uri(draw_error(zoomed, enlarged_label, enlarged_prediction))


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
    known = label != IGNORE
    masks = (
        ((label == prediction) & (label > 0), HIT),
        ((label > 0) & (prediction == 0), MISS),
        ((label == 0) & (prediction > 0), FALSE),
        ((label > 0) & (prediction > 0) & (label != prediction), CONFUSED),
    )
    for mask, colour in masks:
        out[mask & known] = colour
    return out


def data_uri(image: ndarray, quality: int = 82) -> str:
    """Return an image as a WebP data URI."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, 'WEBP', quality=quality, method=4)
    return 'data:image/webp;base64,' + base64.b64encode(out.getvalue()).decode()


def _enlarge(part: ndarray) -> ndarray:
    size = max(PANEL, part.shape[0]) if part.shape[0] < PANEL else PANEL
    mode = cv2.INTER_NEAREST if part.ndim == 2 or part.shape[0] < PANEL else cv2.INTER_AREA
    return cv2.resize(part, (size, size), interpolation=mode)


def _fit(image: ndarray) -> ndarray:
    scale = PANEL / max(image.shape[:2])
    return cv2.resize(
        image,
        (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST,
    )
