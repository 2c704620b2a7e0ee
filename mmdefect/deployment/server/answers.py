"""Predictions as JSON and images."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.deployment.server.options import PredictOptions
from mmdefect.deployment.types import ModelInfo, Prediction

#: Weak and fast: answers are sent once, within a machine or a plant.
PNG_LEVEL = 1


def make_answer(
    prediction: Prediction, options: PredictOptions, info: ModelInfo, notes: tuple[str, ...]
) -> dict[str, Any]:
    """Return what ``POST /predict`` says about an image, without images.

    Args:
        prediction: of the image.
        options: that it was made with.
        info: of the model.
        notes: what decoding changed.
    """
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
    times 65535; blue is that class. A pixel is a defect where the score exceeds the threshold.

    Args:
        probabilities: ``(K + 1, H, W)`` float32 in [0, 1], normal first.
    """
    normal = probabilities[0]
    best = probabilities[1:].argmax(0)  # p / (p + p_0) grows with p
    top = np.take_along_axis(probabilities[1:], best[None], 0)[0]
    total = top + normal
    score = np.divide(top, total, out=np.zeros_like(top), where=total > 0)
    score = np.rint(score * np.float32(65535)).astype(np.uint16)
    photo = np.stack([best + 1, score & 0xFF, score >> 8], -1).astype(np.uint8)  # OpenCV wants blue first
    return _encode('.png', photo, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])


def encode_preview(image: ndarray) -> bytes:
    """Return the image that the model saw, ``(H, W, 3)`` uint8 RGB, as JPEG."""
    return _encode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])


def as_text(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode('ascii')


def _encode(suffix: str, photo: ndarray, parameters: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, photo, parameters)
    if not done:
        raise RuntimeError(f'OpenCV must be able to write {suffix}, but it could not.')
    return data.tobytes()
