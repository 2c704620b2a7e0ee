"""Write a demo data set in the MVTec AD layout, the WTA layout, or both."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmdefect import __version__
from mmdefect.demo.plan import LAYOUTS, WTA_CLASSES, ImagePlan, plan_layout
from mmdefect.demo.sample import CATEGORIES, TOLERANCE, DemoSample, check_size, render_sample

INFO, RECORDS = 'dataset.json', 'records.json'
#: PNG compression level: noise does not compress, so a higher one costs time and gains next to nothing.
_PNG_LEVEL = 2


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either absent or complete, whatever happens in between."""
    partial = path.with_name(f'.{path.name}.part')
    partial.write_bytes(data)
    os.replace(partial, path)


def write_png(path: Path, photo: ndarray) -> None:
    """Write ``(H, W)`` or RGB ``(H, W, 3)`` uint8 as PNG, atomically.

    Raises:
        OSError: if the folder cannot be written.
    """
    ordered = photo[..., ::-1] if photo.ndim == 3 else photo
    done, data = cv2.imencode('.png', ordered, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
    if not done:
        raise ValueError(f'`image` must be encodable as PNG, got shape {photo.shape} of {photo.dtype}.')
    write_bytes(path, data.tobytes())


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make ``out`` an empty folder, or refuse.

    Only a folder that carries the ``dataset.json`` of a demo data set is ever emptied, and only of what one writes.

    Raises:
        FileExistsError: if it holds files and ``overwrite`` is off, or if they are not a demo data set's.
        NotADirectoryError: if it is a file.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'`out` must be a folder, but {out} is a file; choose another place.')
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f'`out` must be empty or absent, but {out} holds files; pass --overwrite to replace '
                'an older demo data set there, or choose another folder.'
            )
        if not _is_ours(out):
            raise FileExistsError(
                f'{out} holds no {INFO} of a demo data set, so its files are not replaced; choose another folder.'
            )
        for name in LAYOUTS:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)


def _is_ours(out: Path) -> bool:
    try:
        return json.loads((out / INFO).read_text(encoding='utf-8')).get('generator') == 'mmdefect.demo'
    except (OSError, ValueError, AttributeError):
        return False


def write_demo_dataset(
    out: str | Path,
    layouts: Sequence[str] = LAYOUTS,
    images: int = 200,
    size_hw: tuple[int, int] = (256, 256),
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Render a demo data set to disk; the same arguments give the same pixels in any process.

    Args:
        out: root folder; ``mvtec/`` and ``wta/`` are made in it.
        layouts: which of them.
        images: images in each layout.
        size_hw: height and width of the images in pixels, 128 to 1024.
        seed: seed of everything.
        overwrite: replace an older demo data set in ``out``.
        progress: called with the number of images done and the total, after each.

    Returns:
        The content of ``dataset.json``.

    Raises:
        ValueError: for a count or a size out of range.
        FileExistsError: if ``out`` holds files; see :func:`prepare_folder`.
    """
    out = Path(out)
    check_size(size_hw)
    if seed < 0:
        raise ValueError(f'`seed` must not be negative, got {seed}.')
    plans = [plan for layout in layouts for plan in plan_layout(layout, images)]
    prepare_folder(out, overwrite)
    info = {
        'generator': 'mmdefect.demo',
        'version': __version__,
        'complete': False,
        'seed': seed,
        'size_hw': list(size_hw),
        'images_per_layout': images,
        'tolerance_levels': TOLERANCE,
        'layouts': {layout: _layout_info(layout) for layout in layouts},
    }
    _write_json(out / INFO, info)
    for folder in sorted({(out / path).parent for plan in plans for path in (plan.image, plan.mask) if path}):
        folder.mkdir(parents=True, exist_ok=True)
    counts = {layout: {} for layout in layouts}
    records = {}
    for k, plan in enumerate(plans):
        sample = render_sample(plan.category, plan.defects, size_hw, (seed, *plan.seed))
        _write_sample(out, plan, sample)
        _count(counts[plan.layout], plan, sample)
        records[plan.image] = [
            {'kind': r.kind, 'class_index': r.class_index, 'box_xyxy': list(r.box_xyxy), 'area': r.area}
            for r in sample.records
        ]
        if progress is not None:
            progress(k + 1, len(plans))
    _write_json(out / RECORDS, records, indent=None)
    for layout in layouts:
        info['layouts'][layout]['counts'] = counts[layout]
    info['complete'] = True
    _write_json(out / INFO, info)
    return info


def _layout_info(layout: str) -> dict:
    if layout == 'wta':
        return {'classes': list(WTA_CLASSES), 'mask_values': 'class index'}
    return {'categories': {name: list(kinds) for name, kinds in CATEGORIES.items()}, 'mask_values': '0 or 255'}


def _write_sample(out: Path, plan: ImagePlan, sample: DemoSample) -> None:
    write_png(out / plan.image, sample.image)
    if plan.mask:
        write_png(out / plan.mask, (sample.label > 0).astype(np.uint8) * 255 if plan.binary else sample.label)


def _count(counts: dict, plan: ImagePlan, sample: DemoSample) -> None:
    """Add an image to the census of its layout."""
    place = counts.setdefault(plan.category, {}) if plan.layout == 'mvtec' else counts
    entry = place.setdefault(plan.group, {'images': 0, 'clean': 0, 'pixels': {}})
    entry['images'] += 1
    entry['clean'] += not plan.defects
    names = WTA_CLASSES if plan.layout == 'wta' else ('normal', *CATEGORIES[plan.category])
    pixels = Counter(entry['pixels'])
    for value, number in zip(*np.unique(sample.label, return_counts=True), strict=True):
        pixels[names[value]] += int(number)
    entry['pixels'] = dict(pixels)


def _write_json(path: Path, content: dict, indent: int | None = 2) -> None:
    write_bytes(path, (json.dumps(content, indent=indent) + '\n').encode('utf-8'))
