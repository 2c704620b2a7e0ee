"""Files that are absent, old or complete."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from mmdefect.files import new_folder, read_json, replacing, write_bytes, write_json, write_text


def test_content_and_mode(tmp_path):
    write_bytes(tmp_path / 'deep' / 'a.bin', b'1')
    write_text(tmp_path / 'b.txt', 'Größe\n')
    write_json(tmp_path / 'c.json', {'ä': 1})
    assert (tmp_path / 'deep' / 'a.bin').read_bytes() == b'1'
    assert (tmp_path / 'b.txt').read_bytes() == 'Größe\n'.encode()
    assert (tmp_path / 'c.json').read_bytes() == '{\n  "ä": 1\n}\n'.encode()
    assert stat.S_IMODE(os.stat(tmp_path / 'b.txt').st_mode) == 0o644
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b.txt', 'c.json', 'deep']


def test_an_error_keeps_the_old_content_and_leaves_nothing(tmp_path):
    write_text(tmp_path / 'a.png', 'old')
    with pytest.raises(KeyError), replacing(tmp_path / 'a.png') as temporary:
        assert temporary.suffix == '.png'
        temporary.write_text('half')
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ['a.png'] and (tmp_path / 'a.png').read_text() == 'old'


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match='it is full; free some space'), replacing(tmp_path / 'a.bin'):
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert not list(tmp_path.iterdir())


def test_a_folder_is_whole_or_absent(tmp_path):
    with new_folder(tmp_path / 'set') as folder:
        (folder / 'a').write_text('1')
        assert not (tmp_path / 'set').exists()
    assert (tmp_path / 'set' / 'a').read_text() == '1'
    with pytest.raises(OSError), new_folder(tmp_path / 'set') as folder:
        (folder / 'b').write_text('2')
    with pytest.raises(ValueError), new_folder(tmp_path / 'other') as folder:
        raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ['set'] and not (tmp_path / 'set' / 'b').exists()


def test_json_files_are_replaced_whole(tmp_path):
    path = tmp_path / 'sub' / 'state.json'
    write_json(path, {'a': 1})
    with pytest.raises(TypeError):
        write_json(path, {'a': object()})
    assert read_json(path) == {'a': 1}
    assert os.listdir(path.parent) == ['state.json']


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / 'state.json').write_text('{"a": ')
    with pytest.raises(ValueError, match='state.json must be a JSON file'):
        read_json(tmp_path / 'state.json')
