"""What a diffusion edit changed, and how much a pixel of an image looks like a defect.

An edit differs from its source everywhere: the autoencoder blurs and shifts fine structure, and the sampler drifts in
tone. What counts as a change here is therefore what none of three allowances explains:

1. a shift of the whole image and a gain and offset of its tone (:func:`match_tone`); they are estimated and taken out;
2. a pixel of jitter: a value found anywhere within ``reach`` pixels in the source is no change
   (:func:`tolerant_difference`);
3. the noise of the reconstruction, per pixel and channel, from the unchanged area of the pair and, if there is a set of
   pairs in the same pose, from what the reconstruction does at this place in most of them
   (:func:`pair_noise`, :func:`set_noise`).

Differences are taken in CIE Lab (lightness and two colour axes, near perceptual), after removing what varies slowly.

How defects of each class look is learned from source images and their labels (:func:`learn_appearance`). Labels of
small defects are loose: outlines hold normal surface, and a resized mask gets a rim of other class ids. So a class is
described by those of its pixels that stand out from the surface around them, and each component by its most frequent
class with a rim of foreign ids counted as its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

#: Median absolute deviation to standard deviation of a normal distribution.
MAD_TO_SIGMA = 1.4826
#: Least standard deviation of each Lab channel that is believed; 8-bit images have steps of about .4 in L.
NOISE_FLOOR = np.array([0.8, 0.5, 0.5], np.float32)
#: Lightness and colour contrast to the surface around, in Lab units, from which a pixel stands out.
STANDS_OUT = 4.0
#: Lightness by which the surface below a defect may leave the range of most source defects.
SURFACE_MARGIN = 5.0


@dataclass(frozen=True)
class ToneMatch:
    """How an edit differs from its source as a whole."""

    shift_rc: tuple[float, float]  # rows and columns by which the edit is displaced against the source
    gain: float  # of lightness
    offset: tuple[float, float, float]  # of L, a, b after the gain


def to_lab(image: ndarray) -> ndarray:
    """Return CIE Lab of ``(H, W, 3)`` uint8 RGB, float32; L in [0, 100], a and b in about [-127, 127]."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def match_tone(source: ndarray, edit: ndarray) -> tuple[ndarray, ToneMatch]:
    """Bring an edit to the tone of its source by one gain and one offset for each channel; both ``(H, W, 3)`` Lab.

    The gain begins as the ratio of the ranges between the 10th and 90th percentile; then gain and offset are fitted
    three times to the two thirds of the pixels that agree best, so that defects do not pull them. The shift is measured
    by phase correlation and reported, not undone: edits keep the pose, and one that does not is to be rejected rather
    than resampled.
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


def gradient(lightness: ndarray) -> tuple[ndarray, ndarray]:
    """Return the gradients of the smoothed lightness along columns and rows, times 8."""
    smooth = cv2.GaussianBlur(lightness, (0, 0), 1.5)
    return cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)


def _edges(lightness: ndarray) -> ndarray:
    steepness = np.hypot(*gradient(lightness))
    return np.minimum(steepness, np.quantile(steepness, 0.9))  # one bright defect must not decide


def tolerant_difference(source: ndarray, edit: ndarray, reach: int = 1, drift_sigma: float = 20.0) -> ndarray:
    """Return how far the edit leaves the range of values that the source has nearby; all ``(H, W, C)`` float32.

    The result is positive where the edit is above, negative where it is below, 0 where it is explained: by a value of
    the source within ``reach`` pixels, or by tone drift, which varies slower than ``drift_sigma`` pixels (0 keeps it).
    """
    if drift_sigma > 0:
        edit = edit - tone_drift(source, edit, drift_sigma)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    high, low = cv2.dilate(source, kernel), cv2.erode(source, kernel)
    return np.maximum(edit - high, 0) - np.maximum(low - edit, 0)


def tone_drift(source: ndarray, edit: ndarray, sigma: float = 20.0) -> ndarray:
    """Return the difference of an edit to its source that varies slower than ``sigma`` pixels; ``(H, W, C)`` float32.

    Differences are capped at three global deviations before they are blurred (on a grid of a quarter of the size), so
    that a defect leaves no halo of the other sign.
    """
    difference = edit - source
    cap = 3 * np.maximum(MAD_TO_SIGMA * np.median(np.abs(difference), axis=(0, 1)), NOISE_FLOOR)
    small = cv2.resize(np.clip(difference, -cap, cap), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / 4)
    return cv2.resize(blurred, difference.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def difference_of(source: ndarray, edit: ndarray, reach: int = 1) -> ndarray:
    """Return the tolerant Lab difference of a pair of ``(H, W, 3)`` uint8 RGB images; what noise is estimated from."""
    lab = to_lab(source)
    return tolerant_difference(lab, match_tone(lab, to_lab(edit))[0], reach)


def pair_noise(difference: ndarray, sigma: float = 12.0) -> ndarray:
    """Return the local standard deviation of a difference of one pair, ``(H, W, C)``, unmoved by what really changed.

    Values are capped at three global deviations before they are averaged in a Gaussian window of ``sigma`` pixels, so
    that a defect raises the noise around it by little while a noisy region (relief, text) still counts as noisy.
    """
    size = np.abs(difference)
    overall = np.maximum(MAD_TO_SIGMA * np.median(size, axis=(0, 1)), NOISE_FLOOR)
    capped = np.minimum(size, 3 * overall)
    return np.maximum(1.2533 * cv2.GaussianBlur(capped, (0, 0), sigma), NOISE_FLOOR)


def set_noise(differences: Iterable[ndarray], quantile: float = 0.75) -> ndarray:
    """Return the standard deviation at each place over a set of pairs in one pose, unmoved by a few real changes.

    The quantile is that of the absolute difference, ``(H, W, C)``, over the pairs; with .75 a change in less than a
    quarter of them is none of the noise.
    """
    stack = np.stack([np.abs(d).astype(np.float16) for d in differences])
    # |x| of a standard normal has its .5 quantile at .674 and its .75 quantile at 1.150.
    scale = {0.5: 0.6745, 0.75: 1.1503, 0.9: 1.6449}.get(quantile)
    if scale is None:
        raise ValueError(f'`quantile` must be .5, .75 or .9, got {quantile}.')
    at_place = np.quantile(stack, quantile, axis=0).astype(np.float32) / scale
    return np.maximum(cv2.GaussianBlur(cv2.dilate(at_place, np.ones((3, 3), np.uint8)), (0, 0), 1.0), NOISE_FLOOR)


def change_score(difference: ndarray, noise: ndarray) -> ndarray:
    """Return the length of a difference in standard deviations of the noise, ``(H, W)``; both are ``(H, W, 3)``."""
    return np.sqrt(((difference / noise) ** 2).sum(-1))


def find_surface(lab: ndarray, label: ndarray | None = None, window: int = 31) -> ndarray:
    """Return what the surface would look like without defects, ``(H, W, 3)`` float32 Lab.

    That is the local median in a window four times as wide as a fine defect; where a known defect (``label``,
    ``(H, W)``, not zero) fills the window, it is the average of what is around the defect.
    """
    filled = lab if label is None or not label.any() else _fill(lab, label > 0)
    shift, scale = np.float32([0, 128, 128]), np.float32([2.55, 1, 1])
    # OpenCV has large medians for 8 bits only; half a grey level of L is fine enough for a surface.
    scaled = np.clip(np.add(filled, [0, 128, 128]) * [2.55, 1, 1], 0, 255).astype(np.uint8)
    return cv2.medianBlur(scaled, window).astype(np.float32) / scale - shift


def _fill(lab: ndarray, defect: ndarray) -> ndarray:
    """Replace a defect by the average of the normal surface around it, from wider and wider windows."""
    filled, missing = lab.copy(), defect.copy()
    near = cv2.dilate(defect.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    weight = (~near).astype(np.float32)
    for sigma in (4.0, 12.0, 36.0):
        total = cv2.GaussianBlur(weight, (0, 0), sigma)
        now = missing & (total > 0.05)
        if now.any():
            average = cv2.GaussianBlur(lab * weight[..., None], (0, 0), sigma)
            filled[now] = average[now] / total[now][:, None]
            missing &= ~now
    return filled


def visibility(contrast: ndarray) -> ndarray:
    """Return how much a pixel stands out as a bright or coloured spot, in Lab units, ``(H, W)``.

    ``contrast`` is the ``(H, W, 3)`` Lab difference to the surface. Darker than the surface counts a third: shadows and
    relief are dark much more often than defects are.
    """
    lightness = np.where(contrast[..., 0] > 0, contrast[..., 0], contrast[..., 0] / 3)
    return np.sqrt(lightness**2 + 2 * (contrast[..., 1:] ** 2).sum(-1))


def component_classes(label: ndarray) -> tuple[ndarray, dict[int, int]]:
    """Divide a label map into 8-connected defects: ``(H, W)`` int32 numbers (0 none) and the class of each number.

    A component of several classes has the class that stands innermost: a mask resized with interpolation carries a rim
    of lower ids around the true one, and in a thin component the rim can outnumber the core.
    """
    defect = ((label > 0) & (label != 255)).astype(np.uint8)
    _, numbers = cv2.connectedComponents(defect, connectivity=8)
    framed = cv2.copyMakeBorder(defect, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    weight = np.zeros((numbers.max() + 1, 256))
    np.add.at(weight, (numbers.ravel(), label.ravel().astype(int)), (depth**2).ravel())
    return numbers, {number: int(weight[number].argmax()) for number in range(1, len(weight))}


def pixel_features(lab: ndarray, contrast: ndarray) -> ndarray:
    """Return ``(H, W, 5)``: L, a, b and the contrasts of L and of b."""
    return np.concatenate([lab, contrast[..., [0, 2]]], -1)


def visible_defects(image: ndarray, label: ndarray) -> Iterator[tuple[int, ndarray, float]]:
    """Yield the class, the mean features and the lightness of the surface of every labelled defect that stands out."""
    lab = to_lab(image)
    surface = find_surface(lab, label)
    contrast = lab - surface
    features, seen = pixel_features(lab, contrast), visibility(contrast)
    numbers, classes = component_classes(label)
    for number, class_id in classes.items():
        inside = numbers == number
        clear = inside & (seen > max(STANDS_OUT, 0.5 * np.quantile(seen[inside], 0.9)))
        if clear.any():
            yield class_id, features[clear].mean(0), float(np.median(surface[..., 0][inside]))


@dataclass(frozen=True)
class Appearance:
    """Mean and covariance of the features of the pixels of each defect class that stand out."""

    classes: tuple[int, ...]  # class ids
    means: ndarray  # `(K, F)` float64
    precisions: ndarray  # `(K, F, F)` float64, inverse covariances
    #: Lightness of the surface that defects lie on; what lies on anything else (a bright background, a hole) is none.
    surface_range: tuple[float, float]


def learn_appearance(pairs: Iterable[tuple[ndarray, ndarray]], num_classes: int) -> Appearance:
    """Describe the classes of labelled images, ``(H, W, 3)`` uint8 RGB with label maps ``(H, W)``."""
    found: dict[int, list] = {k: [] for k in range(1, num_classes)}
    below = []
    for image, label in pairs:
        if not ((label > 0) & (label != 255)).any():
            continue
        for class_id, features, lightness in visible_defects(image, label):
            if class_id in found:  # each defect counts once: a large one must not outvote a hundred small ones
                found[class_id].append(features)
                below.append(lightness)
    known = {k: np.asarray(v, np.float64) for k, v in found.items() if v}
    if not known:
        raise ValueError(
            f'some labelled defect must be one that stands out by {STANDS_OUT} Lab units; check images and labels.'
        )
    means = np.stack([v.mean(0) for v in known.values()])
    pooled = sum((v - v.mean(0)).T @ (v - v.mean(0)) for v in known.values()) / max(sum(map(len, known.values())), 2)
    precisions = []
    for values in known.values():
        weight = len(values) / (len(values) + 10)  # shrink towards the common covariance: some classes have few defects
        own = np.cov(values.T) if len(values) > 1 else pooled
        precisions.append(np.linalg.inv(weight * own + (1 - weight) * pooled + np.eye(values.shape[1])))
    low, high = np.quantile(below, [0.05, 0.9])
    surface_range = float(low) - SURFACE_MARGIN, float(high) + SURFACE_MARGIN
    return Appearance(tuple(known), means, np.stack(precisions), surface_range)


def nearest_class(features: ndarray, appearance: Appearance) -> tuple[int, float]:
    """Return the class whose appearance is nearest (Mahalanobis) to one defect, and the distance.

    Args:
        features: ``(F,)`` mean over the visible pixels of the defect.
    """
    offset = features - appearance.means
    distances = np.einsum('kf,kfg,kg->k', offset, appearance.precisions, offset)
    best = int(distances.argmin())
    return appearance.classes[best], float(np.sqrt(distances[best]))
