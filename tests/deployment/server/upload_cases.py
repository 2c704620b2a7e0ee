"""Images of every kind that a server meets, good and hostile, made with Pillow and by hand."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image


def scene(seed: int = 0, height: int = 96, width: int = 128) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB: a light part with a dark dent and a blue stain."""
    rng = np.random.default_rng(seed)
    image = rng.integers(180, 220, (height, width, 3), dtype=np.uint8)
    x, y = int(rng.integers(10, width // 2)), int(rng.integers(10, height // 2))
    image[y : y + 12, x : x + 20] = 15
    image[height - 20 : height - 12, width - 40 : width - 10] = (20, 20, 220)
    return image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, extra: bytes = b'') -> bytes:
    """A PNG by hand: the header says what it likes."""
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
        + extra
        + chunk(b'IDAT', pixels)
        + chunk(b'IEND', b'')
    )


def tiff(tags: dict[int, int] | list[tuple[int, int]]) -> bytes:
    """A TIFF of LONG tags and nothing else."""
    items = list(tags.items()) if isinstance(tags, dict) else tags
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in items)
    return struct.pack('<2sHIH', b'II', 42, 8, len(items)) + entries + bytes(4)


def turned(image: np.ndarray, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return encode(Image.fromarray(image), kind, exif=exif)


def good_uploads(seed: int) -> list[tuple[str, bytes, np.ndarray | None]]:
    """Name, file, and the image it holds where the format keeps it exactly."""
    image = scene(seed)
    pil = Image.fromarray(image)
    grey = pil.convert('L')
    grey_rgb = np.repeat(np.asarray(grey)[..., None], 3, 2)
    deep = np.asarray(grey).astype(np.uint16) * 256 + 77
    alpha = np.dstack([image, np.full(image.shape[:2], 9, np.uint8)])
    return [
        ('png', encode(pil, 'PNG'), image),
        ('jpeg', encode(pil, 'JPEG', quality=95), None),
        ('progressive jpeg', encode(pil, 'JPEG', progressive=True), None),
        ('bmp', encode(pil, 'BMP'), image),
        ('tiff', encode(pil, 'TIFF', compression='tiff_lzw'), image),
        ('webp', encode(pil, 'WEBP', lossless=True, exact=True), image),
        ('grey png', encode(grey, 'PNG'), grey_rgb),
        ('grey jpeg', encode(grey, 'JPEG'), None),
        ('16-bit grey png', encode(Image.fromarray(deep), 'PNG'), grey_rgb),
        ('16-bit rgb png', cv2.imencode('.png', image[..., ::-1].astype(np.uint16) * 256 + 77)[1].tobytes(), image),
        ('cmyk jpeg', encode(pil.convert('CMYK'), 'JPEG', quality=95), None),
        ('alpha png', encode(Image.fromarray(alpha), 'PNG'), image),
        ('palette png', encode(pil.quantize(64), 'PNG'), np.asarray(pil.quantize(64).convert('RGB'))),
        ('turned jpeg', turned(image, 'JPEG', 6), None),
        ('turned png', turned(image, 'PNG', 3), image[::-1, ::-1]),
    ]


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few kilobytes whose pixels would fill gigabytes."""
    squeeze = zlib.compressobj(9)
    row = squeeze.compress(bytes(1 << 20)) + squeeze.flush()
    return png(side, side, row)


def hostile_uploads(seed: int) -> list[tuple[str, bytes, tuple[int, ...]]]:
    """Name, file, and the statuses that are right."""
    rng = np.random.default_rng(seed)
    pil = Image.fromarray(scene(seed))
    files = {kind: encode(pil, kind) for kind in ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP')}
    cut = {kind: data[: int(len(data) * rng.uniform(0.02, 0.98))] for kind, data in files.items()}
    damaged = bytearray(files['PNG'])
    for place in rng.integers(40, len(damaged) - 20, 8):
        damaged[place] ^= int(rng.integers(1, 256))
    scans = files['JPEG'][:-2] + b'\xff\xda\x00\x02' * 200 + b'\xff\xd9'
    return [
        *((f'cut {kind}', data, (415, 422)) for kind, data in cut.items()),
        ('bomb', bomb(), (413,)),
        ('huge header', png(2**31 - 1, 2**31 - 1, zlib.compress(b'')), (413,)),
        ('no pixels', png(0, 100, zlib.compress(b'')), (422,)),
        ('short of pixels', png(1000, 1000, zlib.compress(bytes(100))), (422,)),
        ('damaged png', bytes(damaged), (422,)),
        (
            'text bomb',
            png(8, 8, zlib.compress(bytes(8 * 25)), chunk(b'zTXt', b'k\0\0' + zlib.compress(bytes(1 << 24)))),
            (200, 422),
        ),
        ('tiff strip', tiff({256: 10, 257: 10, 277: 3, 278: 2**28, 273: 8, 279: 100}), (413,)),
        ('tiff twice', tiff([(256, 10**6), (256, 10), (257, 10)]), (422,)),
        ('tiff size', tiff({256: 2**31, 257: 2**31}), (413,)),
        ('many scans', scans, (422,)),
        ('text', b'../../etc/passwd', (415,)),
        ('html', b'<!doctype html><script>alert(1)</script>', (415,)),
        ('zip', b'PK\x03\x04' + bytes(rng.integers(0, 256, 500, dtype=np.uint8)), (415,)),
        ('gif', b'GIF89a' + bytes(100), (415,)),
        ('svg', b'<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9"/>', (415,)),
        ('noise', bytes(rng.integers(0, 256, 2000, dtype=np.uint8)), (415, 422)),
        ('empty', b'', (422,)),
        ('only magic', b'\x89PNG\r\n\x1a\n', (422,)),
    ]


def form(data: bytes, name: str = 'part.png', boundary: str = 'b0undary', before: bytes = b'') -> tuple[bytes, str]:
    """Body and Content-Type of a form with one file."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    return before + head + data + f'\r\n--{boundary}--\r\n'.encode(), f'multipart/form-data; boundary={boundary}'


def field(boundary: str = 'b0undary', name: str = 'note', value: str = 'x') -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
