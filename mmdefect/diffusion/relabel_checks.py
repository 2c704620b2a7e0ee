"""Is an edited image fit for training? Failures of a generator, found from the source, the edit and the new label.

* **changed geometry**: the relief of the object was redrawn, or the object moved. Measured by the correlation of the
  gradients of both images where either has structure, and by the shift of the whole image.
* **nothing changed inside the mask** of a generator that was asked to draw there.
* **changes outside the mask**, where such a generator should have left everything alone.
* **changed all over**: without a mask, too large a part of the image differs significantly.
* **unchanged**: no defect is new, changed or gone. Such an edit has a correct label and teaches nothing new; it is
  rejected on request only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mmdefect.diffusion import relabel_change as change
from mmdefect.diffusion.relabel import KEPT, Relabelled

GEOMETRY = 'geometry changed'
NOTHING_INSIDE = 'nothing changed inside the mask'
OUTSIDE = 'changes outside the mask'
ALL_OVER = 'changed all over'
UNCHANGED = 'no defect changed'


@dataclass(frozen=True)
class Limits:
    """What an edit may do; the defaults were chosen by looking at edits, see docs/relabel.md.

    Attributes:
        structure: least correlation of the gradients of source and edit.
        shift: most pixels by which the image may be displaced.
        inside: least share of the mask that must change.
        outside: most share of the area outside the mask that may change.
        overall: most share of an image without a mask that may change.
        margin: pixels around a mask that count as neither inside nor outside; blended latents blur so far.
        significant: standard deviations of the reconstruction noise from which a pixel counts as changed.
        reject_unchanged: whether an edit in which no defect changed is rejected.
    """

    structure: float = 0.8
    shift: float = 1.5
    inside: float = 0.02
    outside: float = 0.003
    overall: float = 0.03
    margin: int = 8
    significant: float = 6.0
    reject_unchanged: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether an edit is accepted, why not, and what was measured.

    Attributes:
        accepted: whether nothing speaks against it.
        reasons: what speaks against it.
        scores: ``structure``, ``shift`` and shares of changed pixels.
    """

    accepted: bool
    reasons: tuple[str, ...]
    scores: dict[str, float]


def structure_correlation(
    source: np.ndarray, edit: np.ndarray, defect: np.ndarray | None = None, steepest: float = 3.0
) -> float:
    """Return how alike the relief of two images is: 1 for the same, 0 for unrelated.

    The gradients of the smoothed lightness are correlated where either is above noise. The silhouette does not count:
    edits keep it, and being the steepest it would count for everything.

    Args:
        source: ``(H, W)`` float32 lightness in [0, 100].
        edit: ``(H, W)`` float32, same size.
        defect: ``(H, W)`` bool, pixels that do not count; defects may change.
        steepest: levels per pixel from which a gradient of the source is silhouette.

    Returns:
        The correlation; 1.0 when neither image has structure.
    """
    first, second = _gradient(source), _gradient(edit)
    size_1, size_2 = np.hypot(*first), np.hypot(*second)
    counts = (np.maximum(size_1, size_2) > 0.5) & ~_widen(size_1 > steepest, 3)
    if defect is not None:
        counts &= ~_widen(defect, 3)
    if not counts.any():
        return 1.0
    x = np.concatenate([g[counts] for g in first])
    y = np.concatenate([g[counts] for g in second])
    if x.std() < 1e-6 or y.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def judge(
    source: np.ndarray,
    edit: np.ndarray,
    label: np.ndarray,
    relabelled: Relabelled,
    mask: np.ndarray | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Decide whether an edit is fit for training.

    Args:
        source: ``(H, W, 3)`` uint8 RGB.
        edit: ``(H, W, 3)`` uint8 RGB.
        label: ``(H, W)`` label of the source.
        relabelled: result of :func:`mmdefect.diffusion.relabel.relabel`.
        mask: ``(H, W)`` bool, where the generator was to draw; ``None`` if it edited the whole image.
        limits: what is allowed.

    Raises:
        ValueError: if the mask has another size or is empty.
    """
    limits = limits or Limits()
    if mask is not None and (mask.shape != label.shape or not mask.any()):
        raise ValueError(
            f'`mask` must have the size of its image, {label.shape}, and some pixel set, got {mask.shape} with '
            f'{int(mask.sum())} set.'
        )
    changed = relabelled.score > limits.significant
    defects = (label > 0) | (relabelled.label > 0)
    if mask is not None:
        defects |= mask
    scores = {
        'structure': structure_correlation(change.to_lab(source)[..., 0], change.to_lab(edit)[..., 0], defects),
        'shift': float(np.hypot(*relabelled.tone.shift_rc)),
        'changed': float(changed.mean()),
    }
    reasons = []
    if scores['structure'] < limits.structure or scores['shift'] > limits.shift:
        reasons.append(GEOMETRY)
    if mask is None:
        if scores['changed'] > limits.overall:
            reasons.append(ALL_OVER)
    else:
        outside = ~_widen(mask, limits.margin)
        scores['changed_inside'] = float(changed[mask].mean())
        scores['changed_outside'] = float(changed[outside].mean()) if outside.any() else 0.0
        if scores['changed_inside'] < limits.inside:
            reasons.append(NOTHING_INSIDE)
        if scores['changed_outside'] > limits.outside:
            reasons.append(OUTSIDE)
    if limits.reject_unchanged and all(c.fate == KEPT for c in relabelled.components):
        reasons.append(UNCHANGED)
    return Verdict(not reasons, tuple(reasons), {k: round(v, 5) for k, v in scores.items()})


def _gradient(lightness: np.ndarray, sigma: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    smooth = cv2.GaussianBlur(lightness, (0, 0), sigma)
    return cv2.Sobel(smooth, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(smooth, cv2.CV_32F, 0, 1) / 8


def _widen(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0
