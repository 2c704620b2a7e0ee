"""The record of a pasted defect refuses what cannot be true."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from mmdefect.synthesis.types import BLENDS, GENERATORS, Instance, Synthesis

FIELDS = dict(
    class_id=2,
    box=(1, 2, 4, 6),
    area=5,
    source='donor-7',
    generator='paste',
    blend='poisson',
    parameters={'angle': 12.5},
)


def test_an_instance_keeps_what_it_was_given_and_survives_pickling():
    instance = Instance(**FIELDS)
    assert dataclasses.asdict(instance) == FIELDS
    assert pickle.loads(pickle.dumps(instance)) == instance


def test_an_instance_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Instance(**FIELDS).class_id = 1


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(class_id=0), '`class_id`'),
        (dict(class_id=255), '`class_id`'),
        (dict(box=(1, 2, 1, 6)), '`box`'),
        (dict(box=(-1, 2, 4, 6)), '`box`'),
        (dict(area=0), '`area`'),
        (dict(area=13), '`area`'),
        (dict(generator='brush'), '`generator`'),
        (dict(blend='glue'), '`blend`'),
    ],
)
def test_impossible_instances_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Instance(**{**FIELDS, **change})


def test_the_area_may_fill_the_box():
    assert Instance(**{**FIELDS, 'area': 12}).area == 12


@pytest.mark.parametrize('generator', GENERATORS)
@pytest.mark.parametrize('blend', BLENDS)
def test_every_listed_name_is_accepted(generator, blend):
    assert Instance(**{**FIELDS, 'generator': generator, 'blend': blend}).blend == blend


def test_two_samples_do_not_share_their_counts():
    image, label = torch.zeros(3, 2, 2), torch.zeros(2, 2, dtype=torch.int64)
    first, second = Synthesis(image, label, []), Synthesis(image, label, [])
    first.skipped['no place'] = 1
    assert second.skipped == {} and second.weight is None
