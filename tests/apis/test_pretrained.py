"""Absent weights are a warning with a mend; present ones are loaded."""

from __future__ import annotations

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mmdefect.registration  # noqa: F401
from mmdefect.apis.pretrained import resolve_pretrained


def config(**model):
    return Config(dict(model=dict(type='EncoderDecoder', backbone=dict(type='ResNetV1c', depth=18), **model)))


def test_a_missing_file_is_said_and_removed(tmp_path):
    cfg = config(pretrained=str(tmp_path / 'no.pth'))
    warnings = resolve_pretrained(cfg)
    assert len(warnings) == 1 and 'model.backbone starts from RANDOM weights' in warnings[0]
    assert '--cfg-options model.backbone.init_cfg.checkpoint=PATH' in warnings[0]
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


def test_pretrained_stages_stay_frozen(tmp_path):
    torch.save({}, tmp_path / 'r18.pth')
    cfg = config()
    cfg.model.backbone.update(
        frozen_stages=3, norm_eval=True, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'r18.pth'))
    )
    assert resolve_pretrained(cfg) == [] and cfg.model.backbone.frozen_stages == 3
