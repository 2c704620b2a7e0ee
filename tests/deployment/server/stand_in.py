"""A predictor that needs no model: dark pixels are defects, exactly as the contract of predictions says."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np

from mmdefect.deployment.types import Defect, ModelInfo, Prediction

INFO = ModelInfo(
    classes=('good', 'dent', 'stain'),
    palette=((0, 0, 0), (255, 0, 0), (0, 200, 255)),
    thresholds=(0.5, 0.6),
    name='stand-in',
)


class StandIn:
    """Dark pixels are dents, blue ones stains.

    Args:
        gate: what ``predict_batch`` waits for, to hold the model up.
        delay_s: that every batch takes.
        fails_on: width of images on which it fails.
    """

    def __init__(self, gate: threading.Event | None = None, delay_s: float = 0.0, fails_on: int = 0) -> None:
        self.info = INFO
        self.gate, self.delay_s, self.fails_on = gate, delay_s, fails_on
        self.calls: list[tuple[int, tuple[float, ...], int]] = []
        self.closed = False

    def predict_batch(self, images, thresholds=None, min_area_px=0, mm_per_pixel=None, return_probabilities=False):
        thresholds = thresholds or self.info.thresholds
        self.calls.append((len(images), tuple(thresholds), min_area_px))
        if self.gate:
            assert self.gate.wait(30)
        time.sleep(self.delay_s)
        if any(image.shape[1] == self.fails_on for image in images):
            raise RuntimeError('this width is unlucky')
        return [predict(image, thresholds, min_area_px, mm_per_pixel, return_probabilities) for image in images]

    def close(self):
        self.closed = True


def class_probabilities(image):
    """``(3, H, W)`` float32: dark is a dent, blue without red a stain."""
    image = image.astype(np.float32) / 255
    stain = np.clip(image[..., 2] - image[..., 0], 0, 1) * 0.9
    dent = (1 - image.max(-1)) * 0.95
    return np.stack([1 - stain - dent, dent, stain]).clip(0, 1).astype(np.float32)


def predict(image, thresholds, min_area_px=0, mm_per_pixel=None, return_probabilities=False):
    p = class_probabilities(image)
    against = np.stack([p[k] / np.maximum(p[k] + p[0], 1e-12) for k in (1, 2)])
    limits = np.asarray(thresholds, np.float32)[:, None, None]
    gain = np.log(np.maximum(against, 1e-9) / np.maximum(1 - against, 1e-9)) - np.log(limits / (1 - limits))
    labels = np.where(gain.max(0) > 0, gain.argmax(0) + 1, 0).astype(np.uint8)
    defects = []
    for k in (1, 2):
        mask = (labels == k).astype(np.uint8)
        count, regions, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for i in range(1, count):
            x, y, w, h, area = (int(v) for v in stats[i])
            if area < min_area_px:
                labels[regions == i] = 0
                continue
            length, width = max(w, h), min(w, h)
            scale = mm_per_pixel
            defects.append(
                Defect(
                    INFO.classes[k],
                    k,
                    float(p[k][regions == i].mean()),
                    area,
                    100.0 * area / labels.size,
                    (x, y, x + w, y + h),
                    (float(centres[i][0]), float(centres[i][1])),
                    float(length),
                    float(width),
                    *((None,) * 3 if scale is None else (length * scale, width * scale, area * scale**2)),
                )
            )
    defects.sort(key=lambda d: -d.score)
    return Prediction(labels, p if return_probabilities else None, defects, bool(defects), float(p[1:].max()))
