"""Broken-out material at the outline of an object: small chips, and a corner that is gone."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.defects.region import Window, copy_surface, pick_outline, polygon_cover, rough_polygon, tint
from mmdefect.demo.noise import smoothstep, white_noise
from mmdefect.demo.types import Scene, Surface


@dataclass(frozen=True)
class Fracture:
    """A polygon of broken material; the outer part is gone, the rest is a bright, facetted fracture face.

    Attributes:
        outline_xy: corners of the broken region in pixels.
        gone_xy: corners of the region where the silhouette itself is bitten; empty when it is not.
        facets: slope x, slope y and offset in pixels of each plane of the fracture face.
        brightness: how much of the fresh material shows.
        seed: seed of the grain of the fracture.
    """

    outline_xy: tuple[tuple[float, float], ...]
    gone_xy: tuple[tuple[float, float], ...]
    facets: tuple[tuple[float, float, float], ...]
    brightness: float
    seed: int

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the broken surface."""
        surface = copy_surface(surface)
        outline = np.array(self.outline_xy)
        window = Window.around(outline, 5.0, scene.size_hw)
        view = window.slices
        rng = np.random.default_rng(self.seed)
        on_object = smoothstep(-1.0, 0.0, scene.inside[view])
        broken = polygon_cover(outline, window) * on_object
        grain = cv2.GaussianBlur(white_noise(rng, window.size_hw), (0, 0), 0.7) * 1.8
        face = self._face(window, outline.mean(axis=0)) + 0.45 * grain
        surface.height[view] += broken * (face - 1.5 * scene.unit)
        # Tungsten carbide breaks grainy: bright crystals between darker facets.
        speckle = np.clip(0.72 + 0.30 * grain, 0.15, 1.15)[..., None]
        fresh = np.float32(scene.material.fresh) * speckle
        tint(surface.albedo[view], fresh, self.brightness * broken)
        surface.gloss[view] += 0.10 * broken * np.maximum(grain, 0.0)
        if self.gone_xy:
            surface.cover[view] *= 1.0 - polygon_cover(np.array(self.gone_xy), window)
        return surface

    def _face(self, window: Window, centre_xy: ndarray) -> ndarray:
        """Return the height of the fracture face, the upper envelope of its planes, in pixels."""
        x, y = window.grid()
        x, y = x - np.float32(centre_xy[0]), y - np.float32(centre_xy[1])
        planes = [np.float32(a) * x + np.float32(b) * y + np.float32(c) for a, b, c in self.facets]
        return np.maximum.reduce(planes)


def _facets(rng: Generator, outward: float, size: float) -> tuple[tuple[float, float, float], ...]:
    """Return three to five planes that all fall off towards the outside of the object."""
    planes = []
    for _ in range(int(rng.integers(3, 6))):
        direction, steep = outward + rng.normal(0.0, 0.9), rng.uniform(0.15, 0.75)
        planes.append(
            (
                float(-steep * np.cos(direction)),
                float(-steep * np.sin(direction)),
                float(rng.uniform(-0.35, 0.1) * size),
            )
        )
    return tuple(planes)


def _as_points(points: ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)


def sample_chip(rng: Generator, scene: Scene) -> Fracture:
    """Return a chip at the outline or at the rim of the hole, 2 to 9 pixels in radius in an image of 256."""
    x, y, inward = pick_outline(rng, scene)
    radius = float(np.exp(rng.uniform(np.log(2.0), np.log(9.0)))) * scene.unit
    flat = rng.uniform(0.45, 0.85)
    local = rough_polygon(rng, (0.0, 0.0), radius, int(rng.integers(8, 14)), 0.20)
    # Chips are wider along the edge than they reach into the part.
    local[:, 0] *= flat
    turn = np.array([[np.cos(inward), -np.sin(inward)], [np.sin(inward), np.cos(inward)]])
    outline = local @ turn.T + (x, y)
    gone = ()
    if radius > 5.0 * scene.unit or rng.uniform() < 0.4:
        bite = rough_polygon(rng, (-0.45 * radius * flat, 0.0), 0.72 * radius, 9, 0.16)
        bite[:, 0] = bite[:, 0] * flat
        gone = _as_points(bite @ turn.T + (x, y))
    return Fracture(
        _as_points(outline),
        gone,
        _facets(rng, inward + np.pi, radius),
        float(rng.uniform(0.6, 1.0)),
        int(rng.integers(2**31)),
    )


def sample_broken_corner(rng: Generator, scene: Scene) -> Fracture:
    """Return a break that takes a corner off, 7 to 22 pixels deep in an image of 256; mostly a sharp corner.

    Raises:
        ValueError: if the scene holds no object with corners.
    """
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
    turn = np.array([[np.cos(inward), -np.sin(inward)], [np.sin(inward), np.cos(inward)]])
    gone = np.concatenate([line, far]) @ turn.T + corner
    outline = np.concatenate([inner, far]) @ turn.T + corner
    return Fracture(
        _as_points(outline),
        _as_points(gone),
        _facets(rng, inward + np.pi, band),
        float(rng.uniform(0.5, 0.9)),
        int(rng.integers(2**31)),
    )
