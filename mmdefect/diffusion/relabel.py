"""Labels of an edited image: source defects that are still there, new ones, and none where they vanished.

Copying the label of the source onto an edit is wrong as soon as the edit moves, removes or adds a defect. Here the label
follows from what changed (:mod:`mmdefect.diffusion.relabel_change`) and from how visible defects of the source set are
(:mod:`mmdefect.diffusion.relabel_appearance`):

* a **source defect** keeps its mask where its visible pixels are still there; it is redrawn where part of them is gone or
  moved, and removed where they are gone;
* a **new defect** is a region where the change is significant and the edit stands out from its surface more than the
  source did: hysteresis with a high threshold for the seed and a low one for its extent, cut at a share of its own peak,
  so that masks are tight; its class is the nearest appearance among the source classes, or the vote of a trained
  segmenter whose probability map is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mmdefect.diffusion import relabel_appearance as looks
from mmdefect.diffusion import relabel_change as change
from mmdefect.diffusion.relabel_appearance import Appearance

KEPT, CHANGED, VANISHED, NEW = 'kept', 'changed', 'vanished', 'new'
IGNORE = 255


@dataclass(frozen=True)
class RelabelSettings:
    """Thresholds; the defaults were chosen by looking at edits of 512 px images of metal parts, see docs/relabel.md.

    Attributes:
        reach: pixels of jitter that explain a difference.
        change_high: standard deviations of the reconstruction noise from which a pixel seeds a change.
        visible_high: Lab units by which a seed must stand out more than in the source.
        extent: share of both thresholds down to which a seed grows.
        peak_share: pixels below this share of the peak of their defect are cut off; 0 cuts nothing.
        min_area: smallest new defect in pixels.
        close_radius: gaps of a new defect up to twice this many pixels are closed.
        group_radius: new defects up to twice this many pixels apart share one class.
        faded: share of its visibility that a pixel of a source defect must keep to be still there.
        kept_share: share of the visible pixels that must be still there for a source defect to keep its mask.
        vanished_share: share up to which it counts as gone.
        regrow: pixels around a source defect in which its redrawn mask may lie.
    """

    reach: int = 1
    change_high: float = 6.0
    visible_high: float = 10.0
    extent: float = 0.5
    peak_share: float = 0.3
    min_area: int = 6
    close_radius: int = 2
    group_radius: int = 8
    faded: float = 0.4
    kept_share: float = 0.7
    vanished_share: float = 0.25
    regrow: int = 3

    def __post_init__(self) -> None:
        for name in ('extent', 'peak_share', 'faded', 'kept_share', 'vanished_share'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'`{name}` must be in [0, 1], got {getattr(self, name)}.')
        if self.vanished_share > self.kept_share:
            raise ValueError(
                f'`vanished_share` must not exceed `kept_share`, got {self.vanished_share} > {self.kept_share}.'
            )
        if self.change_high <= 0 or self.visible_high <= 0 or self.min_area < 1:
            raise ValueError(
                '`change_high` and `visible_high` must be greater than 0 and `min_area` at least 1, got '
                f'{self.change_high}, {self.visible_high} and {self.min_area}.'
            )


@dataclass(frozen=True)
class Component:
    """One defect of the source or of the edit.

    Attributes:
        fate: ``kept``, ``changed``, ``vanished`` or ``new``.
        class_id: its class; of a source defect that of its label.
        box: ``(left, top, width, height)`` in pixels, of the new mask, or of the old one if it vanished.
        old_area: pixels in the label of the source.
        new_area: pixels in the new label.
        retained: share of the visible pixels that are still there; 0 for a new one.
        visibility: Lab units by which it stands out in the edit (in the source if it vanished).
        distance: of its appearance to that of its class; 0 where nobody looked.
    """

    fate: str
    class_id: int
    box: tuple[int, int, int, int]
    old_area: int
    new_area: int
    retained: float
    visibility: float
    distance: float = 0.0


@dataclass(frozen=True)
class Relabelled:
    """A new label with what it rests on.

    Attributes:
        label: ``(H, W)`` uint8.
        components: every defect of source and edit.
        score: ``(H, W)`` float32, change in standard deviations of the reconstruction noise.
        tone: shift, gain and offset of the whole edit.
    """

    label: np.ndarray
    components: tuple[Component, ...]
    score: np.ndarray
    tone: change.ToneMatch


def difference_of(source: np.ndarray, edit: np.ndarray, reach: int = 1) -> np.ndarray:
    """Return the tolerant Lab difference of a pair of ``(H, W, 3)`` uint8 RGB images; what noise is estimated from."""
    lab = change.to_lab(source)
    return change.tolerant_difference(lab, change.match_tone(lab, change.to_lab(edit))[0], reach)


def relabel(
    source: np.ndarray,
    edit: np.ndarray,
    label: np.ndarray,
    appearance: Appearance,
    noise: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
    settings: RelabelSettings | None = None,
) -> Relabelled:
    """Label an edited image.

    Args:
        source: ``(H, W, 3)`` uint8 RGB.
        edit: ``(H, W, 3)`` uint8 RGB, same size and pose.
        label: ``(H, W)`` integer label map of the source; 255 stays 255.
        appearance: of the source classes.
        noise: ``(H, W, 3)`` of :func:`~mmdefect.diffusion.relabel_change.set_noise`; ``None`` takes the pair alone.
        probabilities: ``(K + 1, H, W)`` of a segmenter on the edit; it then decides the class of new defects.
        settings: thresholds.

    Raises:
        ValueError: if the sizes differ.
    """
    settings = settings or RelabelSettings()
    _check(source, edit, label, noise, probabilities)
    before, after = change.to_lab(source), change.to_lab(edit)
    after, tone = change.match_tone(before, after)
    difference = change.tolerant_difference(before, after, settings.reach)
    local = change.pair_noise(difference)
    score = change.change_score(difference, local if noise is None else np.maximum(local, noise))
    # The pose is fixed, so the surface under a defect of the edit is the one that the source shows.
    surface = looks.find_surface(before, label)
    seen_before = looks.visibility(before - surface)
    contrast = after - change.tone_drift(before, after) - surface
    seen = looks.visibility(contrast)
    features = looks.pixel_features(after, contrast)

    result = np.where(label == IGNORE, IGNORE, 0).astype(np.uint8)
    fresh = _fresh_regions(score, seen, seen_before, settings)
    near = cv2.dilate(seen, np.ones((2 * settings.reach + 1, 2 * settings.reach + 1), np.uint8))
    # What stands out clearly and no less than before is the defect, or one in its place; relief does not reach that.
    clearly = near >= np.maximum(0.9 * seen_before, 1.5 * settings.visible_high)
    alike = clearly | _alike(before, surface + contrast, surface, settings.faded)
    components = _follow_source(label, score, seen, seen_before, alike, fresh, result, settings)
    low, high = appearance.surface_range
    fresh &= (result == 0) & (surface[..., 0] >= low) & (surface[..., 0] <= high)
    components += _add_new(fresh, seen, features, appearance, probabilities, result, settings)
    return Relabelled(result, tuple(components), score, tone)


def _fresh_regions(
    score: np.ndarray, seen: np.ndarray, seen_before: np.ndarray, settings: RelabelSettings
) -> np.ndarray:
    """Find where the edit significantly stands out more than the source did; hysteresis, then cut at the peak's share."""
    near = cv2.dilate(seen_before, np.ones((3, 3), np.uint8))
    evidence = np.minimum(score / settings.change_high, (seen - near) / settings.visible_high)
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(
        (evidence > settings.extent).astype(np.uint8), connectivity=8
    )
    peak, tallest = np.zeros(count, np.float32), np.zeros(count, np.float32)
    np.maximum.at(peak, numbers.ravel(), evidence.ravel())
    np.maximum.at(tallest, numbers.ravel(), seen.ravel())
    good = peak >= 1
    good[0] = False
    return good[numbers] & (seen >= settings.peak_share * tallest[numbers])


def _alike(before: np.ndarray, after: np.ndarray, surface: np.ndarray, faded: float) -> np.ndarray:
    """Find where an edit may still show what the source shows, faded at most to the given share of its visibility.

    Compared after a blur of two pixels: speckles that were drawn anew are still the same speckled area, but relief in the
    place of a defect is not the defect, however visible it is.
    """
    before, after = (cv2.GaussianBlur(x, (0, 0), 2.0) for x in (before, after))
    return looks.visibility(np.abs(after - before)) <= (1 - faded) * looks.visibility(before - surface) + 1.0


def _follow_source(
    label: np.ndarray,
    score: np.ndarray,
    seen: np.ndarray,
    seen_before: np.ndarray,
    alike: np.ndarray,
    fresh: np.ndarray,
    result: np.ndarray,
    settings: RelabelSettings,
) -> list[Component]:
    """Decide what became of each source defect and draw what is left of it into ``result``."""
    numbers, classes = looks.component_classes(label)
    seen_near = cv2.dilate(seen, np.ones((2 * settings.reach + 1, 2 * settings.reach + 1), np.uint8))
    components = []
    for number, class_id in classes.items():
        inside = numbers == number
        clear = inside & (seen_before >= max(looks.STANDS_OUT, 0.5 * np.quantile(seen_before[inside], 0.9)))
        there = clear & alike & (seen_near >= settings.faded * seen_before)
        if not clear.any():  # nobody sees it in the source either: all that can be said is whether something changed
            clear = inside
            there = inside & (score < settings.change_high * settings.extent)
        retained = float((there * seen_before).sum() / max((clear * seen_before).sum(), 1e-6))
        if retained >= settings.kept_share:
            result[inside] = label[inside]
            drawn, fate = inside, KEPT
        else:
            zone = cv2.dilate(inside.astype(np.uint8), _disc(settings.regrow)) > 0
            alive = (
                there
                | (fresh & zone)
                | (clear & alike & (seen >= np.maximum(settings.faded * seen_before, looks.STANDS_OUT)))
            )
            drawn = _drop_small(_fill_holes(_close(alive, 2)) & zone & (result == 0), settings.min_area)
            gone = retained <= settings.vanished_share and (fresh & zone).sum() < settings.min_area
            fate = VANISHED if gone or not drawn.any() else CHANGED
            if fate == CHANGED:
                result[drawn] = class_id
            else:
                drawn = inside
        shown = seen_before if fate == VANISHED else seen
        components.append(
            Component(
                fate,
                class_id,
                _box(drawn),
                int(inside.sum()),
                0 if fate == VANISHED else int(drawn.sum()),
                retained,
                float(shown[drawn].max()),
            )
        )
    return components


def _add_new(
    fresh: np.ndarray,
    seen: np.ndarray,
    features: np.ndarray,
    appearance: Appearance,
    probabilities: np.ndarray | None,
    result: np.ndarray,
    settings: RelabelSettings,
) -> list[Component]:
    """Draw new defects into ``result``."""
    closed = _close(fresh, settings.close_radius)
    closed[result > 0] = 0
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(closed.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= settings.min_area
    large[0] = False
    fresh = fresh & large[numbers]
    _, groups = cv2.connectedComponents(_close(fresh, settings.group_radius).astype(np.uint8), connectivity=8)
    verdicts: dict[int, tuple[int, float]] = {}
    components = []
    for number in np.flatnonzero(large):
        inside = numbers == number
        group = int(np.bincount(groups[inside & fresh]).argmax())
        if group not in verdicts:
            verdicts[group] = _class_of(fresh & (groups == group), features, appearance, probabilities)
        class_id, distance = verdicts[group]
        result[inside] = class_id
        box = tuple(int(v) for v in stats[number, :4])
        components.append(Component(NEW, class_id, box, 0, int(inside.sum()), 0.0, float(seen[inside].max()), distance))
    return components


def _class_of(
    region: np.ndarray, features: np.ndarray, appearance: Appearance, probabilities: np.ndarray | None
) -> tuple[int, float]:
    if probabilities is not None:
        return 1 + int(probabilities[1:, region].mean(1).argmax()), 0.0
    return looks.nearest_class(features[region].mean(0), appearance)


def count_fates(components: Sequence[Component]) -> dict[str, int]:
    """Return how many defects were kept, changed, vanished and new."""
    return {fate: sum(c.fate == fate for c in components) for fate in (KEPT, CHANGED, VANISHED, NEW)}


def _check(
    source: np.ndarray, edit: np.ndarray, label: np.ndarray, noise: np.ndarray | None, probabilities: np.ndarray | None
) -> None:
    size = source.shape[:2]
    given = dict(edit=edit.shape[:2], label=label.shape[:2])
    if noise is not None:
        given['noise'] = noise.shape[:2]
    if probabilities is not None:
        given['probabilities'] = probabilities.shape[1:]
    for name, found in given.items():
        if found != size:
            raise ValueError(
                f'`{name}` must have the size of its source image, {size[0]}x{size[1]}, got '
                f'{"x".join(map(str, found))}; resize the source as the generator did, labels with '
                'nearest-neighbour interpolation.'
            )


def _close(mask: np.ndarray, radius: int) -> np.ndarray:
    """Close gaps of a mask; the border of the image does not count as set."""
    if radius == 0:
        return mask.copy()
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_CONSTANT)
    return cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))[radius:-radius, radius:-radius] > 0


def _drop_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area
    large[0] = False
    return large[numbers]


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill what a mask encloses: outlines of small defects are labelled with their inside."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED) > 0


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1))
