"""Numbered samples: order, ranks, resume, shares of classes, pixels that do not depend on the number of workers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import mmdefect.registration  # noqa: F401
from mmdefect.datasets.presence import class_frequencies, class_presence
from mmdefect.datasets.seeding import NumberedSamples, sample_seed, seeded_globals
from mmdefect.engine import samplers as module
from mmdefect.engine.samplers import ClassAwareSampler, DefectSampler, balanced_probabilities
from mmdefect.registry import DATASETS
from tests.helpers.data import write_wta


class Plain:
    """Returns what a pipeline with global randomness would."""

    def __len__(self):
        return 5

    def get_data_info(self, index):
        return dict(index=index)

    def __getitem__(self, index):
        info = self.get_data_info(index)
        return dict(info, noise=np.random.rand(), coin=random.random())


class Numbered(NumberedSamples, Plain):
    pass


def take(sampler, count):
    return list(itertools.islice(iter(sampler), count))


def test_each_pass_holds_every_image_once_and_positions_count_up():
    samples = take(DefectSampler(Numbered(), seed=3), 15)
    assert [d // 5 for d in samples] == list(range(15))
    passes = [[d % 5 for d in samples[i : i + 5]] for i in (0, 5, 10)]
    assert all(sorted(p) == [0, 1, 2, 3, 4] for p in passes) and passes[0] != passes[1]


def test_a_data_set_without_numbered_samples_gets_plain_indices():
    assert sorted(take(DefectSampler(Plain(), seed=3), 5)) == [0, 1, 2, 3, 4]


def test_ranks_share_one_stream_and_no_draw(monkeypatch):
    whole = take(DefectSampler(Numbered(), seed=3), 12)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, 3))
        parts.append(take(DefectSampler(Numbered(), seed=3), 4))
    assert sorted(itertools.chain(*parts)) == sorted(whole)
    assert [d for group in zip(*parts, strict=True) for d in group] == whole


@pytest.mark.parametrize('done', [0, 1, 7])
def test_skipping_continues_the_stream(done):
    sampler = DefectSampler(Numbered(), seed=3)
    whole = take(sampler, 20)
    sampler.skip(done)
    assert take(sampler, 20 - done) == whole[done:]


def batches(workers, count=9):
    data = Numbered()
    loader = DataLoader(data, sampler=DefectSampler(data, seed=1), batch_size=2, num_workers=workers)
    return [
        (b['index'].tolist(), b['noise'].tolist(), b['coin'].tolist(), b['sample_seed'].tolist())
        for b in itertools.islice(loader, count)
    ]


def test_samples_do_not_depend_on_the_number_of_workers():
    alone = batches(0)
    assert alone == batches(1) == batches(3)
    noise = [n for b in alone for n in b[1]]
    assert len(set(noise)) == len(noise)  # every draw of the same image differs


def test_the_global_generators_are_left_as_they_were():
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    with seeded_globals(2**62):
        random.random()
        np.random.rand(10)
    assert (random.random(), np.random.rand()) == expected


def test_seeds_of_neighbouring_samples_are_unrelated():
    seeds = {sample_seed(0, position, index) for position in range(100) for index in range(20)}
    assert len(seeds) == 2000 and all(0 <= s < 2**63 for s in seeds)


def test_plain_indices_stay_what_they_are():
    data = Numbered()
    assert data[3]['index'] == 3 and 'sample_seed' not in data[3]


@pytest.fixture
def data(tmp_path):
    """Thirty images; ten clean, ten with one of two classes, ten with both; most labels are then wiped."""
    from PIL import Image

    labels = write_wta(tmp_path, dict(train=30))
    for index, (name, label) in enumerate(sorted(labels.items())):
        keep = {3: [1], 7: [2], 11: [1, 2]}.get(index, [])
        label = np.where(np.isin(label, keep), label, 0).astype(np.uint8)
        if keep:
            label[:2] = 0
            for k, value in enumerate(keep):
                label[0, k] = value
        Image.fromarray(label).save(tmp_path / name.replace('img_dir', 'ann_dir'))
    return DATASETS.build(
        dict(
            type='BladeWTADataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        )
    )


def test_presence_is_what_the_labels_hold(data):
    presence = class_presence(data)
    assert [i for i, p in enumerate(presence) if p - {0}] == [3, 7, 11]
    assert presence[3] == {0, 1} and presence[7] == {0, 2} and presence[11] == {0, 1, 2}
    concatenated = DATASETS.build(dict(type='ConcatDataset', datasets=[data, data]))
    assert class_presence(concatenated) == presence * 2


def test_frequencies_are_those_of_the_pixels(data):
    from mmdefect.datasets.transforms import LoadDefectAnnotations

    load = LoadDefectAnnotations()
    labels = np.stack([load.transform(data.get_data_info(i))['gt_seg_map'] for i in range(len(data))])
    assert class_frequencies(data, 3) == pytest.approx(np.bincount(labels.ravel(), minlength=3) / labels.size)
    assert class_frequencies(data, 3, max_images=1) == [1, 0, 0]  # the first image is clean


@pytest.mark.parametrize('target', [0.3, {1: 0.4, 2: 0.2}, {'broken': 0.5}])
def test_every_pass_holds_the_shares(data, target):
    sampler = ClassAwareSampler(data, target, seed=1)
    presence = class_presence(data)
    shares = {'broken': {2: 0.5}}.get(next(iter(target)), target) if isinstance(target, dict) else {1: 0.3, 2: 0.3}
    sampled = [d % 30 for d in take(sampler, 30 * 60)]
    for number in range(4):
        for index in range(30):  # one below or one above the expected number
            assert abs(sampled[30 * number : 30 * (number + 1)].count(index) - 30 * sampler.probability[index]) < 1
    for class_id, share in shares.items():
        assert sum(class_id in presence[i] for i in sampled) / len(sampled) >= share - 0.01
    assert len(set(sampled)) == 30  # no image is lost


def test_samples_are_numbered_and_ranks_share_one_stream(data, monkeypatch):
    whole = take(ClassAwareSampler(data, seed=3), 60)
    assert [d // 30 for d in whole] == list(range(60))
    assert whole == take(ClassAwareSampler(data, seed=3), 60) != take(ClassAwareSampler(data, seed=4), 60)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, 3))
        parts.append(take(ClassAwareSampler(data, seed=3), 20))
    assert [d for group in zip(*parts, strict=True) for d in group] == whole
    sampler = ClassAwareSampler(data, seed=3)
    sampler.skip(7)
    assert take(sampler, 10) == parts[2][7:17]


def test_a_class_that_is_frequent_enough_changes_nothing():
    presence = [{0, 1}] * 5 + [{0}] * 5
    assert torch.equal(balanced_probabilities(presence, {1: 0.4}), torch.full((10,), 0.1, dtype=torch.float64))


def test_probabilities_of_two_classes_have_the_least_change():
    """With classes in disjoint images the answer is closed form: each group gets its share evenly."""
    presence = [{1}] * 1 + [{2}] * 3 + [{0}] * 16
    found = balanced_probabilities(presence, {1: 0.2, 2: 0.3})
    expected = torch.tensor([0.2] + [0.1] * 3 + [0.5 / 16] * 16, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ('target', 'message'),
    [({1: 0.6, 2: 0.6}, 'had together'), ({3: 0.1}, 'none'), ({1: 0.0}, r'\(0, 1\)'), ({1: 1.0}, r'\(0, 1\)')],
)
def test_shares_that_cannot_be_had_are_rejected(target, message):
    with pytest.raises(ValueError, match=message):
        balanced_probabilities([{1}, {2}, {0}], target)


def test_an_unknown_class_name_is_rejected(data):
    with pytest.raises(ValueError, match='must name classes'):
        ClassAwareSampler(data, {'scratch': 0.5})


def test_a_wrapper_that_repeats_images_is_rejected(data):
    repeated = DATASETS.build(dict(type='RepeatDataset', dataset=data, times=3))
    with pytest.raises(ValueError, match='one image per index'):
        ClassAwareSampler(repeated)


def test_it_is_a_defect_sampler(data):
    assert isinstance(ClassAwareSampler(data), DefectSampler)
