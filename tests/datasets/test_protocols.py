from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdefect.datasets.groups import Unit
from mmdefect.datasets.protocols import Fractions, KShot, Third, distribute, quotas
from mmdefect.datasets.samples import Sample


def units_of(sizes, defect_type='dent'):
    names = iter(range(10**6))
    units = []
    for size in sizes:
        samples = tuple(Sample(f'{next(names):04d}.png', 'm.png', defect_type) for _ in range(size))
        units.append(Unit(samples, samples[0].img_path))
    return units


SHARES = st.lists(st.integers(1, 20), min_size=1, max_size=4).map(
    lambda parts: {n: p / sum(parts) for n, p in zip(('train', 'outer_val', 'val', 'test'), parts, strict=False)}
)


class TestQuotas:
    @given(st.integers(0, 500), SHARES)
    def test_adds_up_and_is_close(self, count, shares):
        result = quotas(count, shares)
        assert sum(result.values()) == count and result.keys() == shares.keys()
        if count >= len(shares):
            assert min(result.values()) >= 1
        lifted = sum(count * s < 1 for s in shares.values())
        for name, share in shares.items():
            assert math.floor(count * share + 1e-9) - lifted <= result[name] <= math.ceil(count * share + 1e-9) + lifted

    @pytest.mark.parametrize(
        'count, expected',
        [(10, (6, 2, 2)), (7, (4, 2, 1)), (3, (1, 1, 1)), (2, (1, 1, 0)), (1, (1, 0, 0)), (0, (0, 0, 0))],
    )
    def test_by_hand(self, count, expected):
        assert tuple(quotas(count, dict(train=0.6, val=0.2, test=0.2)).values()) == expected


class TestDistribute:
    @given(st.lists(st.just(1), max_size=40), st.data())
    def test_single_images_meet_the_targets_exactly(self, sizes, data):
        train = data.draw(st.integers(0, len(sizes)))
        given_to = distribute(sizes, dict(train=train, test=len(sizes) - train))
        assert given_to == ['train'] * train + ['test'] * (len(sizes) - train)

    @given(st.lists(st.integers(1, 12), min_size=3, max_size=40))
    def test_groups_miss_the_targets_by_less_than_the_largest_group(self, sizes):
        targets = quotas(sum(sizes), dict(train=0.5, val=0.2, test=0.3))
        given_to = distribute(sizes, targets)
        counts = Counter()
        for size, name in zip(sizes, given_to, strict=True):
            counts[name] += size
        assert set(given_to) == {'train', 'val', 'test'}
        assert all(abs(counts[n] - targets[n]) <= 2 * max(sizes) for n in targets)

    def test_every_split_gets_a_unit_when_there_are_enough(self):
        assert sorted(distribute([9, 1, 1], dict(train=5, val=1, test=5))) == ['test', 'train', 'val']


class TestThird:
    @given(st.integers(1, 60), st.sampled_from([0.0, 0.2, 0.5]), st.sampled_from([0.0, 0.25]))
    def test_counts(self, count, val, outer):
        placed, left_out = Third(val, outer).place(units_of([1] * count))
        training = sum(len(v) for n, v in placed.items() if n != 'test')
        assert training == max(count // 3, int(count > 1)) and len(placed['test']) == count - training
        assert not left_out

    def test_the_test_split_does_not_depend_on_validation(self):
        units = units_of([1, 2, 1, 1, 3, 1, 1, 1, 4, 1])
        tests = [Third(v).place(units)[0]['test'] for v in (0.0, 0.2, 0.5)]
        assert tests[0] == tests[1] == tests[2]

    def test_by_hand(self):
        placed, _ = Third(val_fraction=0.5).place(units_of([1] * 12))
        assert {n: [s.img_path[:4] for s in v] for n, v in placed.items()} == {
            'train': ['0000', '0001'],
            'val': ['0002', '0003'],
            'test': [f'{i:04d}' for i in range(4, 12)],
        }


class TestKShot:
    @given(st.integers(1, 6), st.integers(0, 2), st.integers(0, 2), st.integers(0, 10))
    def test_counts(self, k, k_val, k_outer, rest):
        placed, left_out = KShot(k, k_val, k_outer).place(units_of([1] * (k + k_val + k_outer + 1 + rest)))
        assert {n: len(v) for n, v in placed.items()} == {
            **{n: c for n, c in dict(train=k, outer_val=k_outer, val=k_val).items() if c},
            'test': rest + 1,
        }
        assert not left_out

    def test_one_image_of_each_drawn_group_and_the_others_left_out(self):
        placed, left_out = KShot(2, k_val=0).place(units_of([3, 1, 2, 2]))
        assert [s.img_path for s in placed['train']] == ['0000.png', '0003.png']
        assert [s.img_path for s in left_out] == ['0001.png', '0002.png']
        assert len(placed['test']) == 4

    def test_fewer_shots_are_a_subset(self):
        units = units_of([1] * 12)
        few, many = (KShot(k).place(units)[0]['train'] for k in (2, 5))
        assert few == many[:2]

    def test_too_few_images(self):
        with pytest.raises(ValueError, match=r"5-shot needs more than 6 images .* type 'dent'.*there are 6"):
            KShot(5).place(units_of([1] * 6))

    def test_clean_images_follow_the_shots(self):
        clean = units_of([1] * 100, 'good')
        assert {n: len(v) for n, v in KShot(4, k_val=1).place(clean)[0].items()} == dict(train=40, val=10, test=50)
        assert {n: len(v) for n, v in KShot(4, k_val=1).place(clean, 'train')[0].items()} == dict(train=80, val=20)
        assert {n: len(v) for n, v in KShot(4).place(clean, 'test')[0].items()} == dict(test=100)


@pytest.mark.parametrize(
    'make, message',
    [
        (
            lambda: Fractions(dict(train=0.5, tset=0.5)),
            r"among \('train', 'outer_val', 'val', 'test'\), got \['tset'\]",
        ),
        (lambda: Fractions(dict(train=0.5, test=0.4)), 'add up to 1'),
        (lambda: Fractions(dict(train=1.5, test=-0.5)), 'must be at least 0'),
        (lambda: Fractions({}), 'got none'),
        (lambda: Fractions(dict(train=float('nan'), test=0.5)), 'must be at least 0'),
        (lambda: Third(1.0), 'together below 1'),
        (lambda: Third(-0.1), 'at least 0'),
        (lambda: KShot(0), '`k` must be at least 1'),
        (lambda: KShot(1, clean_train_fraction=1.0), '`clean_train_fraction` must be between'),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
