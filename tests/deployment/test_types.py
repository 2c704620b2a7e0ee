"""What a model says about itself survives the way through a file, and nonsense is rejected."""

from __future__ import annotations

import pytest

from mmdefect.deployment import Defect, ModelInfo, load_predictor

INFO = ModelInfo(
    ('good', 'scratch', 'pit'),
    ((0, 0, 0), (255, 0, 0), (0, 255, 0)),
    (0.5, 0.25),
    (256, 320),
    name='fast-scnn',
    extra={'iter': 7},
)


def test_info_survives_json():
    assert ModelInfo.from_json(INFO.to_json()) == INFO
    native = ModelInfo(['a', 'b'], [[0, 0, 0], [1, 2, 3]], [0.5])
    assert ModelInfo.from_json(native.to_json()) == native and native.input_size_hw is None


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(thresholds=(0.5,)), 'must be 2 probabilities'),
        (dict(thresholds=(0.5, 1.0)), 'between 0 and 1'),
        (dict(palette=((0, 0, 0),)), 'a colour for each of the 3'),
        (dict(kind='magic'), 'must be one of'),
        (dict(classes=('a', 'a', 'b')), 'different names'),
    ],
)
def test_info_rejects_nonsense(change, message):
    with pytest.raises(ValueError, match=message):
        ModelInfo(**{**dict(classes=INFO.classes, palette=INFO.palette, thresholds=INFO.thresholds), **change})


def test_a_defect_tells_millimetres_only_where_they_are_known():
    defect = Defect('pit', 2, 0.75, 12, 0.1, (1, 2, 5, 6), (2.5, 3.5), 4.0, 3.0)
    assert 'length_mm' not in defect.to_dict() and defect.to_dict()['box_xyxy'] == [1, 2, 5, 6]


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no file .*absent.onnx'):
        load_predictor(tmp_path / 'absent.onnx')
