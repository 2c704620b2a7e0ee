"""The verdict on parts: which defects reject a part, how that rule is fitted, and how sure the counts are.

A part is one inspected piece, here one image. The decision on pixels leaves connected regions of each class; a region
counts when it has at least the smallest area of its class and at least the smallest score (mean probability of its
class over it). A part with a region that counts is rejected. Without a rule any region counts.

The rule is fitted on the parts of the validation: of all rules that find as many bad parts as "any region" does, one
that rejects the fewest good ones. Raising a bound finds and rejects fewer parts, never more, so only regions matter
that no other region of their class beats in area and score (:func:`telling_regions`); the fit on them is exact for
the area alone of one class and for the score alone, and a coordinate descent for several classes and for both.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

#: With fewer bad parts than this the good ones alone decide: one or two bad parts say nothing of the smallest defect.
MIN_BAD = 3
#: Share of the good parts that may still be rejected where they decide alone.
GOOD_SHARE = 0.05
#: Scores that are tried together with areas, at most.
MOST_SCORES = 32

Region = tuple[int, int, float]  # class from 1, area in pixels, score in [0, 1]


@dataclass(frozen=True)
class PartRule:
    """Which regions reject a part; the defaults of a missing rule are those of "any region"."""

    min_areas: tuple[int, ...]  # pixels, one for each defect class
    min_score: float = 0.0  # mean probability of the class over the region, in [0, 1]
    basis: str = 'any region'  # what it was fitted on, in words
    bad: int = 0  # bad and good parts of the fit, and what the rule says of them
    good: int = 0
    found: int = 0
    rejected: int = 0
    rejected_any: int = 0  # good parts that "any region" rejects
    ties: tuple[tuple[int, int], ...] = ()  # for each class, the areas that are as good as the one chosen

    def __post_init__(self) -> None:
        areas, ties = tuple(int(a) for a in self.min_areas), tuple(tuple(int(v) for v in tie) for tie in self.ties)
        if not areas or min(areas) < 1 or not 0 <= self.min_score <= 1:
            raise ValueError(
                'a part rule must have a smallest area of at least 1 px for each defect class and a score in [0, 1], '
                f'got {list(areas)} and {self.min_score}; validate the checkpoint again.'
            )
        object.__setattr__(self, 'min_areas', areas)
        object.__setattr__(self, 'ties', ties)

    def counts(self, region: Region) -> bool:
        """Whether a region rejects its part."""
        class_id, area, score = region
        return area >= self.min_areas[class_id - 1] and score >= self.min_score

    def rejects(self, regions: Iterable[Region]) -> bool:
        """Whether a part with these regions is rejected."""
        return any(self.counts(region) for region in regions)

    def to_dict(self) -> dict:
        """Return plain lists and numbers, for JSON and for the meta of a checkpoint."""
        lists = dict(min_areas=list(self.min_areas), ties=[list(tie) for tie in self.ties])
        return {**asdict(self), **lists}

    def in_words(self, classes: Sequence[str]) -> str:
        """Return the rule as a sentence; ``classes`` are the names, normal first."""
        if self.basis == 'any region':
            return 'a part is rejected when any pixel is decided as a defect.'
        areas = ', '.join(f'{name} from {area} px' for name, area in zip(classes[1:], self.min_areas, strict=True))
        score = f' with a mean probability from {self.min_score:.3f}' if self.min_score else ''
        kept = f'{self.found} of {self.bad} bad parts found, {self.rejected} of {self.good} good ones rejected'
        ranges = [
            f'{name} {low} to {high}'
            for name, (low, high) in zip(classes[1:], self.ties or [(1, 1)] * (len(classes) - 1), strict=True)
            if high > low
        ]
        tied = f'; equally good: {", ".join(ranges)} px' if ranges else ''
        return (
            f'a part is rejected for {areas}{score}; fitted on {self.basis}: {kept} '
            f'({self.rejected_any} with any pixel){tied}.'
        )


def any_region(classes: int) -> PartRule:
    """Return the rule by which any region rejects a part, for ``classes`` with the normal one."""
    return PartRule((1,) * (classes - 1))


def read_part_rule(record: dict, classes: Sequence[str]) -> PartRule:
    """Return the rule that ``meta['part_rule']`` of a checkpoint holds for these classes."""
    if list(record['classes']) != list(classes):
        raise ValueError(
            f'the part rule of a checkpoint must be for the classes {list(classes)}, but it is for '
            f'{list(record["classes"])}; test the checkpoint with the data set it was trained on.'
        )
    return PartRule(**{key: value for key, value in record.items() if key not in ('classes', 'iter')})


def telling_regions(regions: Iterable[Region]) -> list[Region]:
    """Return the regions that no other one of their class equals or beats in both area and score."""
    kept: list[Region] = []
    for region in sorted(set(regions), key=lambda r: (r[0], -r[1], -r[2])):
        if not kept or kept[-1][0] != region[0] or region[2] > kept[-1][2]:
            kept.append(region)
    return kept


def fit_part_rule(parts: Sequence[tuple[bool, Sequence[Region]]], classes: int) -> PartRule:
    """Fit the rule: the fewest good parts rejected at the most bad ones found.

    The area alone is tried first, then the score alone, then both; a later one is taken only if it rejects fewer good
    parts. Of equally good bounds the middle is taken (the geometric one of areas), and :attr:`PartRule.ties` says how
    far they reach. With fewer than ``MIN_BAD`` bad parts the bounds are the smallest with which at most
    ``GOOD_SHARE`` of the good ones are rejected, but none with which a bad one that is there would be lost.

    Args:
        parts: of each part, whether it is bad, and its regions.
        classes: number of classes with the normal one.
    """
    bad = np.array([is_bad for is_bad, _ in parts], bool)
    plain, count = any_region(classes), int(bad.sum())
    if count == len(bad):
        return plain

    def described(areas: np.ndarray, score: float, basis: str, ties: tuple = ()) -> PartRule:
        table = _largest(parts, classes, score)
        (found, kept), (_, kept_any) = _quality(table, bad, areas), _quality(_largest(parts, classes, 0.0), bad, 1)
        return PartRule(tuple(areas), score, basis, count, len(bad) - count, found, -kept, -kept_any, ties)

    if count < MIN_BAD:
        areas = _areas_from_good(_largest(parts, classes, 0.0), bad)
        return described(areas, 0.0, f'good parts alone ({count} bad)')
    best = np.array([max((r[2] for r in regions), default=0.0) for _, regions in parts])
    low, high = _best_interval(best, bad, np.zeros(len(bad), bool))
    scores = np.unique(best[best > 0])
    tried = [(None, 0.0), (plain.min_areas, (low + high) / 2)]
    tried += [(None, float(score)) for score in scores[:: max(1, math.ceil(len(scores) / MOST_SCORES))]]
    chosen, quality = None, (-1, 0)
    for areas, score in tried:
        table = _largest(parts, classes, score)
        areas = np.array(areas) if areas is not None else _best_areas(table, bad)
        if _quality(table, bad, areas) > quality:  # of equals the first: the simplest
            chosen, quality = (areas, score, table), _quality(table, bad, areas)
    areas, score, table = chosen
    reach = [_best_interval(table[:, k], bad, _others(table, areas, k)) for k in range(classes - 1)]
    ties = tuple(
        (min(int(low) + 1, int(a)), max(int(high), int(a))) for (low, high), a in zip(reach, areas, strict=True)
    )
    return described(areas, float(score), 'bad and good parts', ties)


def _largest(parts: Sequence[tuple[bool, Sequence[Region]]], classes: int, score: float) -> np.ndarray:
    """Return the largest area of each class in each part, ``(P, classes - 1)`` int64, of regions with the score."""
    table = np.zeros((len(parts), classes - 1), np.int64)
    for row, (_, regions) in zip(table, parts, strict=True):
        for class_id, area, own in regions:
            if own >= score and area > row[class_id - 1]:
                row[class_id - 1] = area
    return table


def _quality(table: np.ndarray, bad: np.ndarray, areas: np.ndarray | int) -> tuple[int, int]:
    """Return found bad parts and, negative, rejected good ones: the larger the better."""
    rejected = (table >= areas).any(1)
    return int((rejected & bad).sum()), -int((rejected & ~bad).sum())


def _others(table: np.ndarray, areas: np.ndarray, k: int) -> np.ndarray:
    """Return which parts the other classes reject, ``(P,)`` bool."""
    return (np.delete(table, k, 1) >= np.delete(areas, k)).any(1)


def _best_areas(table: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the best areas: one class at a time while the others stay, until none improves."""
    areas, best = np.ones(table.shape[1], np.int64), (-1, 0)
    for _ in range(10):
        for k in range(len(areas)):
            low, high = _best_interval(table[:, k], bad, _others(table, areas, k))
            areas[k] = max(low + 1, round(math.sqrt((low + 1) * high)))
        if _quality(table, bad, areas) <= best:
            break
        best = _quality(table, bad, areas)
    return areas


def _best_interval(values: np.ndarray, bad: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return the first interval ``(low, high]`` of bounds that do best where ``others`` are rejected anyhow.

    The largest value there is always counts: no class is switched off because its defects are missing here.
    """
    edges = np.unique(np.concatenate([[0], values]))
    if len(edges) == 1:
        return 0, 1
    rejected = (values[:, None] >= edges[1:]) | others[:, None]
    quality = (rejected & bad[:, None]).sum(0) * (len(bad) + 1) - (rejected & ~bad[:, None]).sum(0)
    first = last = int(quality.argmax())
    while last + 1 < len(quality) and quality[last + 1] == quality[first]:
        last += 1
    return edges[first], edges[last + 1]


def _areas_from_good(table: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the smallest areas with which few good parts are rejected, but every bad one that has a region."""
    good, classes = np.sort(table[~bad], 0), table.shape[1]
    areas = good[len(good) - 1 - int(GOOD_SHARE / classes * len(good))] + 1
    for row in table[bad]:
        if row.any() and not (row >= areas).any():
            k = int((row / areas).argmax())
            areas[k] = row[k]
    return areas


def exact_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share, in [0, 1]; ``(0, 1)`` for a total of 0.

    C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26 (1934): the shares under which a count as extreme is not rarer than half of
    ``1 - confidence`` on its side. It covers at least as often as it says, whatever the share.
    """
    if not 0 <= count <= total or not 0 < confidence < 1:
        raise ValueError(
            f'`count` must lie in 0..`total` and `confidence` in (0, 1), got {count}, {total} and {confidence}.'
        )
    from scipy.stats import beta  # only here: an exported model decides without SciPy

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return low, high


def verdict(
    bad: int, found: int, good: int, rejected: int, ious: dict[str, float] | None = None, split: str = 'Test'
) -> str:
    """Return the closing sentences of a test: parts found and rejected with their exact 95 % intervals.

    Args:
        bad, found: bad parts, and how many of them were rejected.
        good, rejected: good parts, and how many of them were rejected.
        ious: in percent by class name; those that are not finite are left out.
        split: what the parts are of.
    """
    parts = [
        _share(count, total, words)
        for count, total, words in ((found, bad, 'bad parts found'), (rejected, good, 'good parts rejected'))
    ]
    known = [f'{name} {value:.1f}' for name, value in (ious or {}).items() if math.isfinite(value)]
    text = f'{split}: {", ".join(parts)}.' + (f' IoU: {", ".join(known)}.' if known else '')
    missed = 100 * (1 - exact_interval(found, bad)[0])
    if not bad:
        return f'{text} Without bad parts nothing is known of what is missed.'
    few = 'Too few bad parts to promise' if found == bad else 'These parts do not promise'
    return f'{text} {few} less than {_percent(missed)} % missed.'


def _share(count: int, total: int, words: str) -> str:
    if not total:
        return f'no {words.rpartition(" ")[0]}'
    low, high = (_percent(100 * value) for value in exact_interval(count, total))
    return f'{count} of {total} {words} (95 %: {low} to {high} %)'


def _percent(value: float) -> str:
    return f'{value:.0f}' if value >= 10 or not value else f'{value:.1f}'


def counted_verdicts(parts: Iterable[tuple[bool, bool]]) -> dict[str, int]:
    """Count ``(bad, rejected)`` pairs into bad, found, good and rejected parts."""
    table = np.zeros((2, 2), int)
    for bad, rejected in parts:
        table[int(bad), int(rejected)] += 1
    (kept, rejected), (missed, found) = table.tolist()
    return dict(bad=missed + found, found=found, good=kept + rejected, rejected=rejected)
