"""Perlin anomalies: the noise against a direct version, exact labels, the foreground, textures, replay and batches."""

from __future__ import annotations

import hashlib
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from mmdefect.synthesis.perlin import (
    ADJUSTMENTS,
    PerlinRanges,
    ShuffledTiles,
    TextureFolder,
    TextureParameters,
    adjust_texture,
    apply_perlin,
    gradient_noise,
    perlin_anomaly,
    perlin_noise,
    sample_perlin,
    sample_texture,
)
from mmdefect.synthesis.records import VISIBLE_TOLERANCE
from tests.synthesis.noise import generator, noise_image


def plain(index: int = -1, seed: int = 0, shift: float = 0.0, **values: float) -> TextureParameters:
    keep = dict(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, gamma=1.0, solarize=2.0, posterize=0.0)
    return TextureParameters(index, seed, shift, shift, **(keep | values))


def noise_at(y: float, x: float, angles: np.ndarray) -> float:
    """Perlin noise in one point, corner by corner."""
    row, column = min(int(y), angles.shape[0] - 2), min(int(x), angles.shape[1] - 2)
    u, v = y - row, x - column

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    def corner(i: int, j: int) -> float:
        angle = angles[row + i, column + j]
        return math.sin(angle) * (u - i) + math.cos(angle) * (v - j)

    top = (1 - fade(v)) * corner(0, 0) + fade(v) * corner(0, 1)
    bottom = (1 - fade(v)) * corner(1, 0) + fade(v) * corner(1, 1)
    return math.sqrt(2) * ((1 - fade(u)) * top + fade(u) * bottom)


@pytest.mark.parametrize('cells', [(1, 1), (3, 5), (8, 2), (4, 16)])
def test_noise_is_the_direct_sum(cells):
    angles = torch.rand(cells[0] + 1, cells[1] + 1, dtype=torch.float64, generator=generator()) * 2 * math.pi
    rows = torch.linspace(0, cells[0], 23, dtype=torch.float64)
    columns = torch.linspace(0, cells[1], 31, dtype=torch.float64)
    expected = [[noise_at(y, x, angles.numpy()) for x in columns.tolist()] for y in rows.tolist()]
    assert np.abs(gradient_noise(rows, columns, angles).numpy() - np.array(expected)).max() < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    cells_y=st.sampled_from([1, 2, 8, 32]),
    cells_x=st.sampled_from([1, 4, 16]),
    degrees=st.sampled_from([0.0, 17.0, -90.0, 64.5]),
    seed=st.integers(0, 2**53 - 1),
)
def test_any_size_gives_bounded_noise(height, width, cells_y, cells_x, degrees, seed):
    noise = perlin_noise((height, width), (cells_y, cells_x), seed, degrees)
    assert noise.shape == (height, width) and torch.isfinite(noise).all() and noise.abs().max() <= math.sqrt(2)


def test_rotated_noise_is_the_upright_one_turned():
    """Cells of 20 pixels: what the interpolation of the field may cost stays small."""
    size, cells, degrees = 160, 8, 30.0
    turned = perlin_noise((size, size), (cells, cells), 5, degrees, torch.float64)
    field_size = math.ceil(size * (math.cos(math.pi / 6) + 0.5)) + 2
    lattice = int(field_size * cells / size) + 2
    angles = torch.rand(lattice, lattice, generator=generator(5)) * (2 * math.pi)
    centre = (field_size - 1) / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for row, column in [(0, 0), (159, 159), (0, 159), (80, 80), (37, 121)]:
        y, x = row - (size - 1) / 2, column - (size - 1) / 2
        place = (x * sine + y * cosine + centre), (x * cosine - y * sine + centre)
        expected = noise_at(place[0] * cells / size, place[1] * cells / size, angles.double().numpy())
        assert turned[row, column].item() == pytest.approx(expected, abs=5e-3)


def test_large_rotated_fields_are_enlarged_smoothly():
    fine = perlin_noise((640, 640), (32, 32), 3, 45.0)  # 20 pixels a cell: sampled at every second one
    coarse = perlin_noise((320, 320), (32, 32), 3, 45.0)
    lattice = ndimage.zoom(coarse.numpy(), 2, order=1, grid_mode=True, mode='nearest')
    assert np.abs(fine.numpy() - lattice).max() < 1e-5


@pytest.mark.parametrize('size', [(64, 64), (50, 123), (200, 37)])
def test_label_is_exactly_what_changed(size):
    image = noise_image(*size)
    before = image.clone()
    for seed in range(15):
        result = perlin_anomaly(image, generator(seed), class_id=5)
        changed = ((result.image - image).abs() > VISIBLE_TOLERANCE).any(0)
        assert torch.equal(result.label == 5, changed)
        for instance in result.instances:
            rows, columns = np.nonzero(changed.numpy())
            assert instance.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            assert instance.area == changed.sum() and instance.generator == 'perlin'
        assert bool(result.instances) != bool(result.skipped)
        assert 0 <= result.image.min() and result.image.max() <= 1
    assert torch.equal(image, before)


def test_only_the_foreground_changes():
    image, foreground = noise_image(64, 80), torch.zeros(64, 80, dtype=torch.bool)
    foreground[10:50, 20:70] = True
    pasted = 0
    for seed in range(20):
        result = perlin_anomaly(image, generator(seed), foreground=foreground)
        assert torch.equal(result.image[:, ~foreground], image[:, ~foreground]) and not result.label[~foreground].any()
        pasted += len(result.instances)
    assert pasted >= 15
    nowhere = perlin_anomaly(image, generator(), foreground=torch.zeros_like(foreground))
    assert nowhere.skipped == {'empty': 1} and torch.equal(nowhere.image, image)


def test_even_images_are_counted_as_invisible():
    image = torch.full((3, 40, 40), 0.5)
    result = perlin_anomaly(image, generator(1), source=ShuffledTiles(adjustments=()))
    assert result.skipped == {'invisible': 1} and torch.equal(result.image, image)


def test_ignored_pixels_stay_ignored():
    image, label = noise_image(64, 64), torch.full((64, 64), 2)
    label[:, 20:] = 255
    for seed in range(5):
        result = perlin_anomaly(image, generator(seed), label)
        assert torch.equal(result.label == 255, label == 255)
        over = perlin_anomaly(image, generator(seed), label, overwrite_ignore=True)
        assert torch.equal(over.label == 1, ((over.image - image).abs() > VISIBLE_TOLERANCE).any(0))
    assert perlin_anomaly(image, generator(), torch.full_like(label, 255)).skipped == {'ignored': 1}


def test_the_image_shows_through_as_sampled():
    image, mask = noise_image(30, 40), torch.zeros(30, 40, dtype=torch.bool)
    mask[5:20, 10:30] = True
    source = ShuffledTiles()
    anomaly = sample_perlin(generator(2), source)
    places, old, new = apply_perlin(image, mask, source, anomaly)
    texture = source.pixels(image, places, anomaly.texture)
    assert torch.equal(old, image[:, mask])
    assert torch.allclose(new, anomaly.transparency * old + (1 - anomaly.transparency) * texture, atol=1e-6)


def test_sampled_numbers_follow_their_ranges():
    anomalies = [sample_perlin(generator(seed), ShuffledTiles()) for seed in range(1500)]
    for axis in ('cells_y', 'cells_x'):
        counts = np.bincount([int(math.log2(getattr(anomaly, axis))) for anomaly in anomalies], minlength=6)
        assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest([anomaly.transparency for anomaly in anomalies], stats.uniform(0, 0.8).cdf).pvalue > 1e-3
    assert stats.kstest([anomaly.degrees for anomaly in anomalies], stats.uniform(-90, 180).cdf).pvalue > 1e-3


def test_same_seed_same_pixels_and_batch_mates_change_nothing():
    images = torch.stack([noise_image(48, 64, seed) for seed in range(3)])
    labels = torch.randint(0, 3, (3, 48, 64), generator=generator())
    foreground = torch.rand(3, 48, 64, generator=generator(1)) > 0.2
    batch = perlin_anomaly(images, [generator(seed) for seed in range(3)], labels, foreground=foreground, class_id=4)
    for i in range(3):
        alone = perlin_anomaly(images[i], generator(i), labels[i], foreground=foreground[i], class_id=4)
        assert torch.equal(alone.image, batch.image[i]) and torch.equal(alone.label, batch.label[i])
        assert alone.instances == batch.instances[i]


def test_shuffled_tiles_are_a_permutation_of_the_image():
    image = torch.arange(16 * 24, dtype=torch.float32).view(1, 16, 24) / 400
    texture = ShuffledTiles(8).pixels(image, torch.arange(16 * 24), plain(seed=3)).view(16, 24)
    assert torch.equal(texture.flatten().sort().values, image.flatten().sort().values)
    tiles = {tuple(tile.flatten().tolist()) for tile in image[0].unfold(0, 2, 2).unfold(1, 3, 3).reshape(-1, 6)}
    assert tiles == {tuple(tile.flatten().tolist()) for tile in texture.unfold(0, 2, 2).unfold(1, 3, 3).reshape(-1, 6)}
    assert not torch.equal(texture, image[0])


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_tiles_of_any_size_take_pixels_of_the_image(height, width, seed):
    image = torch.arange(height * width, dtype=torch.float64).view(1, height, width) / (height * width)
    texture = ShuffledTiles(8).pixels(image, torch.arange(height * width), plain(seed=seed))
    assert set(texture.flatten().tolist()) <= set(image.flatten().tolist())


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'deep').mkdir()
    for name, size in (('a.png', (30, 20)), ('deep/b.PNG', (64, 64)), ('c.png', (10, 90))):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def test_a_folder_gives_its_pixels_in_rgb(folder):
    source = TextureFolder(folder)
    assert source.num_images == 3 and [source.name(plain(i)) for i in range(3)] == ['a.png', 'c.png', 'deep/b.PNG']
    truth = torch.from_numpy(cv2.imread(str(folder / 'deep/b.PNG'))[..., ::-1].copy()).permute(2, 0, 1) / 255
    texture = source.pixels(torch.zeros(3, 40, 50), torch.arange(2000), plain(2)).view(3, 40, 50)
    assert torch.equal(texture, truth[:, :40, :50])
    wide = source.pixels(torch.zeros(3, 12, 45), torch.arange(540), plain(0)).view(3, 12, 45)
    small = torch.from_numpy(cv2.imread(str(folder / 'a.png'))[..., ::-1].copy()).permute(2, 0, 1) / 255
    assert torch.equal(wide[:, :, 20:40], small[:, :12].flip(2)) and torch.equal(wide[:, :, 40:45], small[:, :12, :5])


def test_a_folder_decodes_lazily_within_its_budget_and_survives_pickling(folder):
    source = TextureFolder(folder, cache_mebibytes=3000 / 2**20)
    assert not source._cache
    for i in (0, 1, 2, 0):
        source.read(i)
        assert sum(kept.nbytes for kept in source._cache.values()) <= 3000 or len(source._cache) == 1
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._cache and torch.equal(copy.read(1), source.read(1))


def test_anomalies_from_a_folder(folder):
    source, image = TextureFolder(folder), noise_image(70, 50)
    seen = set()
    for seed in range(30):
        result = perlin_anomaly(image, generator(seed), source=source)
        changed = ((result.image - image).abs() > VISIBLE_TOLERANCE).any(0)
        assert torch.equal(result.label == 1, changed)
        seen |= {instance.source for instance in result.instances}
    assert seen == {'a.png', 'c.png', 'deep/b.PNG'}


def test_folders_without_images_and_broken_images_are_named(tmp_path):
    with pytest.raises(ValueError, match='must hold images'):
        TextureFolder(tmp_path)
    (tmp_path / 'bad.png').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='bad.png'):
        TextureFolder(tmp_path).read(0)


def test_three_adjustments_are_sampled_and_each_does_what_it_says(folder):
    source = TextureFolder(folder)
    for seed in range(20):
        sampled, kept = sample_texture(generator(seed), source), plain()
        assert sum(getattr(sampled, name) != getattr(kept, name) for name in ADJUSTMENTS) == 3
        assert 0 <= sampled.index < 3
    pixels = torch.rand(3, 50, generator=generator())
    assert torch.equal(adjust_texture(pixels, plain()), pixels)
    assert torch.allclose(adjust_texture(pixels, plain(gamma=2.0)), pixels**2, atol=1e-6)
    assert torch.equal(adjust_texture(pixels, plain(solarize=0.6)), torch.where(pixels > 0.6, 1 - pixels, pixels))
    levels = adjust_texture(pixels, plain(posterize=4.0))
    assert set((levels * 3).round(decimals=4).flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('octave_range', (3, 3), 'excluded'),
        ('threshold', 2, 'threshold'),
        ('transparency_range', (0.5, 1.5), 'share of the image'),
    ],
)
def test_wrong_ranges_are_rejected(name, value, message):
    with pytest.raises(ValueError, match=message):
        PerlinRanges(**{name: value})


def test_wrong_foregrounds_are_rejected():
    with pytest.raises(ValueError, match='must be bool'):
        perlin_anomaly(noise_image(8, 8), generator(), foreground=torch.zeros(8, 8))


def test_seeded_samples_stay_as_they_are():
    """The hash is that of the time when this file had rules of visibility, labels and records of its own."""
    total = hashlib.sha256()
    for seed in range(40):
        image = torch.rand(3, 40, 56, generator=generator(seed))
        label = torch.randint(0, 3, (40, 56), generator=generator(seed + 100))
        label[: 10 * (seed % 3)] = 255
        options = dict(foreground=torch.rand(40, 56, generator=generator(seed + 200)) > 0.5, class_id=3)
        made = perlin_anomaly(image, generator(seed), label, **options, tolerance=(None, 0.5, 0.006)[seed % 3])
        records = [(record.box, record.area) for record in made.instances]
        pixels = (255 * made.image).round().to(torch.uint8)
        total.update(made.label.numpy().tobytes() + pixels.numpy().tobytes() + repr((records, made.skipped)).encode())
    assert total.hexdigest() == '63d3a47fc61e07e81d9370e44a38596944e9697367ec97ddbf9b956cf7f195da'
