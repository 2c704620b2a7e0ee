"""Mask files: what their values mean, and the label maps they become.

A mask holds class indices, one class against the rest, or palette colours: :func:`decode_mask` and
:func:`label_from_raw` read it, :func:`detect_encoding` finds out which it is. Nothing is guessed. A mask that cannot be
represented, or fits two readings, is an error that names the file: a model would be trained on labels that nobody drew.
Label maps are ``uint8``: 0 normal, 1..K defect classes, 255 ignore.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

IGNORE = 255
ENCODINGS = ('index', 'binary', 'palette')
MAX_CLASSES = 64
#: More colours than this are the work of anti-aliasing or of JPEG, not of somebody naming classes.
MAX_COLOURS = MAX_CLASSES

_EXIF_ORIENTATION = 0x0112
_SWAPPED = (5, 6, 7, 8)  # orientations that swap width and height when the image is decoded
_FEW_LEVELS = 8
_NEAR = 16  # how far from black and white the values of a smoothed black-and-white mask lie


def image_size_hw(path: str) -> tuple[int, int]:
    """Return height and width of an image as OpenCV decodes it (rotated as EXIF says), from its header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            rotated = image.format in ('JPEG', 'MPO', 'TIFF', 'WEBP')
            rotated = rotated and image.getexif().get(_EXIF_ORIENTATION) in _SWAPPED
    except FileNotFoundError as err:
        raise ValueError(f'the image {path} does not exist; restore it or take it out of the data set.') from err
    except (OSError, UnidentifiedImageError) as err:
        raise ValueError(f'the image {path} must be readable, but {_reason(err)}; replace the file.') from err
    return (width, height) if rotated else (height, width)


def decode_mask(data: bytes, encoding: str, file: str) -> np.ndarray:
    """Decode the bytes of a mask file without interpreting its values.

    Indexed (mode P) files give their indices for ``'index'`` and their colours otherwise; an alpha channel is dropped.
    A ``'binary'`` mask of several channels gives the maximum over them; of a JPEG, whose compression leaves small
    values around every edge, it keeps only values from 128 up. ``file`` is the name in messages.

    Returns:
        ``(H, W)`` integers for ``'index'`` and ``'binary'``; ``(H, W, 3)`` uint8 RGB for ``'palette'``.

    Raises:
        ValueError: if the file cannot be decoded, or if an ``'index'`` mask is a colour image.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f'`mask_encoding` must be one of {ENCODINGS}, got {encoding!r} for {file}.')
    try:
        with Image.open(io.BytesIO(data)) as image:
            lossy = image.format in ('JPEG', 'MPO')
            if encoding == 'palette' or (encoding == 'binary' and image.mode == 'P'):
                image = image.convert('RGB')
            raw = np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError) as err:
        raise ValueError(f'the mask {file} must be readable, but {_reason(err)}; export it again as PNG.') from err
    if encoding == 'palette':
        return raw
    if raw.ndim == 3:
        raw = raw[..., :1] if raw.shape[-1] == 2 else raw[..., :3]  # drop alpha
        if encoding == 'index' and (raw != raw[..., :1]).any():
            raise ValueError(
                f'the mask {file} must hold class indices in one channel, but it is a colour image; read it with '
                "mask_encoding='palette' or export the class indices."
            )
        raw = raw.max(axis=-1)
    if raw.dtype == np.bool_:
        raw = raw.astype(np.uint8)
    if raw.dtype.kind == 'f':
        if (raw != np.floor(raw)).any():
            raise ValueError(f'the mask {file} must hold whole numbers, but has fractions; export it as 8-bit PNG.')
        raw = raw.astype(np.int64)
    if lossy and encoding == 'binary':
        if 16 < raw.max(initial=0) < 128:
            raise ValueError(
                f'the mask {file} is a JPEG and must be drawn in black and white, but its brightest value is '
                f'{int(raw.max())}; export it as PNG.'
            )
        raw = (raw >= 128).astype(np.uint8)
    return raw


def label_from_raw(
    raw: np.ndarray,
    encoding: str,
    file: str,
    num_classes: int | None = None,
    class_id: int | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Interpret what :func:`decode_mask` returned.

    Args:
        raw, encoding, file: as there.
        num_classes: K + 1, with the normal class; ``None`` only asks that ``'index'`` masks fit 8 bits.
        class_id: class of every non-zero pixel of a ``'binary'`` mask.
        palette: RGB of every class in order, for ``'palette'``.

    Returns:
        ``(H, W)`` uint8 with values 0..K and 255 for ignore.

    Raises:
        ValueError: if a value or colour belongs to no class.
    """
    if encoding == 'binary':
        if class_id is None:
            raise ValueError(f"`class_id` must be given for the 'binary' mask {file}, got None.")
        return np.where(raw != 0, np.uint8(class_id), np.uint8(0))
    if encoding == 'palette':
        if not palette:
            raise ValueError(f'`palette` must list one RGB colour per class for the mask {file}, got {palette!r}.')
        codes = pack_rgb(raw)
        label, known = np.zeros(codes.shape, np.uint8), np.zeros(codes.shape, bool)
        for index, colour in enumerate(palette):
            hit = codes == pack_rgb(colour)
            label[hit] = index
            known |= hit
        if not known.all():
            raise ValueError(describe_unknown_colours(file, np.unique(codes[~known]).tolist(), palette))
        return label
    outside = ((raw < 0) | (raw >= (num_classes or 256))) & (raw != IGNORE)
    if outside.any():
        raise ValueError(describe_outside(file, np.unique(raw[outside]).tolist(), num_classes))
    return raw.astype(np.uint8)


def read_label(path: str, encoding: str, *meaning) -> np.ndarray:
    """Read a mask file as a label map; ``meaning`` is what :func:`label_from_raw` takes after ``file``."""
    return label_from_raw(decode_mask(Path(path).read_bytes(), encoding, path), encoding, path, *meaning)


def describe_outside(file: str, values: Sequence[int], num_classes: int | None) -> str:
    """Say which index values of a mask belong to no class, and how to fix it."""
    shown = ', '.join(str(v) for v in values[:8]) + (', ...' if len(values) > 8 else '')
    allowed = 'fit 8 bits' if num_classes is None else f'be 0..{num_classes - 1} or {IGNORE} (ignore)'
    return (
        f'the label values of {file} must {allowed}, but it holds {shown}; correct the file, name the missing '
        'classes, or read a 0/255 mask with a data set that says which class it is.'
    )


def describe_unknown_colours(file: str, codes: Sequence[int], palette: Sequence[Sequence[int]]) -> str:
    """Say which colours of a mask belong to no class, and how to fix it."""
    shown = ', '.join(str(unpack_rgb(c)) for c in codes[:8]) + (', ...' if len(codes) > 8 else '')
    return (
        f'every colour of {file} must be one of the palette {[tuple(c) for c in palette]}, but it also holds '
        f'{shown}; add the class, or export the mask as PNG without anti-aliasing.'
    )


def describe_wrong_size(mask: str, image: str, mask_hw: Sequence[int], image_hw: Sequence[int]) -> str:
    """Say that a mask has not the size of its image."""
    return (
        f'the mask {mask} must have the size of its image, {image_hw[1]}x{image_hw[0]}, but it has '
        f'{mask_hw[1]}x{mask_hw[0]} (width x height; the image is {image}); export it at the size of the image.'
    )


def pack_rgb(rgb: np.ndarray | Sequence[int]) -> np.ndarray:
    """Pack the last axis of an RGB array into one int64 per colour."""
    rgb = np.asarray(rgb).astype(np.int64)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def unpack_rgb(code: int) -> tuple[int, int, int]:
    """Return the colour of one packed value."""
    return code >> 16 & 255, code >> 8 & 255, code & 255


def _reason(err: Exception) -> str:
    """Shorten what Pillow says: without buffer addresses, in one clause."""
    if isinstance(err, UnidentifiedImageError):
        return 'it is not an image of a known format'
    return f'decoding fails ({str(err).rstrip(".")})'


@dataclass(frozen=True)
class MaskValues:
    """The values of one mask file."""

    file: str
    kind: str  # 'grey', 'colour', or 'indexed' (mode P: its values are indices into a colour table)
    lossy: bool  # a JPEG
    counts: dict[int, int]  # pixels of each grey level or index, or of each packed RGB colour


@dataclass(frozen=True)
class DetectedEncoding:
    """What a set of masks says: encoding, number of defect classes, colours of the classes, and why."""

    encoding: str
    defect_classes: int
    palette: tuple[tuple[int, int, int], ...] | None
    reason: str


def read_values(path: str | os.PathLike) -> MaskValues:
    """Count the values of one mask file."""
    path = str(path)
    try:
        with Image.open(path) as image:
            mode, lossy = image.mode, image.format in ('JPEG', 'MPO')
    except (OSError, UnidentifiedImageError) as err:
        raise ValueError(f'the mask {path} must be readable, but it is no image; export it again as PNG.') from err
    data = Path(path).read_bytes()
    if mode in ('RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB', 'HSV'):
        rgb = decode_mask(data, 'palette', path)
        grey = (rgb == rgb[..., :1]).all()
        kind, values = ('grey', rgb[..., 0]) if grey else ('colour', pack_rgb(rgb))
    else:
        kind, values = 'indexed' if mode == 'P' else 'grey', decode_mask(data, 'index', path)
    return MaskValues(path, kind, lossy, _count(values))


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
    """
    masks = [read_values(path) for path in track(paths)]
    if not masks or all(set(m.counts) <= {0} for m in masks):
        first = f' (first: {masks[0].file})' if masks else ''
        raise ValueError(
            f'at least one mask must hold a defect, but all {len(masks)} masks are zero everywhere{first}; check that '
            'these are the label files.'
        )
    reason = 'as asked for'
    if encoding is None:
        encoding, reason = _decide(masks)
    if encoding == 'palette':
        palette = _palette_of(masks)
        return DetectedEncoding(encoding, len(palette) - 1, palette, reason)
    if encoding == 'binary':
        return DetectedEncoding(encoding, 1, None, reason)
    _reject(masks, 'colour', "hold one channel for the encoding 'index'")
    largest, file = max((v, m.file) for m in masks for v in m.counts if v != IGNORE)
    if largest == 0:
        raise ValueError(
            f"`encoding` 'index' takes 255 as ignore, and then no mask (first: {masks[0].file}) holds a defect; give "
            "'binary' for 0/255 masks."
        )
    if largest >= MAX_CLASSES:
        raise ValueError(
            f'class ids must be below {MAX_CLASSES}, but {file} holds {largest}; give another encoding, or correct '
            'the file.'
        )
    return DetectedEncoding(encoding, largest, None, reason)


def _decide(masks: Sequence[MaskValues]) -> tuple[str, str]:
    """Return the encoding of the masks and how it was recognised."""
    if any(m.kind == 'colour' for m in masks):
        _reject(masks, 'indexed', 'all be colour images, like the others')
        return 'palette', 'colour images'
    levels = sorted({v for m in masks for v in m.counts if v})
    defects = [v for v in levels if v != IGNORE]
    if any(m.lossy for m in masks):
        return 'binary', 'black and white in JPEG files: 128 and more is a defect'
    if levels == [1, IGNORE] and not any({1, IGNORE} <= set(m.counts) for m in masks):
        one, other = (next(m.file for m in masks if v in m.counts) for v in levels)
        raise ValueError(
            f'all masks must use the same values, but {one} marks defects by 1 and {other} by 255; give the encoding: '
            "'binary' if both mean a defect, 'index' if 255 means ignore."
        )
    if len(levels) == 1:
        return 'binary', f'one value, {levels[0]}, besides 0'
    if defects[-1] < MAX_CLASSES:
        gaps = sorted(set(range(1, defects[-1] + 1)) - set(defects))
        reason = f'whole numbers 0..{defects[-1]}' + (f', of which {gaps} never occur' if gaps else '')
        return 'index', reason + (', and 255 for ignore' if IGNORE in levels else '')
    if all(v < _NEAR or v > 255 - _NEAR for v in levels) or _mostly_white(masks):
        return 'binary', 'nearly black and white: every value but 0 is a defect'
    if len(levels) <= _FEW_LEVELS:
        return 'palette', f'the grey levels {levels}, one per class'
    shown = max(masks, key=lambda m: len(m.counts))
    raise ValueError(
        f'masks must be 0/255, class ids or a few colours, but {shown.file} holds {len(shown.counts)} grey levels; '
        "export it without anti-aliasing, or give the encoding ('binary': all but 0)."
    )


def _mostly_white(masks: Sequence[MaskValues]) -> bool:
    """Tell whether four of five marked pixels are white, as in a mask that was resized with interpolation."""
    marked = Counter()
    for mask in masks:
        marked.update({v: n for v, n in mask.counts.items() if v})
    white = sum(n for v, n in marked.items() if 255 - _NEAR < v <= 255)
    return len(marked) > _FEW_LEVELS and white >= 0.8 * marked.total()


def _reject(masks: Sequence[MaskValues], kind: str, must: str) -> None:
    wrong = next((m for m in masks if m.kind == kind), None)
    if wrong is not None:
        what = {'colour': 'is a colour image', 'indexed': 'holds indices into a colour table'}[kind]
        raise ValueError(f'the masks must {must}, but {wrong.file} {what}; convert them to one kind.')


def _palette_of(masks: Sequence[MaskValues]) -> tuple[tuple[int, int, int], ...]:
    """Return the colour of every class: the normal one first, the others by red, green and blue."""
    total = Counter()
    for mask in masks:
        if mask.kind == 'indexed':
            counts = _count(pack_rgb(decode_mask(Path(mask.file).read_bytes(), 'palette', mask.file)))
        else:
            counts = {v if mask.kind == 'colour' else v * 0x010101: n for v, n in mask.counts.items()}
        if len(counts) > MAX_COLOURS:
            raise ValueError(
                f'a mask must have at most {MAX_COLOURS} colours, one per class, but {mask.file} has {len(counts)}; '
                'export it as PNG without anti-aliasing.'
            )
        total.update(counts)
    if len(total) > MAX_COLOURS:
        raise ValueError(
            f'all masks together must have at most {MAX_COLOURS} colours, one per class, but they have {len(total)} '
            f'(first file: {masks[0].file}); export them as PNG without anti-aliasing.'
        )
    normal = 0 if 0 in total else max(total, key=lambda code: (total[code], -code))
    return tuple(unpack_rgb(code) for code in (normal, *sorted(total.keys() - {normal})))


def _count(values: np.ndarray) -> dict[int, int]:
    levels, counts = np.unique(values, return_counts=True)
    return dict(zip(levels.tolist(), counts.tolist(), strict=True))
