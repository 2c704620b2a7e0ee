"""What is checked before a training, absent weights, and what a training leaves behind in its process."""

from __future__ import annotations

import os
import stat
import sys

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mmdefect.registration  # noqa: F401
from mmdefect.apis.config import load_config
from mmdefect.apis.train import check_data, check_same_config, check_writable, forget_earlier_run, resolve_pretrained
from mmdefect.compat import config_root
from tests.helpers.data import write_wta

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


def config(random_weights=True, **model):
    model = dict(type='EncoderDecoder', backbone=dict(type='ResNetV1c', depth=18), **model)
    return Config(dict(model=model, random_weights=random_weights))


@pytest.mark.parametrize(
    ('weights', 'words'),
    [
        ('no.pth', 'that does not exist; name a file with --cfg-options model.backbone.init_cfg.checkpoint=PATH'),
        ('http://127.0.0.1:9/weights.pth', r'that could not be downloaded .*; fill \S+/checkpoints on a machine with'),
    ],
)
def test_without_its_weights_a_model_is_not_trained_unless_that_is_asked_for(weights, words):
    with pytest.raises(FileNotFoundError, match=f'must start from the weights {weights}.*{words}') as error:
        resolve_pretrained(config(random_weights=False, pretrained=weights))
    assert '\n' not in str(error.value) and 'random_weights=True' in str(error.value)


def test_a_missing_file_is_said_and_removed(tmp_path):
    cfg = config(pretrained=str(tmp_path / 'no.pth'))
    warnings = resolve_pretrained(cfg)
    assert len(warnings) == 1 and 'model.backbone starts from RANDOM weights' in warnings[0]
    assert 'pretrained' not in cfg.model and 'init_cfg' not in cfg.model.backbone
    assert cfg.random_initialisation == warnings


def test_an_address_that_cannot_be_reached_is_said(monkeypatch):
    cfg = config(pretrained='http://127.0.0.1:9/weights.pth')
    assert 'could not be downloaded' in resolve_pretrained(cfg)[0]


def test_present_weights_reach_the_backbone(tmp_path):
    init_default_scope('mmseg')
    settings = dict(type='ResNetV1c', depth=18, num_stages=4, norm_cfg=dict(type='BN'))
    donor = MODELS.build(ConfigDict(settings))
    for parameter in donor.parameters():
        parameter.data.fill_(0.25)
    torch.save(dict(state_dict=donor.state_dict()), tmp_path / 'r18.pth')
    cfg = Config(dict(model=dict(type='x', pretrained=str(tmp_path / 'r18.pth'), backbone=settings)))
    assert resolve_pretrained(cfg) == []
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    assert all((p == 0.25).all() for p in backbone.parameters())


def test_nested_parts_are_found(tmp_path):
    cfg = config(neck=[dict(init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))])
    assert 'model.neck.0 starts from RANDOM' in resolve_pretrained(cfg)[0]


def test_random_stages_are_not_frozen(tmp_path):
    cfg = config()
    cfg.model.backbone.update(
        frozen_stages=3, norm_eval=True, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'no.pth'))
    )
    assert 'RANDOM weights and is therefore not frozen' in resolve_pretrained(cfg)[0]
    assert cfg.model.backbone.frozen_stages == -1 and cfg.model.backbone.norm_eval is False
    cfg.model.backbone = dict(  # PoolFormer knows no `norm_eval`
        frozen_stages=0, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'no.pth'))
    )
    resolve_pretrained(cfg)
    assert cfg.model.backbone == dict(frozen_stages=-1)


def test_a_model_without_backbone_needs_its_weights(tmp_path):
    cfg = Config(dict(model=dict(pretrained=str(tmp_path / 'clip.pth'), text_encoder=dict()), random_weights=True))
    with pytest.raises(FileNotFoundError, match='model.pretrained=PATH; its frozen text encoder'):
        resolve_pretrained(cfg)
    torch.save({}, tmp_path / 'clip.pth')
    assert resolve_pretrained(cfg) == [] and cfg.model.pretrained == str(tmp_path / 'clip.pth')


def test_pretrained_stages_stay_frozen(tmp_path):
    torch.save({}, tmp_path / 'r18.pth')
    cfg = config()
    cfg.model.backbone.update(
        frozen_stages=3, norm_eval=True, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'r18.pth'))
    )
    assert resolve_pretrained(cfg) == [] and cfg.model.backbone.frozen_stages == 3


def test_a_run_that_starts_in_the_second_of_another_one_has_a_log_of_its_own(tmp_path):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text('x = 1\n')
    cfg = Config.fromfile(str(leaf))
    MMLogger.get_instance('leaf_20261125_190000', log_file=str(tmp_path / 'first.log')).info('first')
    MMLogger.get_instance('other_20261125_190000')
    forget_earlier_run(cfg)
    assert 'other_20261125_190000' in MMLogger._instance_dict
    MMLogger.get_instance('leaf_20261125_190000', log_file=str(tmp_path / 'second.log')).info('second')
    assert 'second' in (tmp_path / 'second.log').read_text()
    assert 'second' not in (tmp_path / 'first.log').read_text()


def test_a_test_on_validation_is_told_and_other_shared_images_are_refused(tmp_path, monkeypatch):
    write_wta(tmp_path, dict(train=4, val=3, test=3))
    leaf = 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
    prefix = 'test_dataloader.dataset.data_prefix'
    options = {'data_root': str(tmp_path), f'{prefix}.img_path': 'img_dir/val', f'{prefix}.seg_map_path': 'ann_dir/val'}
    said = []
    monkeypatch.setattr(sys.modules['mmdefect.apis.train'], 'print_log', lambda text, *_: said.append(text))
    check_data(load_config(leaf, options))
    assert len(said) == 1 and said[0].startswith('Validation and test read the same images')
    options |= {f'{prefix}.img_path': 'img_dir/train', f'{prefix}.seg_map_path': 'ann_dir/train'}
    with pytest.raises(ValueError, match='no image may be in two splits, but train and test both read'):
        check_data(load_config(leaf, options))
