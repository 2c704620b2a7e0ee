"""Verdicts, warnings and the published selection rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmdefect.experiments.compare import (
    BETTER,
    SAME,
    UNKNOWN,
    WORSE,
    FinishedRun,
    compare,
    published_rule,
    published_sentences,
    render,
)
from mmdefect.experiments.evidence.counts import Counts, metrics

CLASSES = ('normal', 'dent', 'rust')


def make_run(seed, quality, images=40, **kwargs):
    """A run that finds a share of the defect pixels; hard images are hard for all runs."""
    rng = np.random.default_rng(7)
    labelled = rng.integers(30, 200, (images, 2))
    hardness = rng.normal(0, 0.15, (images, 1))
    noise = np.random.default_rng(seed)
    hit = noise.binomial(labelled, np.clip(quality + hardness + noise.normal(0, 0.01), 0.01, 0.99))
    values = np.zeros((images, 3, 3), np.int64)
    values[:, 1:, 0], values[:, 1:, 1], values[:, 1:, 2] = hit, hit + 5, labelled
    values[:, 0] = 10000
    counts = Counts(tuple(map(str, range(images))), CLASSES, values)
    test = {key: float(value) for key, value in metrics(values.sum(0), CLASSES).items()}
    return FinishedRun(f'run {seed} {quality}', seed, test, counts, **{'key': f'{seed}-{quality}', **kwargs})


def arm(quality, seeds=(0, 1, 2), **kwargs):
    return [make_run(seed + int(1000 * quality), quality, **kwargs) for seed in seeds]


def reseeded(runs):
    return [FinishedRun(**{**vars(run), 'seed': k}) for k, run in enumerate(runs)]


@pytest.fixture
def arms():
    return {
        'base': reseeded(arm(0.5)),
        'good': reseeded(arm(0.65)),
        'bad': reseeded(arm(0.4)),
        'same': reseeded(arm(0.501)),
    }


def test_verdicts_are_in_words(arms):
    result = compare(arms, 'base', ['fg_mIoU', 'IoU.dent'])
    assert {name: row['fg_mIoU'].verdict for name, row in result.differences.items()} == {
        'good': BETTER,
        'bad': WORSE,
        'same': SAME,
    }
    assert result.images == 40 and result.differences['good']['fg_mIoU'].basis == 'seeds and images'
    text = render(result)
    assert '`good` is better than `base` in fg_mIoU (+' in text and 'not distinguishable from `base`' in text


def test_less_is_better_for_false_alarms():

    def runs(value):
        return [FinishedRun('r', seed, {'false_alarms': value + seed / 100}) for seed in range(3)]

    result = compare({'base': runs(3.0), 'quiet': runs(1.0)}, 'base', ['false_alarms'])
    assert result.differences['quiet']['false_alarms'].verdict == BETTER


def test_a_metric_without_counts_is_compared_over_seeds_only(arms):
    for runs in arms.values():
        for run in runs:
            run.test['AP'] = run.test['fg_mIoU'] / 2
    result = compare(arms, 'base', ['AP'])
    assert result.differences['good']['AP'].basis == 'seeds' and result.differences['good']['AP'].verdict == BETTER
    single = compare({name: runs[:1] for name, runs in arms.items()}, 'base', ['AP'])
    assert single.differences['good']['AP'].verdict == UNKNOWN and '3' not in str(single.seeds)
    assert any('at least three' in note for note in single.warnings)


def test_more_arms_need_stronger_evidence(arms):
    base = arms['base']
    shaky = reseeded(arm(0.512, seeds=(5, 6, 7)))
    alone = compare({'base': base, 'x': shaky}, 'base', ['fg_mIoU']).differences['x']['fg_mIoU']
    many = compare(
        {
            'base': base,
            'x': shaky,
            **{f'same{k}': reseeded(arm(0.5, seeds=(9 * k, 9 * k + 1, 9 * k + 2))) for k in range(1, 4)},
        },
        'base',
        ['fg_mIoU'],
    )
    assert many.differences['x']['fg_mIoU'].adjusted_p >= alone.adjusted_p


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'settings': {'loss': 'focal', 'lr': 0.1}}, 'more than the factor: `lr`'),
        ({'budget': {'iterations': 9, 'batch_size': 8}}, 'unequal budget: `other` has iterations 9'),
        ({'tests': [{'checkpoint': 'iter_1.pth'}, {'checkpoint': 'iter_2.pth'}]}, 'read 2 times with 2 checkpoints'),
        ({'leaks': ['part_3']}, '1 donor(s) come from test images, the first is part_3'),
        ({'source': {'data': {'d': 'xyz'}}}, 'the runs differ in data'),
    ],
)
def test_what_spoils_a_comparison_is_said(change, words):
    common = {
        'settings': {'loss': 'ce'},
        'budget': {'iterations': 6, 'batch_size': 8},
        'source': {'data': {'d': 'abc'}},
    }
    base = reseeded(arm(0.5, **common))
    other = reseeded(arm(0.6, **{**common, 'settings': {'loss': 'focal'}, **change}))
    clean = reseeded(arm(0.6, **{**common, 'settings': {'loss': 'focal'}}))
    assert not compare({'base': base, 'other': clean}, 'base', ['fg_mIoU'], ['loss']).warnings
    assert any(
        words in note for note in compare({'base': base, 'other': other}, 'base', ['fg_mIoU'], ['loss']).warnings
    )


def test_missing_seeds_shared_runs_and_wrong_logs_are_said(arms):
    base = arms['base']
    result = compare({'base': base, 'short': arms['good'][:2], 'copy': base}, 'base', ['fg_mIoU'])
    assert any('`short` has 2 of 3' in note for note in result.warnings)
    assert any('`copy` and `base` share 3 run(s)' in note for note in result.warnings)
    assert (
        result.differences['copy']['fg_mIoU'].interval.value == 0
        and result.differences['copy']['fg_mIoU'].verdict == SAME
    )
    base[0].test['fg_mIoU'] += 1
    assert any('belong to different tests' in note for note in compare(arms, 'base', ['fg_mIoU']).warnings)


def test_nothing_learned_is_said():
    runs = [FinishedRun('r', seed, {'AP': 0.0}) for seed in range(3)]
    assert any('zero in every run' in note for note in compare({'a': runs, 'b': runs}, 'a', ['AP']).warnings)


def test_an_undefined_metric_is_unknown_not_equal():
    runs = [FinishedRun('r', seed, {'AP': None}) for seed in range(3)]
    result = compare({'a': runs, 'b': runs}, 'a', ['AP'])
    assert result.differences['b']['AP'].verdict == UNKNOWN and math.isnan(result.values['a']['AP'][0])
    assert '`b` cannot be compared with `a` in AP' in render(result)


def test_wrong_arms_are_refused(arms):
    with pytest.raises(ValueError, match='reference'):
        compare(arms, 'none', ['fg_mIoU'])
    with pytest.raises(ValueError, match='at least one run'):
        compare({'base': []}, 'base', ['fg_mIoU'])


def test_the_published_rule_on_its_published_numbers():
    """Words of the cutting-insert system, Fast-SCNN; mAcc invented so that one word falls by it alone."""
    table = {
        'without': {'mIoU': 26.13, 'mAcc': 35.71},
        'blistering': {'mIoU': 33.31, 'mAcc': 50.0},
        'corrosion': {'mIoU': 25.83, 'mAcc': 40.0},
        'dent': {'mIoU': 34.89, 'mAcc': 52.0},
        'rust': {'mIoU': 31.71, 'mAcc': 35.0},
        'scratch': {'mIoU': 24.94, 'mAcc': 30.0},
    }
    kept, dropped = published_rule(table, 'without', ['mIoU', 'mAcc'])
    assert kept == ['dent', 'blistering']
    assert dropped == {'corrosion': ['mIoU'], 'rust': ['mAcc'], 'scratch': ['mIoU', 'mAcc']}


def test_the_published_rule_can_be_printed(arms):
    text = published_sentences(compare(arms, 'base', ['fg_mIoU']))
    assert '1. `good`' in text and '- dropped `bad`: lower fg_mIoU' in text
