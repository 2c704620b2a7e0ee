"""Image files to eight-bit RGB, as training reads them: PNG, JPEG, BMP, TIFF and WebP.

The header is read first: it may promise 60000 x 60000 pixels in a hundred bytes, so :attr:`ImageHeader.pixels` is
compared with a limit before anything is decoded. The end of the file is looked at as well,
because some decoders return half an image without an error.

OpenCV decodes, as in training: 16-bit samples keep their upper byte, grey is repeated, alpha is left out, CMYK is
converted. The rotation of EXIF is applied here, since OpenCV knows it for some formats only; of these, TIFF is the one
that it turns even when told not to.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WebP')
#: Larger images are rejected unless the caller says otherwise: 32768 x 32768, the limit of OpenCV.
MAX_PIXELS = 2**30
#: More parts of a file than this (chunks, segments) are not looked at: 32 MiB of empty ones would take seconds.
MAX_PARTS = 100_000
#: JPEG markers that start a frame: baseline, extended, progressive, lossless and their arithmetic-coded kin.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class ImageError(ValueError):
    """A file that is no image we read.

    Its reason is ``'type'`` (another format), ``'broken'`` (truncated or damaged) or ``'size'`` (too many pixels).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about itself."""

    format: str  # one of FORMATS, npy or video
    size_hw: tuple[int, int]  # as stored, before any rotation
    channels: int = 3  # 1 grey (or palette indices), 2 grey and alpha, 3 colour, 4 colour and alpha, or CMYK in a JPEG
    bits: int = 8  # of a sample
    orientation: int = 1  # of EXIF, 1 to 8; 1 is upright
    palette: bool = False  # whether the samples are indices into a palette

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.size_hw[0] * self.size_hw[1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What decoding to eight-bit RGB will do beyond copying, in words."""
        cmyk = self.format == 'JPEG' and self.channels == 4
        notes = {
            f'turned upright (EXIF orientation {self.orientation})': self.orientation != 1,
            f'{self.bits} bits a sample: the upper 8 are used, as in training': self.bits > 8,
            'CMYK converted to RGB': cmyk,
            'alpha channel left out': self.channels in (2, 4) and not cmyk,
            'grey repeated to RGB': self.channels <= 2 and not self.palette,
        }
        return tuple(note for note, holds in notes.items() if holds)


@dataclass(frozen=True)
class DecodedImage:
    """``(H, W, 3)`` uint8 RGB, upright, and the header of its file, whose ``notes`` say what was changed."""

    pixels: ndarray
    header: ImageHeader


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Read an image file; a ``.npy`` file of ``(H, W, 3)`` uint8 RGB is mapped and not loaded."""
    path = Path(path)
    if path.suffix.lower() != '.npy':
        return decode_image(path.read_bytes(), str(path), max_pixels)
    pixels = np.load(path, mmap_mode='r')
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        found = f'{pixels.shape} of {pixels.dtype}'
        raise ImageError(f'{path} must hold (H, W, 3) uint8 RGB, got {found}; convert the array.', 'type')
    return DecodedImage(pixels, ImageHeader('npy', pixels.shape[:2]))


def decode_image(data: bytes, name: str = 'the image', max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the content of an image file; ``name`` is what messages call it.

    Raises:
        ImageError: if it is no image of a known format, has more than ``max_pixels``, or is damaged.
    """
    header = read_header(data, name)
    height, width = header.size_hw
    if header.pixels > max_pixels:
        said = f'but its header says {width} x {height}; cut it into parts or raise the limit.'
        raise ImageError(f'{name} must have at most {max_pixels} pixels, {said}', 'size')
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as err:
        raise _broken(name, f'decoding fails ({err.err})', header.format) from err
    turned_by_decoder = header.format == 'TIFF'
    stored_hw = (width, height) if turned_by_decoder and header.orientation >= 5 else (height, width)
    if pixels is None or pixels.shape[:2] != stored_hw:
        raise _broken(name, 'decoding fails', header.format)
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


def read_header(data: bytes, name: str = 'the image') -> ImageHeader:
    """Read the header of a complete file; :class:`ImageError` if it is of another format, damaged, or cut off."""
    read = next((function for magic, function in _READERS.items() if data.startswith(magic)), None)
    if read is None:
        start = data[:8].hex(' ') or 'none'
        raise ImageError(
            f'{name} must be one of {", ".join(FORMATS)}, but its first bytes are {start}; convert it.', 'type'
        )
    try:
        header = read(data)
    except (struct.error, IndexError, KeyError) as err:
        raise _broken(name, 'its header is cut off or damaged') from err
    if header is None:
        raise _broken(name, 'the file ends too early or its structure is damaged')
    if min(header.size_hw) < 1:
        height, width = header.size_hw
        raise ImageError(
            f'{name} must have pixels, but its header says {width} x {height}; send another file.', 'broken'
        )
    return header


def _broken(name: str, fact: str, kind: str = '') -> ImageError:
    image = f'{kind} image'.lstrip()
    return ImageError(f'{name} must be a complete {image}, but {fact}; send the file again.', 'broken')


def _read_png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b'IHDR':
        return None
    width, height, bits, color = struct.unpack('>IIBB', data[16:26])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    orientation, at = 1, 8
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            break
        length, kind = struct.unpack('>I4s', data[at : at + 8])
        if kind == b'IEND':
            return ImageHeader('PNG', (height, width), channels, bits, orientation, color == 3)
        if kind == b'eXIf':
            orientation = _orientation(data[at + 8 : at + 8 + length])
        at += 12 + length
    return None


def _read_jpeg(data: bytes) -> ImageHeader | None:
    at, size, channels, bits, orientation = 2, None, 3, 8, 1
    for _ in range(MAX_PARTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF or marker == 1 or 0xD0 <= marker <= 0xD8:  # filling, or a marker without a length
            at += 1 if marker == 0xFF else 2
            continue
        length = struct.unpack('>H', data[at + 2 : at + 4])[0]
        body = data[at + 4 : at + 2 + length]
        if marker in _FRAMES:
            bits, height, width, channels = struct.unpack('>BHHB', body[:6])
            size = height, width
        elif marker == 0xE1 and body.startswith(b'Exif\0\0'):
            orientation = _orientation(body[6:])
        elif marker == 0xDA:  # the image follows; its own data never hold an end marker
            ends = data.rfind(b'\xff\xd9') > at
            return ImageHeader('JPEG', size, channels, bits, orientation) if ends and size else None
        at += 2 + length
    return None


def _read_bmp(data: bytes) -> ImageHeader | None:
    start = struct.unpack('<I', data[10:14])[0]
    if struct.unpack('<I', data[14:18])[0] == 12:
        width, height, _, depth = struct.unpack('<HHHH', data[18:26])
        compression = 0
    else:
        width, height, _, depth, compression = struct.unpack('<iiHHI', data[18:34])
    width, height = abs(width), abs(height)
    needed = start + (width * depth + 31) // 32 * 4 * height if compression in (0, 3) else start
    channels = 4 if depth == 32 else 1 if depth <= 8 else 3
    return ImageHeader('BMP', (height, width), channels, palette=depth <= 8) if len(data) >= needed else None


def _read_tiff(data: bytes) -> ImageHeader:
    tags = _read_tags(data)
    size_hw, orientation = (tags[257], tags[256]), tags.get(274, 1) or 1
    return ImageHeader('TIFF', size_hw, tags.get(277, 1), tags.get(258, 1), orientation, tags.get(262) == 3)


def _read_webp(data: bytes) -> ImageHeader | None:
    if data[8:12] != b'WEBP' or len(data) < 8 + struct.unpack('<I', data[4:8])[0]:
        return None
    at, size, alpha, orientation = 12, None, False, 1
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        kind, length = struct.unpack('<4sI', data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b'VP8X':
            alpha = bool(body[0] & 16)
            size = 1 + int.from_bytes(body[7:10], 'little'), 1 + int.from_bytes(body[4:7], 'little')
        elif kind == b'VP8 ' and size is None:
            width, height = struct.unpack('<HH', body[6:10])
            size = height & 0x3FFF, width & 0x3FFF
        elif kind == b'VP8L' and size is None:
            word = struct.unpack('<I', body[1:5])[0]
            size, alpha = ((word >> 14 & 0x3FFF) + 1, (word & 0x3FFF) + 1), bool(word >> 28 & 1)
        elif kind == b'EXIF':
            orientation = _orientation(body.removeprefix(b'Exif\0\0'))
        at += 8 + length + length % 2
    return ImageHeader('WebP', size, 4 if alpha else 3, orientation=orientation) if size else None


def _orientation(exif: bytes) -> int:
    """Return the orientation of an EXIF block; a damaged block turns nothing."""
    try:
        value = _read_tags(exif).get(274, 1)
    except (struct.error, KeyError):
        return 1
    return value if 1 <= value <= 8 else 1


def _read_tags(data: bytes) -> dict[int, int]:
    """Return the first value of the whole-number tags of the first directory of a TIFF."""
    order = {b'II': '<', b'MM': '>'}[data[:2]]
    at = struct.unpack(order + 'I', data[4:8])[0]
    tags = {}
    for entry in range(struct.unpack(order + 'H', data[at : at + 2])[0]):
        field = data[at + 2 + 12 * entry : at + 14 + 12 * entry]
        tag, kind, count = struct.unpack(order + 'HHI', field[:8])
        if kind == 4:
            tags[tag] = struct.unpack(order + 'I', field[8:12])[0]
        elif kind == 3:
            if count > 2:  # the values lie elsewhere: bits of each of three or four samples
                place = struct.unpack(order + 'I', field[8:12])[0]
                field = bytes(8) + data[place : place + 2]
            tags[tag] = struct.unpack(order + 'H', field[8:10])[0]
    return tags


_READERS = {
    b'\x89PNG\r\n\x1a\n': _read_png,
    b'\xff\xd8\xff': _read_jpeg,
    b'BM': _read_bmp,
    b'II*\0': _read_tiff,
    b'MM\0*': _read_tiff,
    b'RIFF': _read_webp,
}
