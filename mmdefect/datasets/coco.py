"""Read COCO annotation files: polygons, run-length codes, several files for several splits."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmdefect.datasets.conversion import Source, SourceImage, paint
from mmdefect.datasets.folder_entries import SPLIT_NAMES
from mmdefect.datasets.folder_labels import NORMAL
from mmdefect.datasets.masks import image_size_hw
from mmdefect.datasets.polygons import decode_rle, rasterize_polygons, touched_pixels


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
        polygon_rule: see :func:`~mmdefect.datasets.polygons.rasterize_polygons`.

    Raises:
        ValueError: if a file, an image or an annotation cannot be used; the message names it.
    """
    files = _find_files(Path(source))
    bodies = {file: _load(file) for file in files}
    names, dropped = _categories(bodies, class_names)
    images, stray = [], 0
    for file, body in bodies.items():
        split = _split_of(file.relative_to(source) if Path(source).is_dir() else Path(file.name))
        annotations = defaultdict(list)
        for annotation in body['annotations']:
            annotations[annotation['image_id']].append(annotation)
        stray += sum(len(annotations[i]) for i in annotations.keys() - {image['id'] for image in body['images']})
        categories = {c['id']: c['name'] for c in body['categories']}
        for image in body['images']:
            path = _find_image(file, image['file_name'], split, image_dir)
            reader = _LabelReader(file, path, image, annotations[image['id']], categories, names, polygon_rule)
            place = os.path.splitext(image['file_name'])[0].replace('\\', '/')
            images.append(SourceImage(str(path), place, split, reader))
    if not images:
        raise ValueError(f'{source} must list at least one image, but its {len(files)} COCO files list none.')
    notes = [f'categories without annotations, left out: {", ".join(dropped)}.'] if dropped else []
    if stray:
        notes.append(f'{stray} annotations of images that are not listed, left out.')
    return Source(tuple(sorted(images, key=lambda i: (i.split or '', i.place))), (NORMAL, *names), tuple(notes))


class _LabelReader:
    """Draw the annotations of one image when asked for."""

    def __init__(
        self,
        file: Path,
        path: Path,
        image: dict,
        annotations: list[dict],
        categories: dict[int, str],
        names: Sequence[str],
        rule: str,
    ) -> None:
        self.file, self.path, self.image, self.rule = file, path, image, rule
        self.annotations = [(a, categories.get(a.get('category_id'))) for a in annotations]
        self.names = list(names)

    def __call__(self, decisions: Counter) -> np.ndarray:
        size_hw = image_size_hw(str(self.path))
        stated = (self.image.get('height', size_hw[0]), self.image.get('width', size_hw[1]))
        if stated != size_hw:
            raise ValueError(
                f'the image {self.path} must have the size that {self.file} states, '
                f'{stated[1]}x{stated[0]}, but it has {size_hw[1]}x{size_hw[0]}; export the annotations '
                'again.'
            )
        regions = []
        for annotation, name in self.annotations:
            if name is None:
                raise ValueError(
                    f'annotation {annotation.get("id")} in {self.file} must have one of the listed '
                    f'categories, got {annotation.get("category_id")!r}; correct the file.'
                )
            if name in self.names:
                regions.append((self._draw(annotation, size_hw, decisions), self.names.index(name) + 1))
            else:
                decisions['annotations of classes that were not asked for, left out'] += 1
        return paint(np.zeros(size_hw, np.uint8), regions, decisions)

    def _draw(self, annotation: dict, size_hw: tuple[int, int], decisions: Counter) -> np.ndarray:
        shape = annotation.get('segmentation')
        try:
            if isinstance(shape, dict):
                if list(shape['size']) != list(size_hw):
                    raise ValueError(f'its run-length code is for {shape["size"]}, the image has {list(size_hw)}')
                return decode_rle(shape['counts'], size_hw)
            if not shape:
                raise ValueError('it has no polygon and no run-length code, only a box at best')
            mask = rasterize_polygons(shape, size_hw, self.rule)
            if mask.any():
                return mask
            decisions['polygons thinner than a pixel, drawn as the pixels of their corners'] += 1
            return touched_pixels(shape, size_hw)
        except (ValueError, KeyError, TypeError) as err:
            raise ValueError(
                f'annotation {annotation.get("id")} of {self.image["file_name"]} in {self.file} cannot be '
                f'drawn: {err}; draw the region and export it again.'
            ) from err


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
            f'{source} must hold at least one JSON file with images, annotations and categories, but it '
            'has none; name the file itself if it is elsewhere.'
        )
    return files


def _is_coco(file: Path) -> bool:
    try:
        body = json.loads(file.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    return isinstance(body, dict) and {'images', 'annotations', 'categories'} <= body.keys()


def _load(file: Path) -> dict:
    try:
        body = json.loads(file.read_text(encoding='utf-8'))
        for key, needed in (
            ('images', ('id', 'file_name')),
            ('annotations', ('image_id', 'category_id')),
            ('categories', ('id', 'name')),
        ):
            for entry in body[key]:
                missing = [k for k in needed if k not in entry]
                if missing:
                    raise KeyError(f'{missing[0]} in an entry of {key}')
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as err:
        raise ValueError(
            f'{file} must be a COCO file with images, annotations and categories, but it is not ({err}); '
            'export it again.'
        ) from err
    return body


def _categories(bodies: dict[Path, dict], wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the class names in order, and the categories left out because nothing is drawn for them."""
    order: dict[str, tuple] = {}
    used: set[str] = set()
    for body in bodies.values():
        by_id = {c['id']: c['name'] for c in body['categories']}
        for index, name in by_id.items():
            order.setdefault(name, (index, name))
        used |= {by_id[a['category_id']] for a in body['annotations'] if a['category_id'] in by_id}
    known = sorted(order, key=lambda name: order[name])
    if wanted is not None:
        unknown = [n for n in wanted if n not in known]
        if unknown:
            raise ValueError(f'`--classes` must name categories of the COCO files, {known}, got {unknown[0]!r}.')
        return list(wanted), []
    names = [n for n in known if n in used]
    if not names:
        raise ValueError(f'{next(iter(bodies))} must hold at least one annotation, but it has none.')
    if NORMAL in names:
        raise ValueError(
            f'{next(iter(bodies))} must not annotate a category {NORMAL!r}, which is the name of the '
            'class without defects; rename it, or take the others with --classes.'
        )
    return names, [n for n in known if n not in used]


def _split_of(file: Path) -> str | None:
    words = [w for part in file.parts for w in re.split(r'[^a-z]+', part.lower())]
    return next((SPLIT_NAMES[w] for w in reversed(words) if w in SPLIT_NAMES), None)


def _find_image(file: Path, name: str, split: str | None, image_dir: str | os.PathLike | None) -> Path:
    if image_dir is not None:
        folders = [Path(image_dir), *([Path(image_dir) / split] if split else [])]
    else:
        around = [file.parent, file.parent.parent]
        words = (
            ['', 'images', 'train', 'val', 'valid', 'test']
            if split is None
            else ['', 'images', *(w for w, s in SPLIT_NAMES.items() if s == split)]
        )
        folders = [a / w for a in around for w in words]
        folders += [a / 'images' / w for a in around for w in words[2:]]
        folders += [a / f'{w}2017' for a in around for w in words[2:]]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f'the image {name} that {file} lists must exist, but it is not in {folders[0]}'
        f'{"" if image_dir else " nor around it"}; name the folder of the images with --images.'
    )
