"""Write a demo data set in the MVTec AD layout, the WTA layout, or both.

First it is planned which images there are, without rendering. The seed of an image depends on its place alone (layout,
category, group, number), so asking for more images leaves those that were there before as they were.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmdefect import __version__
from mmdefect.demo.sample import CATEGORIES, TOLERANCE, DemoSample, check_size, render_sample
from mmdefect.files import write_bytes, write_json, write_text

LAYOUTS = ('mvtec', 'wta')
INFO, RECORDS = 'dataset.json', 'records.json'
#: Classes of the WTA layout and the defects that each stands for.
WTA_CLASSES = ('normal', 'attached', 'broken')
#: What the defective images of the WTA layout carry, over and over in this order: kinds with their classes.
_CHIP, _PARTICLE, _MISSING = ('chip', 2), ('particle', 1), ('missing', 2)
_WTA_CYCLE = (
    (_CHIP,),
    (_PARTICLE,),
    (_MISSING,),
    (_PARTICLE, _PARTICLE),
    (_PARTICLE, _CHIP),
    (_CHIP, _CHIP),
    (_PARTICLE, _PARTICLE, _PARTICLE),
    (_MISSING, _PARTICLE),
)


@dataclass(frozen=True)
class ImagePlan:
    """One image to render."""

    layout: str  # one of LAYOUTS
    category: str  # what is on the image
    group: str  # split or type of defect, for counting
    image: str  # path below the root of the data set, with forward slashes
    mask: str  # the same of the mask; empty where the layout has none
    defects: tuple[tuple[str, int], ...]  # kind and class index of each
    seed: tuple[int, ...]  # integers after the seed of the data set that identify the image


def smallest_count(layout: str) -> int:
    """Return how many images a layout needs so that no folder is empty."""
    return 10 if layout == 'wta' else len(CATEGORIES) * (2 + max(len(kinds) for kinds in CATEGORIES.values()))


def plan_layout(layout: str, images: int) -> list[ImagePlan]:
    """Return the plans of one layout."""
    if layout not in LAYOUTS:
        raise ValueError(f'`layout` must be one of {list(LAYOUTS)}, got {layout!r}.')
    least = smallest_count(layout)
    if images < least:
        raise ValueError(f'`images` must be at least {least} for {layout!r}, else a folder stays empty; got {images}.')
    return _plan_mvtec(images) if layout == 'mvtec' else _plan_wta(images)


def _shares(total: int, parts: int) -> list[int]:
    """Return ``parts`` whole numbers as equal as possible that add up to ``total``."""
    return [total // parts + (k < total % parts) for k in range(parts)]


def _plan_mvtec(images: int) -> list[ImagePlan]:
    """Half of each category is defective, evenly over its types; a tenth are good test images, the rest train."""
    plans = []
    counts = _shares(images, len(CATEGORIES))
    for c, (category, kinds) in enumerate(CATEGORIES.items()):
        defective = max(len(kinds), round(0.5 * counts[c]))
        good_test = max(1, round(0.1 * counts[c]))
        groups = [('train/good', (), counts[c] - defective - good_test), ('test/good', (), good_test)]
        for index, (kind, share) in enumerate(zip(kinds, _shares(defective, len(kinds)), strict=True), 1):
            groups.append((f'test/{kind}', ((kind, index),), share))
        for g, (group, defects, count) in enumerate(groups):
            for k in range(count):
                path = f'mvtec/{category}/{group}/{k:03d}.png'
                mask = f'mvtec/{category}/ground_truth/{defects[0][0]}/{k:03d}_mask.png' if defects else ''
                repeated = defects * (2 if k % 4 == 3 else 1)
                plans.append(ImagePlan('mvtec', category, group, path, mask, repeated, (0, c, g, k)))
    return plans


def _plan_wta(images: int) -> list[ImagePlan]:
    """60/20/20 over train, val and test; two fifths of each split are clean, the rest follow the cycle."""
    val = test = max(2, round(0.2 * images))
    plans: list[ImagePlan] = []
    for s, (split, count) in enumerate((('train', images - val - test), ('val', val), ('test', test))):
        clean, dirty = max(1, round(0.4 * count)), 0
        for k in range(count):
            defects: tuple[tuple[str, int], ...] = ()
            if (k + 1) * clean // count == k * clean // count:  # clean images are spread evenly
                defects = _WTA_CYCLE[dirty % len(_WTA_CYCLE)]
                dirty += 1
            image, mask = (f'wta/{kind}/{split}/part_{len(plans) + 1:04d}.png' for kind in ('img_dir', 'ann_dir'))
            plans.append(ImagePlan('wta', 'insert', split, image, mask, defects, (1, s, 0, k)))
    return plans


def write_png(path: Path, image: ndarray) -> None:
    """Write ``(H, W)`` or RGB ``(H, W, 3)`` uint8 as PNG."""
    ordered = image[..., ::-1] if image.ndim == 3 else image
    # Noise does not compress: a higher level costs time and gains next to nothing.
    write_bytes(path, cv2.imencode('.png', ordered, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes())


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make ``out`` an empty folder.

    Only a folder that carries the ``dataset.json`` of a demo data set is ever emptied, and only of what one writes.

    Raises:
        OSError: if it is a file, or holds files and ``overwrite`` is off, or holds those of something else.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'`out` must be a folder, but {out} is a file; choose another place.')
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f'`out` must be empty or absent, but {out} holds files; pass --overwrite to replace an older demo '
                'data set there, or choose another folder.'
            )
        if not _is_demo_data(out):
            raise FileExistsError(
                f'{out} holds no {INFO} of a demo data set, so its files are not replaced; choose another folder.'
            )
        for name in LAYOUTS:
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


def _is_demo_data(out: Path) -> bool:
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
    """
    out = Path(out)
    check_size(size_hw)
    if seed < 0:
        raise ValueError(f'`seed` must not be negative, got {seed}.')
    plans = [plan for layout in layouts for plan in plan_layout(layout, images)]
    prepare_folder(out, overwrite)
    facts = dict(
        mvtec={'categories': {name: list(kinds) for name, kinds in CATEGORIES.items()}, 'mask_values': '0 or 255'},
        wta={'classes': list(WTA_CLASSES), 'mask_values': 'class index'},
    )
    info = {
        'generator': 'mmdefect.demo',
        'version': __version__,
        'complete': False,
        'seed': seed,
        'size_hw': list(size_hw),
        'images_per_layout': images,
        'tolerance_levels': TOLERANCE,
        'layouts': {layout: facts[layout] for layout in layouts},
    }
    write_json(out / INFO, info)
    counts: dict[str, dict] = {layout: {} for layout in layouts}
    records = {}
    for done, plan in enumerate(plans, 1):
        sample = render_sample(plan.category, plan.defects, size_hw, (seed, *plan.seed))
        write_png(out / plan.image, sample.image)
        if plan.mask:
            binary = plan.layout == 'mvtec'
            write_png(out / plan.mask, (sample.label > 0).astype(np.uint8) * 255 if binary else sample.label)
        _count(counts[plan.layout], plan, sample)
        records[plan.image] = [
            dict(kind=r.kind, class_index=r.class_index, box_xyxy=list(r.box_xyxy), area=r.area) for r in sample.records
        ]
        if progress is not None:
            progress(done, len(plans))
    write_text(out / RECORDS, json.dumps(records) + '\n')
    for layout in layouts:
        info['layouts'][layout]['counts'] = counts[layout]
    info['complete'] = True
    write_json(out / INFO, info)
    return info


def _count(counts: dict, plan: ImagePlan, sample: DemoSample) -> None:
    """Add an image to the counts of its layout."""
    place = counts.setdefault(plan.category, {}) if plan.layout == 'mvtec' else counts
    entry = place.setdefault(plan.group, {'images': 0, 'clean': 0, 'pixels': Counter()})
    entry['images'] += 1
    entry['clean'] += not plan.defects
    names = WTA_CLASSES if plan.layout == 'wta' else ('normal', *CATEGORIES[plan.category])
    for value, number in zip(*np.unique(sample.label, return_counts=True), strict=True):
        entry['pixels'][names[value]] += int(number)
