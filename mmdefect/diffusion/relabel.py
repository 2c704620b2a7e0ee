"""Labels of an edited image and whether it is fit for training: what became of each defect, decided from what changed.

Copying the label of the source onto an edit is wrong as soon as the edit moves, removes or adds a defect. Here the
label follows from what changed and from how visible defects of the source set are
(:mod:`mmdefect.diffusion.relabel_change`):

* a **source defect** keeps its mask where its visible pixels are still there; its mask is renewed where part of them is
  gone or moved, and removed where they are gone;
* a **new defect** is a region where the change is significant and the edit stands out from its surface more than the
  source did: hysteresis with a high threshold for the seed and a low one for its extent, cut at a share of its own
  peak, so that masks are tight; its class is the nearest appearance among the source classes, or the vote of a trained
  segmenter whose probability map is given.

An edit is rejected (:func:`judge`) for

* **changed geometry**: the relief of the object is another one, or the object moved. Measured by the correlation of the
  gradients of both images where either has structure, and by the shift of the whole image;
* **nothing changed inside the mask** of a generator that was asked to generate there;
* **changes outside the mask**, where such a generator should have left everything alone;
* **changed all over**: without a mask, too large a part of the image differs significantly;
* **unchanged**, on request only: no defect is new, changed or gone. Its label is correct and teaches nothing new.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.diffusion import relabel_change as change
from mmdefect.diffusion.images import bounding_box
from mmdefect.diffusion.relabel_change import Appearance

KEPT, CHANGED, VANISHED, NEW = 'kept', 'changed', 'vanished', 'new'
IGNORE = 255
GEOMETRY = 'geometry changed'
NOTHING_INSIDE = 'nothing changed inside the mask'
OUTSIDE = 'changes outside the mask'
ALL_OVER = 'changed all over'
UNCHANGED = 'no defect changed'


@dataclass(frozen=True)
class RelabelSettings:
    """Thresholds; the defaults were chosen by looking at edits of 512 px images of metal parts, see docs/relabel.md."""

    reach: int = 1  # pixels of jitter that explain a difference
    change_high: float = 6.0  # standard deviations of the reconstruction noise from which a pixel seeds a change
    visible_high: float = 10.0  # Lab units by which a seed must stand out more than in the source
    extent: float = 0.5  # share of both thresholds down to which a seed grows
    peak_share: float = 0.3  # pixels below this share of the peak of their defect are cut off; 0 cuts nothing
    min_area: int = 6  # smallest new defect in pixels
    close_radius: int = 2  # gaps of a new defect up to twice this many pixels are closed
    group_radius: int = 8  # new defects up to twice this many pixels apart share one class
    faded: float = 0.4  # share of its visibility that a pixel of a source defect must keep to be still there
    kept_share: float = 0.7  # share of the visible pixels that must be still there for a source defect to keep its mask
    vanished_share: float = 0.25  # share up to which it counts as gone
    regrow: int = 3  # pixels around a source defect in which its renewed mask may lie

    def __post_init__(self) -> None:
        for name in ('extent', 'peak_share', 'faded', 'kept_share', 'vanished_share'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'`{name}` must be in [0, 1], got {getattr(self, name)}.')
        if self.vanished_share > self.kept_share:
            raise ValueError(f'`vanished_share` must be at most {self.kept_share=:g}, got {self.vanished_share}.')
        for name in ('change_high', 'visible_high', 'min_area'):
            if getattr(self, name) <= 0:
                raise ValueError(f'`{name}` must be greater than 0, got {getattr(self, name)}.')


@dataclass(frozen=True)
class Component:
    """One defect of the source or of the edit."""

    fate: str  # `kept`, `changed`, `vanished` or `new`
    class_id: int  # its class; of a source defect that of its label
    box: tuple[int, int, int, int]  # (left, top, width, height) of the new mask, or of the old one if it vanished
    old_area: int  # pixels in the label of the source
    new_area: int  # pixels in the new label
    retained: float  # share of the visible pixels that are still there; 0 for a new one
    visibility: float  # Lab units by which it stands out in the edit (in the source if it vanished)
    distance: float = 0.0  # of its appearance to that of its class; 0 if it was not compared


@dataclass(frozen=True)
class Relabelled:
    """A new label with what it rests on."""

    label: ndarray  # `(H, W)` uint8
    components: tuple[Component, ...]  # every defect of source and edit
    score: ndarray  # `(H, W)` float32, change in standard deviations of the reconstruction noise
    tone: change.ToneMatch  # shift, gain and offset of the whole edit


def relabel(
    source: ndarray,
    edit: ndarray,
    label: ndarray,
    appearance: Appearance,
    noise: ndarray | None = None,
    probabilities: ndarray | None = None,
    settings: RelabelSettings | None = None,
) -> Relabelled:
    """Label an edited image.

    Args:
        source: ``(H, W, 3)`` uint8 RGB.
        edit: ``(H, W, 3)`` uint8 RGB, same size and pose.
        label: ``(H, W)`` integer label map of the source; 255 stays 255.
        noise: ``(H, W, 3)`` of :func:`~mmdefect.diffusion.relabel_change.set_noise`; ``None`` takes the pair alone.
        probabilities: ``(K + 1, H, W)`` of a segmenter on the edit; it then decides the class of new defects.
    """
    settings = settings or RelabelSettings()
    size, given = source.shape[:2], dict(edit=edit, label=label, noise=noise)
    shapes = {name: values.shape[:2] for name, values in given.items() if values is not None}
    if probabilities is not None:
        shapes['probabilities'] = probabilities.shape[1:]
    for name, found in shapes.items():
        if found != size:
            raise ValueError(
                f'`{name}` must have the size of its source image, {size[0]}x{size[1]}, got '
                f'{"x".join(map(str, found))}; resize the source as the generator did, '
                'labels with nearest-neighbour interpolation.'
            )
    before, after = change.to_lab(source), change.to_lab(edit)
    after, tone = change.match_tone(before, after)
    difference = change.tolerant_difference(before, after, settings.reach)
    local = change.pair_noise(difference)
    score = change.change_score(difference, local if noise is None else np.maximum(local, noise))
    # The pose is fixed, so the surface under a defect of the edit is the one that the source shows.
    surface = change.find_surface(before, label)
    seen_before = change.visibility(before - surface)
    contrast = after - change.tone_drift(before, after) - surface
    seen = change.visibility(contrast)
    features = change.pixel_features(after, contrast)

    result = np.where(label == IGNORE, IGNORE, 0).astype(np.uint8)
    fresh = _fresh_regions(score, seen, seen_before, settings)
    near = _widest(seen, settings.reach)
    # What stands out clearly and no less than before is the defect, or one in its place; relief does not reach that.
    clearly = near >= np.maximum(0.9 * seen_before, 1.5 * settings.visible_high)
    alike = clearly | _alike(before, surface + contrast, surface, settings.faded)
    components = _follow_source(label, score, seen, seen_before, alike, fresh, result, settings)
    low, high = appearance.surface_range
    fresh &= (result == 0) & (surface[..., 0] >= low) & (surface[..., 0] <= high)
    components += _add_new(fresh, seen, features, appearance, probabilities, result, settings)
    return Relabelled(result, tuple(components), score, tone)


def _fresh_regions(score: ndarray, seen: ndarray, seen_before: ndarray, settings: RelabelSettings) -> ndarray:
    """Find where the edit significantly stands out more than the source did: hysteresis, cut at the peak's share."""
    near = _widest(seen_before, 1)
    evidence = np.minimum(score / settings.change_high, (seen - near) / settings.visible_high)
    count, numbers = cv2.connectedComponents((evidence > settings.extent).astype(np.uint8), connectivity=8)
    peak, tallest = np.zeros(count, np.float32), np.zeros(count, np.float32)
    np.maximum.at(peak, numbers.ravel(), evidence.ravel())
    np.maximum.at(tallest, numbers.ravel(), seen.ravel())
    good = peak >= 1
    good[0] = False
    return good[numbers] & (seen >= settings.peak_share * tallest[numbers])


def _alike(before: ndarray, after: ndarray, surface: ndarray, faded: float) -> ndarray:
    """Find where an edit may still show what the source shows, faded at most to the given share of its visibility.

    Compared after a blur of two pixels: speckles that were generated anew are still the same speckled area, but relief
    in the place of a defect is not the defect, however visible it is.
    """
    before, after = (cv2.GaussianBlur(x, (0, 0), 2.0) for x in (before, after))
    return change.visibility(np.abs(after - before)) <= (1 - faded) * change.visibility(before - surface) + 1.0


def _follow_source(
    label: ndarray,
    score: ndarray,
    seen: ndarray,
    seen_before: ndarray,
    alike: ndarray,
    fresh: ndarray,
    result: ndarray,
    settings: RelabelSettings,
) -> list[Component]:
    """Decide what became of each source defect and write what is left of it into ``result``."""
    numbers, classes = change.component_classes(label)
    seen_near = _widest(seen, settings.reach)
    components = []
    for number, class_id in classes.items():
        inside = numbers == number
        clear = inside & (seen_before >= max(change.STANDS_OUT, 0.5 * np.quantile(seen_before[inside], 0.9)))
        there = clear & alike & (seen_near >= settings.faded * seen_before)
        if not clear.any():  # invisible in the source, too: all that can be said is whether it changed
            clear = inside
            there = inside & (score < settings.change_high * settings.extent)
        retained = float((there * seen_before).sum() / max((clear * seen_before).sum(), 1e-6))
        mask, fate = inside, KEPT
        if retained < settings.kept_share:
            zone = cv2.dilate(inside.astype(np.uint8), _disc(settings.regrow)) > 0
            visible = seen >= np.maximum(settings.faded * seen_before, change.STANDS_OUT)
            alive = there | (fresh & zone) | (clear & alike & visible)
            parts, large = _large_parts(_fill_holes(_close(alive, 2)) & zone & (result == 0), settings.min_area)
            mask = large[parts]
            gone = retained <= settings.vanished_share and (fresh & zone).sum() < settings.min_area
            fate = VANISHED if gone or not mask.any() else CHANGED
        if fate == VANISHED:
            mask = inside
        else:
            result[mask] = label[mask] if fate == KEPT else class_id
        shown, new_area = (seen_before, 0) if fate == VANISHED else (seen, int(mask.sum()))
        old_area, visibility = int(inside.sum()), float(shown[mask].max())
        components.append(Component(fate, class_id, _box(mask), old_area, new_area, retained, visibility))
    return components


def _add_new(
    fresh: ndarray,
    seen: ndarray,
    features: ndarray,
    appearance: Appearance,
    probabilities: ndarray | None,
    result: ndarray,
    settings: RelabelSettings,
) -> list[Component]:
    """Write new defects into ``result``."""
    closed = _close(fresh, settings.close_radius)
    closed[result > 0] = 0
    numbers, large = _large_parts(closed, settings.min_area)
    fresh = fresh & large[numbers]
    _, groups = cv2.connectedComponents(_close(fresh, settings.group_radius).astype(np.uint8), connectivity=8)
    verdicts: dict[int, tuple[int, float]] = {}
    components = []
    for number in np.flatnonzero(large):
        inside = numbers == number
        group = int(np.bincount(groups[inside & fresh]).argmax())
        if group not in verdicts:
            region = fresh & (groups == group)
            if probabilities is None:
                verdicts[group] = change.nearest_class(features[region].mean(0), appearance)
            else:
                verdicts[group] = 1 + int(probabilities[1:, region].mean(1).argmax()), 0.0
        class_id, distance = verdicts[group]
        result[inside] = class_id
        area, visibility = int(inside.sum()), float(seen[inside].max())
        components.append(Component(NEW, class_id, _box(inside), 0, area, 0.0, visibility, distance))
    return components


def count_fates(components: Sequence[Component]) -> dict[str, int]:
    """Return how many defects were kept, changed, vanished and new."""
    return {fate: sum(c.fate == fate for c in components) for fate in (KEPT, CHANGED, VANISHED, NEW)}


def _widest(values: ndarray, pixels: int) -> ndarray:
    """Return the largest value within this many pixels."""
    return cv2.dilate(values, np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8))


def _widen(mask: ndarray, pixels: int) -> ndarray:
    return _widest(mask.astype(np.uint8), pixels) > 0


def _disc(radius: int) -> ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _close(mask: ndarray, radius: int) -> ndarray:
    """Close gaps of a mask; the border of the image does not count as set."""
    if radius == 0:
        return mask.copy()
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_CONSTANT)
    return cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))[radius:-radius, radius:-radius] > 0


def _large_parts(mask: ndarray, min_area: int) -> tuple[ndarray, ndarray]:
    """Return the numbers of the 8-connected parts of a mask, ``(H, W)``, and which of them are large enough."""
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area
    large[0] = False
    return numbers, large


def _fill_holes(mask: ndarray) -> ndarray:
    """Fill what a mask encloses: outlines of small defects are labelled with their inside."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED) > 0


def _box(mask: ndarray) -> tuple[int, int, int, int]:
    top, left, bottom, right = bounding_box(mask)
    return left, top, right - left, bottom - top


@dataclass(frozen=True)
class Limits:
    """What an edit may do; the defaults were chosen by looking at edits, see docs/relabel.md."""

    structure: float = 0.8  # least correlation of the gradients of source and edit
    shift: float = 1.5  # most pixels by which the image may be displaced
    inside: float = 0.02  # least share of the mask that must change
    outside: float = 0.003  # most share of the area outside the mask that may change
    overall: float = 0.03  # most share of an image without a mask that may change
    margin: int = 8  # pixels around a mask that count as neither inside nor outside; blended latents blur so far
    significant: float = 6.0  # standard deviations of the reconstruction noise from which a pixel counts as changed
    reject_unchanged: bool = False  # whether an edit in which no defect changed is rejected


@dataclass(frozen=True)
class Verdict:
    """Whether an edit is accepted, why not, and its ``structure``, ``shift`` and shares of changed pixels."""

    accepted: bool
    reasons: tuple[str, ...]
    scores: dict[str, float]


def judge(
    source: ndarray,
    edit: ndarray,
    label: ndarray,
    relabelled: Relabelled,
    mask: ndarray | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Decide whether an edit is fit for training.

    Args:
        source: ``(H, W, 3)`` uint8 RGB, as ``edit``.
        label: ``(H, W)`` label of the source.
        mask: ``(H, W)`` bool, where the generator was to generate; ``None`` if it edited the whole image.
    """
    limits = limits or Limits()
    if mask is not None and (mask.shape != label.shape or not mask.any()):
        raise ValueError(
            f'`mask` must have the size {label.shape} and some pixel set, got {mask.shape} with {int(mask.sum())} set.'
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


def structure_correlation(
    source: ndarray, edit: ndarray, defect: ndarray | None = None, steepest: float = 3.0
) -> float:
    """Return how alike the relief of two images is: 1 for the same or when neither has any, 0 for unrelated.

    The gradients of the smoothed lightness, ``(H, W)`` float32 in [0, 100], are correlated where either is above noise.
    ``defect``, ``(H, W)`` bool, does not count; nor does the silhouette, where the gradient of the source reaches
    ``steepest`` levels per pixel: edits keep it, and being the steepest it would count for everything.
    """
    first, second = ([g / 8 for g in change.gradient(lightness)] for lightness in (source, edit))
    size_1, size_2 = np.hypot(*first), np.hypot(*second)
    counts = (np.maximum(size_1, size_2) > 0.5) & ~_widen(size_1 > steepest, 3)
    if defect is not None:
        counts &= ~_widen(defect, 3)
    if not counts.any():
        return 1.0
    x, y = (np.concatenate([g[counts] for g in gradients]) for gradients in (first, second))
    if x.std() < 1e-6 or y.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
