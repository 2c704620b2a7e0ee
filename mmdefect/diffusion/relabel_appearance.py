"""How defects of each class look, learned from source images and their labels, and how defect-like a pixel is.

Labels of small defects are loose: outlines hold normal surface, and a resized mask gets a rim of other class ids. So a
class is described by those of its pixels that stand out from the surface around them, and each component by its
most frequent class with a rim of foreign ids counted as its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from mmdefect.diffusion.relabel_change import to_lab

#: Lightness and colour contrast to the surface around, in Lab units, from which a pixel stands out.
STANDS_OUT = 4.0
#: Lightness by which the surface below a defect may leave the range of most source defects.
SURFACE_MARGIN = 5.0


@dataclass(frozen=True)
class Appearance:
    """Mean and covariance of the features of the pixels of each defect class that stand out.

    Attributes:
        classes: class ids.
        means: ``(K, F)`` float64.
        precisions: ``(K, F, F)`` float64, inverse covariances.
        surface_range: lightness of the surface that defects lie on, in Lab units; what lies on anything else (a bright
            background, a drilled hole) is no defect.
    """

    classes: tuple[int, ...]
    means: np.ndarray
    precisions: np.ndarray
    surface_range: tuple[float, float]


def find_surface(lab: np.ndarray, label: np.ndarray | None = None, window: int = 31) -> np.ndarray:
    """Return what the surface would look like without defects.

    That is the local median; where a known defect fills the window, it is the average of what is around the defect.

    Args:
        lab: ``(H, W, 3)`` float32.
        label: ``(H, W)`` int, non-zero pixels are left out of the surface; ``None`` leaves out nothing.
        window: odd width of the median in pixels; about four times the width of a fine defect.

    Returns:
        ``(H, W, 3)`` float32.
    """
    filled = lab if label is None or not label.any() else _fill(lab, label > 0)
    # OpenCV has large medians for 8 bits only; half a grey level of L is fine enough for a surface.
    scaled = np.clip((filled + [0, 128, 128]) * [2.55, 1, 1], 0, 255).astype(np.uint8)
    return cv2.medianBlur(scaled, window).astype(np.float32) / np.float32([2.55, 1, 1]) - np.float32([0, 128, 128])


def visibility(contrast: np.ndarray) -> np.ndarray:
    """Return how much a pixel stands out as a bright or coloured spot, in Lab units.

    Darker than the surface counts a third: shadows and relief are dark much more often than defects are.

    Args:
        contrast: ``(H, W, 3)`` float32 Lab difference to the surface, see :func:`find_surface`.
    """
    lightness = np.where(contrast[..., 0] > 0, contrast[..., 0], contrast[..., 0] / 3)
    return np.sqrt(lightness**2 + 2 * (contrast[..., 1:] ** 2).sum(-1))


def component_classes(label: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Divide a label map into 8-connected defects and give each its class.

    A component of several classes has the class that stands innermost: a mask resized with interpolation carries a rim
    of lower ids around the true one, and in a thin component the rim can outnumber the core.

    Returns:
        ``(H, W)`` int32 component numbers (0 none) and ``{number: class}``.
    """
    defect = ((label > 0) & (label != 255)).astype(np.uint8)
    _, numbers = cv2.connectedComponents(defect, connectivity=8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(defect, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)[
        1:-1, 1:-1
    ]
    weight = np.zeros((numbers.max() + 1, 256))
    np.add.at(weight, (numbers.ravel(), label.ravel().astype(int)), (depth**2).ravel())
    return numbers, {number: int(weight[number].argmax()) for number in range(1, len(weight))}


def pixel_features(lab: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Return ``(H, W, 5)``: L, a, b and the contrasts of L and of b."""
    return np.concatenate([lab, contrast[..., [0, 2]]], -1)


def learn_appearance(pairs: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int) -> Appearance:
    """Describe the classes of labelled images.

    Args:
        pairs: images ``(H, W, 3)`` uint8 RGB and label maps ``(H, W)``.
        num_classes: with the normal class.

    Raises:
        ValueError: if no image shows a defect that stands out.
    """
    found: Mapping[int, list] = {k: [] for k in range(1, num_classes)}
    below = []
    for image, label in pairs:
        if not ((label > 0) & (label != 255)).any():
            continue
        lab = to_lab(image)
        surface = find_surface(lab, label)
        contrast = lab - surface
        features, seen = pixel_features(lab, contrast), visibility(contrast)
        numbers, classes = component_classes(label)
        for number, class_id in classes.items():
            inside = numbers == number
            clear = inside & (seen > max(STANDS_OUT, 0.5 * np.quantile(seen[inside], 0.9)))
            if clear.any() and class_id in found:
                # Each defect speaks with its mean: a large one must not outvote a hundred small ones.
                found[class_id].append(features[clear].mean(0))
                below.append(float(np.median(surface[..., 0][inside])))
    known = {k: np.asarray(v, np.float64) for k, v in found.items() if v}
    if not known:
        raise ValueError(
            f'the labelled images must show at least one defect that stands out by {STANDS_OUT} Lab units, but '
            'none does; check that images and labels belong together.'
        )
    means = np.stack([v.mean(0) for v in known.values()])
    pooled = sum((v - v.mean(0)).T @ (v - v.mean(0)) for v in known.values()) / max(sum(map(len, known.values())), 2)
    precisions = []
    for values in known.values():
        weight = len(values) / (len(values) + 10)  # shrink towards the common covariance: some classes have few defects
        own = np.cov(values.T) if len(values) > 1 else pooled
        precisions.append(np.linalg.inv(weight * own + (1 - weight) * pooled + np.eye(values.shape[1])))
    low, high = np.quantile(below, [0.05, 0.9])
    return Appearance(
        tuple(known), means, np.stack(precisions), (float(low) - SURFACE_MARGIN, float(high) + SURFACE_MARGIN)
    )


def nearest_class(features: np.ndarray, appearance: Appearance) -> tuple[int, float]:
    """Return the class whose appearance is nearest (Mahalanobis) to one defect, and the distance.

    Args:
        features: ``(F,)`` mean over the clear pixels of the defect.
        appearance: of the source set.
    """
    offset = features - appearance.means
    distances = np.einsum('kf,kfg,kg->k', offset, appearance.precisions, offset)
    best = int(distances.argmin())
    return appearance.classes[best], float(np.sqrt(distances[best]))


def _fill(lab: np.ndarray, defect: np.ndarray) -> np.ndarray:
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
