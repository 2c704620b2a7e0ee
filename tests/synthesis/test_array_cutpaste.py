import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.synthesis.array_cutpaste import cut_paste_3way_array, cut_paste_array, cutpaste_part
from mmdefect.synthesis.cutpaste import apply_cutpaste, cut_paste, sample_cutpaste
from mmdefect.synthesis.shapes import VISIBLE_TOLERANCE


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(height, width, seed=0, channels=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_tensor(image, is_bgr):
    order = -1 if is_bgr else 1
    return torch.from_numpy(image[..., ::order].transpose(2, 0, 1).copy()).float() / 255


@pytest.mark.parametrize('kind', ['normal', 'scar'])
@pytest.mark.parametrize('is_bgr', [True, False])
@pytest.mark.parametrize('channels', [1, 3])
def test_pixels_are_those_of_the_tensors(kind, is_bgr, channels):
    for seed in range(8):
        image = photo(61, 90, seed, channels)
        draw = sample_cutpaste((61, 90), generator(seed), kind)
        part, alpha = cutpaste_part(image, draw, is_bgr)
        expected, share = apply_cutpaste(as_tensor(image, is_bgr), draw)
        order = -1 if is_bgr else 1
        expected = expected.numpy().transpose(1, 2, 0)[..., ::order] * 255
        assert np.abs(part - expected).max() <= 0.75  # rounding to 8 bits, and OpenCV's fixed point before it
        np.testing.assert_allclose(np.ones(share.shape) if alpha is None else alpha, share, atol=1e-5)


@given(st.integers(3, 80), st.integers(3, 80), st.integers(0, 2**31), st.sampled_from(['normal', 'scar', 'union']))
@settings(max_examples=40, deadline=None)
def test_labels_are_exact_on_images_of_any_shape(height, width, seed, kind):
    image = photo(height, width, seed % 1000)
    before = image.copy()
    made = cut_paste_array(image, generator(seed), kind=kind)
    np.testing.assert_array_equal(image, before)
    changed = np.abs(made.image.astype(int) - image).max(2) > VISIBLE_TOLERANCE * 255
    np.testing.assert_array_equal(changed, made.label > 0)
    if made.instances:
        top, left, bottom, right = made.instances[0].box
        assert made.label[top:bottom, left:right].sum() == made.label.sum() == made.instances[0].area
    else:
        assert made.skipped and not changed.any()


def test_the_same_draws_as_the_tensors():
    image = photo(64, 64)
    fast = cut_paste_array(image, generator(5), kind='union', is_bgr=False)
    slow = cut_paste(as_tensor(image, False), generator(5), kind='union')
    assert fast.instances[0].parameters == slow.instances[0].parameters


def test_existing_labels_yield_and_ignored_ones_stay():
    image, label = photo(64, 64), np.zeros((64, 64), np.uint8)
    label[:, :32], label[:32] = 7, 255
    for seed in range(10):
        made = cut_paste_array(image, generator(seed), label, class_id=3)
        assert (made.label[:32] == 255).all() and set(np.unique(made.label)) <= {0, 3, 7, 255}


def test_even_images_get_no_label_and_are_counted():
    image = np.full((64, 64, 3), 90, np.uint8)
    made = cut_paste_array(image, generator(), kind='normal', ranges=None, tolerance=0.9)
    assert not made.label.any() and made.skipped == {'invisible': 1}
    np.testing.assert_array_equal(made.image, image)


def test_three_views():
    image = photo(64, 48)
    same, normal, scar = cut_paste_3way_array(image, generator())
    assert same.image is image and not same.label.any()
    assert set(np.unique(normal.label)) == {0, 1} and set(np.unique(scar.label)) == {0, 2}
    with pytest.raises(ValueError, match='must lie inside'):
        cutpaste_part(image[:20, :20], sample_cutpaste((64, 48), generator(3), 'normal'))
