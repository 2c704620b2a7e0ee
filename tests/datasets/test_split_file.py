from __future__ import annotations

import json
import os

import pytest

from mmdefect.datasets.split_file import Split, SplitEntry, read_split, write_split


def entry(name, digest=None, defect_type='dent'):
    return SplitEntry(f'{name}.png', f'{name}_mask.png', defect_type, digest or f'content of {name}')


def make(**splits):
    return Split(
        {n: [e if isinstance(e, SplitEntry) else entry(e) for e in es] for n, es in splits.items()},
        {'name': 'third', 'val_fraction': 0.2},
        3,
        {'category': ['bottle']},
    )


def test_round_trip(tmp_path):
    split = make(train=['a', entry('b', defect_type='good')], val=[], test=['c'])
    path = tmp_path / 'new folder' / 's.json'
    write_split(split, path)
    assert read_split(path) == split
    body = json.loads(path.read_text())
    assert body['counts'] == {'train': {'dent': 1, 'good': 1}, 'val': {}, 'test': {'dent': 1}}
    assert body['seed'] == 3 and body['protocol']['name'] == 'third'
    assert body['splits']['train'][0] == dict(image='a.png', mask='a_mask.png', type='dent', sha256='content of a')
    assert os.listdir(path.parent) == ['s.json'], 'no temporary file is left'


def test_is_not_overwritten_unless_told(tmp_path):
    path = tmp_path / 's.json'
    write_split(make(train=['a']), path)
    with pytest.raises(FileExistsError, match=r's\.json must not exist yet, for it would be lost.*--overwrite'):
        write_split(make(train=['b']), path)
    assert read_split(path) == make(train=['a'])
    write_split(make(train=['b']), path, overwrite=True)
    assert read_split(path) == make(train=['b'])


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 's.json'
    write_split(make(train=['a']), path)

    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        write_split(make(train=['b']), path, overwrite=True)
    assert read_split(path) == make(train=['a'])
    assert os.listdir(tmp_path) == ['s.json']


def test_place_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(PermissionError, match=r'must be writable to hold s\.json'):
        write_split(make(train=['a']), tmp_path / 'file' / 's.json')


@pytest.mark.parametrize('writing', [True, False])
@pytest.mark.parametrize(
    'splits, message',
    [
        (
            dict(train=['a', entry('b', 'same')], test=['c', entry('d', 'same')]),
            r"b\.png \('train'\) and d\.png \('test'\) in .*s\.json are the same file content",
        ),
        (dict(train=['a'], test=['a']), r"a\.png is in 'train' and in 'test'"),
        (dict(train=['a', 'a']), r"a\.png is in 'train' and in 'train'"),
    ],
)
def test_overlap_is_refused_when_writing_and_reading(tmp_path, splits, message, writing):
    split, path = make(**splits), tmp_path / 's.json'
    if not writing:
        body = dict(
            format='mmdefect-split/1',
            protocol={},
            seed=0,
            splits={n: [vars(e) for e in es] for n, es in split.splits.items()},
        )
        path.write_text(json.dumps(body))
    with pytest.raises(ValueError, match=message):
        write_split(split, path) if writing else read_split(path)
    assert path.exists() == (not writing)


def test_duplicates_inside_one_split_are_allowed(tmp_path):
    write_split(make(train=[entry('a', 'same'), entry('b', 'same')], test=['c']), tmp_path / 's.json')
    assert len(read_split(tmp_path / 's.json').splits['train']) == 2


@pytest.mark.parametrize(
    'body, message',
    [
        ('{', 'must be JSON as tools/split_dataset.py writes it'),
        ('[]', "must have format 'mmdefect-split/1', got 'list'"),
        ('{"format": "other"}', "got 'other'"),
        (
            '{"format": "mmdefect-split/1", "protocol": {}, "seed": 0, "splits": {"train": [{"image": "a"}]}}',
            'per entry',
        ),
        ('{"format": "mmdefect-split/1", "splits": {}}', "does not .'protocol'."),
    ],
)
def test_other_files_are_refused(tmp_path, body, message):
    (tmp_path / 's.json').write_text(body)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / 's.json')


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match='does not exist; make it with tools/split_dataset.py'):
        read_split(tmp_path / 's.json')
