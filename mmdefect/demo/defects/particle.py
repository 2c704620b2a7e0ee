"""Foreign matter stuck to the surface: metal dust, shavings, flecks of coating; from two pixels up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdefect.demo.defects.region import Window, copy_surface, pick_site, polygon_cover, rough_polygon, tint
from mmdefect.demo.noise import smoothstep, white_noise
from mmdefect.demo.types import Scene, Surface


@dataclass(frozen=True)
class Speck:
    """One particle: its outline, a hollow middle if only its rim reflects, colour, and height in pixels."""

    outline_xy: tuple[tuple[float, float], ...]
    hollow: float
    rgb: tuple[float, float, float]
    bump: float


@dataclass(frozen=True)
class Particles:
    """A loose group of specks.

    Attributes:
        specks: the particles.
        seed: seed of their sparkle.
    """

    specks: tuple[Speck, ...]
    seed: int

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the surface with the particles on it."""
        surface = copy_surface(surface)
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
        specks.append(
            Speck(
                tuple((float(a), float(b)) for a, b in outline),
                hollow,
                tuple(float(c * rng.uniform(0.8, 1.1)) for c in rgb),
                0.7 * radius,
            )
        )
    return Particles(tuple(specks), int(rng.integers(2**31)))
