"""An upload as an image: decoded as files are, after what a stranger's file could cost has been bounded."""

from __future__ import annotations

import struct

from mmdefect.deployment.decoding import DecodedImage, decode_image
from mmdefect.deployment.header import ImageError, ImageHeader, read_header
from mmdefect.deployment.server.refusals import Refusal, too_large, unreadable

#: A progressive JPEG has about ten; each costs a pass over all pixels.
MAX_SCANS = 100
#: Statuses of the reasons that reading an image file may fail for.
STATUSES = {'type': (415, 'unsupported'), 'broken': (422, 'unreadable'), 'size': (413, 'too_large')}
_NAME = 'an upload'
#: Tags of TIFF: width, height, rows of a strip, width and height of a tile.
_WIDTH, _HEIGHT, _ROWS, _TILE_WIDTH, _TILE_HEIGHT = _SIZES = (256, 257, 278, 322, 323)


def read_upload_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Return what the image says about itself, if decoding it is worth a try.

    Args:
        data: the whole file.
        max_pixels: more are refused.

    Raises:
        Refusal: 415 for a format that is not read, 422 for a damaged file, 413 for too many pixels.
    """
    if not data:
        raise unreadable(f'{_NAME} must hold an image, but this one is empty; send the bytes of a file.')
    try:
        header = read_header(data, _NAME)
    except ImageError as err:
        raise _refusal(err) from err
    if header.pixels > max_pixels:
        height, width = header.size_hw
        raise too_large(
            f'{_NAME} must have at most {max_pixels} pixels, but its header says {width} x {height}; '
            'send tiles or a smaller image.'
        )
    if header.format == 'JPEG' and data.count(b'\xff\xda') > MAX_SCANS:
        raise unreadable(
            f'{_NAME} must have at most {MAX_SCANS} scans, but this JPEG has more; save it without progressive coding.'
        )
    if header.format == 'TIFF':
        _check_tiff(data, max_pixels)
    return header


def decode_upload(data: bytes, max_pixels: int) -> DecodedImage:
    """Return the image, upright, with what was changed to get it.

    Raises:
        Refusal: as :func:`read_upload_header`, and 422 if decoding fails.
    """
    try:
        return decode_image(data, _NAME, max_pixels)
    except ImageError as err:
        raise _refusal(err) from err


def _refusal(err: ImageError) -> Refusal:
    status, reason = STATUSES[err.reason]
    return Refusal(status, reason, str(err))


def _check_tiff(data: bytes, max_pixels: int) -> None:
    """Refuse strips and tiles far larger than the image, for which the decoder makes room, and sizes said twice."""
    order = '<' if data[:2] == b'II' else '>'
    (start,) = struct.unpack_from(order + 'I', data, 4)
    (count,) = struct.unpack_from(order + 'H', data, start)
    tags: dict[int, int] = {}
    for k in range(count):
        tag, kind, values = struct.unpack_from(order + 'HHI', data, start + 2 + 12 * k)
        if tag not in _SIZES:
            continue
        if tag in tags or kind not in (3, 4) or values != 1:
            raise unreadable(
                f'{_NAME} must say its sizes once and as whole numbers, but its TIFF tag {tag} does not; '
                'send a valid file.'
            )
        (tags[tag],) = struct.unpack_from(order + ('H' if kind == 3 else 'I'), data, start + 10 + 12 * k)
    rows = tags.get(_ROWS, 2**32 - 1)  # that many stands for all
    strip = tags[_WIDTH] * (tags[_HEIGHT] if rows == 2**32 - 1 else rows)
    tile = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)
    if max(strip, tile) > max_pixels:
        raise too_large(
            f'{_NAME} must have strips and tiles of at most {max_pixels} pixels, but those of this TIFF '
            f'have {max(strip, tile)}; save it in smaller ones.'
        )
