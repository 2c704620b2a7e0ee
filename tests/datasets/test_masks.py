from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmdefect.datasets.masks import decode_mask, image_size_hw, label_from_raw

LABEL = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
PALETTE = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]


def encode(image: Image.Image | np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, **{'format': 'PNG', **options})
    return stream.getvalue()


def load(data: bytes, encoding: str, **options) -> np.ndarray:
    return label_from_raw(decode_mask(data, encoding, 'm.png'), encoding, 'm.png', **options)


class TestIndex:
    def test_values_and_ignore_are_kept(self):
        label = load(encode(LABEL), 'index', num_classes=3)
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, LABEL)

    def test_paletted_file_gives_indices_not_colours(self):
        image = Image.fromarray(LABEL).convert('L')
        image = Image.frombytes('P', image.size, image.tobytes())
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
        np.testing.assert_array_equal(load(encode(image), 'index', num_classes=3), LABEL)

    def test_one_bit_file(self):
        mask = np.array([[True, False], [False, True]])
        np.testing.assert_array_equal(load(encode(mask), 'index', num_classes=2), mask.astype(np.uint8))

    @pytest.mark.parametrize('channels', [2, 3, 4])
    def test_grey_in_several_channels(self, channels):
        alpha = np.full(LABEL.shape, 255, np.uint8)
        planes = {2: [LABEL, alpha], 3: [LABEL] * 3, 4: [LABEL] * 3 + [alpha]}[channels]
        np.testing.assert_array_equal(load(encode(np.stack(planes, -1)), 'index', num_classes=3), LABEL)

    def test_sixteen_bits_do_not_wrap(self):
        raw = np.array([[0, 257]], np.uint16)
        with pytest.raises(ValueError, match=r'm\.png must be 0\.\.2 or 255.*holds 257'):
            load(encode(raw), 'index', num_classes=3)
        with pytest.raises(ValueError, match='fit 8 bits'):
            load(encode(raw), 'index')

    def test_value_outside_names_file_and_values(self):
        with pytest.raises(ValueError, match=r'm\.png must be 0\.\.1 or 255 \(ignore\), but it holds 2'):
            load(encode(LABEL), 'index', num_classes=2)

    def test_colour_image_is_refused(self):
        with pytest.raises(ValueError, match="colour image.*mask_encoding='palette'"):
            load(encode(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)), 'index', num_classes=3)

    def test_float_tiff(self):
        whole = encode(np.array([[0, 1]], np.float32), format='TIFF')
        np.testing.assert_array_equal(load(whole, 'index', num_classes=2), [[0, 1]])
        with pytest.raises(ValueError, match='whole numbers'):
            load(encode(np.array([[0, 0.5]], np.float32), format='TIFF'), 'index', num_classes=2)


class TestBinary:
    @pytest.mark.parametrize('value', [1, 7, 255])
    def test_every_value_but_zero_is_the_class(self, value):
        mask = np.array([[0, value], [value, 0]], np.uint8)
        np.testing.assert_array_equal(load(encode(mask), 'binary', class_id=4), [[0, 4], [4, 0]])

    def test_colour_and_alpha(self):
        rgba = np.zeros((1, 3, 4), np.uint8)
        rgba[..., 3] = 255  # opaque everywhere: alpha says nothing about defects
        rgba[0, 1, 2] = 200
        np.testing.assert_array_equal(load(encode(rgba), 'binary', class_id=1), [[0, 1, 0]])

    def test_paletted_file_is_read_by_colour(self):
        image = Image.frombytes('P', (2, 1), bytes([0, 1]))
        image.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)  # index 0 is white
        np.testing.assert_array_equal(load(encode(image), 'binary', class_id=1), [[1, 0]])

    def test_jpeg_noise_is_no_defect(self):
        mask = np.zeros((32, 32), np.uint8)
        mask[5:23, 5:23] = 255
        data = encode(mask, format='JPEG', quality=60)
        assert len(np.unique(np.asarray(Image.open(io.BytesIO(data))))) > 2, 'the case must have noise'
        np.testing.assert_array_equal(load(data, 'binary', class_id=1), mask // 255)

    def test_dark_jpeg_is_refused(self):
        with pytest.raises(ValueError, match='black and white.*export it as PNG'):
            load(encode(np.full((16, 16), 60, np.uint8), format='JPEG'), 'binary', class_id=1)

    def test_class_must_be_given(self):
        with pytest.raises(ValueError, match='`class_id` must be given'):
            load(encode(LABEL), 'binary')


class TestPalette:
    def test_matches_a_loop_over_pixels(self):
        truth = np.random.default_rng(0).integers(0, 3, (9, 11))
        colours = np.array([[PALETTE[v] for v in row] for row in truth], np.uint8)
        np.testing.assert_array_equal(load(encode(colours), 'palette', palette=PALETTE), truth)

    def test_unknown_colour_is_named(self):
        colours = np.array([[[255, 0, 0], [254, 0, 0]]], np.uint8)
        with pytest.raises(ValueError, match=r'm\.png.*also holds \(254, 0, 0\)'):
            load(encode(colours), 'palette', palette=PALETTE)

    def test_palette_must_be_given(self):
        with pytest.raises(ValueError, match='`palette` must list'):
            load(encode(LABEL), 'palette')


def test_unknown_encoding_lists_the_known():
    with pytest.raises(ValueError, match=r"'index', 'binary', 'palette'.*got 'bits'"):
        decode_mask(encode(LABEL), 'bits', 'm.png')


@pytest.mark.parametrize('data', [b'', b'not an image', encode(np.zeros((64, 64), np.uint8))[:60]])
def test_unreadable_file_is_named(data):
    with pytest.raises(ValueError, match=r'the mask m\.png must be readable'):
        decode_mask(data, 'index', 'm.png')


class TestImageSize:
    def test_exif_rotation_swaps(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / 'photo.jpg'
        Image.new('RGB', (30, 20)).save(path, exif=exif)
        import cv2

        assert image_size_hw(str(path)) == cv2.imread(str(path)).shape[:2] == (30, 20)

    def test_plain(self, tmp_path):
        path = tmp_path / 'image.png'
        Image.new('L', (30, 20)).save(path)
        assert image_size_hw(str(path)) == (20, 30)

    def test_missing_and_broken(self, tmp_path):
        with pytest.raises(ValueError, match='does not exist'):
            image_size_hw(str(tmp_path / 'no.png'))
        path = tmp_path / 'broken.png'
        path.write_bytes(b'nothing')
        with pytest.raises(ValueError, match=r'broken\.png must be readable'):
            image_size_hw(str(path))
