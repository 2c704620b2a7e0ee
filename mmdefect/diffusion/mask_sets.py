"""Draw sets of masks and write them: one PNG a mask and one ``masks.json``.

``masks.json``: ``{"format": "mmdefect-masks/1", "masks": [{"file", "category", "defect_type", "kind", "source",
"seed", "box", "overlap", "donor"}, ...]}``; ``file`` is relative to the folder, ``source`` is the image that a mask
was fitted to and ``null`` when it fits every image (template or whole frame).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from mmdefect.diffusion.boxes import draw_box, fit_box
from mmdefect.diffusion.images import write_bytes, write_image
from mmdefect.diffusion.irregular import SHAPES, draw_blob, draw_donor, draw_scratch, place_shape
from mmdefect.diffusion.ranges import BoxRange
from mmdefect.synthesis.donors import DefectLibrary
from mmdefect.synthesis.streams import stream_generator

FORMAT = 'mmdefect-masks/1'


@dataclass(frozen=True)
class MaskRule:
    """How masks are drawn.

    Attributes:
        box_range: sizes.
        kind: ``box``, ``perlin``, ``scratch`` or ``donor``.
        min_overlap: share of the box that must lie on the allowed region.
        attempts: boxes tried at most for one mask.
        library: defects whose outlines are used; for ``donor``.
        class_id: class of the donors; ``None`` takes all.
        clip: whether what lies beyond the allowed region is cut off; ``None``: of shapes, but not of boxes.
    """

    box_range: BoxRange
    kind: str = 'box'
    min_overlap: float = 0.75
    attempts: int = 1000
    library: DefectLibrary | None = None
    class_id: int | None = None
    clip: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in SHAPES:
            raise ValueError(f'`kind` must be one of {", ".join(SHAPES)}, got {self.kind!r}.')
        if not 0 <= self.min_overlap < 1:
            raise ValueError(f'`min_overlap` must be in [0, 1), got {self.min_overlap}; it is a share of the box.')
        if self.attempts < 1:
            raise ValueError(f'`attempts` must be at least 1, got {self.attempts}.')
        if self.kind == 'donor' and self.library is None:
            raise ValueError("`library` must be given for `kind='donor'`; build one from the training images.")


@dataclass(frozen=True)
class MaskEntry:
    """One mask of a set, see the module."""

    file: str
    category: str
    defect_type: str
    kind: str
    seed: int
    source: str | None = None
    box: dict | None = None
    overlap: float | None = None
    donor: str | None = None


def draw_mask(
    rule: MaskRule, allowed: ndarray, generator: torch.Generator, where: str = 'the allowed region'
) -> tuple[ndarray, dict]:
    """Draw one mask on the allowed region.

    Args:
        rule: how.
        allowed: ``(H, W)`` bool.
        generator: CPU generator.
        where: the region in words, for messages.

    Returns:
        ``(H, W)`` bool, not empty, and what was drawn: ``box``, ``overlap``, ``donor``.

    Raises:
        ValueError: if the range does not fit.
    """
    box, share = fit_box(rule.box_range, allowed, generator, rule.min_overlap, rule.attempts, where)
    facts = dict(box=dict(center_rc=list(box.center_rc), size_hw=list(box.size_hw), degrees=box.degrees), overlap=share)
    whole = draw_box(box, allowed.shape)
    region = allowed if (rule.kind != 'box' if rule.clip is None else rule.clip) else np.ones_like(allowed)
    if rule.kind == 'box':
        return whole & region, facts
    if rule.kind == 'donor':
        shape, facts['donor'] = draw_donor(box.size_hw, generator, rule.library, rule.class_id)
    else:
        shape = {'perlin': draw_blob, 'scratch': draw_scratch}[rule.kind](box.size_hw, generator)
    mask = place_shape(shape, box, allowed.shape) & region
    return (mask if mask.any() else whole & region), facts


def write_masks(
    folder: str | os.PathLike,
    category: str,
    defect_type: str,
    rule: MaskRule,
    regions: Sequence[tuple[str | None, ndarray]],
    count: int,
    seed: int,
) -> list[MaskEntry]:
    """Draw ``count`` masks for each region and write them, without the list.

    Args:
        folder: folder of the set.
        category: product, part of the file names.
        defect_type: part of the file names.
        rule: how.
        regions: name of the image (``None``: any) and allowed region, ``(H, W)`` bool.
        count: masks for each region.
        seed: the same seed draws the same masks, whatever else is drawn.
    """
    entries = []
    for source, allowed in regions:
        stem = Path(source).stem if source else 'any'
        for number in range(count):
            name = f'{category}/{defect_type}/{stem}-{number:04d}'
            own = zlib.crc32(f'{seed}/{name}/{rule.kind}'.encode())
            where = f'the foreground of {source}' if source else f'the template of {category}/{defect_type}'
            mask, facts = draw_mask(rule, allowed, stream_generator(own, 'mask'), where)
            write_image(Path(folder) / f'{name}.png', mask)
            entries.append(MaskEntry(f'{name}.png', category, defect_type, rule.kind, own, source, **facts))
    return entries


def write_list(folder: str | os.PathLike, entries: Sequence[MaskEntry]) -> None:
    """Write ``masks.json``: with it the set is complete."""
    body = dict(format=FORMAT, masks=[vars(e) for e in entries])
    write_bytes(Path(folder) / 'masks.json', (json.dumps(body, indent=1, ensure_ascii=False) + '\n').encode())


def read_list(folder: str | os.PathLike) -> list[MaskEntry]:
    """Read ``masks.json``.

    Raises:
        ValueError: if it is missing or broken, or the set is empty.
    """
    path = Path(folder) / 'masks.json'
    try:
        body = json.loads(path.read_text(encoding='utf-8'))
        entries = [MaskEntry(**e) for e in body['masks']]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ValueError(
            f'{folder} must be a set of masks with masks.json, but that cannot be read ({err}); make it '
            'with `tools/generate.py masks`.'
        ) from err
    if body.get('format') != FORMAT or not entries:
        raise ValueError(
            f'{path} must have format {FORMAT!r} and at least one mask, got {body.get("format")!r} with '
            f'{len(entries)}; make it again with `tools/generate.py masks`.'
        )
    return entries


def full_frame(size_hw: tuple[int, int]) -> ndarray:
    """Return the region that allows everything, ``(H, W)`` bool."""
    return np.ones(size_hw, bool)
