"""Where a killed training goes on."""

from __future__ import annotations

import zipfile

import pytest

from mmdefect.experiments.job import collect, is_complete, prepare_resume, saved_checkpoints

DUMP = "model = dict(type='A')\ntrain_cfg = dict(\n    max_iters=700, type='IterBasedTrainLoop', val_interval=200)\n"


@pytest.fixture
def train_dir(tmp_path):
    """A work dir with checkpoints each 100 up to 600, registered up to 600, validated each 200."""
    folder = tmp_path / 'train'
    folder.mkdir()
    for step in range(100, 700, 100):
        save(folder / f'iter_{step}.pth')
    (folder / 'last_checkpoint').write_text('/moved/away/train/iter_600.pth')
    (folder / 'model.py').write_text(DUMP)
    return folder


def save(path):
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('data', path.name * 100)


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_the_pointer_is_followed_into_a_moved_folder(train_dir):
    assert prepare_resume(train_dir, {200, 400, 600}) == 600
    assert (train_dir / 'last_checkpoint').read_text() == str(train_dir / 'iter_600.pth')
    assert len(names(train_dir)) == 6 and not (train_dir / 'discarded').exists()


def test_a_checkpoint_whose_validation_is_missing_is_passed_over(train_dir):
    save(train_dir / 'best_mIoU_iter_600.pth')
    assert prepare_resume(train_dir, {200, 400}) == 500
    assert names(train_dir / 'discarded') == ['best_mIoU_iter_600.pth', 'iter_600.pth']
    assert (train_dir / 'last_checkpoint').read_text() == str(train_dir / 'iter_500.pth')


def test_the_last_iteration_is_validated_whatever_the_interval(train_dir):
    save(train_dir / 'iter_700.pth')
    (train_dir / 'last_checkpoint').write_text('iter_700.pth')
    assert prepare_resume(train_dir, {200, 400, 600}) == 600
    assert prepare_resume(train_dir, {200, 400, 600, 700}) == 600  # 700 is set aside by now


def test_without_a_config_dump_the_newest_counts(train_dir):
    (train_dir / 'model.py').unlink()
    assert prepare_resume(train_dir, set()) == 600


def test_half_a_file_and_an_unregistered_one_are_passed_over(train_dir):
    save(train_dir / 'iter_650.pth')
    path = train_dir / 'iter_600.pth'
    path.write_bytes(path.read_bytes()[:-10])
    assert not is_complete(path)
    assert prepare_resume(train_dir, {200, 400, 600}) == 500
    assert names(train_dir / 'discarded') == ['iter_600.pth', 'iter_650.pth']


def test_a_registered_file_that_was_removed_is_no_obstacle(train_dir):
    (train_dir / 'iter_600.pth').unlink()
    assert prepare_resume(train_dir, {200, 400, 600}) == 500


def test_nothing_usable_means_a_fresh_start(train_dir):
    for path in train_dir.glob('*.pth'):
        path.write_bytes(b'half')
    assert prepare_resume(train_dir, {200, 400}) is None
    assert not (train_dir / 'last_checkpoint').exists() and names(train_dir) == []


def test_collecting_moves_everything_and_may_be_repeated(train_dir):
    save(train_dir / 'best_mIoU_iter_400.pth')
    collect(train_dir)
    save(train_dir / 'iter_700.pth')  # as if the first time had been interrupted
    folder = collect(train_dir)
    assert names(train_dir) == [] and len(names(folder)) == 8
    for pointer in (train_dir / 'last_checkpoint', folder / 'last_checkpoint'):
        assert pointer.read_text() == str(folder / 'iter_600.pth')
    assert saved_checkpoints(folder)[400].name == 'iter_400.pth'
    (folder / 'iter_400.pth').unlink()
    assert saved_checkpoints(folder)[400].name == 'best_mIoU_iter_400.pth'


@pytest.mark.parametrize('torch_format', [True, False])
def test_files_of_torch_are_recognised(tmp_path, torch_format):
    import torch

    path = tmp_path / 'iter_1.pth'
    torch.save({'w': torch.zeros(1000)}, path)
    if not torch_format:
        path.write_bytes(path.read_bytes()[:-200])
    assert is_complete(path) is torch_format
