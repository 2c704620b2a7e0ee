"""The neck in mmseg's models: from a zero start, with its memories in the weights."""

import sys

import pytest
import torch
from mmengine.config import Config

import mmdefect.registration  # noqa: F401
from mmdefect.apis.compose import compose
from mmdefect.functional.normality import smoothed
from mmdefect.models.normality_neck import NormalityNeck, fill
from mmdefect.registry import MODELS, init_default_scope

MODEL = 'configs/fpn/fpn-r18-l3-frozen_baseline_900_mvtec-256.py'


def images(count=6, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 3, size, size, generator=generator) for _ in range(count)]


def composed(**normality):
    cfg = Config.fromfile(MODEL)
    cfg.model.backbone.init_cfg = None
    cfg.crop_size = cfg.image_scale = (64, 64)
    if normality:
        cfg.normality = normality
    cfg.augmentation = dict(scale=(1, 1))
    compose(cfg)
    init_default_scope('mmseg')
    return cfg


def built(**normality):
    torch.manual_seed(0)
    model = MODELS.build(composed(**normality).model)
    model.init_weights()
    model.eval()
    if normality:
        with torch.no_grad():
            fill(model.neck, lambda: (list(model.backbone(image)) for image in images()), 6, 3000)
    return model


@pytest.mark.parametrize('kind', ['bank', 'place', 'auto'])
def test_a_model_begins_exactly_as_without(kind):
    plain, model = built(), built(kind=kind, entries=64)
    image = images(1, seed=9)[0]
    with torch.no_grad():
        assert torch.equal(model(image, mode='tensor'), plain(image, mode='tensor'))
        for last in (projection[-1] for projection in model.neck.projections.values()):
            last.weight.normal_(generator=torch.Generator().manual_seed(1))
        assert not torch.allclose(model(image, mode='tensor'), plain(image, mode='tensor'))
    wanted = {k: v for k, v in plain.state_dict().items() if not k.startswith('neck')}
    assert all(torch.equal(model.state_dict()[k], v) for k, v in wanted.items())


@pytest.mark.parametrize('kind', ['bank', 'place', 'auto'])
def test_memories_are_stored_with_the_weights(kind):
    model = built(kind=kind, entries=64)
    for projection in model.neck.projections.values():
        torch.nn.init.normal_(projection[-1].weight)
    torch.manual_seed(3)
    other = MODELS.build(composed(kind=kind, entries=64).model).eval()
    with pytest.raises(RuntimeError, match='must be filled before it is used'):
        other(images(1)[0], mode='tensor')
    kept = model.neck.used
    unused = {'bank', 'place'} - {kept}
    state = {k: v for k, v in model.state_dict().items() if not any(f'memories.{u}.' in k for u in unused)}
    other.load_state_dict(state)
    image = images(1, seed=4)[0]
    with torch.no_grad():
        assert torch.equal(model(image, mode='tensor'), other(image, mode='tensor'))


def test_a_flipped_sample_is_compared_with_flipped_places():
    model = built(kind='place')
    neck, image = model.neck, images()[2]
    with torch.no_grad():
        features = list(model.backbone(image))
        straight = neck.evidence(features)
        neck.flips = [(2,)]
        flipped = neck.evidence([f.flip(3) for f in features])
    assert all(torch.allclose(flipped[n].flip(3), straight[n], atol=1e-5) for n in straight)


def test_auto_takes_places_for_parts_that_lie_the_same_and_a_bank_for_others():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 8, 24, 24, generator=generator) * 3

    def lying():
        for _ in range(12):
            yield [base + 0.2 * torch.randn(base.shape, generator=generator)]

    def turned():
        kinds = torch.randn(4, 8, generator=generator) * 3
        for _ in range(12):
            which = torch.randint(4, (8, 8), generator=generator).repeat_interleave(3, 0).repeat_interleave(3, 1)
            yield [kinds[which].permute(2, 0, 1)[None] + 0.2 * torch.randn(base.shape, generator=generator)]

    for embedded, kind in ((lying, 'place'), (turned, 'bank')):
        neck = NormalityNeck([8], kind='auto', entries=64, sizes_hw=[(24, 24)], shift=0)
        fill(neck, embedded, 12, 3000)
        assert neck.used == kind


def test_auto_says_that_random_resizing_leaves_it_a_bank(monkeypatch):
    said = []
    monkeypatch.setattr(sys.modules['mmdefect.apis.compose'], 'print_log', lambda text, *_: said.append(text))
    cfg = Config.fromfile(MODEL)
    cfg.normality = dict(kind='auto')
    compose(cfg)
    assert cfg.model.neck.kind == 'bank' and len(said) == 1 and 'takes a bank: RandomResize' in said[0]


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="`kind` must be one of bank, place, auto, got 'tree'"):
        NormalityNeck([8], kind='tree')
    with pytest.raises(ValueError, match='`levels` must be numbers from 0 to 0, got'):
        NormalityNeck([8], levels=[2])
    cfg = Config.fromfile('configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py')
    cfg.normality = dict(kind='place')
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='RandomRotate', prob=0.5, degree=10))
    with pytest.raises(ValueError, match='compares places of the part, which RandomRotate moves'):
        compose(cfg)


def test_levels_need_not_become_coarser():
    """As those of Fast-SCNN: a crop lies at the same place of the part on each."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(16, 16), (4, 4), (16, 16)]
    base = [torch.randn(1, 6, *size, generator=generator) for size in sizes]
    neck = NormalityNeck([6, 6, 6], kind='place', levels=[0, 1, 2], sizes_hw=sizes, shift=0)
    noisy = [[x + 0.05 * torch.randn(x.shape, generator=generator) for x in base] for _ in range(8)]
    fill(neck, lambda: iter(noisy), 8, 1000)
    smooth = [smoothed(x) for x in base]
    crop = [smooth[0][:, :, 4:12, 8:16], smooth[1][:, :, 1:3, 2:4], smooth[2][:, :, 4:12, 8:16]]
    places = neck.places(crop)
    assert {n: p.tolist() for n, p in places.items()} == {0: [[4, 8]], 1: [[1, 2]], 2: [[4, 8]]}
