"""Merging, overriding, budgets, hashes and differences of settings."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st_

from mmdefect.experiments import settings as st

scalars = st_.one_of(st_.integers(), st_.booleans(), st_.sampled_from(['x', '']), st_.none())
trees = st_.dictionaries(
    st_.sampled_from('abc'),
    st_.recursive(scalars, lambda inner: st_.dictionaries(st_.sampled_from('abc'), inner, max_size=3), max_leaves=6),
    max_size=3,
)


def test_a_dict_of_another_type_replaces_and_of_the_same_type_merges():
    base = {'loss': {'type': 'CE', 'use_sigmoid': False, 'weight': 1.0}, 'train': {'max_iters': 9, 'interval': 3}}
    assert st.merge(base, {'loss': {'type': 'Focal', 'gamma': 2.0}})['loss'] == {'type': 'Focal', 'gamma': 2.0}
    assert st.merge(base, {'loss': {'type': 'CE', 'weight': 2.0}})['loss'] == {
        'type': 'CE',
        'use_sigmoid': False,
        'weight': 2.0,
    }
    assert st.merge(base, {'loss': {'weight': 2.0}})['loss']['type'] == 'CE'
    assert st.merge(base, {'train': {'_delete_': True, 'max_iters': 5}})['train'] == {'max_iters': 5}
    assert base['loss'] == {'type': 'CE', 'use_sigmoid': False, 'weight': 1.0}


@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, trees)
def test_merging_is_repeatable_and_has_every_scalar_of_the_change(base, change):
    merged = st.merge(base, change)
    assert st.merge(merged, change) == merged and st.merge(base, {}) == base
    flat = st.flatten(merged)
    assert all(flat[key] == value for key, value in st.flatten(change).items() if key and value != {})


def test_an_override_walks_through_lists():
    settings = {'model': {'aux': [{'w': 1}, {'w': 2}]}, 'loss': {'type': 'CE', 'x': 1}}
    st.override(settings, 'model.aux.1.w', 5)
    st.override(settings, 'loss', {'type': 'Focal'})
    st.override(settings, 'new.deep.key', 3)
    assert settings == {'model': {'aux': [{'w': 1}, {'w': 5}]}, 'loss': {'type': 'Focal'}, 'new': {'deep': {'key': 3}}}
    with pytest.raises(ValueError, match='a list of 2'):
        st.override(settings, 'model.aux.2.w', 5)
    with pytest.raises(ValueError, match="'CE'|Focal"):
        st.override(settings, 'loss.type.x', 5)


def test_texts_become_values():
    assert st.parse_overrides(['a.b=[1, 2]', 'c=none', 'd=None', 'e=1e-3']) == {
        'a.b': [1, 2],
        'c': 'none',
        'd': None,
        'e': 1e-3,
    }
    with pytest.raises(ValueError, match='key=value'):
        st.parse_overrides(['a'])


def test_the_budget_stretches_every_schedule():
    settings = {
        'train_cfg': {'max_iters': 2000, 'val_interval': 200},
        'param_scheduler': [
            {'type': 'LinearLR', 'begin': 0, 'end': 100},
            {'type': 'PolyLR', 'begin': 100, 'end': 8000},
        ],
    }
    st.set_budget(settings, 500, 100)
    assert settings['train_cfg'] == {'max_iters': 500, 'val_interval': 100}
    assert [(s['begin'], s['end']) for s in settings['param_scheduler']] == [(0, 25), (25, 2000)]
    assert settings['default_hooks']['checkpoint']['interval'] == 100
    st.set_budget(settings, 5, 5)
    assert [(s['begin'], s['end']) for s in settings['param_scheduler']] == [(0, 2), (0, 20)]
    with pytest.raises(ValueError, match='multiple'):
        st.set_budget(settings, 500, 300)
    with pytest.raises(ValueError, match='max_iters'):
        st.set_budget({'train_cfg': {'max_epochs': 3}}, 500, 100)


def test_what_has_no_effect_is_left_out():
    settings = {
        'randomness': {'seed': 3, 'deterministic': True},
        'data_root': '/a',
        'work_dir': '/b',
        'train_dataloader': {
            'num_workers': 4,
            'batch_size': 8,
            'dataset': {'data_root': '/a', 'pipeline': [{'type': 'Crop', 'size': (8, 8)}]},
        },
    }
    assert st.with_effect(settings) == {
        'randomness.deterministic': True,
        'train_dataloader.batch_size': 8,
        'train_dataloader.dataset.pipeline.0.type': 'Crop',
        'train_dataloader.dataset.pipeline.0.size': [8, 8],
    }


def test_digest_and_difference_do_not_see_the_order_or_tuples():
    assert st.digest({'a': 1, 'b': (1, 2)}) == st.digest({'b': [1, 2], 'a': 1}) != st.digest({'a': 1, 'b': [2, 1]})
    assert st.difference({'a': (1, 2), 'b': 3}, {'a': [1, 2], 'c': 4}) == {'b': [3, None], 'c': [None, 4]}


def test_files_count_by_name_and_content_only(tmp_path):
    for root in ('x', 'y'):
        (tmp_path / root / 'sub').mkdir(parents=True)
        (tmp_path / root / 'sub' / 'a.png').write_bytes(b'1')
    (tmp_path / 'y' / '.cache').write_bytes(b'hidden')
    known = {}
    first = st.hash_files(tmp_path / 'x', known)
    assert first == st.hash_files(tmp_path / 'y') and len(known) == 1
    (tmp_path / 'y' / 'sub' / 'a.png').rename(tmp_path / 'y' / 'sub' / 'b.png')
    assert first != st.hash_files(tmp_path / 'y')
    (tmp_path / 'x' / 'sub' / 'a.png').write_bytes(b'22')
    assert first != st.hash_files(tmp_path / 'x', known)


def test_files_behind_links_count_by_their_content(tmp_path):
    for name in ('real', 'plain', 'linked'):
        (tmp_path / name / 'images').mkdir(parents=True)
        (tmp_path / name / 'images' / 'a.png').write_bytes(b'1')
    (tmp_path / 'linked' / 'images' / 'a.png').unlink()
    (tmp_path / 'linked' / 'images').rmdir()
    (tmp_path / 'linked' / 'images').symlink_to(tmp_path / 'real' / 'images')
    first = st.hash_files(tmp_path / 'linked')
    assert first == st.hash_files(tmp_path / 'plain')
    (tmp_path / 'real' / 'images' / 'again').symlink_to(tmp_path / 'linked')  # in a circle
    assert st.hash_files(tmp_path / 'linked') == first
    (tmp_path / 'real' / 'images' / 'a.png').write_bytes(b'2')
    assert st.hash_files(tmp_path / 'linked') != first


def test_files_of_the_folder_itself_can_be_left_out(tmp_path):
    (tmp_path / 'sub').mkdir()
    for name in ('a.json', 'sub/a.json'):
        (tmp_path / name).write_text('{}')
    first = st.hash_files(tmp_path, without={'a.json'})
    assert first != st.hash_files(tmp_path)
    (tmp_path / 'a.json').write_text('[]')
    assert st.hash_files(tmp_path, without={'a.json'}) == first
    (tmp_path / 'sub' / 'a.json').write_text('[]')
    assert st.hash_files(tmp_path, without={'a.json'}) != first
