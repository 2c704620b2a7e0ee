"""Turn mask files into label maps: class indices, one class against the rest, or palette colours.

Plain functions on arrays and bytes. A mask that says something we cannot represent raises: guessing would train a
model on labels nobody drew. Label maps are ``uint8``: 0 normal, 1..K defect classes, 255 ignore.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

IGNORE = 255
ENCODINGS = ('index', 'binary', 'palette')

#: EXIF orientations that swap width and height when the image is decoded.
_EXIF_ORIENTATION = 0x0112
_SWAPPED = (5, 6, 7, 8)


def image_size_hw(path: str) -> tuple[int, int]:
    """Return height and width of an image as OpenCV decodes it, from its header alone.

    A photograph with an EXIF rotation is decoded rotated, so its height and width are swapped here, too.

    Raises:
        ValueError: if the file is missing or is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            swapped = (
                image.format in ('JPEG', 'MPO', 'TIFF', 'WEBP') and image.getexif().get(_EXIF_ORIENTATION) in _SWAPPED
            )
    except FileNotFoundError as err:
        raise ValueError(f'the image {path} does not exist; restore it or take it out of the data set.') from err
    except (OSError, UnidentifiedImageError) as err:
        raise ValueError(f'the image {path} must be readable, but {_reason(err)}; replace the file.') from err
    return (width, height) if swapped else (height, width)


def decode_mask(data: bytes, encoding: str, file: str) -> np.ndarray:
    """Decode the bytes of a mask file without interpreting its values.

    Args:
        data: the whole file.
        encoding: ``'index'``, ``'binary'`` or ``'palette'``. Indexed (mode P) files give their indices for ``'index'``
            and their colours otherwise. An alpha channel is dropped.
        file: name used in messages.

    Returns:
        ``(H, W)`` integers for ``'index'`` and ``'binary'``; ``(H, W, 3)`` uint8 RGB for ``'palette'``. A ``'binary'``
        mask of several channels gives the maximum over them. In a JPEG, whose compression leaves small values around
        every edge, a ``'binary'`` mask keeps only values from 128 up.

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
                f'the mask {file} must hold class indices in one channel, but it is a colour image; read '
                "it with mask_encoding='palette' or export the class indices."
            )
        raw = raw.max(axis=-1)
    if raw.dtype == np.bool_:
        raw = raw.astype(np.uint8)
    if raw.dtype.kind == 'f':
        if (raw != np.floor(raw)).any():
            raise ValueError(
                f'the mask {file} must hold whole numbers, but it holds fractions; export it as 8-bit PNG.'
            )
        raw = raw.astype(np.int64)
    if lossy and encoding == 'binary':
        raw = _threshold_lossy(raw, file)
    return raw


def label_from_raw(
    raw: np.ndarray,
    encoding: str,
    file: str,
    num_classes: int | None = None,
    class_id: int | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Interpret a decoded mask.

    Args:
        raw: what :func:`decode_mask` returned.
        encoding: ``'index'``, ``'binary'`` or ``'palette'``.
        file: name used in messages.
        num_classes: K + 1, with the normal class; ``None`` leaves the upper bound of ``'index'`` masks unchecked
            (values must still fit 8 bits).
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
        return _label_from_palette(raw, file, palette)
    upper = 256 if num_classes is None else num_classes
    outside = ((raw < 0) | (raw >= upper)) & (raw != IGNORE)
    if outside.any():
        raise ValueError(describe_outside(file, np.unique(raw[outside]).tolist(), num_classes))
    return raw.astype(np.uint8)


def describe_outside(file: str, values: Sequence[int], num_classes: int | None) -> str:
    """Say which index values of a mask belong to no class, and the mend."""
    shown = ', '.join(str(v) for v in values[:8]) + (', ...' if len(values) > 8 else '')
    allowed = 'fit 8 bits' if num_classes is None else f'be 0..{num_classes - 1} or {IGNORE} (ignore)'
    return (
        f'the label values of {file} must {allowed}, but it holds {shown}; correct the file, name the missing '
        'classes, or read a 0/255 mask with a data set that says which class it is.'
    )


def _label_from_palette(raw: np.ndarray, file: str, palette: Sequence[Sequence[int]] | None) -> np.ndarray:
    """Match every pixel to the colour of one class, exactly."""
    if not palette:
        raise ValueError(
            f"`palette` must list one RGB colour per class for the 'palette' mask {file}, got {palette!r}."
        )
    codes = pack_rgb(raw)
    label = np.zeros(raw.shape[:2], np.uint8)
    known = np.zeros(raw.shape[:2], bool)
    for index, colour in enumerate(palette):
        hit = codes == pack_rgb(np.asarray(colour))
        label[hit] = index
        known |= hit
    if not known.all():
        raise ValueError(describe_unknown_colours(file, np.unique(codes[~known]).tolist(), palette))
    return label


def pack_rgb(rgb: np.ndarray) -> np.ndarray:
    """Pack the last axis of an RGB array into one int64 per colour."""
    rgb = np.asarray(rgb).astype(np.int64)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def describe_unknown_colours(file: str, codes: Sequence[int], palette: Sequence[Sequence[int]]) -> str:
    """Say which colours of a mask belong to no class, and the mend."""
    colours = [(c >> 16 & 255, c >> 8 & 255, c & 255) for c in codes[:8]]
    more = ', ...' if len(codes) > 8 else ''
    return (
        f'every colour of {file} must be one of the palette {[tuple(c) for c in palette]}, but it also holds '
        f'{", ".join(map(str, colours))}{more}; add the class, or export the mask as PNG without anti-aliasing.'
    )


def _threshold_lossy(raw: np.ndarray, file: str) -> np.ndarray:
    """Keep the values from 128 up; refuse a mask that would lose everything."""
    kept = raw >= 128
    if raw.max(initial=0) > 16 and not kept.any():
        raise ValueError(
            f'the mask {file} is a JPEG and must be drawn in black and white, but its brightest value is '
            f'{int(raw.max())}; export it as PNG.'
        )
    return kept.astype(np.uint8)


def _reason(err: Exception) -> str:
    """Shorten what Pillow says: without buffer addresses, in one clause."""
    if isinstance(err, UnidentifiedImageError):
        return 'it is not an image of a known format'
    return f'decoding fails ({str(err).rstrip(".")})'
