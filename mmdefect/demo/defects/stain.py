"""Stains: soft, half-transparent, irregular, with the darker rim that drying leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdefect.demo.defects.region import Window, copy_surface, pick_site
from mmdefect.demo.noise import fractal_noise, smoothstep
from mmdefect.demo.types import Scene, Surface


@dataclass(frozen=True)
class Stain:
    """A dried or soaked-in liquid.

    Attributes:
        spots: x, y and radius in pixels of the spots it consists of.
        factor: RGB factors by which full strength multiplies the albedo.
        opacity: strength in [0, 1].
        rim: extra strength of the dried rim.
        seed: seed of the ragged outline.
    """

    spots: tuple[tuple[float, float, float], ...]
    factor: tuple[float, float, float]
    opacity: float
    rim: float
    seed: int

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the stained surface."""
        surface = copy_surface(surface)
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
        spots.append(
            (x + float(away * np.cos(angle)), y + float(away * np.sin(angle)), radius * float(rng.uniform(0.12, 0.5)))
        )
    factor = scene.material.stain[int(rng.integers(len(scene.material.stain)))]
    return Stain(
        tuple(spots), factor, float(rng.uniform(0.45, 0.95)), float(rng.uniform(0.0, 0.7)), int(rng.integers(2**31))
    )
