"""Defects of hard surfaces: scratches, pits, and material broken out of an outline."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from mmdefect.demo.defects.region import (
    Points,
    Window,
    as_points,
    line_cover,
    pick_outline,
    pick_site,
    polygon_cover,
    rough_polygon,
    sample_path,
    tint,
)
from mmdefect.demo.noise import fractal_noise, smoothstep, turn_matrix, white_noise
from mmdefect.demo.scene import Scene, Surface


@dataclass(frozen=True)
class Scratch:
    """A groove with a burr along it."""

    path_xy: Points  # points of the line in pixels
    widths: tuple[float, ...]  # width at each point in pixels
    strengths: tuple[float, ...]  # how hard the tool pressed at each point, in [0, 1]
    twins: tuple[tuple[float, float, float], ...]  # fainter lines beside the first: shift x, y and relative strength
    depth: float  # depth of the groove in pixels; the burr is a part of it
    exposure: float  # how much of the fresh material shows; negative values mean dirt in the groove

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
        path, widths, strengths = np.array(self.path_xy), np.array(self.widths), np.array(self.strengths)
        aside = max((abs(shift) for twin in self.twins for shift in twin[:2]), default=0.0)
        window = Window.around(path, 4.0 + 2.0 * widths.max() + aside, scene.size_hw)
        view = window.slices
        cover = line_cover(path, widths, strengths, window)
        for dx, dy, scale in self.twins:
            cover = np.maximum(cover, line_cover(path + np.array([dx, dy]), widths * scale, strengths * scale, window))
        cover *= smoothstep(0.0, 1.5, scene.inside[view])
        burr = np.maximum(cv2.GaussianBlur(cover, (0, 0), 0.6 + 0.4 * widths.max()) - 0.6 * cover, 0.0)
        surface.height[view] += self.depth * (1.4 * burr - cover)
        colour = scene.material.fresh if self.exposure > 0 else scene.material.backing
        tint(surface.albedo[view], colour, abs(self.exposure) * cover)
        surface.gloss[view] *= 1.0 + (0.6 if self.exposure > 0 else -0.8) * cover
        return surface


def sample_scratch(rng: Generator, scene: Scene) -> Scratch:
    """Return a random scratch: 25 to 150 pixels long and about one pixel wide in an image of 256."""
    grow = max(scene.unit, 0.8) ** 0.5  # a finer camera sees thinner scratches: they grow less than the image
    path = sample_path(rng, scene, (25.0, 150.0), 0.007)
    position = np.linspace(0.0, 1.0, len(path))
    base = float(np.exp(rng.uniform(np.log(0.45), np.log(1.4)))) * grow
    sharpness = float(rng.uniform(3.0, 9.0))  # full width along most of the line, running out at both ends
    taper = np.clip(np.minimum(position, 1.0 - position) * sharpness + 0.08, 0.0, 1.0) ** 0.8
    waver = 1.0 + 0.25 * np.interp(position, np.linspace(0, 1, 9), rng.standard_normal(9))
    pressure = np.clip(np.interp(position, np.linspace(0, 1, 11), rng.uniform(0.35, 1.3, 11)), 0.0, 1.0)
    side = np.array(path[-1]) - np.array(path[0])
    side = np.array([-side[1], side[0]]) / (np.hypot(*side) + 1e-6)
    twins = []
    for _ in range(int(rng.choice([0, 1, 2], p=[0.65, 0.25, 0.1]))):
        away = side * rng.choice([-1, 1]) * rng.uniform(2.0, 5.5) * scene.unit
        twins.append((float(away[0]), float(away[1]), float(rng.uniform(0.35, 0.7))))
    widths, strengths = tuple((base * taper * waver).clip(0.3).tolist()), tuple((pressure * taper).tolist())
    depth = float(rng.uniform(0.8, 1.7)) * grow
    exposure = float(rng.uniform(0.3, 0.8) if rng.uniform() < 0.7 else -rng.uniform(0.35, 0.7))
    return Scratch(path, widths, strengths, tuple(twins), depth, exposure)


@dataclass(frozen=True)
class Pits:
    """A group of pits, each a bowl with a raised rim and a corroded floor."""

    bowls: tuple[tuple[float, float, float, float], ...]  # x, y, radius and depth in pixels of each
    corrosion: float  # how dark the floors are, in [0, 1]
    seed: int  # seed of the irregular outlines

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
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


@dataclass(frozen=True)
class Fracture:
    """A polygon of broken material; the outer part is gone, the rest is a bright, faceted fracture face."""

    outline_xy: Points  # corners of the broken region in pixels
    gone_xy: Points  # corners of the region where the silhouette itself is bitten; empty when it is not
    facets: tuple[tuple[float, float, float], ...]  # slope x, slope y and offset of each plane of the fracture face
    brightness: float  # how much of the fresh material shows
    seed: int  # seed of the grain of the fracture

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
        outline = np.array(self.outline_xy)
        window = Window.around(outline, 5.0, scene.size_hw)
        view = window.slices
        rng = np.random.default_rng(self.seed)
        broken = polygon_cover(outline, window) * smoothstep(-1.0, 0.0, scene.inside[view])
        grain = cv2.GaussianBlur(white_noise(rng, window.size_hw), (0, 0), 0.7) * 1.8
        # The fracture face is the upper envelope of its planes.
        (x, y), (centre_x, centre_y) = window.grid(), outline.mean(axis=0)
        x, y = x - np.float32(centre_x), y - np.float32(centre_y)
        planes = [np.float32(a) * x + np.float32(b) * y + np.float32(c) for a, b, c in self.facets]
        face = np.maximum.reduce(planes) + 0.45 * grain
        surface.height[view] += broken * (face - 1.5 * scene.unit)
        # Tungsten carbide breaks grainy: bright crystals between darker facets.
        speckle = np.clip(0.72 + 0.30 * grain, 0.15, 1.15)[..., None]
        fresh = np.float32(scene.material.fresh) * speckle
        tint(surface.albedo[view], fresh, self.brightness * broken)
        surface.gloss[view] += 0.10 * broken * np.maximum(grain, 0.0)
        if self.gone_xy:
            surface.cover[view] *= 1.0 - polygon_cover(np.array(self.gone_xy), window)
        return surface


def _facets(rng: Generator, outward: float, size: float) -> tuple[tuple[float, float, float], ...]:
    """Return three to five planes that all fall off towards the outside of the object."""
    planes = []
    for _ in range(int(rng.integers(3, 6))):
        direction, steep = outward + rng.normal(0.0, 0.9), rng.uniform(0.15, 0.75)
        slope_x, slope_y = float(-steep * np.cos(direction)), float(-steep * np.sin(direction))
        planes.append((slope_x, slope_y, float(rng.uniform(-0.35, 0.1) * size)))
    return tuple(planes)


def sample_chip(rng: Generator, scene: Scene) -> Fracture:
    """Return a chip at the outline or at the rim of the hole, 2 to 9 pixels in radius in an image of 256."""
    x, y, inward = pick_outline(rng, scene)
    radius = float(np.exp(rng.uniform(np.log(2.0), np.log(9.0)))) * scene.unit
    flat = rng.uniform(0.45, 0.85)
    local = rough_polygon(rng, (0.0, 0.0), radius, int(rng.integers(8, 14)), 0.20)
    # Chips are wider along the edge than they reach into the part.
    local[:, 0] *= flat
    turn = turn_matrix(inward)
    outline = local @ turn.T + (x, y)
    gone = ()
    if radius > 5.0 * scene.unit or rng.uniform() < 0.4:
        bite = rough_polygon(rng, (-0.45 * radius * flat, 0.0), 0.72 * radius, 9, 0.16)
        bite[:, 0] = bite[:, 0] * flat
        gone = as_points(bite @ turn.T + (x, y))
    facets, brightness = _facets(rng, inward + np.pi, radius), float(rng.uniform(0.6, 1.0))
    return Fracture(as_points(outline), gone, facets, brightness, int(rng.integers(2**31)))


def sample_broken_corner(rng: Generator, scene: Scene) -> Fracture:
    """Return a break that takes a corner off, 7 to 22 pixels deep in an image of 256; mostly a sharp corner."""
    if not len(scene.corners):
        raise ValueError('`scene` must hold an object with corners; textures have none, choose another defect.')
    index = int(rng.choice(len(scene.corners), p=[0.38, 0.38, 0.12, 0.12]))
    corner = scene.corners[index].astype(float)
    centre = (np.array(scene.size_hw[::-1]) - 1) / 2
    inward = float(np.arctan2(*(centre - corner)[::-1])) + rng.normal(0.0, 0.12)
    blunt = index >= 2
    depth = rng.uniform(7.0, 22.0) * scene.unit * (0.55 if blunt else 1.0)
    band = rng.uniform(2.5, 6.0) * scene.unit
    across = np.linspace(-1.3, 1.3, 14)
    reach = (60.0 if blunt else 30.0) * scene.unit
    ragged = np.interp(across, np.linspace(-1.3, 1.3, 7), rng.normal(0, 1.6, 7)) + rng.normal(0, 0.45, 14)
    line = np.stack([depth + ragged * scene.unit + 0.12 * depth * across * rng.normal(0, 1), across * reach], axis=1)
    inner = line + np.stack([band * np.clip(1 + 0.35 * rng.standard_normal(14), 0.3, 2), np.zeros(14)], axis=1)
    far = np.array([[-30.0 * scene.unit, 1.3 * reach], [-30.0 * scene.unit, -1.3 * reach]])
    turn = turn_matrix(inward)
    gone = np.concatenate([line, far]) @ turn.T + corner
    outline = np.concatenate([inner, far]) @ turn.T + corner
    facets, brightness = _facets(rng, inward + np.pi, band), float(rng.uniform(0.5, 0.9))
    return Fracture(as_points(outline), as_points(gone), facets, brightness, int(rng.integers(2**31)))
