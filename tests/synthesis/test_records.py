"""The record of a defect rejects what cannot be true; the rules of labels, for arrays and tensors alike."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.records import (
    BLENDS,
    GENERATORS,
    Instance,
    Synthesis,
    instance_at,
    labelled_pixels,
    record_of,
    visible_change,
    write_label,
)
from tests.synthesis.render import slow

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
    assert second.skipped == {}


def test_a_record_is_made_of_the_labelled_pixels():
    labelled = np.zeros((6, 9), bool)
    labelled[2, 3], labelled[4, 7] = True, True
    instance = instance_at(labelled, (10, -1), 2, 'a.png', 'paste', 'alpha', {'x': 1.0})
    assert instance.box == (12, 2, 15, 7) and instance.area == 2
    record = record_of(instance)
    assert record['box_xyxy'] == [2, 12, 7, 15] and record['class_index'] == 2 and record['parameters'] == {'x': 1.0}


def test_visible_counts_grey_levels_and_radius():
    mask = np.zeros((5, 9), bool)
    mask[2] = True
    old = np.full((5, 9, 3), 100, np.uint8)
    new = old.copy()
    new[2, 1, 2], new[2, 4, 0], new[2, 5, 1] = 102, 98, 101
    exact = labelled_pixels(new, old, mask, mask, PolicySpec())
    np.testing.assert_array_equal(np.flatnonzero(exact[2]), [1, 4])
    core = mask.copy()
    core[2, 3] = False
    wide = labelled_pixels(new, old, mask, core, PolicySpec(label='mask', label_radius=1))
    np.testing.assert_array_equal(np.flatnonzero(wide[2]), [0, 1, 2, 4, 5])
    assert not labelled_pixels(new, old, mask, mask, PolicySpec(min_visible=0.5)).any()  # two of nine are too few


@pytest.mark.parametrize('rule', ['visible', 'mask'])
@pytest.mark.parametrize('min_visible', [0.0, 0.6])
def test_labels_of_arrays_and_tensors_are_those_of_the_slow_way(rule, min_visible):
    rng = np.random.default_rng(0)
    policy = PolicySpec(label=rule, label_radius=2, min_visible=min_visible, tolerance=3.5 / 255)
    empty = 0
    for seed in range(20):
        old = rng.integers(60, 200, (14, 17, 3), dtype=np.uint8)
        new = np.clip(old + rng.integers(-4, 5, old.shape) * (rng.random((14, 17, 1)) < seed / 20), 0, 255).astype(
            np.uint8
        )
        mask, core = (rng.random((14, 17)) < share for share in (0.7, 0.5))
        expected = slow.labelled(new / 255.0, old / 255.0, mask, core, policy)
        np.testing.assert_array_equal(labelled_pixels(new, old, mask, core, policy), expected)
        planes = [torch.from_numpy(a.transpose(2, 0, 1) / 255.0)[None] for a in (new, old)]
        masks = [torch.from_numpy(a)[None] for a in (mask, core)]
        np.testing.assert_array_equal(labelled_pixels(*planes, *masks, policy)[0], expected)
        np.testing.assert_array_equal(visible_change(*planes, policy.tolerance)[0], visible_change(new, old, 3.5 / 255))
        empty += not expected.any()
    assert 0 < empty < 20


@pytest.mark.parametrize('make', [lambda a: a.copy(), lambda a: torch.from_numpy(a).clone()])
def test_pasted_pixels_win_and_ignored_ones_stay(make):
    label = make(np.array([[0, 1, 255, 2]]))
    pasted = make(np.array([[1, 1, 1, 0]])) > 0
    assert np.asarray(write_label(label, pasted, 3)).tolist() == [[True, True, False, False]]
    assert np.asarray(label).tolist() == [[3, 3, 255, 2]]
    write_label(label, pasted, 1, overwrite_ignore=True)
    assert np.asarray(label).tolist() == [[1, 1, 1, 2]]
