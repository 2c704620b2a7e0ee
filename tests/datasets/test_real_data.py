"""The real data sets, when they are at hand: counts, pixel shares and checks."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from mmdefect.datasets import BladeWTADataset, MVTecDataset
from mmdefect.datasets.checks import check_dataset, check_disjoint
from mmdefect.datasets.groups import read_groups
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.samples import Sample, list_images, relative_path
from mmdefect.datasets.splits import Fractions, KShot, Third, assign, make_split, split_dataset
from tests.datasets.test_pipeline import TEST, TRAIN
from tests.helpers.realdata import real_data


class TestWTA:
    def test_files_labels_and_leakage(self):
        root = str(real_data('wta512'))
        built = {n: BladeWTADataset(data_root=root, split=n) for n in ('train', 'val', 'test')}
        summaries = {n: check_dataset(d) for n, d in built.items()}
        assert {n: s.num_images for n, s in summaries.items()} == dict(train=280, val=60, test=60)
        assert summaries['test'].images_by_class[2] == 20
        start = time.perf_counter()
        check_disjoint(built)
        check_disjoint(built)
        assert time.perf_counter() - start < 20

    def test_pixel_shares_are_the_published_ones(self):
        dataset = BladeWTADataset(
            data_root=str(real_data('wta512')), split='train', pipeline=[dict(type='LoadDefectAnnotations')]
        )
        counts = sum(np.bincount(dataset[i]['gt_seg_map'].ravel(), minlength=3) for i in range(len(dataset)))
        assert (100 * counts / counts.sum())[1:] == pytest.approx([0.163, 0.022], abs=5e-4)

    @pytest.mark.parametrize('pipeline', [TRAIN, TEST], ids=['train', 'test'])
    def test_pipelines(self, pipeline):
        dataset = BladeWTADataset(data_root=str(real_data('wta512')), split='val', pipeline=pipeline)
        dataset.set_sample_seed(0)  # random crops may miss every defect
        values = {v for i in range(0, 60, 3) for v in dataset[i]['data_samples'].gt_sem_seg.data.unique().tolist()}
        assert {0, 1} <= values <= {0, 1, 2, 255}


class TestMVTec:
    def test_types_and_checks(self):
        dataset = MVTecDataset(data_root=str(real_data('mvtec_ad_256')), classes='types')
        assert dataset.metainfo['classes'][:4] == ('normal', 'broken_large', 'broken_small', 'contamination')
        summary = check_dataset(dataset)
        assert (summary.num_images, summary.num_masks, summary.warnings) == (772, 182, [])

    def test_one_third(self, tmp_path):
        root = str(real_data('mvtec_ad_256'))
        split = split_dataset(build_layout('mvtec', root, category='bottle'), Third(), tmp_path / 's.json')
        counts = split.counts()
        assert counts['test'] == {
            'bottle/broken_large': 14,
            'bottle/broken_small': 15,
            'bottle/contamination': 14,
            'bottle/good': 20,
        }
        assert counts['train']['bottle/good'] + counts['val']['bottle/good'] == 209
        built = {
            n: MVTecDataset(
                data_root=root, category='bottle', split=n, split_file=str(tmp_path / 's.json'), pipeline=TRAIN
            )
            for n in counts
        }
        for dataset in built.values():
            check_dataset(dataset)
            assert dataset[0]['inputs'].shape[0] == 3
        check_disjoint(built)


class TestMagneticTile:
    def samples(self):
        root = str(real_data('magnetic_tile'))
        tiles = [
            Sample(p, f'{root}/masks/{name}.png', name.split('__')[0], 'binary', 1)
            for p in list_images(f'{root}/images')
            for name in [p.rsplit('/', 1)[-1][:-4]]
        ]
        return root, tiles + [Sample(p, None, 'good') for p in list_images(f'{root}/good')]

    @pytest.mark.parametrize('protocol', [Third(), KShot(5), Fractions()], ids=lambda p: p.name)
    def test_exposures_of_one_tile_stay_on_one_side(self, protocol):
        root, samples = self.samples()
        names = [relative_path(s.img_path, root) for s in samples]
        groups = read_groups(f'{root}/near_duplicate_groups.json', names, root)
        assert sum(map(len, groups)) == 388
        for seed in range(20):
            sides, left_out = assign(samples, root, protocol, seed, groups)
            side_of = {relative_path(s.img_path, root): n for n, side in sides.items() for s in side}
            assert all(len({side_of[m] for m in g if m in side_of}) <= 1 for g in groups)
            assert len(side_of) + len(left_out) == 688
            counts = Counter(s.defect_type for s in sides['train'])
            assert len(counts) == 6 and min(counts.values()) >= 5

    def test_contents(self):
        root, samples = self.samples()
        split = make_split(samples, root, Third())
        assert sum(map(len, split.splits.values())) == 688
