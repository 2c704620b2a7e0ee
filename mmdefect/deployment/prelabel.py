"""Predictions as annotations that a person corrects instead of drawing: for labelme, CVAT, COCO tools and Label Studio.

Every region becomes one polygon along the edges of its pixels (column ``i`` spans ``[i, i + 1]``), so that its outline
can be dragged in any of these tools. A hole is reached from the outline over a bridge without width, there and back: it
stays open wherever polygons are filled by the even-odd or by the winding rule, as our readers and these tools do.
Outlines are simplified by less than a pixel unless told otherwise; very small regions keep every corner.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy import ndarray

from mmdefect import files
from mmdefect.deployment.decoding import ImageError
from mmdefect.deployment.defects import CONNECTIVITY
from mmdefect.deployment.predict import parse_thresholds
from mmdefect.deployment.predictor import load_predictor
from mmdefect.deployment.sources import Source, decode_ahead, find_sources
from mmdefect.deployment.types import Prediction

FORMATS = ('labelme', 'cvat', 'coco', 'labelstudio')
#: Regions of fewer pixels keep every corner.
SMALL = 24
Ring = list[tuple[int, int]]  # corners (x, y), closed


@dataclass(frozen=True)
class Shape:
    """One region as a polygon."""

    class_name: str
    ring: tuple[tuple[int, int], ...]  # corners (x, y) in pixels, holes behind bridges
    area_px: int  # of the region, before simplifying
    score: float | None  # mean probability of its class, if known

    @property
    def box_xywh(self) -> list[int]:
        """Left, top, width and height."""
        (left, top), (right, bottom) = np.min(self.ring, 0).tolist(), np.max(self.ring, 0).tolist()
        return [left, top, right - left, bottom - top]


@dataclass(frozen=True)
class Annotated:
    """An image with its shapes."""

    source: Source
    size_hw: tuple[int, int]
    shapes: tuple[Shape, ...]


def prelabel(
    model: str | Path,
    inputs: Sequence[str],
    out: str | Path,
    form: str,
    options: dict[str, Any] | None = None,
    lines: Iterable[str] = (),
    thresholds: Sequence[str] | None = None,
    min_area_px: int = 0,
    simplify_px: float = 0.8,
    overwrite: bool = False,
    image_prefix: str = '/data/local-files/?d=',
) -> tuple[list[Annotated], list[str]]:
    """Predict images and write what is seen as annotations into ``out``.

    Args:
        model, inputs, options, lines, thresholds, min_area_px: as for predicting.
        form: one of ``FORMATS``.
        simplify_px: an outline may leave the pixels by so much; 0 keeps all of them.
        overwrite: replace files that are there, corrections of a person among them.
        image_prefix: of Label Studio, before the path of an image below its folder.

    Returns:
        The annotated images, and what could not be read.
    """
    out = Path(out)
    if form not in FORMATS:
        raise ValueError(f'the format must be one of {FORMATS}, got {form!r}.')
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(
            f'{out} must be new or empty, for it may hold what a person has corrected, but there are files in it; name '
            'another folder, or give --overwrite.'
        )
    sources = find_sources(inputs, lines)
    videos = [source.path for source in sources if source.is_video]
    if videos:
        raise ValueError(f'annotations belong to images, but {videos[0]} is a video; write its frames out first.')
    annotated, failed = [], []
    with load_predictor(model, **(options or {})) as predictor:
        info = predictor.info
        chosen = parse_thresholds(thresholds, info)
        for source, image in decode_ahead(sources):
            if isinstance(image, ImageError):
                failed.append(str(image))
                continue
            (prediction,) = predictor.predict_batch([image.pixels], chosen, min_area_px)
            shapes = tuple(shapes_of(prediction, info.classes, simplify_px))
            annotated.append(Annotated(source, image.pixels.shape[:2], shapes))
    for name, text in render(annotated, info.classes, form, out, image_prefix).items():
        files.write_text(out / name, text)
    return annotated, failed


def shapes_of(prediction: Prediction, classes: Sequence[str], simplify_px: float) -> Iterator[Shape]:
    """Yield the regions of a prediction as shapes, class by class, from the top left on."""
    scores = {(d.class_id, tuple(d.box_xyxy), d.area_px): d.score for d in prediction.defects}
    for class_id in range(1, len(classes)):
        mask = (prediction.label_map == class_id).astype(np.uint8)
        count, marks, stats, _ = cv2.connectedComponentsWithStats(mask, None, CONNECTIVITY, cv2.CV_32S)
        for region in range(1, count):
            left, top, width, height, area = stats[region].tolist()
            rings = trace(marks[top : top + height, left : left + width] == region)
            ring = bridge([_simplified(r, simplify_px if area >= SMALL else 0) for r in rings])
            score = scores.get((class_id, (left, top, left + width, top + height), area))
            yield Shape(classes[class_id], tuple((x + left, y + top) for x, y in ring), area, score)


def trace(mask: ndarray) -> list[Ring]:
    """Return the rings along the pixel edges of one region, the outer one first, then those of its holes.

    Args:
        mask: ``(H, W)`` bool, one region that hangs together over sides and corners.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    following: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    # Edges have the region to their right: along the top of a pixel to the right, along its bottom to the left.
    vertical, horizontal = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    for y, x in np.argwhere(vertical).tolist():
        start, end = ((x, y), (x + 1, y)) if vertical[y, x] > 0 else ((x + 1, y), (x, y))
        following[start].append(end)
    for y, x in np.argwhere(horizontal).tolist():
        start, end = ((x, y + 1), (x, y)) if horizontal[y, x] > 0 else ((x, y), (x, y + 1))
        following[start].append(end)
    rings = []
    while following:
        ring = [next(iter(following))]
        before = (0, 0)
        while True:
            here = ring[-1]
            ends = following[here]
            # Where two pixels touch at a corner the left turn stays with the region, which hangs together over it.
            turned = [before[0] * (y - here[1]) - before[1] * (x - here[0]) for x, y in ends]
            end = ends.pop(int(np.argmin(turned)))
            if not ends:
                del following[here]
            before = (end[0] - here[0], end[1] - here[1])
            if end == ring[0] and (end not in following or len(ring) > 3):
                break
            ring.append(end)
        rings.append(_corners(ring))
    return sorted(rings, key=_area, reverse=True)


def bridge(rings: Sequence[Ring]) -> Ring:
    """Return one ring of an outer one and those of holes, each reached on the shortest way between two corners."""
    whole = list(rings[0])
    for hole in rings[1:]:
        distances = ((np.array(whole)[:, None] - np.array(hole)[None]) ** 2).sum(-1)
        at, first = divmod(int(distances.argmin()), len(hole))
        whole = [*whole[: at + 1], *hole[first:], *hole[: first + 1], *whole[at:]]
    return whole


def _corners(ring: Ring) -> Ring:
    """Leave out the points at which a ring goes straight on."""
    steps = np.diff(ring, axis=0, append=[ring[0]])
    turns = (steps != np.roll(steps, 1, axis=0)).any(1)
    return [point for point, turn in zip(ring, turns, strict=True) if turn]


def _area(ring: Ring) -> float:
    """Area within a ring, negative for a hole."""
    x, y = np.array(ring, np.float64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _simplified(ring: Ring, by_px: float) -> Ring:
    if not by_px:
        return ring
    fewer = cv2.approxPolyDP(np.array(ring, np.int32), by_px, True)[:, 0].tolist()
    return [tuple(point) for point in fewer] if len(fewer) > 2 else ring


def render(
    images: Sequence[Annotated], classes: Sequence[str], form: str, out: Path, image_prefix: str
) -> dict[str, str]:
    """Return the annotation files of a format, ``{name below the folder: text}``."""
    if form == 'labelme':
        return {f'{i.source.name}.json': _dump(_labelme(i, out / f'{i.source.name}.json')) for i in images}
    names = _names_of_files(images)
    if form == 'cvat':
        return {'annotations.xml': _cvat(images, names, classes)}
    if form == 'coco':
        return {'annotations.json': _dump(_coco(images, names, classes))}
    return {'tasks.json': _dump([_task(i, image_prefix + n) for i, n in zip(images, names, strict=True)])}


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + '\n'


def _names_of_files(images: Sequence[Annotated]) -> list[str]:
    """Return the paths of the images below the folder that they share, with forward slashes."""
    paths = [image.source.path.absolute() for image in images]
    start = os.path.commonpath([path.parent for path in paths]) if paths else ''
    return [path.relative_to(start).as_posix() for path in paths]


def _labelme(image: Annotated, file: Path) -> dict[str, Any]:
    shapes = [
        dict(
            label=s.class_name,
            points=[[float(x), float(y)] for x, y in s.ring],
            group_id=None,
            description='' if s.score is None else f'score {s.score:.3f}',
            shape_type='polygon',
            flags={},
        )
        for s in image.shapes
    ]
    place = Path(os.path.relpath(image.source.path.absolute(), file.absolute().parent)).as_posix()
    height, width = image.size_hw
    head = dict(version='5.4.1', flags={}, shapes=shapes, imagePath=place, imageData=None)
    return dict(head, imageHeight=height, imageWidth=width)


def _cvat(images: Sequence[Annotated], names: Sequence[str], classes: Sequence[str]) -> str:
    root = ElementTree.Element('annotations')
    ElementTree.SubElement(root, 'version').text = '1.1'
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, 'meta'), 'job'), 'labels')
    for name in classes[1:]:
        ElementTree.SubElement(ElementTree.SubElement(labels, 'label'), 'name').text = name
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        size = dict(width=str(image.size_hw[1]), height=str(image.size_hw[0]))
        node = ElementTree.SubElement(root, 'image', id=str(number), name=name, **size)
        for s in image.shapes:
            points = ';'.join(f'{x:.2f},{y:.2f}' for x, y in s.ring)
            more = dict(source='auto', occluded='0', z_order='0')
            ElementTree.SubElement(node, 'polygon', label=s.class_name, points=points, **more)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding='unicode') + '\n'


def _coco(images: Sequence[Annotated], names: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    listed, annotations = [], []
    for number, (image, name) in enumerate(zip(images, names, strict=True), 1):
        listed.append(dict(id=number, file_name=name, width=image.size_hw[1], height=image.size_hw[0]))
        for s in image.shapes:
            place = dict(id=len(annotations) + 1, image_id=number, category_id=classes.index(s.class_name))
            polygon = [float(v) for point in s.ring for v in point]
            extra = {} if s.score is None else dict(score=round(s.score, 4))
            annotations.append(
                {**place, 'segmentation': [polygon], 'area': s.area_px, 'bbox': s.box_xywh, 'iscrowd': 0}
            )
            annotations[-1] |= extra
    categories = [dict(id=k, name=name) for k, name in enumerate(classes) if k]
    return dict(images=listed, annotations=annotations, categories=categories)


def _task(image: Annotated, address: str) -> dict[str, Any]:
    height, width = image.size_hw
    result = [
        dict(
            id=f'region{number}',
            type='polygonlabels',
            from_name='label',
            to_name='image',
            original_width=width,
            original_height=height,
            image_rotation=0,
            value=dict(
                points=[[100 * x / width, 100 * y / height] for x, y in s.ring],
                polygonlabels=[s.class_name],
                closed=True,
            ),
            **({} if s.score is None else dict(score=round(s.score, 4))),
        )
        for number, s in enumerate(image.shapes)
    ]
    return dict(data=dict(image=address), predictions=[dict(model_version='mmdefect', result=result)])
