"""Pits eaten or knocked into a surface, and holes worn through fabric."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from mmdefect.demo.defects.fibres import Fibre, lay_fibres, open_up, sample_fibre
from mmdefect.demo.defects.region import Window, copy_surface, pick_site, polygon_cover, rough_polygon, tint
from mmdefect.demo.noise import fractal_noise, smooth_noise, smoothstep
from mmdefect.demo.types import Scene, Surface


@dataclass(frozen=True)
class Pits:
    """A group of pits, each a bowl with a raised rim and a corroded floor.

    Attributes:
        bowls: x, y, radius and depth in pixels of each.
        corrosion: how dark the floors are, in [0, 1].
        seed: seed of the irregular outlines.
    """

    bowls: tuple[tuple[float, float, float, float], ...]
    corrosion: float
    seed: int

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the pitted surface."""
        surface = copy_surface(surface)
        rng = np.random.default_rng(self.seed)
        for bx, by, radius, depth in self.bowls:
            window = Window.around(np.array([[bx, by]]), 1.9 * radius + 3, scene.size_hw)
            view = window.slices
            x, y = window.grid()
            ragged = 1.0 + 0.16 * fractal_noise(rng, window.size_hw, max(radius, 2.0), 2)
            away = np.hypot(x - np.float32(bx), y - np.float32(by)) / np.float32(radius) * ragged
            bowl = np.maximum(1.0 - away * away, 0.0)
            rim = np.exp(-(((away - 1.08) / 0.22) ** 2))
            surface.height[view] += np.float32(depth) * (0.28 * rim - bowl)
            floor = smoothstep(0.0, 0.75, bowl)
            tint(surface.albedo[view], scene.material.backing, self.corrosion * floor)
            surface.gloss[view] *= 1.0 - 0.9 * floor
        return surface


@dataclass(frozen=True)
class Hole:
    """A hole through fabric with a frayed edge.

    Attributes:
        outline_xy: corners of the hole in pixels.
        fibres: loose ends that reach into it.
        seed: seed of the uneven edge.
    """

    outline_xy: tuple[tuple[float, float], ...]
    fibres: tuple[Fibre, ...]
    seed: int

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the surface with the hole."""
        surface = copy_surface(surface)
        outline = np.array(self.outline_xy)
        window = Window.around(outline, 8.0 * max(scene.unit, 1.0), scene.size_hw)
        view = window.slices
        rng = np.random.default_rng(self.seed)
        ends = smooth_noise(rng, window.size_hw, 2.5 * max(scene.unit, 0.8))
        soft = cv2.GaussianBlur(polygon_cover(outline, window), (0, 0), 1.8 * max(scene.unit, 0.7))
        # Yarns break at different lengths: the weave's own relief decides where the edge runs.
        relief = (surface.height[view] - surface.height[view].mean()) / np.float32(surface.height[view].std() + 1e-6)
        cover = smoothstep(0.36, 0.64, soft - 0.10 * relief - 0.08 * ends)
        cover *= soft > 0.02
        open_up(surface, scene, window, cover, depth=0.45 * scene.material.pitch)
        lay_fibres(surface, scene, self.fibres)
        return surface


def sample_pits(rng: Generator, scene: Scene) -> Pits:
    """Return one to five pits close together, 1.3 to 6 pixels in radius in an image of 256."""
    x, y = pick_site(rng, scene, 6.0 * scene.unit)
    bowls = []
    for _ in range(int(rng.choice([1, 1, 2, 3, 5]))):
        radius = float(np.exp(rng.uniform(np.log(1.3), np.log(6.0)))) * scene.unit
        bowls.append((x, y, radius, radius * float(rng.uniform(0.35, 0.7))))
        angle, away = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.8, 5.0)
        x = float(np.clip(x + away * np.cos(angle), 2, scene.size_hw[1] - 3))
        y = float(np.clip(y + away * np.sin(angle), 2, scene.size_hw[0] - 3))
    return Pits(tuple(bowls), float(rng.uniform(0.45, 0.95)), int(rng.integers(2**31)))


def sample_hole(rng: Generator, scene: Scene) -> Hole:
    """Return a hole of 3.5 to 11 pixels in radius in an image of 256."""
    radius = float(np.exp(rng.uniform(np.log(3.5), np.log(11.0)))) * scene.unit
    x, y = pick_site(rng, scene, 8.0 * scene.unit)
    outline = rough_polygon(rng, (x, y), radius, int(rng.integers(9, 15)), 0.2)
    fibres = []
    for _ in range(int(rng.integers(5, 14))):
        rx, ry = outline[int(rng.integers(len(outline)))] + rng.normal(0, 0.1 * radius, 2)
        inward = float(np.arctan2(y - ry, x - rx)) + rng.normal(0.0, 0.7)
        fibres.append(
            sample_fibre(
                rng,
                (float(rx), float(ry)),
                inward,
                radius * float(rng.uniform(0.4, 1.1)),
                float(rng.uniform(0.4, 0.9)) * max(scene.unit, 0.7),
            )
        )
    return Hole(tuple((float(a), float(b)) for a, b in outline), tuple(fibres), int(rng.integers(2**31)))
