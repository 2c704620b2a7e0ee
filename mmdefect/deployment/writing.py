"""Files of a prediction: label map with palette, probabilities, image, tables. Each is written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.deployment.types import Prediction
from mmdefect.visualization.overlay import overlay_labels

DEFECT_COLUMNS = (
    'image',
    'is_defective',
    'image_score',
    'class_name',
    'class_id',
    'score',
    'area_px',
    'area_percent',
    'x1',
    'y1',
    'x2',
    'y2',
    'centroid_x',
    'centroid_y',
    'length_px',
    'width_px',
    'length_mm',
    'width_mm',
    'area_mm2',
)
IMAGE_COLUMNS = ('image', 'width', 'height', 'is_defective', 'image_score', 'defects', 'notes', 'error')


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file by renaming a finished one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.part')
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode_label_png(label_map: ndarray, palette: Sequence[Sequence[int]]) -> bytes:
    """Return an indexed PNG: class ids as values, the palette as their colours (OpenCV writes no palette).

    Args:
        label_map: ``(H, W)`` uint8.
        palette: RGB of each class.
    """
    height, width = label_map.shape
    pack, parts = zlib.compressobj(1), []  # level 1: label maps are nearly constant
    rows = max(1, 2**22 // (width + 1))
    for top in range(0, height, rows):
        band = label_map[top : top + rows]
        lines = np.zeros((len(band), width + 1), np.uint8)  # each line starts with its filter, 0
        lines[:, 1:] = band
        parts.append(pack.compress(lines))
    parts.append(pack.flush())
    colours = np.asarray(palette, np.uint8).tobytes()
    header = struct.pack('>IIBBBBB', width, height, 8, 3, 0, 0, 0)
    return b''.join(
        [
            b'\x89PNG\r\n\x1a\n',
            _chunk(b'IHDR', header),
            _chunk(b'PLTE', colours),
            _chunk(b'IDAT', b''.join(parts)),
            _chunk(b'IEND', b''),
        ]
    )


def encode_probabilities(probabilities: ndarray, classes: Sequence[str]) -> bytes:
    """Return an ``.npz`` file with ``probabilities``, ``(K + 1, H, W)`` float16, and ``classes``."""
    stream = io.BytesIO()
    np.savez_compressed(stream, probabilities=probabilities.astype(np.float16), classes=np.array(list(classes)))
    return stream.getvalue()


def draw_overlay(image: ndarray, label_map: ndarray, palette: Sequence[Sequence[int]], rows: int = 512) -> ndarray:
    """Return an image with tinted and outlined defects, drawn in bands of rows where there are any.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        label_map: ``(H, W)`` uint8.
        palette: RGB of each class.
        rows: of a band; a large image needs no more memory than its copy.
    """
    drawn, colours = np.array(image), [tuple(c) for c in palette]
    for top in range(0, len(image), rows):
        first, after = max(0, top - 1), min(len(image), top + rows + 1)  # an outline reaches one row over
        if label_map[first:after].any():
            band = overlay_labels(image[first:after], label_map[first:after], colours)
            drawn[top : top + rows] = band[top - first : top - first + rows]
    return drawn


def encode_overlay(image: ndarray, label_map: ndarray, palette: Sequence[Sequence[int]], suffix: str = '.png') -> bytes:
    """Return :func:`draw_overlay` as PNG, or as JPEG where the suffix says so."""
    drawn = draw_overlay(image, label_map, palette)
    cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR, dst=drawn)
    return cv2.imencode(suffix, drawn)[1].tobytes()


def image_record(label: str, size_hw: tuple[int, int], prediction: Prediction, notes: Sequence[str]) -> dict[str, Any]:
    """Return one line of ``predictions.jsonl``."""
    return dict(
        image=label,
        width=size_hw[1],
        height=size_hw[0],
        is_defective=prediction.is_defective,
        image_score=round(prediction.image_score, 6),
        notes=list(notes),
        defects=[_rounded(d.to_dict()) for d in prediction.defects],
    )


def tables_of(records: Iterable[dict[str, Any]]) -> tuple[str, str]:
    """Return the CSV tables of defects and of images for lines of ``predictions.jsonl``."""
    defects, images = io.StringIO(), io.StringIO()
    defect_rows = csv.DictWriter(defects, DEFECT_COLUMNS, extrasaction='ignore', lineterminator='\n')
    image_rows = csv.DictWriter(images, IMAGE_COLUMNS, extrasaction='ignore', lineterminator='\n')
    defect_rows.writeheader()
    image_rows.writeheader()
    for record in records:
        own = record.get('defects', [])
        image_rows.writerow({**record, 'defects': len(own), 'notes': '; '.join(record.get('notes', []))})
        for defect in own:
            box = dict(zip(('x1', 'y1', 'x2', 'y2'), defect['box_xyxy'], strict=True))
            centroid = dict(zip(('centroid_x', 'centroid_y'), defect['centroid_xy'], strict=True))
            defect_rows.writerow(
                {**{k: record[k] for k in ('image', 'is_defective', 'image_score')}, **defect, **box, **centroid}
            )
    return defects.getvalue(), images.getvalue()


class RecordFile:
    """``predictions.jsonl``: a line for each finished image; a line that a killed process left half is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records = _read_lines(path)
        self._stream = path.open('a', encoding='utf-8')

    def add(self, record: dict[str, Any]) -> None:
        """Append a line and hand it to the system."""
        self._stream.write(json.dumps(record, ensure_ascii=False) + '\n')
        self._stream.flush()
        self.records.append(record)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    text = path.read_text(encoding='utf-8')
    complete = text[: text.rfind('\n') + 1]
    if complete != text:
        write_bytes(path, complete.encode())
    return [json.loads(line) for line in complete.splitlines()]


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    def short(value):
        return round(value, 6) if isinstance(value, float) else value

    return {
        key: [short(v) for v in value] if isinstance(value, list) else short(value) for key, value in values.items()
    }


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
