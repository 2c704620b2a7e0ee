"""Scratches in hard surfaces, and cuts in fabric along the same kind of path."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.defects.fibres import Fibre, lay_fibres, open_up, sample_fibre
from mmdefect.demo.defects.region import Window, copy_surface, line_cover, pick_site, tint
from mmdefect.demo.noise import smoothstep, white_noise
from mmdefect.demo.types import Scene, Surface

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scratch:
    """A groove with a burr along it.

    Attributes:
        path_xy: points of the line in pixels.
        widths: width at each point in pixels.
        strengths: how hard the tool pressed at each point, in [0, 1].
        twins: shift x, y in pixels and relative strength of fainter lines that run beside the first.
        depth: depth of the groove in pixels; the burr is a part of it.
        exposure: how much of the fresh material shows; negative values mean dirt in the groove.
    """

    path_xy: Points
    widths: tuple[float, ...]
    strengths: tuple[float, ...]
    twins: tuple[tuple[float, float, float], ...]
    depth: float
    exposure: float

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the scratched surface."""
        surface = copy_surface(surface)
        path, widths = np.array(self.path_xy), np.array(self.widths)
        strengths = np.array(self.strengths)
        aside = max((abs(shift) for twin in self.twins for shift in twin[:2]), default=0.0)
        window = Window.around(path, 4.0 + 2.0 * widths.max() + aside, scene.size_hw)
        view = window.slices
        cover = line_cover(path, widths, strengths, window)
        for dx, dy, scale in self.twins:
            cover = np.maximum(cover, line_cover(path + (dx, dy), widths * scale, strengths * scale, window))
        cover *= smoothstep(0.0, 1.5, scene.inside[view])
        burr = np.maximum(cv2.GaussianBlur(cover, (0, 0), 0.6 + 0.4 * widths.max()) - 0.6 * cover, 0.0)
        surface.height[view] += self.depth * (1.4 * burr - cover)
        colour = scene.material.fresh if self.exposure > 0 else scene.material.backing
        tint(surface.albedo[view], colour, abs(self.exposure) * cover)
        surface.gloss[view] *= 1.0 + (0.6 if self.exposure > 0 else -0.8) * cover
        return surface


@dataclass(frozen=True)
class Cut:
    """A slit through fabric: the backing shows and loose fibres stand along it.

    Attributes:
        path_xy: points of the line in pixels.
        widths: width at each point in pixels.
        fibres: loose ends along the slit.
        seed: seed of the uneven edge.
    """

    path_xy: Points
    widths: tuple[float, ...]
    fibres: tuple[Fibre, ...]
    seed: int

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the cut surface."""
        surface = copy_surface(surface)
        path, widths = np.array(self.path_xy), np.array(self.widths)
        window = Window.around(path, 5.0 + 2.5 * widths.max(), scene.size_hw)
        cover = line_cover(path, widths, np.ones(len(widths)), window)
        ends = cv2.GaussianBlur(white_noise(np.random.default_rng(self.seed), window.size_hw), (0, 0), 1.0) * 3.5
        cover = np.clip(cover * (1.0 - 0.35 * np.maximum(ends, 0.0)), 0.0, 1.0)
        open_up(surface, scene, window, cover, depth=0.3 * scene.material.pitch)
        lay_fibres(surface, scene, self.fibres)
        return surface


def wander(rng: Generator, scene: Scene, length: float, heading: float, curl: float) -> Points:
    """Return a smooth wandering line that starts on the object and stops where it would leave it."""
    step = 2.0 * scene.unit
    x, y = pick_site(rng, scene, 4.0 * scene.unit)
    bend = rng.normal(0.0, curl)
    points = [(x, y)]
    for _ in range(max(3, int(length / step))):
        bend += rng.normal(0.0, 0.25 * curl)
        heading += bend * step
        x, y = x + step * float(np.cos(heading)), y + step * float(np.sin(heading))
        inside_frame = 1 <= x < scene.size_hw[1] - 1 and 1 <= y < scene.size_hw[0] - 1
        if not inside_frame or scene.inside[int(y), int(x)] < 1.5:
            break
        points.append((x, y))
    return tuple(points)


def _long_path(rng: Generator, scene: Scene, length_range: tuple[float, float], curl: float) -> Points:
    """Return a path of at least half the lowest length; the longest of a few tries where the object leaves no room."""
    tries = []
    for _ in range(12):
        length = float(np.exp(rng.uniform(*np.log(length_range)))) * scene.unit
        heading = scene.material.grain_angle + rng.uniform(0.2, np.pi - 0.2) + np.pi * rng.integers(2)
        tries.append(wander(rng, scene, length, heading, curl / scene.unit))
        if len(tries[-1]) * 2.0 >= 0.5 * length_range[0]:
            return tries[-1]
    return max(tries, key=len)


def _line_scale(scene: Scene) -> float:
    """Return the factor for line widths: a finer camera sees thinner scratches, so they grow less than the image."""
    return max(scene.unit, 0.8) ** 0.5


def _taper(position: ndarray, sharpness: float) -> ndarray:
    """Return a width that is full along most of the line and runs out at both ends."""
    return np.clip(np.minimum(position, 1.0 - position) * sharpness + 0.08, 0.0, 1.0) ** 0.8


def sample_scratch(rng: Generator, scene: Scene) -> Scratch:
    """Return a random scratch: 25 to 150 pixels long and about one pixel wide in an image of 256."""
    path = _long_path(rng, scene, (25.0, 150.0), 0.007)
    position = np.linspace(0.0, 1.0, len(path))
    base = float(np.exp(rng.uniform(np.log(0.45), np.log(1.4)))) * _line_scale(scene)
    taper = _taper(position, float(rng.uniform(3.0, 9.0)))
    waver = 1.0 + 0.25 * np.interp(position, np.linspace(0, 1, 9), rng.standard_normal(9))
    pressure = np.clip(np.interp(position, np.linspace(0, 1, 11), rng.uniform(0.35, 1.3, 11)), 0.0, 1.0)
    side = np.array(path[-1]) - np.array(path[0])
    side = np.array([-side[1], side[0]]) / (np.hypot(*side) + 1e-6)
    twins = []
    for _ in range(int(rng.choice([0, 1, 2], p=[0.65, 0.25, 0.1]))):
        away = side * rng.choice([-1, 1]) * rng.uniform(2.0, 5.5) * scene.unit
        twins.append((float(away[0]), float(away[1]), float(rng.uniform(0.35, 0.7))))
    return Scratch(
        path,
        tuple((base * taper * waver).clip(0.3).tolist()),
        tuple((pressure * taper).tolist()),
        tuple(twins),
        depth=float(rng.uniform(0.8, 1.7)) * _line_scale(scene),
        exposure=float(rng.uniform(0.3, 0.8) if rng.uniform() < 0.7 else -rng.uniform(0.35, 0.7)),
    )


def sample_cut(rng: Generator, scene: Scene) -> Cut:
    """Return a random cut: 18 to 70 pixels long and two to four pixels wide in an image of 256."""
    path = _long_path(rng, scene, (18.0, 70.0), 0.008)
    position = np.linspace(0.0, 1.0, len(path))
    gape = np.sin(np.pi * np.clip(position * 0.92 + 0.04, 0, 1)) ** 0.7
    waver = 1.0 + 0.2 * np.interp(position, np.linspace(0, 1, 8), rng.standard_normal(8))
    base = float(rng.uniform(2.0, 4.2)) * max(scene.unit, 0.7)
    fibres = []
    for _ in range(max(2, len(path) // 3)):
        k = int(rng.integers(len(path) - 1))
        along = np.arctan2(path[k + 1][1] - path[k][1], path[k + 1][0] - path[k][0])
        heading = along + rng.choice([-1, 1]) * rng.uniform(0.6, 1.5)
        fibres.append(
            sample_fibre(
                rng,
                path[k],
                float(heading),
                float(rng.uniform(2.5, 6.5)) * scene.unit,
                float(rng.uniform(0.4, 0.9)) * max(scene.unit, 0.7),
            )
        )
    return Cut(path, tuple((base * gape * waver).clip(0.5).tolist()), tuple(fibres), seed=int(rng.integers(2**31)))
