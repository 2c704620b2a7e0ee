"""Find out from the mask files themselves what their values mean.

Plain functions on files. Nothing is guessed where two readings fit: that is an error which names the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmdefect.datasets.masks import IGNORE, decode_mask, pack_rgb

MAX_CLASSES = 64
#: More colours than this are the work of anti-aliasing or of JPEG, not of somebody naming classes.
MAX_COLOURS = MAX_CLASSES
_FEW_LEVELS = 8
_NEAR = 16  # how far from black and white the values of a smoothed black-and-white mask lie


@dataclass(frozen=True)
class MaskValues:
    """The values of one mask file.

    Attributes:
        file: path of the file.
        kind: ``'grey'``, ``'colour'``, or ``'indexed'`` (mode P: its values are indices into a colour table).
        lossy: whether it is a JPEG.
        counts: number of pixels of each grey level or index, or of each packed RGB colour.
    """

    file: str
    kind: str
    lossy: bool
    counts: dict[int, int]


@dataclass(frozen=True)
class DetectedEncoding:
    """What a set of masks says: encoding, number of defect classes, colours of the classes, and why."""

    encoding: str
    defect_classes: int
    palette: tuple[tuple[int, int, int], ...] | None
    reason: str


def read_values(path: str | os.PathLike) -> MaskValues:
    """Count the values of one mask file.

    Raises:
        ValueError: if it cannot be decoded.
    """
    path = str(path)
    try:
        with Image.open(path) as image:
            mode, lossy = image.mode, image.format in ('JPEG', 'MPO')
    except (OSError, UnidentifiedImageError) as err:
        raise ValueError(f'the mask {path} must be readable, but it is no image; export it again as PNG.') from err
    data = Path(path).read_bytes()
    if mode in ('RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB', 'HSV'):
        rgb = decode_mask(data, 'palette', path)
        if (rgb == rgb[..., :1]).all():
            kind, values = 'grey', rgb[..., 0]
        else:
            kind, values = 'colour', pack_rgb(rgb)
    else:
        kind, values = 'indexed' if mode == 'P' else 'grey', decode_mask(data, 'index', path)
    levels, counts = np.unique(values, return_counts=True)
    return MaskValues(path, kind, lossy, dict(zip(levels.tolist(), counts.tolist(), strict=True)))


def detect_encoding(
    paths: Sequence[str | os.PathLike], encoding: str | None = None, track: Callable[[Iterable], Iterable] = iter
) -> DetectedEncoding:
    """Decide what the values of a set of masks mean.

    Single-channel masks with one value besides 0 are ``'binary'``, with small whole numbers ``'index'`` (255: ignore),
    with a few grey levels ``'palette'``. Colour masks are ``'palette'``; black is the normal class, or the most
    frequent colour when there is no black.

    Args:
        paths: mask files.
        encoding: skips the decision but not the checks.
        track: wraps the loop over the files, for a progress bar.

    Raises:
        ValueError: if no mask holds a defect, or the masks contradict each other; names files and values.
    """
    masks = [read_values(path) for path in track(paths)]
    if not masks or all(set(m.counts) <= {0} for m in masks):
        raise ValueError(
            f'at least one mask must hold a defect, but all {len(masks)} masks are zero everywhere'
            f'{" (first: " + masks[0].file + ")" if masks else ""}; check that these are the label files.'
        )
    if encoding is None:
        encoding, reason = _decide(masks)
    else:
        reason = 'as asked for'
    if encoding == 'palette':
        palette = _palette_of(masks)
        return DetectedEncoding(encoding, len(palette) - 1, palette, reason)
    _refuse(masks, 'colour', f"hold one channel for the encoding '{encoding}'" if encoding == 'index' else None)
    if encoding == 'index':
        return DetectedEncoding(encoding, _largest_index(masks), None, reason)
    return DetectedEncoding(encoding, 1, None, reason)


def _decide(masks: Sequence[MaskValues]) -> tuple[str, str]:
    if any(m.kind == 'colour' for m in masks):
        _refuse(masks, 'indexed', 'all be colour images, like the others')
        return 'palette', 'colour images'
    levels = sorted({v for m in masks for v in m.counts if v})
    defects = [v for v in levels if v != IGNORE]
    if any(m.lossy for m in masks):
        return 'binary', 'black and white in JPEG files: 128 and more is a defect'
    if levels in ([1, IGNORE],):
        both = [m for m in masks if {1, IGNORE} <= set(m.counts)]
        if not both:
            one, other = (next(m.file for m in masks if v in m.counts) for v in levels)
            raise ValueError(
                f'all masks must use the same values, but {one} marks defects by 1 and {other} by 255; '
                "give the encoding: 'binary' if both mean a defect, 'index' if 255 means ignore."
            )
    if len(levels) == 1:
        return 'binary', f'one value, {levels[0]}, besides 0'
    if defects[-1] < MAX_CLASSES:
        gaps = sorted(set(range(1, defects[-1] + 1)) - set(defects))
        return 'index', f'whole numbers 0..{defects[-1]}' + (f', of which {gaps} never occur' if gaps else '') + (
            ', and 255 for ignore' if IGNORE in levels else ''
        )
    if all(v < _NEAR or v > 255 - _NEAR for v in levels) or _mostly_white(masks):
        return 'binary', 'nearly black and white: every value but 0 is a defect'
    if len(levels) <= _FEW_LEVELS:
        return 'palette', f'the grey levels {levels}, one per class'
    shown = max(masks, key=lambda m: len(m.counts))
    raise ValueError(
        f'masks must be 0/255, class ids or a few colours, but {shown.file} holds {len(shown.counts)} '
        "grey levels; export it without anti-aliasing, or give the encoding ('binary': all but 0)."
    )


def _mostly_white(masks: Sequence[MaskValues]) -> bool:
    """Tell whether four of five marked pixels are white, as in a mask that was resized with interpolation."""
    marked = sum(n for m in masks for v, n in m.counts.items() if v)
    white = sum(n for m in masks for v, n in m.counts.items() if 255 - _NEAR < v <= 255)
    return len({v for m in masks for v in m.counts if v}) > _FEW_LEVELS and white >= 0.8 * marked


def _refuse(masks: Sequence[MaskValues], kind: str, must: str | None) -> None:
    if must is None:
        return
    wrong = next((m for m in masks if m.kind == kind), None)
    if wrong is not None:
        what = {'colour': 'is a colour image', 'indexed': 'holds indices into a colour table'}[kind]
        raise ValueError(f'the masks must {must}, but {wrong.file} {what}; convert them to one kind.')


def _largest_index(masks: Sequence[MaskValues]) -> int:
    largest, file = max((v, m.file) for m in masks for v in m.counts if v != IGNORE)
    if largest == 0:
        raise ValueError(
            f"`encoding` 'index' takes 255 as ignore, and then no mask (first: {masks[0].file}) holds a "
            "defect; give 'binary' for 0/255 masks."
        )
    if largest >= MAX_CLASSES:
        raise ValueError(
            f'class ids must be below {MAX_CLASSES}, but {file} holds {largest}; give another encoding, '
            'or correct the file.'
        )
    return largest


def _palette_of(masks: Sequence[MaskValues]) -> tuple[tuple[int, int, int], ...]:
    """Return the colour of every class: the normal one first, the others by red, green and blue."""
    total: dict[int, int] = {}
    for mask in masks:
        if mask.kind == 'indexed':
            mask = _as_colours(mask)
        for value, count in mask.counts.items():
            code = value if mask.kind == 'colour' else value * 0x010101
            total[code] = total.get(code, 0) + count
        if len(mask.counts) > MAX_COLOURS:
            raise ValueError(
                f'a mask must have at most {MAX_COLOURS} colours, one per class, but {mask.file} has '
                f'{len(mask.counts)}; export it as PNG without anti-aliasing.'
            )
    if len(total) > MAX_COLOURS:
        raise ValueError(
            f'all masks together must have at most {MAX_COLOURS} colours, one per class, but they have '
            f'{len(total)} (first file: {masks[0].file}); export them as PNG without anti-aliasing.'
        )
    normal = 0 if 0 in total else max(total, key=lambda code: (total[code], -code))
    codes = [normal, *sorted(code for code in total if code != normal)]
    return tuple((c >> 16 & 255, c >> 8 & 255, c & 255) for c in codes)


def _as_colours(mask: MaskValues) -> MaskValues:
    rgb = decode_mask(Path(mask.file).read_bytes(), 'palette', mask.file)
    codes, counts = np.unique(pack_rgb(rgb), return_counts=True)
    return MaskValues(mask.file, 'colour', mask.lossy, dict(zip(codes.tolist(), counts.tolist(), strict=True)))
