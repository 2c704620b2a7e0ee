"""Image files to eight-bit RGB, the way training read them, and said where that changes something.

OpenCV decodes, as in training: 16-bit samples keep their upper byte, grey is repeated, alpha is left out, CMYK is
converted. The rotation of EXIF is applied here, since OpenCV knows it for some formats only; of these, TIFF is the one
that it turns even when told not to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.deployment.header import ImageError, ImageHeader, read_header

#: More pixels than this are refused unless the caller says otherwise: 32768 x 32768, the limit of OpenCV.
MAX_PIXELS = 2**30


@dataclass(frozen=True)
class DecodedImage:
    """An image ready for a predictor.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB, upright.
        header: of the file; its ``notes`` say what was changed.
    """

    pixels: ndarray
    header: ImageHeader


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Read an image file; a ``.npy`` file of ``(H, W, 3)`` uint8 RGB is mapped and not loaded.

    Raises:
        ImageError: see :func:`decode_image`.
        OSError: if the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() == '.npy':
        return _map_array(path)
    return decode_image(path.read_bytes(), str(path), max_pixels)


def decode_image(data: bytes, name: str = 'the image', max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the content of an image file.

    Args:
        data: content of the file.
        name: of the image, for messages.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: if it is no image of a known format, too large, or damaged.
    """
    header = read_header(data, name)
    if header.pixels > max_pixels:
        raise ImageError(
            f'{name} must have at most {max_pixels} pixels, but its header says {header.size_hw[1]} x '
            f'{header.size_hw[0]}; cut it into parts or raise the limit.',
            'size',
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as err:
        raise ImageError(
            f'{name} must be a complete {header.format} image, but decoding fails ({err.err}); send the file again.',
            'broken',
        ) from err
    turned_by_decoder = header.format == 'TIFF'
    stored_hw = header.size_hw[::-1] if turned_by_decoder and header.orientation >= 5 else header.size_hw
    if pixels is None or pixels.shape[:2] != stored_hw:
        raise ImageError(
            f'{name} must be a complete {header.format} image, but decoding fails; send the file again.', 'broken'
        )
    cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)  # in place: a large image need not be held twice
    return DecodedImage(pixels if turned_by_decoder else turn_upright(pixels, header.orientation), header)


def turn_upright(pixels: ndarray, orientation: int) -> ndarray:
    """Undo the rotation that an EXIF orientation (1 to 8) names."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _map_array(path: Path) -> DecodedImage:
    pixels = np.load(path, mmap_mode='r')
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ImageError(
            f'{path} must hold (H, W, 3) uint8 RGB, got {pixels.shape} of {pixels.dtype}; convert the array.', 'type'
        )
    return DecodedImage(pixels, ImageHeader('npy', pixels.shape[:2], 3, 8))
