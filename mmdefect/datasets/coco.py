"""Read COCO annotation files: polygons, run-length codes, several files for several splits.

A pixel belongs to a polygon when its centre does: no pixel is gained or lost on average, which matters where the median
defect has two pixels. (COCO's own tools draw the outline too and so grow every region by about half a pixel.)
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mmdefect.datasets.convert import Source, SourceImage, paint
from mmdefect.datasets.folder import NORMAL
from mmdefect.datasets.folder_scan import SPLIT_OF
from mmdefect.datasets.masks import image_size_hw

RULES = ('union', 'evenodd')


def read_coco(
    source: str | os.PathLike,
    image_dir: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    polygon_rule: str = 'union',
) -> Source:
    """Read one COCO file, or every one below a folder.

    The split of a file is the word train, val, valid or test in its name or folder. Categories without annotations are
    left out (some exporters add a parent category).

    Args:
        source: a JSON file, or a folder with such files.
        image_dir: folder that ``file_name`` is relative to; by default it is looked for around the JSON file.
        class_names: names of the categories to take, in the order of their ids in the new data set; ``None`` takes all
            that have annotations, sorted by category id.
        polygon_rule: see :func:`rasterize_polygons`.
    """
    files = _find_files(Path(source))
    bodies = {file: _load(file) for file in files}
    names, dropped = _categories(bodies, class_names)
    images, stray = [], 0
    for file, body in bodies.items():
        split = _split_of(file.relative_to(source) if Path(source).is_dir() else Path(file.name))
        categories = {c['id']: c['name'] for c in body['categories']}
        annotations = defaultdict(list)
        for annotation in body['annotations']:
            annotations[annotation['image_id']].append((annotation, categories.get(annotation['category_id'])))
        stray += sum(len(annotations[i]) for i in annotations.keys() - {image['id'] for image in body['images']})
        for image in body['images']:
            path = _find_image(file, image['file_name'], split, image_dir)
            read = partial(_read_label, file, path, image, annotations[image['id']], names, polygon_rule)
            place = os.path.splitext(image['file_name'])[0].replace('\\', '/')
            images.append(SourceImage(str(path), place, split, read))
    if not images:
        raise ValueError(f'{source} must list at least one image, but its {len(files)} COCO files list none.')
    notes = [f'categories without annotations, left out: {", ".join(dropped)}.'] if dropped else []
    if stray:
        notes.append(f'{stray} annotations of images that are not listed, left out.')
    return Source(tuple(sorted(images, key=lambda i: (i.split or '', i.place))), (NORMAL, *names), tuple(notes))


def rasterize_polygons(
    polygons: Sequence[Sequence[float]], size_hw: tuple[int, int], rule: str = 'union'
) -> np.ndarray:
    """Fill polygons and return ``(H, W)`` bool.

    Args:
        polygons: each ``[x0, y0, x1, y1, ...]`` in pixels; pixel column ``i`` spans ``[i, i + 1]``. A polygon that
            touches or crosses itself is filled by the even-odd rule, so a hole reached by a bridge stays open.
        size_hw: height and width of the image; what lies outside is cut off.
        rule: how several polygons combine: ``'union'``, as COCO defines it, or ``'evenodd'``, where a polygon inside
            another one is a hole.
    """
    if rule not in RULES:
        raise ValueError(f'`rule` must be one of {RULES}, got {rule!r}.')
    masks = [np.zeros(size_hw, bool), *(_fill(_points(p), size_hw) for p in polygons)]
    return np.logical_or.reduce(masks) if rule == 'union' else np.logical_xor.reduce(masks)


def touched_pixels(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> np.ndarray:
    """Mark, ``(H, W)`` bool, the pixels that hold a corner of a polygon: what is left of one thinner than a pixel."""
    mask = np.zeros(size_hw, bool)
    for polygon in polygons:
        columns, rows = np.floor(_points(polygon)).astype(int).T
        inside = (columns >= 0) & (columns < size_hw[1]) & (rows >= 0) & (rows < size_hw[0])
        mask[rows[inside], columns[inside]] = True
    return mask


def decode_rle(counts: Sequence[int] | str, size_hw: tuple[int, int]) -> np.ndarray:
    """Decode a run-length code as COCO files hold it to ``(H, W)`` bool.

    Args:
        counts: lengths of the runs of 0 and 1 in turn, from 0 on, in column-major order; or their compressed text.
        size_hw: height and width, which the runs must fill exactly.
    """
    runs = _decompress(counts) if isinstance(counts, str) else [int(c) for c in counts]
    if min(runs, default=0) < 0 or sum(runs) != size_hw[0] * size_hw[1]:
        raise ValueError(f'the runs must fill {size_hw[1]}x{size_hw[0]} pixels, but they add up to {sum(runs)}')
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size_hw, order='F')


def _points(polygon: Sequence[float]) -> np.ndarray:
    values = np.asarray(polygon, np.float64)
    if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
        raise ValueError(f'a polygon must be a flat list of three or more x, y pairs, got {str(polygon)[:60]}')
    return values.reshape(-1, 2)


def _fill(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Fill one polygon by the even-odd rule: a pixel is inside when an odd number of edges lies left of its centre."""
    height, width = size_hw
    crossings = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # Rows whose centre y + .5 lies in [y0, y1): half-open, so a corner counts for one of its two edges.
        rows = np.arange(max(int(np.ceil(y0 - 0.5)), 0), min(int(np.ceil(y1 - 0.5)), height))
        if len(rows):
            x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            columns = np.clip(np.ceil(x - 0.5), 0, width).astype(int)  # first column whose centre is right of the edge
            np.add.at(crossings, (rows, columns), 1)
    return np.cumsum(crossings[:, :width], axis=1) % 2 == 1


def _decompress(text: str) -> list[int]:
    """Read the compressed text: five bits a character, lowest first, from the third run on as differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f'the run-length text must hold characters from "0" to "o", but it holds {character!r}')
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _read_label(
    file: Path, path: Path, image: dict, annotations: list[tuple], names: list[str], rule: str, decisions: Counter
) -> np.ndarray:
    """Draw the annotations of one image, each given with the name of its category."""
    size_hw = image_size_hw(str(path))
    stated = (image.get('height', size_hw[0]), image.get('width', size_hw[1]))
    if stated != size_hw:
        raise ValueError(
            f'the image {path} must have the size that {file} states, {stated[1]}x{stated[0]}, but it has '
            f'{size_hw[1]}x{size_hw[0]}; export the annotations again.'
        )
    regions = []
    for annotation, name in annotations:
        if name is None:
            raise ValueError(
                f'annotation {annotation.get("id")} in {file} must have one of the listed categories, got '
                f'{annotation["category_id"]!r}; correct the file.'
            )
        if name not in names:
            decisions['annotations of classes that were not asked for, left out'] += 1
            continue
        try:
            mask = _draw(annotation.get('segmentation'), size_hw, rule, decisions)
        except (ValueError, KeyError, TypeError) as err:
            raise ValueError(
                f'annotation {annotation.get("id")} of {image["file_name"]} in {file} cannot be drawn: {err}; draw the '
                'region and export it again.'
            ) from err
        regions.append((mask, names.index(name) + 1))
    return paint(np.zeros(size_hw, np.uint8), regions, decisions)


def _draw(shape: dict | list | None, size_hw: tuple[int, int], rule: str, decisions: Counter) -> np.ndarray:
    if isinstance(shape, dict):
        if list(shape['size']) != list(size_hw):
            raise ValueError(f'its run-length code is for {shape["size"]}, the image has {list(size_hw)}')
        return decode_rle(shape['counts'], size_hw)
    if not shape:
        raise ValueError('it has no polygon and no run-length code, only a box at best')
    mask = rasterize_polygons(shape, size_hw, rule)
    if mask.any():
        return mask
    decisions['polygons thinner than a pixel, drawn as the pixels of their corners'] += 1
    return touched_pixels(shape, size_hw)


def _find_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(
            f'`SOURCE` must be a COCO file or a folder with COCO files, but {source} does not exist.'
        )
    files = [f for f in sorted(source.rglob('*.json')) if _is_coco(f)]
    if not files:
        raise ValueError(
            f'{source} must hold at least one JSON file with images, annotations and categories, but it has none; name '
            'the file itself if it is elsewhere.'
        )
    return files


def _is_coco(file: Path) -> bool:
    try:
        body = json.loads(file.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    return isinstance(body, dict) and {'images', 'annotations', 'categories'} <= body.keys()


def _load(file: Path) -> dict:
    needed = dict(images=('id', 'file_name'), annotations=('image_id', 'category_id'), categories=('id', 'name'))
    try:
        body = json.loads(file.read_text(encoding='utf-8'))
        for key, names in needed.items():
            for entry in body[key]:
                missing = [name for name in names if name not in entry]
                if missing:
                    raise KeyError(f'{missing[0]} in an entry of {key}')
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as err:
        raise ValueError(
            f'{file} must be a COCO file with images, annotations and categories, but is not ({err}); export it again.'
        ) from err
    return body


def _categories(bodies: dict[Path, dict], wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the class names in order, and the categories left out because they have no annotation."""
    first, order, used = next(iter(bodies)), {}, set()
    for body in bodies.values():
        by_id = {c['id']: c['name'] for c in body['categories']}
        for index, name in by_id.items():
            order.setdefault(name, (index, name))
        used |= {by_id[a['category_id']] for a in body['annotations'] if a['category_id'] in by_id}
    known = sorted(order, key=order.__getitem__)
    if wanted is not None:
        unknown = [n for n in wanted if n not in known]
        if unknown:
            raise ValueError(f'`--classes` must name categories of the COCO files, {known}, got {unknown[0]!r}.')
        return list(wanted), []
    names = [n for n in known if n in used]
    if not names:
        raise ValueError(f'{first} must hold at least one annotation, but it has none.')
    if NORMAL in names:
        raise ValueError(
            f'{first} must not annotate a category {NORMAL!r}, the name of the class without defects; rename it, or '
            'take the others with --classes.'
        )
    return names, [n for n in known if n not in used]


def _split_of(file: Path) -> str | None:
    words = [w for part in file.parts for w in re.split(r'[^a-z]+', part.lower())]
    return next((SPLIT_OF[w] for w in reversed(words) if w in SPLIT_OF), None)


def _find_image(file: Path, name: str, split: str | None, image_dir: str | os.PathLike | None) -> Path:
    if image_dir is not None:
        folders = [Path(image_dir), *([Path(image_dir) / split] if split else [])]
    else:
        around = [file.parent, file.parent.parent]
        words = [w for w, s in SPLIT_OF.items() if s == split] if split else ['train', 'val', 'valid', 'test']
        folders = [a / w for a in around for w in ('', 'images', *words)]
        folders += [a / 'images' / w for a in around for w in words]
        folders += [a / f'{w}2017' for a in around for w in words]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f'the image {name} that {file} lists must exist, but it is not in {folders[0]}'
        f'{"" if image_dir else " nor around it"}; name the folder of the images with --images.'
    )
