"""Files of every kind the decoder meets, written by Pillow and judged against it."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mmdefect.deployment.decoding import ImageError, decode_image, read_header, read_image, turn_upright


def ramp_image(height=40, width=60):
    ramp = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([ramp[0] * 5, ramp[1] * 4, 255 - ramp[0] * 3 - ramp[1]], -1).clip(0, 255).astype(np.uint8)


def encode(image, file_format, **kwargs):
    stream = io.BytesIO()
    image.save(stream, file_format, **kwargs)
    return stream.getvalue()


@pytest.mark.parametrize(
    'file_format, mode, kwargs, tolerance',
    [
        ('PNG', 'RGB', {}, 0),
        ('PNG', 'RGBA', {}, 0),
        ('PNG', 'L', {}, 0),
        ('PNG', 'LA', {}, 0),
        ('PNG', 'P', {}, 0),
        ('JPEG', 'RGB', {}, 3),
        ('JPEG', 'L', {}, 1),
        ('JPEG', 'CMYK', dict(quality=95), 2),
        ('BMP', 'RGB', {}, 0),
        ('BMP', 'L', {}, 0),
        ('TIFF', 'RGB', {}, 0),
        ('TIFF', 'L', {}, 0),
        ('TIFF', 'RGB', dict(compression='tiff_lzw'), 0),
        ('WEBP', 'RGB', dict(lossless=True), 0),
        ('WEBP', 'RGBA', dict(lossless=True), 0),
        ('WEBP', 'RGB', {}, 8),
    ],
)
def test_pixels_are_those_of_pillow(file_format, mode, kwargs, tolerance):
    image = Image.fromarray(ramp_image()).convert(mode)
    if mode in ('RGBA', 'LA'):
        image.putalpha(Image.fromarray(ramp_image()[..., 1] | 1))
    data = encode(image, file_format, **{'exact': True, **kwargs})
    decoded = decode_image(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    # tolerance: two JPEG and WebP decoders round the colour conversion differently
    assert decoded.pixels.shape == expected.shape and decoded.pixels.dtype == np.uint8
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= tolerance
    header = decoded.header
    assert header.size_hw == (40, 60) and header.bits == 8 and header.format.lower() == file_format.lower()
    notes = ' '.join(header.notes)
    assert ('alpha' in notes) == (mode in ('RGBA', 'LA')) and ('CMYK' in notes) == (mode == 'CMYK')
    assert ('grey' in notes) == (mode in ('L', 'LA') and file_format != 'BMP')  # a grey BMP has a palette


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
@pytest.mark.parametrize('shape', [(8, 9), (8, 9, 3)])
def test_sixteen_bits_keep_the_upper_eight_as_in_training(suffix, shape):
    deep = np.random.default_rng(0).integers(0, 2**16, shape).astype(np.uint16)
    data = cv2.imencode(suffix, deep)[1].tobytes()
    decoded = decode_image(data)
    expected = (deep >> 8) if deep.ndim == 3 else np.repeat((deep >> 8)[..., None], 3, 2)
    # libtiff rounds the samples of a colour TIFF, the others cut them
    assert np.abs(decoded.pixels.astype(int) - expected[..., ::-1]).max() <= (suffix == '.tiff' and len(shape) == 3)
    assert any('16 bits' in note for note in decoded.header.notes)
    training = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded.pixels, training[..., ::-1])


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('file_format', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
def test_exif_turns_the_image_upright(orientation, file_format):
    image = Image.fromarray(ramp_image())
    exif = image.getexif()
    exif[274] = orientation
    kwargs = dict(lossless=True) if file_format == 'WEBP' else dict(quality=100) if file_format == 'JPEG' else {}
    data = encode(image, file_format, exif=exif, **kwargs)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB'))
    got = decode_image(data)
    assert got.pixels.shape == expected.shape and np.abs(got.pixels.astype(int) - expected).max() <= 3
    assert any('EXIF' in note for note in got.header.notes) == (orientation != 1)


def test_upright_is_left_alone():
    image = ramp_image()
    np.testing.assert_array_equal(turn_upright(image, 1), image)


@pytest.mark.parametrize('file_format', ['PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('share', [0.02, 0.3, 0.7, 0.97])
def test_a_truncated_file_is_no_image(file_format, share):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    data = encode(Image.fromarray(noise), file_format)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: max(9, int(len(data) * share))], 'line3.img')
    assert caught.value.reason == 'broken' and 'line3.img' in str(caught.value)


def test_what_is_no_image_is_said_so():
    for data in (b'', b'%PDF-1.4 something', b'GIF89a' + bytes(50), b'PK\x03\x04' + bytes(100)):
        with pytest.raises(ImageError, match='must be one of PNG') as caught:
            decode_image(data)
        assert caught.value.reason == 'type'


def png(width, height, rows):
    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    head = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b'')


def test_a_huge_header_is_rejected_before_decoding():
    bomb = png(60000, 60000, bytes(1000))
    with pytest.raises(ImageError, match='60000 x 60000') as caught:
        decode_image(bomb)
    assert caught.value.reason == 'size'
    with pytest.raises(ImageError) as caught:
        decode_image(png(100, 100, bytes(10100)), max_pixels=9999)
    assert caught.value.reason == 'size'
    assert decode_image(png(100, 100, bytes(10100)), max_pixels=10000).pixels.shape == (100, 100, 3)
    with pytest.raises(ImageError, match='must have pixels'):
        decode_image(png(0, 5, b''))


def test_random_damage_never_raises_anything_else():
    rng = np.random.default_rng(0)
    files = [encode(Image.fromarray(ramp_image(20, 30)), f) for f in ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP')]
    for trial in range(400):
        data = bytearray(files[trial % len(files)])
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            assert decode_image(bytes(data), max_pixels=10**6).pixels.ndim == 3
        except ImageError:
            continue


def test_arrays_are_mapped_not_loaded(tmp_path):
    np.save(tmp_path / 'large.npy', ramp_image())
    assert isinstance(read_image(tmp_path / 'large.npy').pixels, np.memmap)
    np.save(tmp_path / 'grey.npy', ramp_image()[..., 0])
    with pytest.raises(ImageError, match='must hold'):
        read_image(tmp_path / 'grey.npy')


def test_the_header_of_a_bmp_from_the_bottom_up_and_top_down():
    data = bytearray(encode(Image.fromarray(ramp_image()), 'BMP'))
    assert read_header(bytes(data)).size_hw == (40, 60)
    data[22:26] = struct.pack('<i', -40)
    assert read_header(bytes(data)).size_hw == (40, 60)
