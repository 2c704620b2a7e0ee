"""Random fields that the procedural materials are made of; every function takes its generator as an argument."""

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator


def unit_grid(size_hw: tuple[int, int]) -> tuple[ndarray, ndarray]:
    """Return y and x of the pixel centres, each ``(H, W)`` float32; the short side runs over (-0.5, 0.5)."""
    height, width = size_hw
    unit = min(size_hw)
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / unit
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / unit
    return np.repeat(y[:, None], width, axis=1), np.repeat(x[None, :], height, axis=0)


def turn_matrix(angle: float) -> ndarray:
    """Return ``(2, 2)``, which turns x, y by an angle in radians from the x axis towards the y axis."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def smoothstep(low: float, high: float, value: ndarray) -> ndarray:
    """Return the cubic ramp that is 0 below ``low`` and 1 above ``high``."""
    ramp = np.clip((value - low) * (1.0 / (high - low)), 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def white_noise(rng: Generator, size_hw: tuple[int, int]) -> ndarray:
    """Return ``(H, W)`` float32 independent standard normal values."""
    return rng.standard_normal(size_hw, dtype=np.float32)


def smooth_noise(rng: Generator, size_hw: tuple[int, int], cell: float) -> ndarray:
    """Return noise whose blobs are about ``cell`` pixels wide: ``(H, W)`` float32, mean about 0, deviation about 1."""
    height, width = size_hw
    # Two spare cells on each axis keep the replicated border of the resize out of the image.
    rows, cols = (int(np.ceil(n / cell)) + 4 for n in size_hw)
    coarse = rng.standard_normal((rows, cols), dtype=np.float32)
    big = cv2.resize(coarse, (int(cols * cell), int(rows * cell)), interpolation=cv2.INTER_CUBIC)
    start = int(2 * cell)
    return big[start : start + height, start : start + width] * 1.35  # bicubic interpolation shrinks the deviation


def fractal_noise(rng: Generator, size_hw: tuple[int, int], cell: float, octaves: int, gain: float = 0.5) -> ndarray:
    """Return layers of smooth noise, each half the size and ``gain`` times the strength of the one before."""
    total = np.zeros(size_hw, np.float32)
    weight, energy = 1.0, 0.0
    for _ in range(octaves):
        total += weight * smooth_noise(rng, size_hw, max(cell, 1.0))
        energy += weight**2
        weight, cell = weight * gain, cell / 2
    return total / np.float32(np.sqrt(energy))


def streaks(rng: Generator, size_hw: tuple[int, int], length: float, angle: float) -> ndarray:
    """Return noise smeared into lines, as a grinding belt or a brush leaves them; ``(H, W)`` float32, deviation 1.

    Args:
        length: typical length of a line in pixels.
        angle: direction of the lines in radians, counted from the x axis towards the y axis.
    """
    height, width = size_hw
    # Rotating grows the frame; for the small angles in use half the other side is more than enough.
    grow = abs(float(np.sin(angle)))
    pad_y, pad_x = int(np.ceil(width * grow)) + 4, int(np.ceil(height * grow)) + 4
    field = white_noise(rng, (height + pad_y, width + pad_x))
    window = max(3, round(length) | 1)
    for width_px in (window, max(3, window // 2 | 1)):
        field = cv2.blur(field, (width_px, 1), borderType=cv2.BORDER_REFLECT)
    # Without this, interpolation blurs some rows more than others and the lines show a moire.
    field = cv2.GaussianBlur(field, (1, 5), 0.0, sigmaY=0.65)
    centre = (field.shape[1] / 2, field.shape[0] / 2)
    turn = cv2.getRotationMatrix2D(centre, -float(np.degrees(angle)), 1.0)
    turn[:, 2] += (width / 2 - centre[0], height / 2 - centre[1])
    field = cv2.warpAffine(field, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return field / np.float32(field.std() + 1e-6)
