"""Images in answers hold what they say, to the last pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmdefect.deployment.decision import decide_labels
from mmdefect.deployment.server.errors import RequestError
from mmdefect.deployment.server.responses import encode_preview, encode_scores, read_thresholds
from mmdefect.deployment.writing import encode_label_png
from tests.deployment.server.stand_in import INFO


def test_a_mask_holds_ids_and_colours():
    labels = np.random.default_rng(0).integers(0, 3, (17, 23)).astype(np.uint8)
    mask = Image.open(io.BytesIO(encode_label_png(labels, INFO.palette)))
    assert mask.mode == 'P' and np.array_equal(np.asarray(mask), labels)
    assert np.array_equal(np.asarray(mask.convert('RGB')), np.asarray(INFO.palette, np.uint8)[labels])


@pytest.mark.parametrize('classes', [2, 3, 5])
def test_scores_give_the_labels_of_every_common_threshold(classes):
    rng = np.random.default_rng(classes)
    probabilities = rng.dirichlet(np.full(classes, 0.3), (40, 50)).transpose(2, 0, 1).astype(np.float32)
    probabilities[:, 0, 0] = 0  # nothing is certain: no division by zero, and normal
    values = np.asarray(Image.open(io.BytesIO(encode_scores(probabilities)))).astype(int)
    score, kind = (values[..., 0] * 256 + values[..., 1]) / 65535, values[..., 2]
    for threshold in (0.01, 0.2, 0.5, 0.77, 0.99):
        expected = decide_labels(probabilities, [threshold] * (classes - 1))
        got = np.where(score > threshold, kind, 0)
        sure = np.abs(score - threshold) > 1 / 65535  # a score is rounded to 16 bits
        assert sure.mean() > 0.99 and np.array_equal(got[sure], expected[sure])


def test_the_preview_is_the_image():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = 200, 30, 30
    seen = np.asarray(Image.open(io.BytesIO(encode_preview(image)))).astype(int)
    assert np.abs(seen[:, :24] - (200, 30, 30)).max() < 12 and seen[:, 36:].max() < 12  # colours of a JPEG


def test_thresholds_of_a_request():
    assert read_thresholds(INFO, None, None) == (0.5, 0.6)
    assert read_thresholds(INFO, 0.3, None) == (0.3, 0.3)
    assert read_thresholds(INFO, None, 'stain:0.25') == (0.5, 0.25)
    assert read_thresholds(INFO, 0.3, ' dent : 0.9 ') == (0.9, 0.3)


@pytest.mark.parametrize(
    'text', ['good:0.5', 'dent', 'dent:', 'dent:1', 'dent:0', 'dent:nan', 'dent:0.5,,', 'x' * 4000]
)
def test_wrong_thresholds_of_a_request(text):
    with pytest.raises(RequestError) as caught:
        read_thresholds(INFO, None, text)
    assert caught.value.status == 422 and len(caught.value.sentence) < 300
