"""What a request asks for and what it gets: thresholds in, JSON and images out, and their description for OpenAPI.

The tests hold real answers against the description.
"""

import base64
import math
from dataclasses import fields
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.deployment.server.errors import RequestError
from mmdefect.deployment.types import KINDS, Defect, ModelInfo, Prediction, PredictOptions

#: Weak and fast: answers are sent once, within a machine or a plant.
PNG_LEVEL = 1


def read_thresholds(info: ModelInfo, threshold: float | None, thresholds: str | None) -> tuple[float, ...]:
    """Return one threshold per defect class: those of the model or ``threshold`` for all, then those of single classes.

    ``thresholds`` are ``class:value`` pairs with commas between them; :class:`RequestError` 422 if they are not.
    """
    names = info.classes[1:]
    values = list(info.thresholds) if threshold is None else [threshold] * len(names)
    for pair in thresholds.split(',') if thresholds else ():
        name, _, text = pair.rpartition(':')
        name = name.strip()
        if name not in names:
            given = f'got {pair[:80]!r}; write, for example, {names[0]}:0.5.'
            wanted = f'pairs of class and value of the classes {list(names)}'
            raise RequestError('invalid_options', f'`thresholds` must be {wanted}, {given}')
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            given = f'got {text[:80]!r} for the class {name}; write, for example, 0.5.'
            raise RequestError('invalid_options', f'a threshold must be a probability between 0 and 1, {given}')
        values[names.index(name)] = value
    return tuple(values)


def make_answer(prediction: Prediction, options: PredictOptions, info: ModelInfo, notes: tuple[str, ...]) -> dict:
    """Return what ``POST /predict`` says about an image, without images; ``notes`` say what decoding changed."""
    height, width = prediction.label_map.shape
    return {
        'is_defective': bool(prediction.is_defective),
        'image_score': float(prediction.image_score),
        'width': width,
        'height': height,
        'defects': [defect.to_dict() for defect in prediction.defects],
        'thresholds': dict(zip(info.classes[1:], options.thresholds, strict=True)),
        'min_area_px': options.min_area_px,
        'mm_per_pixel': options.mm_per_pixel,
        'model': info.name,
        'notes': list(notes),
    }


def encode_scores(probabilities: ndarray) -> bytes:
    """Return a PNG from which a page finds the label map of any common threshold.

    Red and green are the high and low byte of the largest ``p_k / (p_k + p_0)`` of a defect class k against normal,
    times 65535; blue is that class. A pixel is a defect where the score exceeds the threshold. The probabilities are
    ``(K + 1, H, W)`` float32 in [0, 1], normal first.
    """
    best = probabilities[1:].argmax(0)  # p / (p + p_0) grows with p
    top = np.take_along_axis(probabilities[1:], best[None], 0)[0]
    total = top + probabilities[0]
    score = np.divide(top, total, out=np.zeros_like(top), where=total > 0)
    score = np.rint(score * np.float32(65535)).astype(np.uint16)
    pixels = np.stack([best + 1, score & 0xFF, score >> 8], -1).astype(np.uint8)  # OpenCV wants blue first
    return _encode('.png', pixels, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])


def encode_preview(image: ndarray) -> bytes:
    """Return the image that the model saw, ``(H, W, 3)`` uint8 RGB, as JPEG."""
    return _encode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])


def _encode(suffix: str, pixels: ndarray, parameters: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, parameters)
    if not done:  # a JPEG has at most 65500 pixels a side
        raise RuntimeError(f'OpenCV must be able to write {suffix}, but it could not.')
    return data.tobytes()


def as_text(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode('ascii')


_NUMBER, _WHOLE, _TEXT, _YES = ({'type': kind} for kind in ('number', 'integer', 'string', 'boolean'))
_THRESHOLDS = {'type': 'object', 'additionalProperties': _NUMBER}


def _base64(what: str) -> dict[str, Any]:
    return {'type': 'string', 'contentEncoding': 'base64', 'description': what}


def _list(item: dict[str, Any], length: int | None = None) -> dict[str, Any]:
    return {'type': 'array', 'items': item, **({} if length is None else {'minItems': length, 'maxItems': length})}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {'type': 'object', 'properties': properties, 'required': [n for n in properties if n not in optional]}


_OF_TYPE = {'str': _TEXT, 'int': _WHOLE, 'float': _NUMBER, 'float | None': _NUMBER}
_OF_TYPE |= {'tuple[int, int, int, int]': _list(_WHOLE, 4), 'tuple[float, float]': _list(_NUMBER, 2)}
DEFECT = _object(
    {field.name: _OF_TYPE[field.type] for field in fields(Defect)},
    tuple(field.name for field in fields(Defect) if field.default is None),
)
PREDICTION = _object(
    {
        **dict(is_defective=_YES, image_score=_NUMBER, width=_WHOLE, height=_WHOLE, defects=_list(DEFECT)),
        **dict(thresholds=_THRESHOLDS, min_area_px=_WHOLE, mm_per_pixel={'type': ['number', 'null']}),
        **dict(model=_TEXT, notes=_list(_TEXT), seconds=_NUMBER),
        'mask_png': _base64('PNG whose pixel values are class ids'),
        'scores_png': _base64('PNG; red * 256 + green is 65535 times the score, blue the class of each pixel'),
        'preview_jpeg': _base64('the upright 8-bit image that the model saw'),
    },
    ('mask_png', 'scores_png', 'preview_jpeg'),
)
ERROR = _object({'error': _TEXT, 'reason': _TEXT})
MODEL = _object(
    {
        **dict(name=_TEXT, kind={'enum': list(KINDS)}, classes=_list(_TEXT), palette=_list(_list(_WHOLE, 3))),
        **dict(thresholds=_THRESHOLDS, part_rule=_TEXT, input_size_hw={'type': ['array', 'null'], 'items': _WHOLE}),
        **dict(max_body_bytes=_WHOLE, max_pixels=_WHOLE),
    }
)
HEALTH = _object({'status': {'enum': ['ok', 'stopping']}, 'in_flight': _WHOLE})
ERRORS = {
    400: 'The client left.',
    401: 'Token missing or wrong.',
    408: 'The upload took too long.',
    413: 'Too many bytes or pixels.',
    415: 'Not an image of a known format.',
    421: 'Addressed by a foreign name.',
    422: 'Damaged image or wrong option.',
    500: 'The model failed.',
    503: 'Busy; see the header Retry-After.',
}


def described(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of an answer in JSON."""
    return {'description': text, 'content': {'application/json': {'schema': schema}}}


def answers_of_predict() -> dict[int, dict[str, Any]]:
    """Return the responses of ``POST /predict`` by status."""
    prediction = described('The prediction.', PREDICTION)
    prediction['content']['image/png'] = {'schema': {'type': 'string', 'contentMediaType': 'image/png'}}
    return {200: prediction, **{status: described(text, ERROR) for status, text in ERRORS.items()}}


def body_of_predict() -> dict[str, Any]:
    """Return the request body of ``POST /predict``."""
    file = {'type': 'string', 'contentMediaType': 'application/octet-stream'}
    kinds = [*(f'image/{name}' for name in ('png', 'jpeg', 'bmp', 'tiff', 'webp')), 'application/octet-stream']
    form = {'schema': _object({'image': file})}
    return {'required': True, 'content': {**{kind: {'schema': file} for kind in kinds}, 'multipart/form-data': form}}
