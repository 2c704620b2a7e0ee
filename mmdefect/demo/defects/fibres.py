"""Loose fibres that stand out of torn fabric, and the depth that is seen between them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.defects.region import Window, line_cover, tint
from mmdefect.demo.types import Scene, Surface


@dataclass(frozen=True)
class Fibre:
    """One loose fibre: its line and width in pixels, and its brightness relative to the yarn."""

    path_xy: tuple[tuple[float, float], ...]
    width: float
    brightness: float


def sample_fibre(rng: Generator, root_xy: tuple[float, float], heading: float, length: float, width: float) -> Fibre:
    """Return a fibre that starts at ``root_xy`` and curls away from ``heading``, ``length`` pixels long."""
    x, y = root_xy
    curl, points = rng.normal(0.0, 0.22), [root_xy]
    for _ in range(6):
        heading += curl + rng.normal(0.0, 0.12)
        x, y = x + length / 6 * float(np.cos(heading)), y + length / 6 * float(np.sin(heading))
        points.append((x, y))
    return Fibre(tuple((float(a), float(b)) for a, b in points), width, float(rng.uniform(0.6, 1.15)))


def lay_fibres(surface: Surface, scene: Scene, fibres: tuple[Fibre, ...]) -> None:
    """Draw fibres onto a surface in place."""
    for fibre in fibres:
        path = np.array(fibre.path_xy)
        window = Window.around(path, 2.0 + fibre.width, scene.size_hw)
        view = window.slices
        taper = np.linspace(1.0, 0.45, len(path))
        cover = line_cover(path, fibre.width * taper, np.full(len(path), 0.9), window)
        surface.height[view] += 0.8 * fibre.width * cover
        tint(surface.albedo[view], np.float32(scene.material.fresh) * np.float32(fibre.brightness), cover)


def open_up(surface: Surface, scene: Scene, window: Window, cover: ndarray, depth: float) -> None:
    """Take the fabric away in place and show the backing, which the lit edge shades on one side.

    Args:
        cover: ``(h, w)`` in [0, 1], how much of the fabric is gone in the window.
        depth: thickness of the fabric in pixels.
    """
    view = window.slices
    lx, ly, lz = scene.lights[0].direction
    # The edge nearest to the lamp throws its shadow this far.
    shift = np.float32([[1, 0, -lx / lz * depth], [0, 1, -ly / lz * depth]])
    lit = cv2.warpAffine(cover, shift, cover.shape[::-1], flags=cv2.INTER_LINEAR)
    floor = np.float32(scene.material.backing) * (0.25 + 0.75 * lit)[..., None]
    tint(surface.albedo[view], floor, cover)
    surface.gloss[view] *= 1.0 - cover
    # The floor lies deep and is flat; the walls get their slope from the soft cover.
    surface.height[view] += (np.float32(surface.height[view].mean()) - surface.height[view]) * (0.8 * cover)
    surface.height[view] -= 0.6 * depth * cover
