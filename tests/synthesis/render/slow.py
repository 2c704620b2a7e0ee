"""Pasting written out pixel by pixel: slow, obvious, nothing of the package. Both renderers are compared with it."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import ndimage
from scipy.interpolate import BSpline

from tests.synthesis.poisson.dense_poisson import STEPS, dense_paste

LUMA = np.array([0.299, 0.587, 0.114])


def forward_matrix(rotate=0.0, shear_x=0.0, shear_y=0.0, scale_x=1.0, scale_y=1.0, flips=(1, 1)) -> np.ndarray:
    """Build the map of offsets (x, y) step by step, as documented."""
    angle = math.radians(rotate)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    along_x = np.array([[1, math.tan(math.radians(shear_x))], [0, 1]])
    along_y = np.array([[1, 0], [math.tan(math.radians(shear_y)), 1]])
    return turn @ along_x @ along_y @ np.diag([scale_x, scale_y]) @ np.diag(flips)


@cache
def spline_weights(place: float, count: int) -> np.ndarray:
    """Weights of uniform cubic B-splines at a place of the unit interval."""
    knots, place = np.arange(-3, count + 1.0), min(max(place, 0.0), 1.0) * (count - 3)
    spans = [knots[i : i + 5] for i in range(count)]
    return np.array([BSpline.basis_element(s)(place) if s[0] <= place <= s[-1] else 0.0 for s in spans])


def warp(planes: np.ndarray, operations, size_hw: tuple[int, int], outside: str) -> np.ndarray:
    """Read ``(h, w, C)`` float planes at each point of a canvas of a size; shrunk defects average points x points.

    Args:
        outside: scipy's name of what lies beyond the planes.
    """
    values = dict(zip(('rotate', 'shear_x', 'shear_y', 'scale_x', 'scale_y'), operations.values[:5], strict=True))
    inverse = np.linalg.inv(forward_matrix(**values, flips=operations.flips))
    points = max(1, round(max(np.linalg.norm(inverse, axis=0)) - 0.01))
    (height, width), centre = size_hw, (np.array(planes.shape[:2]) - 1) / 2
    step = operations.elastic * min(size_hw) / 3
    places = np.empty((height, width, points * points, 2))
    for row in range(height):
        for column in range(width):
            for point in range(points * points):
                y = row + (point // points + 0.5) / points - height / 2
                x = column + (point % points + 0.5) / points - width / 2
                offset = np.array([x, y])
                if operations.elastic:
                    count = operations.control.shape[-1]
                    down, across = spline_weights(y / height + 0.5, count), spline_weights(x / width + 0.5, count)
                    offset = offset + step * (operations.control @ across @ down)
                places[row, column, point] = centre + (inverse @ offset)[::-1]
    flat = places.reshape(-1, 2).T
    read = [ndimage.map_coordinates(plane, flat, order=1, mode=outside) for plane in planes.transpose(2, 0, 1)]
    return np.stack(read, -1).reshape(height, width, points * points, -1).mean(2)


def recolour(image: np.ndarray, core: np.ndarray, operations) -> np.ndarray:
    """Brightness, contrast about the mean grey of the defect, saturation, and a turn of the chroma plane of YIQ."""
    brightness, contrast, saturation, hue = operations.values[5:]
    image = image * brightness
    mean = (image[core] @ LUMA).mean()
    image = mean + (image - mean) * contrast
    grey = (image @ LUMA)[..., None]
    image = grey + (image - grey) * saturation
    axes = np.array([LUMA, [0.599, -0.2773, -0.3217], [0.213, -0.5251, 0.3121]])
    axes[1:] -= axes[1:].mean(1, keepdims=True)
    luma, phase, quadrature = np.moveaxis(image @ axes.T, -1, 0)
    turned = (phase + 1j * quadrature) * np.exp(2j * math.pi * hue)
    return np.stack([luma, turned.real, turned.imag], -1) @ np.linalg.inv(axes).T


def fit_donor(
    image: np.ndarray, core: np.ndarray, operations, size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return colours ``(H, W, 3)`` in [0, 1] and defect ``(H, W)`` bool of a donor on its canvas."""
    colours = np.clip(warp(recolour(image / 255.0, core, operations), operations, size_hw, 'nearest'), 0, 1)
    soft = warp(core[..., None].astype(float), operations, size_hw, 'grid-constant')[..., 0]
    return colours, (soft >= 0.5 * soft.max()) & (soft.max() > 0.05)


def limited_step(step: np.ndarray, max_shade: float, max_cast: float) -> np.ndarray:
    """Limit ``(m, C)`` steps at an outline to their median, brightness and colour apart."""
    shade = step.mean(1)
    cast = step - shade[:, None]
    middle = (len(step) - 1) // 2
    shade_median, cast_median = np.sort(shade)[middle], np.sort(cast, 0)[middle]
    result = step.copy()
    for i in range(len(step)):
        if abs(shade[i] - shade_median) > max_shade or (abs(cast[i] - cast_median) > max_cast).any():
            result[i] = np.clip(shade[i], shade_median - max_shade, shade_median + max_shade)
            result[i] += np.clip(cast[i], cast_median - max_cast, cast_median + max_cast)
    return result


def compose(target: np.ndarray, source: np.ndarray, mask: np.ndarray, method: str, limits=(2.0, 2.0)) -> np.ndarray:
    """Join ``(h, w, C)`` float images by alpha, feather, or exact Poisson with a limited step at the outline."""
    result, source = target.copy(), source.copy()
    places = list(zip(*np.nonzero(mask), strict=True))
    if method == 'alpha':
        for place in places:
            result[place] = source[place]
    elif method == 'feather':
        free = np.argwhere(~mask)
        for place in places:
            distance = np.linalg.norm(free - place, axis=1).min() if len(free) else np.inf
            result[place] += (source[place] - target[place]) * min(distance / 3, 1)
    else:
        height, width = mask.shape
        ring = sorted({
            (row + dy, column + dx) for row, column in places for dy, dx in STEPS
            if 0 <= row + dy < height and 0 <= column + dx < width and not mask[row + dy, column + dx]
        })  # fmt: skip
        if ring:
            beside = tuple(np.array(ring).T)
            source[beside] = target[beside] - limited_step(target[beside] - source[beside], *limits)
        planes = (image.transpose(2, 0, 1).astype(float) for image in (target, source))
        result = dense_paste(*planes, mask, mixed=method == 'poisson-mixed').transpose(1, 2, 0)
    return np.clip(result, 0, 1)


def labelled(new: np.ndarray, old: np.ndarray, mask: np.ndarray, core: np.ndarray, policy) -> np.ndarray:
    """The label rule, pixel by pixel."""
    changed = np.zeros(mask.shape, bool)
    for place in zip(*np.nonzero(mask), strict=True):
        changed[place] = np.abs(new[place] - old[place]).max() > policy.tolerance
    result = changed.copy()
    if policy.label == 'mask':
        for row, column in zip(*np.nonzero(mask & core), strict=True):
            reach = policy.label_radius
            near = changed[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            result[row, column] |= near.any()
    if result.sum() < max(1, policy.min_visible * (mask & core).sum()):
        result[:] = False
    return result
