"""Which images a demo data set holds: a list of plans, made without rendering anything.

The seed of an image depends on its place alone (layout, category, group, number), so asking for more images
leaves those that were there before as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmdefect.demo.sample import CATEGORIES

#: Classes of the WTA layout and the defects that each stands for.
WTA_CLASSES: tuple[str, ...] = ('normal', 'attached', 'broken')
#: Share of images without any defect in the WTA layout.
WTA_CLEAN_FRACTION = 0.4
#: What the defective images of the WTA layout carry, over and over in this order.
_WTA_CYCLE: tuple[tuple[tuple[str, int], ...], ...] = (
    (('chip', 2),),
    (('particle', 1),),
    (('missing', 2),),
    (('particle', 1), ('particle', 1)),
    (('particle', 1), ('chip', 2)),
    (('chip', 2), ('chip', 2)),
    (('particle', 1), ('particle', 1), ('particle', 1)),
    (('missing', 2), ('particle', 1)),
)
LAYOUTS: tuple[str, ...] = ('mvtec', 'wta')


@dataclass(frozen=True)
class ImagePlan:
    """One image to render.

    Attributes:
        layout: key of :data:`LAYOUTS`.
        category: what is on the image.
        group: split or defect type, for counting.
        image: path of the image below the root of the data set, with forward slashes.
        mask: path of the mask; empty where the layout has none.
        defects: kind and class index of each defect.
        seed: integers after the seed of the data set that identify the image.
        binary: masks are 0/255 instead of class indices.
    """

    layout: str
    category: str
    group: str
    image: str
    mask: str
    defects: tuple[tuple[str, int], ...]
    seed: tuple[int, ...]
    binary: bool


def smallest_count(layout: str) -> int:
    """Return how many images a layout needs so that no folder is empty."""
    if layout == 'wta':
        return 10
    return len(CATEGORIES) * (2 + max(len(kinds) for kinds in CATEGORIES.values()))


def plan_layout(layout: str, images: int) -> list[ImagePlan]:
    """Return the plans of one layout.

    Raises:
        ValueError: for an unknown layout or too few images.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'`layout` must be one of {list(LAYOUTS)}, got {layout!r}.')
    if images < smallest_count(layout):
        raise ValueError(
            f'`images` must be at least {smallest_count(layout)} for the layout {layout!r}, got {images}; '
            'with fewer some folders would be empty.'
        )
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
        good_train = counts[c] - defective - good_test
        groups = [('train/good', (), good_train), ('test/good', (), good_test)]
        groups += [
            (f'test/{kind}', (kind, index), share)
            for index, (kind, share) in enumerate(zip(kinds, _shares(defective, len(kinds)), strict=True), 1)
        ]
        for g, (group, defect, count) in enumerate(groups):
            for k in range(count):
                mask = f'mvtec/{category}/ground_truth/{defect[0]}/{k:03d}_mask.png' if defect else ''
                repeat = 2 if defect and k % 4 == 3 else 1
                plans.append(
                    ImagePlan(
                        'mvtec',
                        category,
                        group,
                        f'mvtec/{category}/{group}/{k:03d}.png',
                        mask,
                        (defect,) * repeat if defect else (),
                        (0, c, g, k),
                        True,
                    )
                )
    return plans


def _plan_wta(images: int) -> list[ImagePlan]:
    """60/20/20 over train, val and test; two fifths of each split are clean, the rest follow the cycle."""
    val = test = max(2, round(0.2 * images))
    plans, number = [], 0
    for s, (split, count) in enumerate((('train', images - val - test), ('val', val), ('test', test))):
        clean = _evenly(count, max(1, round(WTA_CLEAN_FRACTION * count)))
        dirty = 0
        for k in range(count):
            number += 1
            defects: tuple[tuple[str, int], ...] = ()
            if not clean[k]:
                defects = _WTA_CYCLE[dirty % len(_WTA_CYCLE)]
                dirty += 1
            name = f'part_{number:04d}.png'
            plans.append(
                ImagePlan(
                    'wta',
                    'insert',
                    split,
                    f'wta/img_dir/{split}/{name}',
                    f'wta/ann_dir/{split}/{name}',
                    defects,
                    (1, s, 0, k),
                    False,
                )
            )
    return plans


def _evenly(count: int, chosen: int) -> Sequence[bool]:
    """Return ``count`` flags of which ``chosen`` are set, spread evenly."""
    return [(k + 1) * chosen // count > k * chosen // count for k in range(count)]
