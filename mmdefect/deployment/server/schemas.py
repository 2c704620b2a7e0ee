"""What answers look like, for the description in OpenAPI; the tests hold real answers against it."""

from __future__ import annotations

from typing import Any

_NUMBER, _WHOLE, _TEXT, _YES = ({'type': kind} for kind in ('number', 'integer', 'string', 'boolean'))


def _base64(what: str) -> dict[str, Any]:
    return {'type': 'string', 'contentEncoding': 'base64', 'description': what}


def _list(item: dict[str, Any], length: int | None = None) -> dict[str, Any]:
    return {'type': 'array', 'items': item, **({} if length is None else {'minItems': length, 'maxItems': length})}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {'type': 'object', 'properties': properties, 'required': [n for n in properties if n not in optional]}


DEFECT = _object(
    {
        'class_name': _TEXT,
        'class_id': _WHOLE,
        'score': _NUMBER,
        'area_px': _WHOLE,
        'area_percent': _NUMBER,
        'box_xyxy': _list(_WHOLE, 4),
        'centroid_xy': _list(_NUMBER, 2),
        'length_px': _NUMBER,
        'width_px': _NUMBER,
        'length_mm': _NUMBER,
        'width_mm': _NUMBER,
        'area_mm2': _NUMBER,
    },
    ('length_mm', 'width_mm', 'area_mm2'),
)
PREDICTION = _object(
    {
        'is_defective': _YES,
        'image_score': _NUMBER,
        'width': _WHOLE,
        'height': _WHOLE,
        'defects': _list(DEFECT),
        'thresholds': {'type': 'object', 'additionalProperties': _NUMBER},
        'min_area_px': _WHOLE,
        'mm_per_pixel': {'type': ['number', 'null']},
        'model': _TEXT,
        'notes': _list(_TEXT),
        'seconds': _NUMBER,
        'mask_png': _base64('PNG whose pixel values are class ids'),
        'scores_png': _base64('PNG; red * 256 + green is 65535 times the score, blue the class of each pixel'),
        'preview_jpeg': _base64('the upright 8-bit image that the model saw'),
    },
    ('mask_png', 'scores_png', 'preview_jpeg'),
)
ERROR = _object({'error': _TEXT, 'reason': _TEXT})
MODEL = _object(
    {
        'name': _TEXT,
        'kind': {'enum': ['segmentation', 'anomaly']},
        'classes': _list(_TEXT),
        'palette': _list(_list(_WHOLE, 3)),
        'thresholds': {'type': 'object', 'additionalProperties': _NUMBER},
        'input_size_hw': {'type': ['array', 'null'], 'items': _WHOLE},
        'max_body_bytes': _WHOLE,
        'max_pixels': _WHOLE,
    }
)
HEALTH = _object({'status': {'enum': ['ok', 'stopping']}, 'in_flight': _WHOLE})

REFUSALS = {
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


def answers_of_predict() -> dict[int, dict[str, Any]]:
    """Responses of ``POST /predict`` by status."""
    answers: dict[int, dict[str, Any]] = {
        200: {
            'description': 'The prediction.',
            'content': {
                'application/json': {'schema': PREDICTION},
                'image/png': {'schema': {'type': 'string', 'contentMediaType': 'image/png'}},
            },
        }
    }
    for status, text in REFUSALS.items():
        answers[status] = {'description': text, 'content': {'application/json': {'schema': ERROR}}}
    return answers


def body_of_predict() -> dict[str, Any]:
    """Request body of ``POST /predict``."""
    raw = {'schema': {'type': 'string', 'contentMediaType': 'application/octet-stream'}}
    form = {'schema': _object({'image': {'type': 'string', 'contentMediaType': 'application/octet-stream'}})}
    kinds = ('image/png', 'image/jpeg', 'image/bmp', 'image/tiff', 'image/webp', 'application/octet-stream')
    return {'required': True, 'content': {**dict.fromkeys(kinds, raw), 'multipart/form-data': form}}
