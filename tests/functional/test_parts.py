"""The rule of parts against all rules of a grid, exact intervals against the binomial sum, and cases by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.functional.parts import (
    PartRule,
    any_region,
    counted_verdicts,
    exact_interval,
    fit_part_rule,
    telling_regions,
    verdict,
)


def quality(rule, parts):
    """Found bad and, negative, rejected good parts, one by one."""
    found = sum(is_bad and rule.rejects(regions) for is_bad, regions in parts)
    return found, -sum(not is_bad and rule.rejects(regions) for is_bad, regions in parts)


@pytest.fixture
def plant():
    """Ten bad parts with defects from 60 px on; of 71 good ones 19 with specks, two of them as large as defects."""
    bad = [(True, [(1, 60 + 9 * k, 0.9), (1, 2, 0.6)]) for k in range(10)]
    specks = [3, 5, 2, 8, 12, 1, 4, 6, 9, 2, 7, 3, 3, 5, 11, 2, 1, 80, 200]
    return bad + [(False, [(1, area, 0.9)]) for area in specks] + [(False, [])] * 52


def test_a_smallest_area_spares_the_good_parts_with_specks(plant):
    rule = fit_part_rule(plant, 2)
    assert (rule.found, rule.rejected, rule.rejected_any) == (10, 2, 19) and (rule.bad, rule.good) == (10, 71)
    assert rule.ties == ((13, 60),) and rule.min_areas == (round(math.sqrt(13 * 60)),) and rule.min_score == 0
    assert 'equally good: crack 13 to 60 px' in rule.in_words(('normal', 'crack'))
    assert PartRule(**rule.to_dict()) == rule
    assert quality(any_region(2), plant) == (10, -19)


def test_the_score_decides_where_the_area_cannot():
    parts = [(True, [(1, 5 + k, 0.8)]) for k in range(5)] + [(False, [(1, 5 + k, 0.4)]) for k in range(5)]
    rule = fit_part_rule(parts, 2)
    assert (rule.found, rule.rejected) == (5, 0) and rule.min_score == pytest.approx(0.6) and rule.min_areas == (1,)
    both = [*parts, (False, [(1, 2, 0.95)])]  # a small sure one and large unsure ones
    rule = fit_part_rule(both, 2)
    assert (rule.found, rule.rejected) == (5, 0) and rule.min_score > 0.4 and rule.min_areas[0] > 2


def test_each_class_has_its_own_area():
    parts = [(True, [(1, 4, 0.9)]), (True, [(1, 6, 0.9)]), (True, [(2, 90, 0.9)]), (True, [(2, 70, 0.9)])]
    parts += [(False, [(2, area, 0.9)]) for area in (8, 20, 30)] + [(False, [(1, 2, 0.9)])]
    rule = fit_part_rule(parts, 3)
    assert (rule.found, rule.rejected) == (4, 0) and rule.ties == ((3, 4), (31, 70))


def test_too_few_bad_parts_leave_the_choice_to_the_good_ones():
    good = [(False, [(1, area, 0.9)]) for area in range(1, 41)]
    rule = fit_part_rule(good, 2)
    assert rule.min_areas == (39,) and rule.rejected == 2 and rule.basis == 'good parts alone (0 bad)'
    rule = fit_part_rule([*good, (True, [(1, 10, 0.9)])], 2)  # the one that is there must not be lost
    assert rule.min_areas == (10,) and rule.found == 1
    assert fit_part_rule([(True, [(1, 3, 0.9)])], 2) == any_region(2) == fit_part_rule([], 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 3))
def test_no_rule_of_areas_alone_is_better_and_nothing_found_is_lost(seed, classes):
    rng = np.random.default_rng(seed)

    def regions(largest):
        count = rng.integers(0, 4)
        return [
            (int(rng.integers(1, classes)), int(rng.integers(1, largest)), float(rng.random())) for _ in range(count)
        ]

    parts = [(True, regions(12)) for _ in range(6)] + [(False, regions(8)) for _ in range(9)]
    rule = fit_part_rule([(bad, telling_regions(r)) for bad, r in parts], classes)
    assert (rule.found, -rule.rejected) == quality(rule, parts)
    assert rule.found == quality(any_region(classes), parts)[0] and rule.rejected <= rule.rejected_any
    if classes == 2:
        largest = max((r[1] for _, own in parts for r in own), default=1)
        assert quality(rule, parts) >= max(quality(PartRule((area,)), parts) for area in range(1, largest + 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 6), st.sampled_from([0.1, 0.5, 0.9])), max_size=8))
def test_telling_regions_decide_as_all_do(regions):
    kept = telling_regions(regions)
    for areas in itertools.product((1, 3, 5), repeat=2):
        for score in (0.0, 0.4, 0.8):
            rule = PartRule(areas, score)
            assert rule.rejects(kept) == rule.rejects(regions)


@pytest.mark.parametrize(('count', 'total'), [(10, 10), (2, 71), (0, 5), (3, 8)])
def test_intervals_equal_the_binomial_sum(count, total):
    low, high = exact_interval(count, total)

    def tail(share, counts):
        return sum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in counts)

    assert tail(low, range(count, total + 1)) == pytest.approx(0.025) if count else low == 0
    assert tail(high, range(count + 1)) == pytest.approx(0.025) if count < total else high == 1
    assert exact_interval(0, 0) == (0, 1)


def test_the_verdict_is_a_sentence_with_exact_intervals():
    assert verdict(10, 10, 71, 2, {'crack': 57.84, 'dent': math.nan}) == (
        'Test: 10 of 10 bad parts found (95 %: 69 to 100 %), 2 of 71 good parts rejected (95 %: 0.3 to 9.8 %). '
        'IoU: crack 57.8. Too few bad parts to promise less than 31 % missed.'
    )
    assert verdict(0, 0, 4, 0).startswith('Test: no bad parts, 0 of 4 good parts rejected (95 %: 0 to 60 %).')
    assert counted_verdicts([(True, True), (True, False), (False, True)]) == dict(bad=2, found=1, good=1, rejected=1)


def test_bad_settings_are_rejected():
    with pytest.raises(ValueError, match='at least 1 px'):
        PartRule((0,))
    with pytest.raises(ValueError, match='`count` must lie in'):
        exact_interval(3, 2)
