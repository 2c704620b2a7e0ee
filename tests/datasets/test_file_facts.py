from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdefect.datasets import file_facts
from mmdefect.datasets.file_facts import find_facts
from tests.helpers.data import save

LONG_AGO = 1_600_000_000


@pytest.fixture
def files(tmp_path):
    """Three files last changed long ago, as data on disk are."""
    paths = []
    for index in range(3):
        save(tmp_path / f'{index}.png', np.full((4 + index, 6), index, np.uint8))
        os.utime(tmp_path / f'{index}.png', (LONG_AGO, LONG_AGO))
        paths.append(str(tmp_path / f'{index}.png'))
    return paths


@pytest.fixture
def reads(monkeypatch):
    """Count the files that are really read for their hash."""
    read = []

    def counting(path):
        read.append(path)
        return file_facts.sha256_of(path)

    monkeypatch.setitem(file_facts._FACTS, 'sha256', counting)
    return read


def test_facts_are_right(files):
    assert find_facts('sha256', files) == {p: hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in files}
    assert find_facts('image', files) == {p: [4 + i, 6] for i, p in enumerate(files)}
    assert find_facts('mask/index', files) == {p: {'size': [4 + i, 6], 'values': [i]} for i, p in enumerate(files)}
    assert [f['values'] for f in find_facts('mask/binary', files).values()] == [[0], [1], [1]]
    grey = [(v << 16) | (v << 8) | v for v in range(3)]
    assert [f['values'] for f in find_facts('mask/palette', files).values()] == [[v] for v in grey]


def test_unchanged_files_are_not_read_again(files, reads):
    first = find_facts('sha256', files)
    assert sorted(reads) == files
    assert find_facts('sha256', files) == first and len(reads) == 3
    assert find_facts('sha256', files[:1] * 5) == {files[0]: first[files[0]]} and len(reads) == 3


def test_changed_files_are_read_again(files, reads):
    first = find_facts('sha256', files)
    data = bytearray(Path(files[0]).read_bytes())
    data[-1] ^= 1  # same size
    Path(files[0]).write_bytes(data)
    os.utime(files[0], (LONG_AGO + 1, LONG_AGO + 1))
    second = find_facts('sha256', files)
    assert reads[3:] == [files[0]] and second[files[0]] != first[files[0]]


def test_files_changed_just_now_are_not_remembered(files, reads):
    os.utime(files[0])
    find_facts('sha256', files)
    find_facts('sha256', files)
    assert sorted(reads) == sorted([*files, files[0]])


def test_errors_are_returned_and_not_remembered(files, reads):
    gone = files[0] + '.gone'
    for _ in range(2):
        facts = find_facts('sha256', [gone, files[1]])
        assert isinstance(facts[gone], ValueError) and 'must be readable' in str(facts[gone])
    assert reads.count(gone) == 2 and reads.count(files[1]) == 1


def test_damaged_memory_is_forgotten(files, reads, own_cache):
    find_facts('sha256', files)
    (memory,) = (own_cache / 'files').iterdir()
    memory.write_text('{"version": 1, ')
    assert find_facts('sha256', files) and len(reads) == 6


def test_unwritable_memory_warns_and_works(files, own_cache):
    (own_cache / 'files').write_text('in the way')
    with pytest.warns(UserWarning, match='cannot be remembered.*MMDEFECT_CACHE'):
        assert len(find_facts('sha256', files)) == 3


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif'])
def test_truncated_image_is_found(tmp_path, suffix):
    path = tmp_path / f'image{suffix}'
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert find_facts('image', [str(path)]) == {str(path): [60, 60]}
    path.write_bytes(path.read_bytes()[:-3000])
    error = find_facts('image', [str(path)])[str(path)]
    assert isinstance(error, ValueError) and path.name in str(error)


def test_jpeg_with_data_behind_its_end_is_fine(tmp_path):
    path = tmp_path / 'phone.jpg'
    Image.new('RGB', (30, 20)).save(path)
    path.write_bytes(path.read_bytes() + b'\0' * 500)
    assert find_facts('image', [str(path)]) == {str(path): [20, 30]}
