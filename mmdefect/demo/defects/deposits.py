"""What lies on any surface: stains and foreign particles."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdefect.demo.defects.region import Points, Window, as_points, pick_site, polygon_cover, rough_polygon, tint
from mmdefect.demo.noise import fractal_noise, smoothstep, white_noise
from mmdefect.demo.scene import Scene, Surface


@dataclass(frozen=True)
class Stain:
    """A dried or soaked-in liquid."""

    spots: tuple[tuple[float, float, float], ...]  # x, y and radius in pixels of the spots it consists of
    factor: tuple[float, float, float]  # RGB factors by which full strength multiplies the albedo
    opacity: float  # strength in [0, 1]
    rim: float  # extra strength of the dried rim
    seed: int  # seed of the ragged outline

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
        spots = np.array(self.spots)
        reach = float(spots[:, 2].max())
        window = Window.around(spots[:, :2], 2.2 * reach + 2, scene.size_hw)
        view = window.slices
        rng = np.random.default_rng(self.seed)
        x, y = window.grid()
        ragged = 0.17 * fractal_noise(rng, window.size_hw, max(1.3 * reach, 3.0), 4, 0.55)
        level = np.full(window.size_hw, -1.0, np.float32)
        for sx, sy, radius in self.spots:
            away = np.hypot(x - np.float32(sx), y - np.float32(sy)) / np.float32(radius)
            level = np.maximum(level, 1.0 - away + ragged)
        wet = smoothstep(0.0, 0.35, level)
        weight = self.opacity * wet * (1.0 + self.rim * np.exp(-(((level - 0.16) / 0.11) ** 2)))
        weight = np.clip(weight * smoothstep(0.0, 1.5, scene.inside[view]), 0.0, 1.0)
        surface.albedo[view] *= 1.0 + (np.float32(self.factor) - 1.0) * weight[..., None]
        mean = float(np.mean(self.factor))
        surface.gloss[view] *= 1.0 + (min(mean, 1.0) - 1.0) * 0.9 * weight
        return surface


def sample_stain(rng: Generator, scene: Scene) -> Stain:
    """Return a random stain: one spot of 5 to 17 pixels in radius in an image of 256, often with splashes."""
    radius = float(np.exp(rng.uniform(np.log(5.0), np.log(17.0)))) * scene.unit
    x, y = pick_site(rng, scene, 5.0 * scene.unit)
    spots = [(x, y, radius)]
    for _ in range(int(rng.integers(0, 4))):
        angle, away = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.7, 2.0)
        place = x + float(away * np.cos(angle)), y + float(away * np.sin(angle))
        spots.append((*place, radius * float(rng.uniform(0.12, 0.5))))
    factor = scene.material.stain[int(rng.integers(len(scene.material.stain)))]
    opacity, rim = float(rng.uniform(0.45, 0.95)), float(rng.uniform(0.0, 0.7))
    return Stain(tuple(spots), factor, opacity, rim, int(rng.integers(2**31)))


@dataclass(frozen=True)
class Speck:
    """One particle: its outline, a hollow middle if only its rim reflects, colour, and height in pixels."""

    outline_xy: Points
    hollow: float
    rgb: tuple[float, float, float]
    bump: float


@dataclass(frozen=True)
class Particles:
    """A loose group of specks."""

    specks: tuple[Speck, ...]  # the particles
    seed: int  # seed of their sparkle

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
        rng = np.random.default_rng(self.seed)
        for speck in self.specks:
            outline = np.array(speck.outline_xy)
            window = Window.around(outline, 3.0, scene.size_hw)
            view = window.slices
            sparkle = white_noise(rng, window.size_hw)
            cover = polygon_cover(outline, window)
            if speck.hollow:
                centre = outline.mean(axis=0)
                cover = np.clip(cover - 0.85 * polygon_cover(centre + speck.hollow * (outline - centre), window), 0, 1)
            cover *= smoothstep(0.0, 1.5, scene.inside[view])
            surface.height[view] += speck.bump * cover * (1.0 + 0.2 * sparkle)
            rgb = np.float32(speck.rgb) * np.clip(1.0 + 0.22 * sparkle, 0.5, 1.5)[..., None]
            tint(surface.albedo[view], rgb, cover)
            surface.gloss[view] += (0.25 * max(speck.rgb) - 0.5 * surface.gloss[view]) * cover
        return surface


def sample_particles(rng: Generator, scene: Scene) -> Particles:
    """Return 1 to 40 specks of 0.3 to 3 pixels in radius in an image of 256, in one loose group."""
    unit = max(scene.unit, 0.6)
    cx, cy = pick_site(rng, scene, 5.0 * scene.unit)
    count = int(rng.choice([1, 2, 4, 9, 18, 40], p=[0.15, 0.2, 0.25, 0.2, 0.13, 0.07]))
    heading, long, short = rng.uniform(0, np.pi), rng.uniform(6, 24) * scene.unit, rng.uniform(2, 9) * scene.unit
    specks = []
    for _ in range(count):
        u, v = rng.normal(0, long / 1.6), rng.normal(0, short / 1.6)
        x = cx + u * np.cos(heading) - v * np.sin(heading) if specks else cx
        y = cy + u * np.sin(heading) + v * np.cos(heading) if specks else cy
        if not (2 <= x < scene.size_hw[1] - 2 and 2 <= y < scene.size_hw[0] - 2) or scene.inside[int(y), int(x)] < 2:
            continue
        typical = 0.6 if count > 6 else 0.95
        radius = float(np.clip(np.exp(rng.normal(np.log(typical), 0.5)), 0.3, 3.0)) * unit
        outline = rough_polygon(rng, (x, y), radius, int(rng.integers(5, 10)), 0.28)
        stretch = rng.uniform(1.0, 1.9)
        turn = rng.uniform(0, np.pi)
        axis = np.array([np.cos(turn), np.sin(turn)])
        outline += np.outer((outline - (x, y)) @ axis * (stretch - 1.0), axis)
        hollow = float(rng.uniform(0.5, 0.75)) if radius > 1.3 * unit and rng.uniform() < 0.35 else 0.0
        rgb = scene.material.particle[int(rng.integers(len(scene.material.particle)))]
        colour = tuple(float(c * rng.uniform(0.8, 1.1)) for c in rgb)
        specks.append(Speck(as_points(outline), hollow, colour, 0.7 * radius))
    return Particles(tuple(specks), int(rng.integers(2**31)))
