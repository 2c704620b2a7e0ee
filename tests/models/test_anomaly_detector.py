"""Detectors on a small network: embeddings against single crops, files, scores as a function of the image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmdefect.registration  # noqa: F401
from mmdefect.functional.density import ScoreScale, fit_bank, fit_gaussian, fit_kernel_density
from mmdefect.functional.heat_maps import upsample_scores
from mmdefect.models.anomaly_detector import AnomalyDetector, DetectorSettings, build_backbone
from tests.helpers.small import TINY_RESNET

BACKBONE = TINY_RESNET


def some_images(count: int, seed: int = 0, side: int = 64) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def detector(density='ledoit_wolf', spaces=('image', 'fast', 'exact'), **settings) -> AnomalyDetector:
    settings = DetectorSettings(backbone=BACKBONE, size_hw=(64, 64), patch=32, stride=8, density=density, **settings)
    empty = AnomalyDetector(settings, build_backbone(BACKBONE, seed=1))
    densities = {}
    for space in spaces:
        rows = empty.embeddings(some_images(12), space)
        rows = rows.reshape(-1, rows.shape[-1])
        generator = torch.Generator().manual_seed(0)
        densities[space] = (
            fit_kernel_density(rows, max_points=200, generator=generator)
            if density == 'kde'
            else fit_bank(rows, 50)
            if density == 'bank'
            else fit_gaussian(rows)
        )
    return AnomalyDetector(
        settings,
        empty.features.backbone,
        densities,
        dict(score=ScoreScale(1.0, 3.0, 1.5, 12), heat=ScoreScale(0.0, 2.0)),
    )


@pytest.mark.parametrize('batch', [1, 7, 256])
def test_exact_patches_equal_crops_seen_one_by_one(batch):
    model, images = detector(spaces=('image',)), some_images(2, 1)
    rows = model.features.embed_patches(images, 32, 8, batch)
    assert rows.shape == (2, 5, 5, 32)
    for b, i, j in ((0, 0, 0), (0, 1, 3), (1, 4, 2)):
        crop = images[b : b + 1, :, 8 * i : 8 * i + 32, 8 * j : 8 * j + 32]
        alone = model.features.embed(model.features.prepare(crop))[0]  # neither batched nor with folded batch norms
        torch.testing.assert_close(rows[b, i, j], alone, atol=1e-5, rtol=1e-4)


def test_exact_heat_is_the_upsampled_distance_of_each_crop():
    model, images = detector(), some_images(1, 2)
    distances = torch.empty(1, 5, 5)
    for i in range(5):
        for j in range(5):
            crop = images[:, :, 8 * i : 8 * i + 32, 8 * j : 8 * j + 32]
            distances[0, i, j] = model.densities['exact'].distance(model.features.embed(model.features.prepare(crop)))[
                0
            ]
    torch.testing.assert_close(
        model.heat_maps(images, 'exact'), upsample_scores(distances, 32, 8), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize('density', ['ledoit_wolf', 'kde', 'bank'])
@pytest.mark.parametrize('mode', ['fast', 'exact'])
def test_scores_depend_on_the_image_alone(density, mode):
    model, images = detector(density), some_images(3, 3)
    scores, heat = model.score_images(images, mode)
    alone, alone_heat = model.score_images(images[1:2], mode)
    torch.testing.assert_close(scores[1:2], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(heat[1:2], alone_heat, rtol=1e-3, atol=1e-3)
    assert heat.shape == (3, 64, 64) and scores.shape == (3,)


def test_image_and_map_of_one_pass_are_those_of_two():
    model, images = detector(spaces=('image',), layers=('layer2', 'layer3')), some_images(2, 10)
    rows = model.fit_rows(images, ('image', 'fast'), 16)
    for space, own in rows.items():
        torch.testing.assert_close(own, model.embeddings(images, space), atol=1e-5, rtol=1e-4)


def test_heat_score_is_the_hottest_pixel():
    scores, heat = detector(score='heat').score_images(some_images(2, 4))
    assert torch.equal(scores, heat.amax((1, 2)))


@pytest.mark.parametrize('turns', [2, 4])
@pytest.mark.parametrize('mode', ['fast', 'exact'])
def test_scores_of_turns_are_means_over_turned_images(turns, mode):
    flat, turned, images = detector(), detector(turns=turns), some_images(2, 9)
    quarters = range(0, 4, 4 // turns)
    each = [flat.score_images(torch.from_numpy(np.rot90(images.numpy(), k, (2, 3)).copy()), mode) for k in quarters]
    scores, heat = turned.score_images(images, mode)
    torch.testing.assert_close(scores, sum(s for s, _ in each) / turns)
    back = [np.rot90(own.numpy(), -k, (1, 2)) for k, (_, own) in zip(quarters, each, strict=True)]
    np.testing.assert_allclose(heat.numpy(), sum(back) / turns, rtol=1e-4)
    if turns == 4:  # what all turns see does not depend on how the image lies
        other, other_heat = turned.score_images(torch.rot90(images, 1, (2, 3)), mode)
        torch.testing.assert_close(scores, other)
        torch.testing.assert_close(torch.rot90(heat, 1, (1, 2)), other_heat, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_near():
    model, images = detector(), some_images(2, 5)
    full, half = (model.score_images(images, 'exact', precision)[1] for precision in ('fp32', 'bf16'))
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    assert ((half - full).abs() / full).median() < 0.1


def test_fast_cells_follow_the_image():
    """What is moved by a whole cell moves the map by one cell, away from the borders."""
    model = detector(spaces=('image',))
    image = some_images(1, 6, 128)
    moved = torch.roll(image, 16, 3)
    first, second = (model.features.embed_map(x, 32)[0] for x in (image, moved))
    assert first.shape[:2] == (8, 8)
    torch.testing.assert_close(first[3:5, 3:4], second[3:5, 4:5], atol=0.06, rtol=0.1)


@pytest.mark.parametrize('density', ['ledoit_wolf', 'kde', 'bank'])
def test_one_file_holds_the_detector(tmp_path, density):
    model, images = detector(density, layers=('layer2', 'layer3'), spaces=('image', 'fast')), some_images(2, 7)
    path = tmp_path / 'folder' / 'detector.pth'
    model.save(path)
    assert [p.name for p in path.parent.iterdir()] == ['detector.pth']
    loaded = AnomalyDetector.load(path)
    assert loaded.settings == model.settings and loaded.scales == model.scales and loaded.mode == 'fast'
    for ours, theirs in zip(model.score_images(images), loaded.score_images(images), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_explanations_lie_on_the_scale():
    cam = detector().explain(some_images(2, 8), 'layer2')
    assert cam.shape == (2, 64, 64) and cam.min() == 0 and cam.max() == 1


def test_errors_say_what_to_do(tmp_path):
    model = detector(spaces=('image',))
    with pytest.raises(ValueError, match=r'\(B, 3, 64, 64\) uint8'):
        model.score_images(some_images(1, side=32))
    with pytest.raises(ValueError, match='--localize exact'):
        model.score_images(some_images(1), 'exact')
    with pytest.raises(ValueError, match='fp32, fp16, bf16'):
        model.score_images(some_images(1), precision='int8')
    with pytest.raises(ValueError, match='image, heat'):
        detector(score='max')
    with pytest.raises(ValueError, match='1, 2, 4'):
        detector(turns=3)
    with pytest.raises(ValueError, match='square'):
        DetectorSettings(BACKBONE, size_hw=(64, 32), turns=4)
    with pytest.raises(ValueError, match='layer9'):
        AnomalyDetector(DetectorSettings(BACKBONE, layers=('layer9',)), build_backbone(BACKBONE))
    torch.save({}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='tools/anomaly.py fit'):
        AnomalyDetector.load(tmp_path / 'x.pth')
    with pytest.raises(FileNotFoundError, match='fitted detector'):
        AnomalyDetector.load(tmp_path / 'y.pth')


def test_random_backbones_depend_on_their_seed():
    first, second, other = (build_backbone(BACKBONE, seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    with pytest.raises(FileNotFoundError):
        build_backbone(dict(BACKBONE, init_cfg=dict(type='Pretrained', checkpoint='no.pth')))
