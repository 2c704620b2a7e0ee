from __future__ import annotations

import json

import pytest

from mmdefect.datasets.groups import make_units, read_groups
from mmdefect.datasets.samples import Sample


def samples_of(*names, root='/d'):
    return [
        Sample(
            f'{root}/{n}',
            None if '/good/' in f'/{n}' else f'{root}/m/{n}',
            'good' if '/good/' in f'/{n}' else n.split('/')[0],
        )
        for n in names
    ]


def members(units):
    return sorted([s.img_path for s in u.samples] for u in units)


def test_groups_are_joined_through_chains():
    samples = samples_of('a/1.png', 'a/2.png', 'a/3.png', 'b/4.png', 'b/5.png')
    units = make_units(samples, '/d', [['a/1.png', 'a/2.png'], ['a/2.png', 'b/4.png'], ['b/5.png']])
    assert members(units) == [['/d/a/1.png', '/d/a/2.png', '/d/b/4.png'], ['/d/a/3.png'], ['/d/b/5.png']]


def test_stratum_of_a_unit_is_its_most_frequent_defect():
    samples = samples_of('b/1.png', 'a/2.png', 'b/3.png', 'good/4.png', 'good/5.png', 'good/6.png', 'good/7.png')
    (mixed,) = make_units(samples, '/d', [[s.img_path[3:] for s in samples]])
    assert mixed.stratum == 'b' and not mixed.is_clean
    (clean,) = make_units(samples[3:], '/d', [[s.img_path[3:] for s in samples[3:]]])
    assert clean.stratum == 'good' and clean.is_clean


def test_wrong_names():
    with pytest.raises(ValueError, match='a/9.png is not one'):
        make_units(samples_of('a/1.png'), '/d', [['a/1.png', 'a/9.png']])
    with pytest.raises(ValueError, match='a/1.png is listed twice'):
        make_units(samples_of('a/1.png', 'a/1.png'), '/d')


class TestReadGroups:
    def read(self, tmp_path, body, *names):
        path = tmp_path / 'groups.json'
        path.write_text(body if isinstance(body, str) else json.dumps(body))
        return read_groups(path, names, '/d')

    def test_names_in_every_form(self, tmp_path):
        body = {'tile 1': ['a/1.png', 'a/2', '3.png', '4'], 'empty': []}
        assert self.read(tmp_path, body, 'a/1.png', 'a/2.png', 'b/3.png', 'b/4.png') == [
            ['a/1.png', 'a/2.png', 'b/3.png', 'b/4.png']
        ]

    @pytest.mark.parametrize(
        'body, message',
        [
            ('[[', 'must be readable JSON'),
            ('3', 'must be a list of lists'),
            ('[["a", 3]]', 'must be a list of lists'),
            ('[["9"]]', "'9' fits none"),
            ('[["1"]]', r"'1' fits a/1.png and b/1.png; name it by its relative path"),
        ],
    )
    def test_wrong_files(self, tmp_path, body, message):
        with pytest.raises(ValueError, match=message):
            self.read(tmp_path, body, 'a/1.png', 'b/1.png')

    def test_missing_file(self, tmp_path):
        with pytest.raises(ValueError, match='must be readable JSON'):
            read_groups(tmp_path / 'no.json', [], '/d')
