"""What is known to be wrong before training is said before it."""

from __future__ import annotations

import os
import stat

import pytest

from mmdefect.apis.config import load_config
from mmdefect.apis.preflight import check_same_config, check_writable
from mmdefect.compat import config_root

LEAF = config_root('mmdefect') / 'fast_scnn' / 'fast-scnn_baseline_2k_wta-256.py'


def trained(tmp_path, **options):
    load_config(LEAF, options).dump(str(tmp_path / 'leaf.py'))
    (tmp_path / 'iter_10.pth').touch()
    return tmp_path


def test_the_same_config_may_go_on(tmp_path):
    check_same_config(load_config(LEAF), trained(tmp_path))


def test_what_changes_no_result_may_differ(tmp_path):
    work_dir = trained(tmp_path)
    cfg = load_config(LEAF, {'train_dataloader.num_workers': 0, 'log_level': 'ERROR', 'resume': True})
    check_same_config(cfg, work_dir)


def test_another_config_is_refused_by_key(tmp_path):
    work_dir = trained(tmp_path)
    with pytest.raises(ValueError, match=r'leaf.py differs in optim_wrapper.optimizer.lr; choose another --work-dir'):
        check_same_config(load_config(LEAF, {'optim_wrapper.optimizer.lr': 1.0}), work_dir)


def test_a_run_without_checkpoints_protects_nothing(tmp_path):
    work_dir = trained(tmp_path)
    (tmp_path / 'iter_10.pth').unlink()
    check_same_config(load_config(LEAF, {'optim_wrapper.optimizer.lr': 1.0}), work_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_rights_is_named(tmp_path):
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.raises(PermissionError, match='--work-dir'):
        check_writable(tmp_path / 'run')


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / 'run').write_text('')
    with pytest.raises(PermissionError, match='run is not'):
        check_writable(tmp_path / 'run')
