"""Size, depth, channels and rotation of an image file from its first bytes, before anything is decoded.

PNG, JPEG, BMP, TIFF and WebP. A header may promise 60000 x 60000 pixels in a hundred bytes: whoever takes files from
strangers compares :attr:`ImageHeader.pixels` with a limit first. The end of the file is looked at as well, because
some decoders return half an image without a word.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WebP')
#: More parts of a file than this (chunks, segments) are not looked at: 32 MiB of empty ones would take seconds.
MAX_PARTS = 100_000
#: JPEG markers that start a frame: baseline, extended, progressive, lossless and their arithmetic-coded kin.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class ImageError(ValueError):
    """A file that is no image we read.

    Attributes:
        reason: ``'type'`` (another format), ``'broken'`` (truncated or damaged) or ``'size'`` (too many pixels).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about itself.

    Attributes:
        format: one of :data:`FORMATS`.
        size_hw: rows and columns as stored, before any rotation.
        channels: 1 grey (or palette indices), 2 grey and alpha, 3 colour, 4 colour and alpha, or CMYK in a JPEG.
        bits: of a sample.
        orientation: of EXIF, 1 to 8; 1 is upright.
        palette: whether the samples are indices into a palette.
    """

    format: str
    size_hw: tuple[int, int]
    channels: int
    bits: int
    orientation: int = 1
    palette: bool = False

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.size_hw[0] * self.size_hw[1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What decoding to eight-bit RGB will do beyond copying, in words."""
        notes = []
        if self.orientation != 1:
            notes.append(f'turned upright (EXIF orientation {self.orientation})')
        if self.bits > 8:
            notes.append(f'{self.bits} bits a sample: the upper 8 are used, as in training')
        if self.format == 'JPEG' and self.channels == 4:
            notes.append('CMYK converted to RGB')
        elif self.channels in (2, 4):
            notes.append('alpha channel left out')
        if self.channels <= 2 and not self.palette:
            notes.append('grey repeated to RGB')
        return tuple(notes)


def read_header(data: bytes, name: str = 'the image') -> ImageHeader:
    """Read the header of a complete file.

    Args:
        data: content of the file.
        name: of the image, for messages.

    Raises:
        ImageError: if it is none of :data:`FORMATS`, or damaged, or cut off.
    """
    for magic, read in (
        (b'\x89PNG\r\n\x1a\n', _read_png),
        (b'\xff\xd8\xff', _read_jpeg),
        (b'BM', _read_bmp),
        (b'II*\0', _read_tiff),
        (b'MM\0*', _read_tiff),
        (b'RIFF', _read_webp),
    ):
        if data.startswith(magic):
            try:
                header = read(data)
            except (struct.error, IndexError, KeyError) as err:
                raise ImageError(
                    f'{name} must be a complete image, but its header is cut off or damaged; send the file again.',
                    'broken',
                ) from err
            if header is None:
                raise ImageError(
                    f'{name} must be a complete image, but the file ends too early or its structure is '
                    'damaged; send the file again.',
                    'broken',
                )
            if min(header.size_hw) < 1:
                raise ImageError(
                    f'{name} must have pixels, but its header says {header.size_hw[1]} x '
                    f'{header.size_hw[0]}; send another file.',
                    'broken',
                )
            return header
    raise ImageError(
        f'{name} must be one of {", ".join(FORMATS)}, but its first bytes are '
        f'{data[:8].hex(" ") or "none"}; convert it.',
        'type',
    )


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
        if at + 4 > len(data):
            break
        if data[at] != 0xFF:
            return None
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
    return ImageHeader('BMP', (height, width), channels, 8, 1, depth <= 8) if len(data) >= needed else None


def _read_tiff(data: bytes) -> ImageHeader | None:
    tags = _read_ifd(data)
    channels = tags.get(277, 1)
    palette = tags.get(262) == 3
    return ImageHeader('TIFF', (tags[257], tags[256]), channels, tags.get(258, 1), tags.get(274, 1) or 1, palette)


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
    return ImageHeader('WebP', size, 4 if alpha else 3, 8, orientation) if size else None


def _orientation(exif: bytes) -> int:
    """Return the orientation of an EXIF block; a damaged block turns nothing."""
    try:
        value = _read_ifd(exif).get(274, 1)
    except (struct.error, KeyError):
        return 1
    return value if 1 <= value <= 8 else 1


def _read_ifd(data: bytes) -> dict[int, int]:
    """Return the first value of the whole-number tags of the first directory of a TIFF."""
    order = {b'II': '<', b'MM': '>'}[data[:2]]
    at = struct.unpack(order + 'I', data[4:8])[0]
    tags = {}
    for entry in range(struct.unpack(order + 'H', data[at : at + 2])[0]):
        field = data[at + 2 + 12 * entry : at + 14 + 12 * entry]
        tag, kind, count = struct.unpack(order + 'HHI', field[:8])
        if kind == 4:
            tags[tag] = struct.unpack(order + 'I', field[8:12])[0]
        elif kind == 3 and count <= 2:
            tags[tag] = struct.unpack(order + 'H', field[8:10])[0]
        elif kind == 3:  # the values lie elsewhere: bits of each of three or four samples
            place = struct.unpack(order + 'I', field[8:12])[0]
            tags[tag] = struct.unpack(order + 'H', data[place : place + 2])[0]
    return tags
