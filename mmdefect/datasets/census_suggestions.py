"""Derive crop size and class weights from counted pixels and components, with the reason for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CROP_STEP, CROP_MIN, CROP_MAX, CROP_DEFECTS = 32, 256, 512, 4
WEIGHT_RANGE = (1.0, 10.0)


@dataclass(frozen=True)
class Suggestion:
    """Settings derived from the census, each with its reason."""

    crop_size_hw: tuple[int, int]
    crop_reason: str
    class_weight: tuple[float, ...]
    class_weight_reason: str
    focal_alpha: tuple[float, ...]


def suggest_crop(sides_hw: np.ndarray, image_hw: tuple[int, int]) -> tuple[tuple[int, int], str]:
    """Suggest a training crop.

    The side is four times the longest side that 95 % of the defect components stay below, so that a defect is seen with
    its surroundings; at least 256, where the deepest features of the stock models (stride 32) still have 8x8 cells; at
    most 512; no side longer than the image; rounded up to a multiple of 32.

    Args:
        sides_hw: ``(n, 2)`` heights and widths of the bounding boxes of the components.
        image_hw: median size of the images.

    Returns:
        Height and width, and the reason in one sentence.
    """
    longest = float(np.percentile(sides_hw.max(axis=1), 95)) if len(sides_hw) else 0.0
    wanted = _round_up(min(max(CROP_DEFECTS * longest, CROP_MIN), CROP_MAX))
    crop = tuple(min(wanted, _round_up(side)) for side in image_hw)
    reason = (
        f'95 % of the defects are at most {longest:.0f} px long; '
        f'{CROP_DEFECTS} times that is {CROP_DEFECTS * longest:.0f}'
    )
    if CROP_DEFECTS * longest < CROP_MIN:
        reason += f', raised to {CROP_MIN} (8x8 cells at stride 32)'
    elif CROP_DEFECTS * longest > CROP_MAX:
        reason += f', limited to {CROP_MAX}'
    if crop != (wanted, wanted):
        reason += f', and no side exceeds the median image, {image_hw[1]}x{image_hw[0]}'
    return crop, reason + f'; rounded up to a multiple of {CROP_STEP}.'


def suggest_weights(pixels: Sequence[int]) -> tuple[tuple[float, ...], str, tuple[float, ...]]:
    """Suggest class weights for cross entropy, and alpha for focal losses.

    ``weight_c = clip(sqrt(pixels_normal / pixels_c), 1, 10)``, 1 for the normal class and for classes without pixels;
    ``alpha = weight / sum(weight)``. The root keeps the rarest class from drowning the others, the upper end from
    turning every bright pixel into a defect.

    Args:
        pixels: number of pixels of each class, the normal one first.

    Returns:
        Weights, formula, alpha.
    """
    low, high = WEIGHT_RANGE
    pixels = [int(p) for p in pixels]
    weights = [1.0, *(round(min(max((pixels[0] / p) ** 0.5, low), high), 2) if p else 1.0 for p in pixels[1:])]
    formula = f'sqrt(normal pixels / class pixels), clipped to {low:g}..{high:g}; the normal class has 1.'
    return tuple(weights), formula, tuple(round(w / sum(weights), 4) for w in weights)


def _round_up(value: float, step: int = CROP_STEP) -> int:
    return int(-(-value // step) * step)
