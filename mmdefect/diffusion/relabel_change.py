"""What a diffusion edit changed: the difference between a source image and its edit, above the noise of reconstruction.

An edit differs from its source everywhere: the autoencoder blurs and shifts fine structure, and the sampler drifts in tone.
What counts as a change here is therefore what none of three allowances explains:

1. a shift of the whole image and a gain and offset of its tone (:func:`match_tone`); they are estimated and taken out;
2. a pixel of jitter: a value found anywhere within ``reach`` pixels in the source is no change
   (:func:`tolerant_difference`);
3. the noise of the reconstruction, per pixel and channel, from the unchanged area of the pair and, if there is a set of
   pairs in the same pose, from what the reconstruction does at this place in most of them
   (:func:`pair_noise`, :func:`set_noise`).

Differences are taken in CIE Lab (lightness and two colour axes, near perceptual), after removing what varies slowly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

#: Median absolute deviation to standard deviation of a normal distribution.
MAD_TO_SIGMA = 1.4826
#: Least standard deviation of each Lab channel that is believed; 8-bit images have steps of about .4 in L.
NOISE_FLOOR = np.array([0.8, 0.5, 0.5], np.float32)


@dataclass(frozen=True)
class ToneMatch:
    """How an edit differs from its source as a whole.

    Attributes:
        shift_rc: rows and columns by which the edit is displaced against the source.
        gain: of lightness.
        offset: of L, a, b after the gain.
    """

    shift_rc: tuple[float, float]
    gain: float
    offset: tuple[float, float, float]


def to_lab(image: np.ndarray) -> np.ndarray:
    """Return CIE Lab of an image.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.

    Returns:
        ``(H, W, 3)`` float32; L in [0, 100], a and b in about [-127, 127].
    """
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def match_tone(source: np.ndarray, edit: np.ndarray) -> tuple[np.ndarray, ToneMatch]:
    """Bring an edit to the tone of its source by one gain and one offset each channel.

    The gain begins as the ratio of the ranges between the 10th and 90th percentile; then gain and offset are fitted three
    times to the two thirds of the pixels that agree best, so that defects do not pull them. The shift is measured by phase correlation and reported, not undone: edits keep the pose, and one that does
    not is to be rejected rather than resampled.

    Args:
        source: ``(H, W, 3)`` float32 Lab.
        edit: ``(H, W, 3)`` float32 Lab.

    Returns:
        The edit in the tone of the source, float32 Lab, and what was found.
    """
    window = cv2.createHanningWindow(source.shape[1::-1], cv2.CV_32F)
    # An edge image: large even areas would pull a shift towards zero.
    (right, down), _ = cv2.phaseCorrelate(_edges(source[..., 0]), _edges(edit[..., 0]), window)
    x, y = edit[..., 0].ravel(), source[..., 0].ravel()
    spans = [float(np.subtract(*np.quantile(v, [0.9, 0.1]))) for v in (x, y)]
    gain = spans[1] / spans[0] if min(spans) > 1e-3 else 1.0
    offset = float(np.median(y - gain * x))
    for _ in range(3):
        error = np.abs(y - gain * x - offset)
        keep = error <= max(np.quantile(error, 2 / 3), 0.5)
        spread = x[keep].var()
        gain = float(np.cov(x[keep], y[keep])[0, 1] / spread) if spread > 1e-6 else 1.0
        offset = float(y[keep].mean() - gain * x[keep].mean())
    colour = [float(np.median((source - edit)[..., k].ravel()[keep])) for k in (1, 2)]
    matched = edit + np.array([0.0, *colour], np.float32)
    matched[..., 0] = gain * edit[..., 0] + offset
    return matched, ToneMatch((down, right), gain, (offset, *colour))


def tolerant_difference(source: np.ndarray, edit: np.ndarray, reach: int = 1, drift_sigma: float = 20.0) -> np.ndarray:
    """Return how far the edit leaves the range of values that the source has nearby.

    Args:
        source: ``(H, W, C)`` float32.
        edit: ``(H, W, C)`` float32, same size.
        reach: half width in pixels of the square in which a value of the source explains one of the edit.
        drift_sigma: what varies slower than this many pixels is tone drift and removed first; 0 keeps it.

    Returns:
        ``(H, W, C)`` float32, positive where the edit is above, negative where it is below, 0 where it is explained.
    """
    if drift_sigma > 0:
        edit = edit - tone_drift(source, edit, drift_sigma)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    high, low = cv2.dilate(source, kernel), cv2.erode(source, kernel)
    return np.maximum(edit - high, 0) - np.maximum(low - edit, 0)


def pair_noise(difference: np.ndarray, sigma: float = 12.0) -> np.ndarray:
    """Return the local standard deviation of a difference of one pair, unmoved by what really changed.

    Values are capped at three global deviations before they are averaged, so that a defect raises the noise around it by
    little while a noisy region (relief, text) still counts as noisy.

    Args:
        difference: ``(H, W, C)`` float32, source minus edit or the like, with its zeros.
        sigma: of the Gaussian window, in pixels.
    """
    size = np.abs(difference)
    overall = np.maximum(MAD_TO_SIGMA * np.median(size, axis=(0, 1)), NOISE_FLOOR)
    capped = np.minimum(size, 3 * overall)
    return np.maximum(1.2533 * cv2.GaussianBlur(capped, (0, 0), sigma), NOISE_FLOOR)


def set_noise(differences: Iterable[np.ndarray], quantile: float = 0.75) -> np.ndarray:
    """Return the standard deviation at each place over a set of pairs in one pose, unmoved by a few real changes.

    Args:
        differences: ``(H, W, C)`` float32 each, of one size.
        quantile: of the absolute difference over the pairs; with .75 a change in less than a quarter of them is none
            of the noise.
    """
    stack = np.stack([np.abs(d).astype(np.float16) for d in differences])
    # |x| of a standard normal has its .5 quantile at .674 and its .75 quantile at 1.150.
    scale = {0.5: 0.6745, 0.75: 1.1503, 0.9: 1.6449}.get(quantile)
    if scale is None:
        raise ValueError(f'`quantile` must be .5, .75 or .9, got {quantile}.')
    at_place = np.quantile(stack, quantile, axis=0).astype(np.float32) / scale
    return np.maximum(cv2.GaussianBlur(cv2.dilate(at_place, np.ones((3, 3), np.uint8)), (0, 0), 1.0), NOISE_FLOOR)


def change_score(difference: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the length of the difference in standard deviations of the noise.

    Args:
        difference: ``(H, W, 3)`` float32 Lab, see :func:`tolerant_difference`.
        noise: ``(H, W, 3)`` float32, greater than 0.

    Returns:
        ``(H, W)`` float32, 0 or more.
    """
    return np.sqrt(((difference / noise) ** 2).sum(-1))


def tone_drift(source: np.ndarray, edit: np.ndarray, sigma: float = 20.0) -> np.ndarray:
    """Return the slowly varying difference of an edit to its source.

    Differences are capped at three global deviations before they are blurred (on a grid of a quarter of the size), so
    that a defect leaves no halo of the other sign.

    Args:
        source: ``(H, W, C)`` float32.
        edit: ``(H, W, C)`` float32, same size.
        sigma: what varies slower than this many pixels is drift.
    """
    difference = edit - source
    cap = 3 * np.maximum(MAD_TO_SIGMA * np.median(np.abs(difference), axis=(0, 1)), NOISE_FLOOR)
    small = cv2.resize(np.clip(difference, -cap, cap), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / 4)
    return cv2.resize(blurred, difference.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _edges(lightness: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(lightness, (0, 0), 1.5)
    steepness = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    return np.minimum(steepness, np.quantile(steepness, 0.9))  # one bright defect must not decide
