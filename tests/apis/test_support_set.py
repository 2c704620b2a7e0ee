"""Support sets from data sets: chosen by seed, never from an evaluation split unless that gives its images up."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import mmdefect.registration  # noqa: F401
from mmdefect.apis.support_set import Source, make_support
from mmdefect.datasets.layouts import build_layout
from mmdefect.datasets.split_file import read_split
from mmdefect.diffusion.images import read_image, read_mask, write_image
from mmdefect.diffusion.support import Candidate, choose_shots, read_support
from tests.helpers.data import write_visa

ROOT = Path(__file__).resolve().parents[2]


def run(tool, *arguments):
    return runpy.run_path(str(ROOT / 'tools' / tool))['main']([str(a) for a in arguments])


@pytest.fixture()
def wta(tmp_path):
    """Six training images, half `attached`, half `broken`, of which one shows both; two for validation."""
    random = np.random.default_rng(0)
    for split, count in (('train', 6), ('val', 2), ('test', 2)):
        for number in range(count):
            label = np.zeros((24, 32), np.uint8)
            label[2:5, 2:6] = 1 + number % 2
            if number == 5:
                label[10:20, 20:22] = 1
            write_image(
                tmp_path / 'wta' / 'img_dir' / split / f'{number}.png',
                random.integers(0, 255, (24, 32, 3)).astype(np.uint8),
            )
            write_image(tmp_path / 'wta' / 'ann_dir' / split / f'{number}.png', label)
    return tmp_path / 'wta'


@pytest.fixture()
def mvtec(tmp_path):
    random = np.random.default_rng(1)
    for folder, count in (('train/good', 4), ('test/good', 3), ('test/cut', 5), ('test/hole', 5)):
        for number in range(count):
            write_image(
                tmp_path / 'mvtec' / 'tile' / folder / f'{number:03d}.png',
                random.integers(0, 255, (16, 16, 3)).astype(np.uint8),
            )
            if 'good' not in folder:
                mask = np.zeros((16, 16), bool)
                mask[number : number + 3, 2:5] = True
                name = f'{folder[5:]}/{number:03d}_mask.png'
                write_image(tmp_path / 'mvtec' / 'tile' / 'ground_truth' / name, mask)
    return tmp_path / 'mvtec'


def test_shots_carry_the_pixels_of_their_class(wta, tmp_path):
    assert run('generate.py', 'support', wta, '--layout', 'wta', '--k', 3, '--out', tmp_path / 'support') == 0
    support = read_support(tmp_path / 'support')
    assert [s.type for s in support.shots] == ['attached'] * 3 + ['broken'] * 3
    assert {s.class_id for s in support.shots if s.type == 'broken'} == {2}
    for shot in support.shots:
        assert shot.source.startswith('img_dir/train/')
        label = np.asarray(read_image(wta / shot.source.replace('img_dir', 'ann_dir')))[..., 0]
        assert (read_mask(support.folder / shot.mask) == (label == shot.class_id)).all()
        assert (support.folder / shot.image).read_bytes() == (wta / shot.source).read_bytes()
    assert len(support.load('broken')) == 3


def test_the_seed_chooses_and_the_order_of_files_does_not():
    pool = [Candidate('cut', 1, f'{i}.png', f'{i}.png', str(i)) for i in range(20)]
    first = choose_shots(pool, 3, 0)
    assert first == choose_shots(pool[::-1], 3, 0) and first != choose_shots(pool, 3, 1)
    twice = [*pool, Candidate('cut', 1, 'copy.png', 'copy.png', '3')]
    assert len({c.sha256 for c in choose_shots(twice, 20, 0)}) == 20, 'two copies are one shot'
    with pytest.raises(ValueError, match=r"3 different images .* but 'hole' has 0; the types are \['cut'\]"):
        choose_shots(pool, 3, 0, ['hole'])


def test_evaluation_splits_are_refused(wta, tmp_path, capsys):
    assert run('generate.py', 'support', wta, '--layout', 'wta', '--split', 'test', '--out', tmp_path / 's') == 2
    assert "training split, got 'test'" in capsys.readouterr().err
    assert (
        run('generate.py', 'support', wta, '--layout', 'wta', '--split', 'test', '--from-test', '--out', tmp_path / 's')
        == 2
    )
    assert 'must have a split file to write into' in capsys.readouterr().err
    assert not (tmp_path / 's').exists()


def test_a_image_that_is_also_evaluated_is_found_by_content(wta, tmp_path):
    copy = wta / 'img_dir' / 'val' / '0.png'
    copy.write_bytes((wta / 'img_dir' / 'train' / '0.png').read_bytes())
    with pytest.raises(
        ValueError,
        match=r'may not overlap an evaluation split, but img_dir/train/0.png has the '
        'content of '
        r'.*val.0.png \(val\)',
    ):
        make_support(Source(str(wta), 'wta'), tmp_path / 's', k=3)
    assert not (tmp_path / 's').exists()


def test_shots_from_a_test_split_leave_it_for_good(mvtec, tmp_path):
    split_file = tmp_path / 'splits.json'
    # every defect tests, only clean images train
    assert run_split(mvtec, split_file) is None
    before = read_split(split_file)
    source = Source(str(mvtec), 'mvtec', split_file, ['tile'])
    support = make_support(source, tmp_path / 's', 2, 0, 'test', from_test=True)
    after = read_split(split_file)
    taken = {s.source for s in support.shots}
    assert len(taken) == 4 and {s.type for s in support.shots} == {'cut', 'hole'}
    assert {e.image for e in after.splits['support']} == taken
    assert len(after.splits['test']) == len(before.splits['test']) - 4
    assert after.notes['support'][0]['taken_from'] == 'test' and set(after.notes['support'][0]['images']) == taken
    dataset = build_layout('mvtec', str(mvtec), category=['tile'], split='test', split_file=str(split_file))
    dataset.full_init()
    assert not taken & {str(Path(dataset.get_data_info(i)['img_path']).relative_to(mvtec)) for i in range(len(dataset))}


def run_split(root, split_file):
    import hashlib

    from mmdefect.datasets.samples import relative_path
    from mmdefect.datasets.split_file import Split, SplitEntry, write_split

    dataset = build_layout('mvtec', str(root), category=['tile'])
    splits = {'train': [], 'test': []}
    for sample in dataset.scan():
        digest = hashlib.sha256(Path(sample.img_path).read_bytes()).hexdigest()
        mask = sample.seg_map_path and relative_path(sample.seg_map_path, str(root))
        splits[sample.own_split].append(
            SplitEntry(relative_path(sample.img_path, str(root)), mask, sample.defect_type, digest)
        )
    write_split(Split(splits, dict(name='folders'), 0), split_file)


def test_an_existing_folder_is_not_touched(wta, tmp_path):
    make_support(Source(str(wta), 'wta'), tmp_path / 's', k=1)
    with pytest.raises(FileExistsError, match='must not exist yet'):
        make_support(Source(str(wta), 'wta'), tmp_path / 's', k=1)
    assert not list(tmp_path.glob('.*unfinished*'))
    with pytest.raises(ValueError, match='support.json must list shots'):
        read_support(wta)


def test_shots_of_visa_as_downloaded_come_from_the_training_of_its_division(tmp_path):
    write_visa(tmp_path / 'visa', ('nut',))
    run(
        'generate.py',
        *('support', tmp_path / 'visa', '--layout', 'visa', '--category', 'nut', '--division', '2cls_highshot'),
        *('--k', 2, '--out', tmp_path / 'support'),
    )
    shots = read_support(tmp_path / 'support').shots
    assert len(shots) == 2 and {s.type for s in shots} == {'anomaly'}
    assert all(int(Path(s.source).stem) < 3 for s in shots)
