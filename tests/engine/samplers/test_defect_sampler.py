"""Numbered draws: order, ranks, resume, and pixels that do not depend on the number of workers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mmdefect.datasets.seeding import NumberedSamples, sample_seed, seeded_globals
from mmdefect.engine.samplers import DefectSampler
from mmdefect.engine.samplers import defect_sampler as module


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
    draws = take(DefectSampler(Numbered(), seed=3), 15)
    assert [d // 5 for d in draws] == list(range(15))
    passes = [[d % 5 for d in draws[i : i + 5]] for i in (0, 5, 10)]
    assert all(sorted(p) == [0, 1, 2, 3, 4] for p in passes) and passes[0] != passes[1]


def test_a_data_set_without_numbered_draws_gets_plain_indices():
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


def test_seeds_of_neighbouring_draws_are_unrelated():
    seeds = {sample_seed(0, position, index) for position in range(100) for index in range(20)}
    assert len(seeds) == 2000 and all(0 <= s < 2**63 for s in seeds)


def test_plain_indices_stay_what_they_are():
    data = Numbered()
    assert data[3]['index'] == 3 and 'sample_seed' not in data[3]
