from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.datasets import BladeWTADataset, MVTecDataset
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.samples import Sample, relative_path
from mmdefect.datasets.splits import (
    Fractions,
    Given,
    KShot,
    Third,
    assign,
    find_types,
    make_split,
    read_split,
    split_dataset,
)
from tests.helpers.data import save, write_mvtec, write_visa, write_wta

ROOT = '/d'
PROTOCOLS = [
    Fractions(),
    Fractions(dict(train=0.5, outer_val=0.1, val=0.1, test=0.3)),
    Third(),
    Third(0.0, 0.3),
    KShot(1),
    KShot(2, 0),
    KShot(2, 1, 1),
    Third(draws_first=True),
    KShot(1, draws_first=True),
]


@st.composite
def data_sets(draw):
    """Samples of a few types, some clean, and groups of some of them."""
    samples = []
    for defect_type in draw(st.lists(st.sampled_from('abcde'), min_size=1, max_size=4, unique=True)):
        samples += [
            Sample(f'{ROOT}/{defect_type}/{i:03d}.png', 'm.png', defect_type, own_split='test')
            for i in range(draw(st.integers(5, 25)))
        ]
    for split in ('train', 'test'):
        samples += [
            Sample(f'{ROOT}/{split}/good/{i:03d}.png', None, 'good', own_split=split)
            for i in range(draw(st.integers(0, 20)))
        ]
    names = [relative_path(s.img_path, ROOT) for s in samples]
    if not draw(st.booleans()):
        return samples, []
    # Groups inside one type, as exposures of one part are; of at most 3, so that every type keeps at least 5/3 units.
    by_type = {}
    for name in names:
        by_type.setdefault(name.rsplit('/', 1)[0], []).append(name)
    groups = [members[i : i + 3] for members in by_type.values() for i in range(15, len(members), 3)]
    return samples, groups


class TestAssign:
    @settings(max_examples=150, deadline=None)
    @given(data_sets(), st.sampled_from(PROTOCOLS), st.integers(0, 2**31))
    def test_every_image_is_on_exactly_one_side(self, data_set, protocol, seed):
        samples, groups = data_set
        sides, left_out = assign(samples, ROOT, protocol, seed, groups)
        placed = [s.img_path for side in sides.values() for s in side] + [s.img_path for s in left_out]
        assert sorted(placed) == sorted(s.img_path for s in samples)
        assert set(sides) == set(protocol.split_names)

    @settings(max_examples=100, deadline=None)
    @given(data_sets(), st.sampled_from(PROTOCOLS), st.integers(0, 2**31))
    def test_no_group_is_on_two_sides(self, data_set, protocol, seed):
        samples, groups = data_set
        sides, _ = assign(samples, ROOT, protocol, seed, groups)
        side_of = {relative_path(s.img_path, ROOT): n for n, side in sides.items() for s in side}
        for group in groups:
            assert len({side_of[name] for name in group if name in side_of}) <= 1

    @settings(max_examples=100, deadline=None)
    @given(data_sets(), st.sampled_from(PROTOCOLS), st.integers(0, 1000), st.randoms(use_true_random=False))
    def test_order_of_the_files_does_not_matter(self, data_set, protocol, seed, random):
        samples, groups = data_set
        shuffled = list(samples)
        random.shuffle(shuffled)
        assert assign(samples, ROOT, protocol, seed, groups) == assign(shuffled, ROOT, protocol, seed, groups)

    @settings(max_examples=60, deadline=None)
    @given(data_sets(), st.integers(0, 1000))
    def test_types_are_stratified(self, data_set, seed):
        samples, _ = data_set
        totals = Counter(s.defect_type for s in samples if not s.is_clean)
        for protocol, expected in (
            (KShot(2), lambda n: dict(train=2, val=1, test=n - 3)),
            (Third(0.0), lambda n: dict(train=n // 3, test=n - n // 3)),
        ):
            sides, _ = assign(samples, ROOT, protocol, seed)
            for defect_type, total in totals.items():
                counts = {n: sum(s.defect_type == defect_type for s in side) for n, side in sides.items()}
                assert counts == expected(total)
        sides, _ = assign(samples, ROOT, Fractions(), seed)
        for defect_type, total in Counter(s.defect_type for s in samples).items():
            for name, share in Fractions().fractions.items():
                assert abs(sum(s.defect_type == defect_type for s in sides[name]) - total * share) <= 1.5

    @settings(max_examples=60, deadline=None)
    @given(data_sets(), st.sampled_from([Third(), KShot(1)]), st.integers(0, 1000))
    def test_clean_images_stay_on_the_side_of_their_folder(self, data_set, protocol, seed):
        samples, _ = data_set
        sides, _ = assign(samples, ROOT, protocol, seed)
        has_clean_training_folder = any(s.own_split == 'train' for s in samples)
        for name, side in sides.items():
            for sample in side:
                if sample.is_clean and has_clean_training_folder:
                    assert (sample.own_split == 'test') == (name == 'test')

    def test_seeds_differ_and_repeat(self):
        samples = [Sample(f'{ROOT}/{i:03d}.png', 'm.png', 'dent') for i in range(60)]
        first, again, other = (assign(samples, ROOT, Third(), seed)[0]['train'] for seed in (0, 0, 1))
        assert first == again != other

    def test_the_draw_is_the_same_on_every_machine(self):
        samples = [Sample(f'{ROOT}/{i}.png', 'm.png', 'dent') for i in range(9)]
        sides, _ = assign(samples, ROOT, Third(0.0), seed=0)
        # the first three of: for i in 0..8: printf '0\n%s.png' $i | sha256sum
        assert [s.img_path for s in sides['train']] == ['/d/1.png', '/d/2.png', '/d/5.png']

    def test_first_images_in_the_order_of_names(self):
        samples = [Sample(f'{ROOT}/{i:03d}.png', 'm.png', 'dent') for i in range(9)]
        sides, _ = assign(samples, ROOT, Third(0.0, draws_first=True), seed=5)
        assert [s.img_path[-7:] for s in sides['train']] == ['000.png', '001.png', '002.png']

    def test_a_type_in_two_categories_is_two_strata(self):
        samples = [Sample(f'{ROOT}/{c}/{i}.png', 'm.png', 'crack', category=c) for c in 'xy' for i in range(6)]
        sides, _ = assign(samples, ROOT, KShot(1), 0)
        assert sorted(s.category for s in sides['train']) == ['x', 'y']

    def test_nothing_to_divide(self):
        with pytest.raises(ValueError, match='at least one image'):
            assign([], ROOT, Third())


class TestMakeSplit:
    def test_records_content_and_paths(self, tmp_path):
        truth = write_mvtec(tmp_path)
        split = make_split(build_layout('mvtec', str(tmp_path)).scan(), str(tmp_path), Third(), seed=4)
        entries = [e for side in split.splits.values() for e in side]
        assert sorted(e.image for e in entries) == sorted(truth)
        import hashlib

        for e in entries:
            assert e.sha256 == hashlib.sha256((tmp_path / e.image).read_bytes()).hexdigest()
            assert (e.mask is None) == e.type.endswith('/good')
            assert e.mask is None or (tmp_path / e.mask).is_file()
        assert split.protocol == dict(name='third', val_fraction=0.2, outer_val_fraction=0.0, draws_first=False)

    def test_equal_content_in_two_splits_names_both_files(self, tmp_path):
        write_mvtec(tmp_path, {'nut': ['dent']})
        copy = (tmp_path / 'nut/train/good/000.png').read_bytes()
        (tmp_path / 'nut/test/good/001.png').write_bytes(copy)
        samples = build_layout('mvtec', str(tmp_path)).scan()
        with pytest.raises(ValueError, match=r'nut/(train|test)/good/00[01]\.png .* and nut/.*same file content'):
            make_split(samples, str(tmp_path), Third())
        split = make_split(samples, str(tmp_path), Third(), keep_duplicates_together=True)
        side_of = {e.image: n for n, side in split.splits.items() for e in side}
        assert side_of['nut/train/good/000.png'] == side_of['nut/test/good/001.png']

    def test_missing_image(self, tmp_path):
        with pytest.raises(ValueError, match=r'gone\.png must be readable'):
            make_split([Sample(str(tmp_path / 'gone.png'), None, 'good')], str(tmp_path), Third())


class TestFindTypes:
    def test_from_the_masks(self, tmp_path):
        for name, values in dict(a=[0, 0], b=[0, 1], c=[1, 2], d=[255, 2]).items():
            save(tmp_path / f'{name}.png', np.array([values], np.uint8))
        samples = [Sample(f'{n}.png', str(tmp_path / f'{n}.png')) for n in 'abcd']
        samples += [Sample('e.png', None), Sample('f.png', 'unread.png', 'scratch')]
        found = find_types(samples, ('normal', 'dent', 'hole'))
        assert [s.defect_type for s in found] == ['good', 'dent', 'dent+hole', 'hole', 'good', 'scratch']

    def test_missing_mask(self, tmp_path):
        with pytest.raises(ValueError, match=r'gone\.png does not exist'):
            find_types([Sample('a.png', str(tmp_path / 'gone.png'))], ('normal', 'dent'))


class TestSplitDataset:
    def test_file_feeds_the_data_set(self, tmp_path):
        truth = write_mvtec(tmp_path)
        split = split_dataset(build_layout('mvtec', str(tmp_path), category='bottle'), KShot(2), tmp_path / 's.json')
        assert split.notes['category'] == ['bottle'] and read_split(tmp_path / 's.json') == split
        seen = []
        for name in ('train', 'val', 'test'):
            dataset = MVTecDataset(data_root=str(tmp_path), category='bottle', split=name, split_file='s.json')
            seen += [relative_path(dataset.get_data_info(i)['img_path'], str(tmp_path)) for i in range(len(dataset))]
        assert sorted(seen) == sorted(n for n in truth if n.startswith('bottle/'))

    def test_types_are_looked_up_in_index_masks(self, tmp_path):
        write_wta(tmp_path, dict(train=12, test=12))
        split = split_dataset(build_layout('wta', str(tmp_path)), Fractions(), tmp_path / 's.json')
        counts = split.counts()
        assert set().union(*counts.values()) == {'good', 'attached', 'broken', 'attached+broken'}
        dataset = BladeWTADataset(data_root=str(tmp_path), split='val', split_file='s.json')
        assert len(dataset) == sum(counts['val'].values())

    def test_group_file(self, tmp_path):
        write_mvtec(tmp_path, {'nut': ['dent']}, per_type=9)
        groups = [[f'nut/test/dent/00{i}' for i in range(6)]]
        (tmp_path / 'groups.json').write_text(json.dumps(groups))
        split = split_dataset(
            build_layout('mvtec', str(tmp_path)),
            Fractions(),
            tmp_path / 's.json',
            group_file=str(tmp_path / 'groups.json'),
        )
        sides = {n for n, side in split.splits.items() for e in side if e.image.rsplit('.', 1)[0] in groups[0]}
        assert len(sides) == 1 and split.notes['group_file'] == 'groups.json'

    def test_existing_file_is_kept(self, tmp_path):
        write_mvtec(tmp_path)
        (tmp_path / 's.json').write_text('mine')
        with pytest.raises(FileExistsError, match='--overwrite'):
            split_dataset(build_layout('mvtec', str(tmp_path)), Third(), tmp_path / 's.json')
        assert (tmp_path / 's.json').read_text() == 'mine'

    def test_type_without_training_image_is_found(self, tmp_path):
        write_mvtec(tmp_path, {'nut': ['dent']}, per_type=1)
        split = split_dataset(build_layout('mvtec', str(tmp_path)), Third(), tmp_path / 's.json')
        assert split.types_without_training() == ['nut/dent']


def test_the_division_of_visa_is_kept_and_training_validates(tmp_path):
    write_visa(tmp_path)
    dataset = build_layout('visa', str(tmp_path), division='2cls_highshot', category=['nut'])
    split = split_dataset(dataset, Given(val_fraction=0.25), tmp_path / 'splits.json')
    assert split.counts() == {
        'train': {'nut/anomaly': 2, 'nut/good': 6},
        'val': {'nut/anomaly': 1, 'nut/good': 2},
        'test': {'nut/anomaly': 3, 'nut/good': 2},
    }
    rows = (tmp_path / 'split_csv' / '2cls_highshot.csv').read_text().splitlines()
    official = {row.split(',')[3] for row in rows if row.startswith('nut,test')}
    assert {e.image for e in split.splits['test']} == official and split.notes['division'] == '2cls_highshot'
    with pytest.raises(ValueError, match='--division 2cls_highshot'):
        write_wta(tmp_path / 'wta', dict(train=4))
        split_dataset(build_layout('wta', str(tmp_path / 'wta')), Given(), tmp_path / 'wta.json')
