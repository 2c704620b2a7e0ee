"""What a prediction is written as: label map with palette, probabilities, overlay, records and tables."""

import csv
import io
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from mmdefect import files
from mmdefect.deployment.types import Defect, Prediction
from mmdefect.visualization.overlay import overlay_labels

#: Columns of fields of a defect that hold more than one number.
_SPREAD = {'box_xyxy': ('x1', 'y1', 'x2', 'y2'), 'centroid_xy': ('centroid_x', 'centroid_y')}
_DEFECT_FIELDS = [column for field in fields(Defect) for column in _SPREAD.get(field.name, (field.name,))]
DEFECT_COLUMNS = ('image', 'is_defective', 'image_score', *_DEFECT_FIELDS)
IMAGE_COLUMNS = ('image', 'width', 'height', 'is_defective', 'image_score', 'defects', 'notes', 'error')


def encode_label_png(label_map: ndarray, palette: Sequence[Sequence[int]]) -> bytes:
    """Return ``(H, W)`` uint8 as an indexed PNG: class ids as values, the palette, RGB, as their colours."""
    height, width = label_map.shape
    pack, parts = zlib.compressobj(1), []  # OpenCV writes no palette; level 1, as label maps are nearly constant
    rows = max(1, 2**22 // (width + 1))
    for top in range(0, height, rows):  # each line starts with its filter, 0
        parts.append(pack.compress(np.pad(label_map[top : top + rows], ((0, 0), (1, 0)))))
    header = struct.pack('>IIBBBBB', width, height, 8, 3, 0, 0, 0)
    colours, pixels = np.asarray(palette, np.uint8).tobytes(), b''.join([*parts, pack.flush()])
    png = b'\x89PNG\r\n\x1a\n'
    for kind, body in ((b'IHDR', header), (b'PLTE', colours), (b'IDAT', pixels), (b'IEND', b'')):
        png += struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    return png


def encode_probabilities(probabilities: ndarray, classes: Sequence[str]) -> bytes:
    """Return an ``.npz`` file with ``probabilities``, ``(K + 1, H, W)`` float16, and ``classes``."""
    stream = io.BytesIO()
    np.savez_compressed(stream, probabilities=probabilities.astype(np.float16), classes=np.array(list(classes)))
    return stream.getvalue()


def draw_overlay(image: ndarray, label_map: ndarray, palette: Sequence[Sequence[int]], rows: int = 512) -> ndarray:
    """Return ``(H, W, 3)`` uint8 RGB with tinted and outlined defects.

    They are drawn in bands of rows where there are any, so a large image needs no more memory than its copy.
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
        defects=[_rounded(defect.to_dict()) for defect in prediction.defects],
    )


def _rounded(value: Any) -> Any:
    """Round what is written: all numbers in a JSON value."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def write_tables(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write ``defects.csv`` and ``images.csv`` for lines of ``predictions.jsonl``."""
    defects, images = io.StringIO(), io.StringIO()
    defect_rows = csv.DictWriter(defects, DEFECT_COLUMNS, extrasaction='ignore', lineterminator='\n')
    image_rows = csv.DictWriter(images, IMAGE_COLUMNS, extrasaction='ignore', lineterminator='\n')
    defect_rows.writeheader()
    image_rows.writeheader()
    for record in records:
        own = record.get('defects', [])
        image_rows.writerow({**record, 'defects': len(own), 'notes': '; '.join(record.get('notes', []))})
        for defect in own:
            numbers = [dict(zip(columns, defect[name], strict=True)) for name, columns in _SPREAD.items()]
            defect_rows.writerow({**record, **defect, **numbers[0], **numbers[1]})
    files.write_text(folder / 'defects.csv', defects.getvalue())
    files.write_text(folder / 'images.csv', images.getvalue())


class RecordFile:
    """``predictions.jsonl``: a line for each finished image; a line that a killed process left half is dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding='utf-8') if path.is_file() else ''
        complete = text[: text.rfind('\n') + 1]
        if complete != text:
            files.write_text(path, complete)
        self.records: list[dict[str, Any]] = [json.loads(line) for line in complete.splitlines()]
        self._stream = path.open('a', encoding='utf-8')

    def add(self, record: dict[str, Any]) -> None:
        """Append a line and hand it to the system."""
        self._stream.write(json.dumps(record, ensure_ascii=False) + '\n')
        self._stream.flush()
        self.records.append(record)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
