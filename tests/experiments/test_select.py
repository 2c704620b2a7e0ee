"""Choosing the best step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdefect.experiments.select import MissingMetric, Rule, choose_best, value_of

NAN = math.nan
THREE = {
    100: {'aAcc': 99.0, 'mIoU': 40.5, 'mAcc': 50.0},
    200: {'aAcc': 98.0, 'mIoU': 42.0, 'mAcc': 49.0},
    300: {'aAcc': 99.5, 'mIoU': 38.0, 'mAcc': 51.5},
}
PER_CLASS = {
    'aAcc': 99.0,
    'mIoU': 60.0,
    'mAcc': 70.0,
    'IoU.normal': 100.0,
    'IoU.attached': 50.0,
    'IoU.broken': 30.0,
    'Acc.normal': 100.0,
    'Acc.attached': 60.0,
    'Acc.broken': 50.0,
}


def silent(message):
    pass


@pytest.mark.parametrize(
    'rule, step, value',
    [
        (Rule(), 100, 189.5 / 3),
        (Rule('mIoU'), 200, 42.0),
        (Rule('mAcc'), 300, 51.5),
        (Rule('mIoU', mode='min'), 300, 38.0),
    ],
)
def test_hand_made_choices(rule, step, value):
    choice = choose_best(THREE, rule)
    assert (choice.step, choice.value) == (step, pytest.approx(value))


def test_equals_are_decided_by_the_tie_rule_even_if_added_in_another_order():
    rows = {1: (0.1, 0.2, 0.3), 2: (0.3, 0.2, 0.1), 3: (0.2, 0.3, 0.1), 4: (0.1, 0.1, 0.1)}
    metrics = {step: dict(zip(('aAcc', 'mIoU', 'mAcc'), row, strict=True)) for step, row in rows.items()}
    assert choose_best(metrics, Rule(tie='first')).step == 1
    assert choose_best(metrics, Rule(tie='last')).step == 3


def test_score2_leaves_out_the_pixel_accuracy():
    assert value_of(THREE[100], Rule('score2')) == pytest.approx(90.5 / 3)
    assert value_of(THREE[100], Rule('score')) == pytest.approx(189.5 / 3)


def test_means_without_background_come_from_the_classes():
    assert value_of(PER_CLASS, Rule('mIoU', exclude_background=True)) == 40.0
    assert value_of(PER_CLASS, Rule('fg_mAcc')) == 55.0
    assert value_of(PER_CLASS, Rule('score', exclude_background=True)) == pytest.approx((55 + 40) / 2)
    assert value_of(PER_CLASS, Rule('score2', exclude_background=True)) == pytest.approx((55 + 40) / 3)
    assert value_of(PER_CLASS, Rule('fg_mIoU', background='broken')) == 75.0


def test_logged_foreground_means_are_taken_as_they_are():
    assert value_of({**PER_CLASS, 'fg_mIoU': 41.0}, Rule('mIoU', exclude_background=True)) == 41.0


def test_a_class_that_never_occurs_does_not_count():
    assert value_of({**PER_CLASS, 'IoU.broken': NAN}, Rule('fg_mIoU')) == 50.0


@pytest.mark.parametrize(
    'rule, metrics, words',
    [
        (Rule('fg_mIoU'), THREE, 'per-class values'),
        (Rule(exclude_background=True), THREE, 'per-class values'),
        (Rule('mDice'), THREE, r"\['aAcc', 'mAcc', 'mIoU'\]"),
        (Rule('score'), {1: {'mIoU': 1.0}}, '`aAcc` must be a key'),
        (Rule('aAcc', exclude_background=True), THREE, 'cannot be had without'),
        (Rule('fg_mIoU', background='good'), {1: PER_CLASS}, 'normal.*attached.*broken.*good'),
    ],
)
def test_a_missing_key_lists_what_there_is(rule, metrics, words):
    with pytest.raises(MissingMetric, match=words):
        choose_best(metrics, rule)


def test_not_a_number_is_reported_and_cannot_win():
    reports = []
    metrics = {1: {'mIoU': 10.0}, 2: {'mIoU': NAN}, 3: {'mIoU': math.inf}, 4: {'other': 1.0}}
    assert choose_best(metrics, Rule('mIoU'), reports.append).step == 1
    assert [report.split(':')[0] for report in reports] == ['step 2', 'step 3', 'step 4']
    with pytest.raises(ValueError, match='finite in at least one'):
        choose_best({1: {'mIoU': NAN}}, Rule('mIoU'), silent)


def test_wrong_options_and_no_validations_are_errors():
    with pytest.raises(ValueError, match='`tie`'):
        Rule(tie='middle')
    with pytest.raises(ValueError, match='at least one validation'):
        choose_best({})


@given(
    st.dictionaries(st.integers(1, 50), st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=1),
    st.sampled_from(['first', 'last']),
)
def test_the_choice_is_the_extreme_finite_value(values, tie):
    finite = {step: value for step, value in values.items() if not math.isnan(value)}
    metrics = {step: {'mIoU': value} for step, value in values.items()}
    if not finite:
        with pytest.raises(ValueError):
            choose_best(metrics, Rule('mIoU', tie=tie), silent)
        return
    best = [step for step, value in finite.items() if value == max(finite.values())]
    assert choose_best(metrics, Rule('mIoU', tie=tie), silent).step == (min(best) if tie == 'first' else max(best))


def test_smoothing_passes_over_a_lucky_validation():
    lucky = {step: {'fg_AP': value} for step, value in zip(range(1, 8), (10, 60, 12, 30, 32, 31, 20), strict=True)}
    assert choose_best(lucky, Rule('fg_AP')).step == 2
    choice = choose_best(lucky, Rule('fg_AP', smooth=3))
    assert choice.compared == {1: 10, 2: 12, 3: 30, 4: 30, 5: 31, 6: 31, 7: 20}
    assert (choice.step, choice.value) == (6, 31) and choice.candidates[2] == 60
    assert choose_best(lucky, Rule('fg_AP', smooth=3, tie='first')).step == 5
    assert choose_best(lucky, Rule('fg_AP', smooth=3, average='mean')).compared[2] == pytest.approx(82 / 3)
    assert choose_best(lucky, Rule('fg_AP', smooth=3, mode='min')).step == 2
    assert choose_best(lucky, Rule('fg_AP', smooth=3, mode='min')).compared[1] == 60


def test_smoothing_skips_what_is_not_a_number():
    values = {1: {'x': 1.0}, 2: {'x': float('nan')}, 3: {'x': 5.0}, 4: {'x': 3.0}}
    assert choose_best(values, Rule('x', smooth=3), lambda line: None).compared == {1: 1.0, 3: 3.0, 4: 3.0}


@pytest.mark.parametrize('width', [0, 2, -1])
def test_an_even_window_is_refused(width):
    with pytest.raises(ValueError, match='odd number of validations'):
        Rule(smooth=width)


def test_ties_are_said():
    lines = []
    choose_best({1: {'x': 2.0}, 2: {'x': 2.0}}, Rule('x'), lines.append)
    assert lines == ['`x` is equal at the steps [1, 2]; the last is taken']


@pytest.mark.parametrize(
    ('rule', 'expected'),
    [
        (Rule(), True),
        (Rule('mIoU'), True),
        (Rule('cal_mIoU'), True),
        (Rule('mIoU', exclude_background=True), False),
        (Rule('fg_mIoU'), False),
        (Rule('fg_AP'), False),
        (Rule('cal_fg_mIoU'), False),
    ],
)
def test_what_counts_the_background_is_known(rule, expected):
    assert rule.counts_background is expected


def test_a_calibrated_mean_without_background_has_its_own_key():
    values = {'cal_mIoU': 60.0, 'cal_fg_mIoU': 20.0}
    assert value_of(values, Rule('cal_fg_mIoU', exclude_background=True)) == 20
    with pytest.raises(MissingMetric, match='cal_fg_mIoU'):
        value_of(values, Rule('cal_mIoU', exclude_background=True))
