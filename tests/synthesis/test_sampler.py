import json
from collections import Counter

import numpy as np
import pytest
import torch

from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.sampler import Background, PasteSampler, uniforms
from tests.helpers.defects import labelled_parts, library_of_parts


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(8))


def choices(sampler, count=600, **kwargs):
    generator = torch.Generator().manual_seed(0)
    arguments = dict(scale=1.0, size_hw=(256, 256), fixed_pose=True) | kwargs
    return [sampler.choose(uniforms(generator, 6).tolist(), **arguments) for _ in range(count)]


def test_a_policy_is_json(library):
    spec = PolicySpec(number={1: 1, 3: 2}, class_shares={1: 0.25, 2: 0.75}, places=dict(even=1, source=2))
    assert PolicySpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(('share', 'shares'), [(0.9, {1: 0.1, 2: 0.9}), (0.5, None), (1.0, {2: 3.0})])
def test_classes_reach_their_share(library, share, shares):
    sampler = PasteSampler(library, PolicySpec(class_shares=shares), {})
    found = Counter(library[donor].class_id for donor, _, _ in choices(sampler))
    assert found[2] / 600 == pytest.approx(share, abs=0.06)  # three standard deviations


def test_places_and_blends_and_numbers_reach_their_shares(library):
    spec = PolicySpec(places=dict(even=1, density=2, source=1), blends=dict(alpha=3, poisson=1), number={0: 1, 2: 3})
    sampler = PasteSampler(library, spec, {})
    _, places, blends = map(Counter, zip(*choices(sampler), strict=True))
    assert places['density'] / 600 == pytest.approx(0.5, abs=0.07)
    assert blends['alpha'] / 600 == pytest.approx(0.75, abs=0.06)
    background = Background(np.zeros((64, 64), np.uint8))
    numbers = [len(sampler.plan(background, torch.Generator().manual_seed(seed))[1]) for seed in range(600)]
    assert set(numbers) == {0, 2} and numbers.count(2) / 600 == pytest.approx(0.75, abs=0.06)


def test_donors_on_the_outline_only_go_to_their_own_place(tmp_path):
    library = library_of_parts(tmp_path, labelled_parts(4, outline=True))
    on_outline = set(np.flatnonzero(library.table['inside'] < 0.95).tolist())
    assert on_outline
    sampler = PasteSampler(library, PolicySpec(places=dict(even=1, source=1)), {})
    assert {place for donor, place, _ in choices(sampler) if donor in on_outline} == {'source'}
    assert not on_outline & {donor for donor, _, _ in choices(sampler, fixed_pose=False)}


def test_too_large_defects_are_not_taken(library):
    sampler = PasteSampler(library, PolicySpec(max_extent=0.5), {})
    assert set(choices(sampler, 20, size_hw=(4, 4))) == {'too large'}
    assert set(choices(sampler, 20, scale=100.0)) == {'too large'}


def test_mistakes_are_said(library, tmp_path):
    for body, words in [
        (dict(blends={'paint': 1}), 'blends'),
        (dict(places={}), 'places'),
        (dict(number={-1: 1}), 'number'),
        (dict(min_overlap=2), 'min_overlap'),
        (dict(label='all'), 'label'),
        (dict(colour=3), 'colour'),
        (dict(outline_blend='glue'), 'outline_blend'),
        (dict(class_shares={1: 0.0}), 'class_shares'),
    ]:
        with pytest.raises(ValueError, match=words):
            PolicySpec.from_dict(body)
    with pytest.raises(ValueError, match='class_shares'):
        PasteSampler(library, PolicySpec(class_shares={7: 1.0}), {})
    outline = [
        (np.where(label[..., None] > 0, image, 250).astype(np.uint8), label) for image, label in labelled_parts(2)
    ]
    with pytest.raises(ValueError, match='min_inside'):
        PasteSampler(library_of_parts(tmp_path, outline), PolicySpec(), {})
